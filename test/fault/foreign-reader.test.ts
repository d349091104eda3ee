/**
 * A program that reads `log.db` while the server runs (a backup does) must not stop it. A reader that meets the header of the WAL index half
 * written takes SQLite's write lock for a moment to look again; the server's next commit then finds the database locked, and has
 * to wait for that moment instead of failing. The reader here reads some ten thousand times, so that it meets one for certain.
 */

import { expect, test } from "bun:test";
import { join } from "node:path";
import { startServer } from "../support/server.ts";
import { BackupLoad } from "./backup-load.ts";

const READERS = 3;
const READS = 20_000;
const SCRIPT = `import { Database } from "bun:sqlite";
  const db = new Database(process.argv[1], { readonly: true });
  const query = db.query("SELECT count(*) AS n FROM batches");
  for (let read = 0; read < ${READS}; read++) query.get();
  console.log(${READS});`;

test("a server under load goes on while another program reads its log", async () => {
  const server = await startServer();
  const load = new BackupLoad(server);
  try {
    await load.start();
    let reads = 0;
    for (let reader = 0; reader < READERS; reader++) {
      const child = Bun.spawn([process.execPath, "-e", SCRIPT, join(server.dataDir, "log.db")], { stdout: "pipe" });
      reads += Number(await child.stdout.text());
    }
    await load.stop().catch((cause: unknown) => {
      throw new Error(`the server did not go on: ${server.stderr()}`, { cause });
    });
    expect(reads).toBe(READERS * READS);
    expect(load.acked().every((count) => count > 0)).toBe(true);
    await server.stop();
  } finally {
    await server.kill("SIGKILL");
    await server.remove();
  }
}, 60_000);
