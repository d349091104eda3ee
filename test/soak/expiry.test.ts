/**
 * Streams whose lifetime is over are given up and their rows freed, in the background: `EXPIRING_STREAMS` (1,000 by default; 20,000 by
 * hand) expire at once, every sweep ends as many as it may, and no turn of the event loop gets long over it.
 * Store, queue and sweeper on a clock of the test's own, so that nobody waits for the minute after which the sealer comes.
 */

import { Database } from "bun:sqlite";
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AppendQueue } from "../../src/engine/append-queue.ts";
import { Sweeper } from "../../src/engine/sweeper.ts";
import { Deadlines } from "../../src/kit/deadlines.ts";
import { Metrics } from "../../src/kit/metrics.ts";
import type { CreateIntent } from "../../src/protocol/intents.ts";
import { SWEEP_STREAMS } from "../../src/protocol/limits.ts";
import { SqliteStore } from "../../src/storage/sqlite/sqlite-store.ts";
import { longestLag } from "./loop-lag.ts";

const STREAMS = Number(process.env["EXPIRING_STREAMS"] ?? 1_000);
const TTL_SECONDS = 1;
const SPARE_SWEEPS = 5;
/** All of it in one turn takes seconds. */
const LAG_LIMIT_MS = 250;
const CREATED_TOGETHER = 500;

const root = mkdtempSync(join(tmpdir(), "streams-expiry-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

function create(at: number): CreateIntent {
  const payload = new TextEncoder().encode(`record of ${at}`);
  return {
    kind: "create",
    name: `mortal/${at}`,
    contentType: "text/plain",
    expiry: { kind: "ttl", seconds: TTL_SECONDS },
    retention: null,
    close: false,
    body: { payload, lengths: [payload.length] },
    key: null,
    fork: null,
  };
}

async function openWorld() {
  const state = { nowMs: 1_800_000_000_000 };
  // Only the test makes time pass, so the sweeper's own timer never comes.
  const clock = { nowMs: () => state.nowMs, monotonicMs: () => 0 };
  const metrics = new Metrics();
  const directory = mkdtempSync(join(root, "run-"));
  const store = await SqliteStore.open({ directory, durability: "os", acceptLoss: false, clock, metrics });
  const queue = new AppendQueue(store.log, clock, metrics, null);
  const deadlines = new Deadlines(clock);
  const faults: unknown[] = [];
  const sweeper = new Sweeper({ store, queue, clock, deadlines, metrics }, (_, cause) => faults.push(cause));
  const close = async (): Promise<void> => {
    await sweeper.stop();
    await queue.close();
    deadlines.close();
    await store.close();
  };
  return { state, store, queue, sweeper, faults, directory, close };
}

function rowsIn(directory: string): Readonly<Record<string, number>> {
  const db = new Database(join(directory, "log.db"), { readonly: true });
  const count = (table: string): number =>
    db.query<{ n: number }, []>(`SELECT count(*) AS n FROM ${table}`).get()?.n ?? -1;
  try {
    return { streams: count("streams"), batches: count("batches"), commits: count("commits") };
  } finally {
    db.close();
  }
}

test(
  `${STREAMS} streams expire at once: all rows are freed, in bounded turns`,
  async () => {
    const { state, store, queue, sweeper, faults, directory, close } = await openWorld();
    for (let at = 0; at < STREAMS; at += CREATED_TOGETHER) {
      const many = Array.from({ length: Math.min(CREATED_TOGETHER, STREAMS - at) }, (_, index) => create(at + index));
      await Promise.all(many.map((intent) => queue.submit(intent)));
    }
    const left = async (): Promise<number> =>
      (await store.list({ prefix: "mortal/", after: "", limit: STREAMS })).length;
    await store.sealAll();
    expect(await left()).toBe(STREAMS);
    await sweeper.tick();
    expect(await left()).toBe(STREAMS);

    state.nowMs += TTL_SECONDS * 1_000 + 1;
    const sweeps = Math.ceil(STREAMS / SWEEP_STREAMS) + SPARE_SWEEPS;
    const startMs = performance.now();
    const sweepLag = await longestLag(async () => {
      for (let sweep = 0; sweep < sweeps; sweep++) await sweeper.tick();
    });
    const sweptMs = performance.now() - startMs;
    const notExpired = [];
    for (let at = 0; at < STREAMS; at++) if ((await store.byName(`mortal/${at}`)) !== undefined) notExpired.push(at);
    expect({ sweeps, notExpired: notExpired.length }).toEqual({ sweeps, notExpired: 0 });

    const freeLag = await longestLag(() => store.sealAll());
    await close();
    console.log(
      `expiry: ${STREAMS} streams in ${sweeps} sweeps of ${(sweptMs / sweeps).toFixed(1)} ms; longest lag ` +
        `${sweepLag.longestMs.toFixed(1)} ms sweeping, ${freeLag.longestMs.toFixed(1)} ms freeing (limit ${LAG_LIMIT_MS})`,
    );
    expect(faults).toEqual([]);
    expect(rowsIn(directory)).toEqual({ streams: 0, batches: 0, commits: 0 });
    for (const { longestMs, machineMs } of [sweepLag, freeLag]) {
      expect(longestMs).toBeLessThan(LAG_LIMIT_MS + machineMs);
    }
  },
  30_000 + STREAMS * 20,
);
