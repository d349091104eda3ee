/**
 * SIGTERM under load, again and again (`TERM_ROUNDS`, 3 by default): the server exits 0 in time, everything acknowledged is there, and
 * nothing is there that was not acknowledged: every append that was accepted got its answer.
 */

import { expect, test } from "bun:test";
import { temporaryServers } from "../support/shared-server.ts";
import { until } from "../support/wait.ts";
import { percentile } from "./observation.ts";
import { writerGroup } from "./writers.ts";

const ROUNDS = Number(process.env["TERM_ROUNDS"] ?? 3);
const WRITERS = 16;
const LOAD_MS = 200;
const EXIT_LIMIT_MS = 5_000;

const start = temporaryServers();

test(
  `SIGTERM under load, ${ROUNDS} rounds: exit 0, every accepted append answered, nothing lost`,
  async () => {
    const first = await start();
    const { dataDir } = first;
    const exitsMs: number[] = [];
    const endings = new Map<string, number>();
    let total = 0;
    await first.stop();
    for (let round = 0; round < ROUNDS; round++) {
      const server = await start({ dataDir });
      const paddingBytes = round % 2 === 0 ? 300 : 20_000;
      const group = writerGroup({ writers: WRITERS, streams: 4, idempotent: true, paddingBytes, prefix: `t${round}` });
      await group.createStreams(server);
      const end = (async () => {
        await until("writers are at work", () => group.ackedCount > WRITERS * 4);
        await Bun.sleep(LOAD_MS);
        const startMs = performance.now();
        expect(await server.kill("SIGTERM")).toBe(0);
        exitsMs.push(performance.now() - startMs);
      })();
      await group.write(server, end);
      await end;
      for (const [how, count] of [...group.refusals, ...group.breaks]) {
        endings.set(String(how), (endings.get(String(how)) ?? 0) + count);
      }
      expect([...group.refusals.keys()].filter((status) => status !== 503)).toEqual([]);

      const restarted = await start({ dataDir });
      const { acked, ...audit } = await group.audit(restarted);
      expect({ round, ...audit }).toEqual({ round, ...SOUND });
      total += acked;
      await group.finish(restarted);
      expect({ ...(await group.audit(restarted)), acked }).toEqual({ ...SOUND, acked });
      await restarted.stop();
    }
    const slowest = percentile(exitsMs, 1);
    console.log(
      `SIGTERM: ${ROUNDS} rounds, ${total} acknowledged, 0 lost, 0 accepted without an answer; exit 0 after ` +
        `p50 ${percentile(exitsMs, 0.5).toFixed(0)} max ${slowest.toFixed(0)} ms; writers ended by ${JSON.stringify(Object.fromEntries(endings))}`,
    );
    expect(slowest).toBeLessThan(EXIT_LIMIT_MS);
  },
  30_000 + ROUNDS * 20_000,
);

const SOUND = { lost: 0, duplicated: 0, outOfOrder: 0, unackedPresent: 0, firstProblem: null };
