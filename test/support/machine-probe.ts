/** The process behind `probeMachine`: sleeps and syncs until it is told to stop, and says how long both took. */

import { once } from "node:events";
import { mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type MachineLatencies, probe } from "./latency.ts";

const SLEEP_MS = 5;
const SYNC_PAUSE_MS = 20;

const directory = await mkdtemp(join(tmpdir(), "streams-machine-"));
const file = await open(join(directory, "probe"), "w");
const sleep = probe(() => Bun.sleep(SLEEP_MS).then(() => null), 0);
const sync = probe(async () => {
  await file.write("x");
  await file.datasync();
  return null;
}, SYNC_PAUSE_MS);
process.send?.("ready");
await Promise.race([once(process, "message"), once(process, "disconnect")]);
const latencies: MachineLatencies = { sleep: await sleep.stop(), sync: await sync.stop() };
await file.close();
await rm(directory, { recursive: true });
if (process.connected) process.send?.(latencies, () => process.disconnect?.());
