/**
 * A sealing pass that is killed in its midst, while it passes over a deleted stream whose large body shares a file with a stream
 * that lives: the next start has everything, and the one after it. The kill comes when the log says that the pass has written batches of the
 * file and not yet made them visible, so the moment is certain.
 */

import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { join } from "node:path";
import type { TestServer } from "../support/server.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { call, newStream, streamAt } from "../support/streams.ts";
import { appendTogether, bytesOf, BYTES_TYPE, filesOf, lookInto, sameBytes, sealAll } from "./large-world.ts";

/** Their heads are folded before a pass becomes visible: that takes the time in which the kill comes. */
const FOLDED_STREAMS = 2_000;
const AT_ONCE = 50;
const TRIES = 4;

const start = temporaryServers();

/** Batches of files that a pass has written and not made visible. */
const PENDING = `SELECT count(*) AS n FROM batches
  WHERE file IS NOT NULL AND id > (SELECT value FROM meta WHERE key = 'sealed_batch')`;

function pendingIn(dataDir: string): number {
  return lookInto(dataDir, (db) => db.query<{ n: number }, []>(PENDING).get()?.n ?? 0);
}

test("kill -9 in the midst of a sealing pass that passes over a deleted stream: nothing else is lost", async () => {
  let server = await start();
  const { dataDir } = server;
  for (let attempt = 0; ; attempt++) {
    expect(attempt).toBeLessThan(TRIES);
    const names = ["gone", "kept", "kept/too"].map((name) => `${attempt}/${name}`);
    for (const name of names) await newStream(server, name, BYTES_TYPE);
    const bodies = await appendTogether(server, names);
    expect(filesOf(dataDir).length).toBeGreaterThan(0);
    expect((await streamAt(server, names[0] ?? "").delete()).status).toBe(204);
    await makeStreams(server, attempt);
    if (!(await killInPass(server, dataDir))) continue;

    for (const life of ["the first start", "the second start"]) {
      server = await start({ dataDir });
      for (const [index, name] of names.entries()) {
        if (index === 0) continue;
        const isWhole = sameBytes(await bytesOf(server, name), bodies[index] ?? new Uint8Array());
        expect({ life, name, isWhole }).toEqual({ life, name, isWhole: true });
      }
      await server.kill("SIGKILL");
    }
    server = await start({ dataDir });
    await sealAll(server);
    for (const [index, name] of names.entries()) {
      if (index > 0) expect(sameBytes(await bytesOf(server, name), bodies[index] ?? new Uint8Array())).toBe(true);
    }
    await server.stop();
    await (await start({ dataDir })).stop();
    return;
  }
}, 60_000);

async function makeStreams(server: { readonly url: string }, attempt: number): Promise<void> {
  for (let at = 0; at < FOLDED_STREAMS; at += AT_ONCE) {
    const puts = Array.from({ length: AT_ONCE }, (_, index) =>
      call("PUT", `${server.url}/v1/stream/${attempt}/folded/${at + index}`, {
        headers: { "content-type": "application/json" },
        body: "[1]",
      }),
    );
    for (const { status } of await Promise.all(puts)) expect(status).toBe(201);
  }
}

/** Lets the sealer begin, and kills the server when its pass has written batches of a file. False when the pass was over before. */
async function killInPass(server: TestServer, dataDir: string): Promise<boolean> {
  const db = new Database(join(dataDir, "log.db"), { readonly: true });
  const pending = db.query<{ n: number }, []>(PENDING);
  const found = Promise.withResolvers<void>();
  const watch = setInterval(() => {
    if ((pending.get()?.n ?? 0) > 0) found.resolve();
  }, 1);
  const killed = found.promise.then(() => server.kill("SIGKILL"));
  // The connections of what fills the log break with the kill.
  const filled = sealAll(server).catch(() => killed);
  try {
    await Promise.race([filled, killed]);
  } finally {
    clearInterval(watch);
    db.close();
  }
  await filled;
  return pendingIn(dataDir) > 0;
}
