/** A store of its own in a process of its own: opens it in the directory it is given, closes it on the first message, and lives on. */

import { once } from "node:events";
import { systemClock } from "../../src/kit/clock.ts";
import { SqliteStore } from "../../src/storage/sqlite/sqlite-store.ts";

const directory = process.argv[2] ?? "";
const store = await SqliteStore.open({ directory, durability: "os", acceptLoss: false, clock: systemClock });
process.send?.("open");
await once(process, "message");
await store.close();
process.send?.("closed");
// Whatever it left under way comes to its end.
await once(process, "message");
process.disconnect?.();
