/**
 * `kill -9` under load, again and again: every acknowledged record is there after each restart, in order. The writers use
 * no idempotence, so nothing repairs a loss behind the test's back.
 */

import { expect, test } from "bun:test";
import { startServer } from "../support/server.ts";
import { until } from "../support/wait.ts";
import { writerGroup } from "./writers.ts";

const KILLS = 10;
const LOAD_MS = 250;

test("ten times kill -9 under load: no acknowledged record is lost, order is kept", async () => {
  const group = writerGroup({ writers: 8, streams: 3, idempotent: false, paddingBytes: 1_000 });
  let server = await startServer();
  const { dataDir } = server;
  try {
    await group.createStreams(server);
    for (let kill = 0; kill < KILLS; kill++) {
      const before = group.ackedCount;
      const killed = (async () => {
        await until("writers are at work", () => group.ackedCount > before + 50);
        await Bun.sleep(LOAD_MS);
        await server.kill("SIGKILL");
      })();
      await group.write(server, killed);
      await killed;
      server = await startServer({ dataDir });
      const { acked, unackedPresent, ...problems } = await group.audit(server);
      expect({ kill, ...problems }).toEqual({ kill, lost: 0, duplicated: 0, outOfOrder: 0, firstProblem: null });
      expect(acked).toBeGreaterThan(before);
      // One record per writer may be in flight at each kill.
      expect(unackedPresent).toBeLessThanOrEqual(8 * (kill + 1));
    }
    await server.stop();
    console.log(`kill -9: ${group.ackedCount} acknowledged over ${KILLS} kills, 0 lost`);
  } finally {
    await server.kill("SIGKILL");
    await server.remove();
  }
}, 60_000);
