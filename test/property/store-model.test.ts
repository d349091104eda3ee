/**
 * The SQLite store against the memory store: random commits with seals, crashes and time in between; after every step both say
 * the same of every stream, every record, key, append boundary and point in time. A failure prints its seed and
 * path; `FC_SEED` runs it again.
 */

import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as fc from "fast-check";
import { Reader } from "../../src/engine/reader.ts";
import { type Clock, systemClock } from "../../src/kit/clock.ts";
import { Metrics } from "../../src/kit/metrics.ts";
import type { Decided } from "../../src/protocol/intents.ts";
import { lineageOf, type StreamHead } from "../../src/protocol/stream.ts";
import { MemoryStore } from "../../src/storage/memory/memory-store.ts";
import type { StreamStore } from "../../src/storage/port.ts";
import { SqliteStore } from "../../src/storage/sqlite/sqlite-store.ts";
import { type Command, commands, toIntent } from "./store-commands.ts";

const RUNS = Number(process.env["FC_RUNS"] ?? 60);
const seed = Number(process.env["FC_SEED"] ?? Date.now() % 2 ** 31);
const root = mkdtempSync(join(tmpdir(), "streams-property-"));

afterAll(() => rmSync(root, { recursive: true, force: true }));

test(`the SQLite store behaves as the model (seed ${seed}, ${RUNS} runs)`, async () => {
  let compared = 0;
  await fc.assert(
    fc.asyncProperty(commands, async (steps) => {
      compared += await runSteps(steps);
    }),
    { seed, numRuns: RUNS, endOnFailure: false },
  );
  expect(compared).toBeGreaterThan(RUNS);
}, 240_000);

/** Runs one sequence on both stores; returns how many records were compared. */
async function runSteps(steps: readonly Command[]): Promise<number> {
  const time = { nowMs: 1_700_000_000_000 };
  const clock: Clock = { nowMs: () => time.nowMs, monotonicMs: () => performance.now() };
  let directory = mkdtempSync(join(root, "run-"));
  const model = new MemoryStore(clock);
  let store = await SqliteStore.open({ directory, durability: "os", acceptLoss: false, clock });
  let compared = 0;
  try {
    for (const step of steps) {
      if (step.kind === "commit") {
        // Both stores decide the same intents: they are matched against the model once.
        const intents = await Promise.all(step.intents.map((wish) => toIntent(model, wish, time.nowMs)));
        expect(plain(await store.log.commit(intents))).toEqual(plain(await model.log.commit(intents)));
      } else if (step.kind === "seal") {
        await store.sealAll();
      } else if (step.kind === "crash") {
        directory = await copyAsCrashed(directory);
        await store.close();
        store = await SqliteStore.open({ directory, durability: "os", acceptLoss: false, clock });
      } else {
        time.nowMs += step.ms;
      }
      compared += await compare(store, model, time.nowMs);
    }
  } finally {
    await store.close();
  }
  return compared;
}

/** The files as a kill would leave them. Another process copies: SQLite's locks die with any descriptor closed in ours. */
async function copyAsCrashed(directory: string): Promise<string> {
  const copy = mkdtempSync(join(root, "crash-"));
  const done = Bun.spawn(["cp", "-a", `${directory}/.`, copy]);
  expect(await done.exited).toBe(0);
  return copy;
}

/** Outcomes without the live heads inside. */
function plain(outcomes: readonly Decided[]): unknown {
  return outcomes.map((outcome) => ("head" in outcome ? { ...outcome, head: outcome.head.id } : outcome));
}

async function compare(store: StreamStore, model: StreamStore, nowMs: number): Promise<number> {
  let compared = 0;
  const wanted = await model.catalog.list({ prefix: "", after: "", limit: 100 });
  const listed = await store.catalog.list({ prefix: "", after: "", limit: 100 });
  expect(listed.map(describe)).toEqual(wanted.map(describe));
  for (const head of wanted) {
    const key = compared % 2 === 0 ? null : "k1";
    const expected = await readAll(model, head, key);
    expect(await readAll(store, await sameHead(store, head), key)).toEqual(expected);
    compared += 1 + expected.length;
    if (head.next > head.config.from) {
      for (let seq = head.config.from; seq < head.next; seq += 3) {
        if (seq >= head.retainedFrom)
          expect(await store.log.appendEnd(head.id, seq)).toBe(await model.log.appendEnd(head.id, seq));
      }
    }
    const kept = await store.catalog.attributes((await sameHead(store, head)).id);
    expect(Object.fromEntries(kept)).toEqual(Object.fromEntries(await model.catalog.attributes(head.id)));
    const atMs = nowMs - 1_000;
    // What is trimmed is found as long as it is not freed, and readers pass over it.
    const point = Math.max(head.retainedFrom, await model.log.seekTime(head.id, atMs));
    expect(Math.max(head.retainedFrom, await store.log.seekTime(head.id, atMs))).toBe(point);
  }
  return compared;
}

async function sameHead(store: StreamStore, head: StreamHead): Promise<StreamHead> {
  const found = await store.catalog.byName(head.config.name);
  if (found === undefined) throw new Error(`the store has no ${head.config.name}`);
  return found;
}

/** Everything of a head that clients can see, and its lineage. */
function describe(head: StreamHead): unknown {
  const { producers: _producers, lastCommit: _lastCommit, ...rest } = head;
  return { ...rest, lineage: lineageOf(head) };
}

/** All records of a stream along its lineage; JSON parts are split by length, so parts are joined with a mark. */
async function readAll(store: StreamStore, head: StreamHead, key: string | null): Promise<string[]> {
  const reader = new Reader(store, systemClock, new Metrics(), null);
  const plan = await reader.plan(head, { kind: "offset", token: { kind: "start" } }, { key, filter: null });
  if ("kind" in plan) throw new Error(`no plan: ${plan.kind}`);
  const texts: string[] = [];
  for await (const { parts } of reader.chunks(plan, new AbortController().signal))
    for (const part of parts) texts.push(new TextDecoder().decode(part));
  const whole = texts.join(plan.json ? "," : "");
  return plan.json ? (JSON.parse(`[${whole}]`) as string[]) : [whole];
}
