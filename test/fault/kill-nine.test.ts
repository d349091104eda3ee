/**
 * `kill -9` under load, again and again (`KILL_ROUNDS`, 10 by default): every acknowledged record is there once after each restart,
 * in order. With producer headers unanswered records are sent again, and must not be there twice; without them nothing
 * repairs a loss behind the test's back. Of three sets of streams the second takes records so large that the sealer
 * is at work, the third such that lie in files of their own.
 * No server lives long enough for a checkpoint in the ordinary course of things; the log's WAL must stay small all the same.
 */

import { expect, test } from "bun:test";
import { join } from "node:path";
import type { TestServer } from "../support/server.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { until } from "../support/wait.ts";
import { counted, percentile } from "./observation.ts";
import { writerGroup, type WriterGroup } from "./writers.ts";

const ROUNDS = Number(process.env["KILL_ROUNDS"] ?? 10);
const ROUNDS_PER_GROUP = 5;
const WRITERS = 8;
const PADDINGS = [1_000, 24_000, 300_000];
const LOAD_MS = 250;
/** It is made 24 MiB long at the first start. */
const WAL_LIMIT_BYTES = 48 * 1024 * 1024;
/** The goal, and what a crowded machine is allowed. */
const RESTART_GOAL_MS = 200;
const RESTART_LIMIT_MS = 2_000;

const start = temporaryServers();

test.each([
  ["idempotent", true, ROUNDS],
  ["not idempotent", false, Math.ceil(ROUNDS / 4)],
])(
  "kill -9 under load, %s: nothing lost, nothing twice, order kept",
  async (what, idempotent, rounds) => {
    const groups: WriterGroup[] = [];
    const restartsMs: number[] = [];
    let sealingRounds = 0;
    let server = await start();
    const { dataDir } = server;
    for (let round = 0; round < rounds; round++) {
      const at = Math.floor(round / ROUNDS_PER_GROUP);
      const group = (groups[at] ??= writerGroup({
        writers: WRITERS,
        streams: 3,
        idempotent,
        paddingBytes: PADDINGS[at % PADDINGS.length] ?? expect.unreachable("a padding"),
        prefix: `kill-${at}`,
      }));
      if (round % ROUNDS_PER_GROUP === 0) await group.createStreams(server);
      const before = group.ackedCount;
      if ((await loadAndKill(server, group)) > 0) sealingRounds++;

      const startMs = performance.now();
      server = await start({ dataDir });
      restartsMs.push(performance.now() - startMs);
      await expectSound(server, group, round);
      expect(group.ackedCount).toBeGreaterThan(before);
    }
    for (const group of groups) {
      if (idempotent) await group.finish(server);
      await expectSound(server, group, "the end");
    }
    const walBytes = Bun.file(join(dataDir, "log.db-wal")).size;
    await server.stop();
    const acked = groups.reduce((sum, group) => sum + group.ackedCount, 0);
    const [p50, p95] = [percentile(restartsMs, 0.5), percentile(restartsMs, 0.95)];
    console.log(
      `kill -9, ${what}: ${rounds} rounds, ${acked} acknowledged, 0 lost, 0 twice, 0 out of order; sealed in ${sealingRounds} ` +
        `rounds; restart p50 ${p50.toFixed(0)} p95 ${p95.toFixed(0)} ms (goal ${RESTART_GOAL_MS})`,
    );
    if (rounds > ROUNDS_PER_GROUP) expect(sealingRounds).toBeGreaterThan(0);
    expect(p95).toBeLessThan(RESTART_LIMIT_MS);
    expect(walBytes).toBeLessThan(WAL_LIMIT_BYTES);
  },
  30_000 + ROUNDS * 5_000,
);

/** Returns how many batches had been sealed since the start, just before the kill. */
async function loadAndKill(server: TestServer, group: WriterGroup): Promise<number> {
  const before = group.ackedCount;
  const kill = async (): Promise<number> => {
    await until("writers are at work", () => group.ackedCount > before + 50);
    await Bun.sleep(LOAD_MS);
    const sealed = await counted(server, "streams_sealed_batches_total");
    await server.kill("SIGKILL");
    return sealed;
  };
  const killed = kill();
  await group.write(server, killed);
  return killed;
}

async function expectSound(server: TestServer, group: WriterGroup, round: number | string): Promise<void> {
  const { acked, unackedPresent, ...problems } = await group.audit(server);
  expect({ round, ...problems }).toEqual({ round, lost: 0, duplicated: 0, outOfOrder: 0, firstProblem: null });
  expect(acked).toBeGreaterThan(0);
  // One record per writer may be in flight at each kill.
  expect(unackedPresent).toBeLessThanOrEqual(WRITERS * ROUNDS_PER_GROUP);
}
