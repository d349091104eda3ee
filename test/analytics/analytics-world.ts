/** An analytics stage over a store in memory, on a clock of the test's own, that can be killed at any point and started again. */

import { Engine } from "../../src/engine/engine.ts";
import { aggregate, type Wanted } from "../../src/features/analytics/aggregate.ts";
import { type AnalyticsStream, LEVELS, OPEN_ATTRIBUTE } from "../../src/features/analytics/analytics-stream.ts";
import { decodeBatch } from "../../src/features/analytics/batch-record.ts";
import { storedRecords } from "../../src/features/analytics/derived-stream.ts";
import { analyticsProfile, createAnalytics } from "../../src/features/analytics/index.ts";
import { decodeWindow } from "../../src/features/analytics/window-record.ts";
import { type PartialWindow, spanAt } from "../../src/features/analytics/window-set.ts";
import { WindowStats } from "../../src/features/analytics/window-stats.ts";
import { nextTurn } from "../../src/kit/turn.ts";
import { type MemoryBudget, memoryBudget } from "../../src/protocol/budget.ts";
import type { Outcome } from "../../src/protocol/intents.ts";
import { MemoryStore } from "../../src/storage/memory/memory-store.ts";
import type { StreamStore } from "../../src/storage/port.ts";

export const STREAM = "app/events";
/** Another one, with the same settings. */
export const OTHER = "app/other";

/** Turns until work that waits for nothing but turns has ended. */
const SETTLE_TURNS = 40;

export interface AnalyticsWorld {
  readonly time: { ms: number };
  /** Sends events; resolves with the answer. */
  post(events: readonly unknown[], name?: string): Promise<Outcome>;
  /** Lets time pass, in steps of at most a minute, and what is due be done. */
  pass(ms: number): Promise<void>;
  settle(): Promise<void>;
  /** Ends the process without a word, and starts another one. */
  crash(): Promise<void>;
  stage(): Promise<AnalyticsStream>;
  /** What the batches hold, by series and span of a level. */
  measured(level: number): Promise<Map<string, WindowStats>>;
  /** What a level has told, and what it has open. */
  derived(level: number): Promise<Map<string, WindowStats>>;
  records(suffix: string): Promise<unknown[]>;
  /** The events that a stream stores. */
  stored(name: string): Promise<unknown[]>;
  ask(wanted: Wanted): Promise<ReadonlyMap<string, WindowStats>>;
  isMarked(): Promise<boolean>;
  readonly faults: string[];
}

export async function analyticsWorld(
  settings: Readonly<Record<string, unknown>>,
  budget: MemoryBudget = memoryBudget(null),
): Promise<AnalyticsWorld> {
  const time = { ms: Date.parse("2030-01-02T03:04:05Z") };
  const clock = { nowMs: () => time.ms, monotonicMs: () => time.ms };
  const store = new MemoryStore(clock);
  const faults: string[] = [];
  const onFault = (operation: string, cause: unknown): void => void faults.push(`${operation}: ${String(cause)}`);
  let process = begin();

  function begin() {
    const gate = { isDead: false };
    const engine = new Engine({
      store: mortal(store, gate),
      clock,
      onFault,
      random: Math.random,
      budget,
      profiles: [analyticsProfile],
    });
    const { analytics } = createAnalytics({ engine, hash: (text) => Bun.hash.xxHash3(text), onFault });
    analytics.start();
    return { engine, analytics, gate };
  }

  const settle = async (): Promise<void> => {
    for (let turn = 0; turn < SETTLE_TURNS; turn++) await nextTurn();
  };
  const { engine } = process;
  const parsed = analyticsProfile.parse(settings, STREAM);
  if ("reason" in parsed) throw new Error(parsed.reason);
  const { config } = parsed;
  const create = async (name: string): Promise<number> => {
    await engine.create({
      name,
      contentType: "application/json",
      expiry: { kind: "never" },
      retention: null,
      close: false,
      body: new Uint8Array(),
      key: null,
      fork: null,
    });
    const head = await engine.find(name, "look");
    if ("kind" in head) throw new Error(head.kind);
    await engine.setProfile(name, head.id, { kind: "analytics", config });
    return head.id;
  };
  const id = await create(STREAM);
  await create(OTHER);

  async function texts(name: string): Promise<string[]> {
    const found = await process.engine.find(name, "look");
    if ("kind" in found) return [];
    const all: string[] = [];
    const start = { kind: "seq", seq: 0 } as const;
    for await (const step of storedRecords(process.engine, found, start, found.next)) all.push(...step.texts);
    return all;
  }

  const stage = async (): Promise<AnalyticsStream> => {
    const now = await process.engine.find(STREAM, "look");
    const open = "kind" in now ? null : await process.analytics.open(now);
    if (open === null) throw new Error("the stream has no stage");
    return open;
  };

  return {
    time,
    faults,
    settle,
    stage,
    post: (events, name = STREAM) =>
      process.engine.append({
        name,
        contentType: "application/json",
        body: new TextEncoder().encode(JSON.stringify(events)),
        producer: null,
        streamSeq: null,
        ifMatch: null,
        key: null,
        close: false,
      }),
    async pass(ms) {
      for (let left = ms; left > 0; left -= 60_000) {
        time.ms += Math.min(left, 60_000);
        process.engine.deadlines.tick();
        await settle();
      }
    },
    async crash() {
      process.gate.isDead = true;
      process.engine.deadlines.close();
      process = begin();
      await settle();
    },
    async measured(level) {
      const { sizeMs = null, offsetMs = 0 } = LEVELS[level] ?? {};
      const parts = (await texts(STREAM)).flatMap((text) => decodeBatch(JSON.parse(text))?.windows ?? []);
      return merged(
        parts.map((part) => (sizeMs === null ? part : { ...part, ...spanAt(part.startMs, sizeMs, offsetMs) })),
      );
    },
    async derived(level) {
      const open = await stage();
      const told = (await texts(`${STREAM}/${LEVELS[level]?.suffix ?? ""}`)).map(
        (text) => decodeWindow(JSON.parse(text))?.part,
      );
      const unwritten = open.stages[level]?.unwritten().windows ?? [];
      return merged([...told.filter((part) => part !== undefined), ...unwritten]);
    },
    records: async (suffix) => (await texts(`${STREAM}/${suffix}`)).map((text) => JSON.parse(text) as unknown),
    async stored(name) {
      const batches = (await texts(name)).map((text) => decodeBatch(JSON.parse(text)));
      return batches.flatMap((batch) => batch?.events.map(({ event }) => event) ?? []);
    },
    ask: async (wanted) =>
      (await aggregate(process.engine, await stage(), wanted, new AbortController().signal)).groups,
    isMarked: async () => (await process.engine.attributes(id)).has(OPEN_ATTRIBUTE),
  };
}

/** By span and series. */
function merged(parts: readonly PartialWindow[]): Map<string, WindowStats> {
  const byWindow = new Map<string, WindowStats>();
  for (const { startMs, endMs, series, stats } of parts) {
    const key = `${startMs}-${endMs}/${series.id}`;
    const known = byWindow.get(key) ?? new WindowStats();
    known.merge(stats);
    byWindow.set(key, known);
  }
  return byWindow;
}

/** The same store, for one process: once it is dead, nothing it asks for happens or is answered. */
function mortal(store: MemoryStore, gate: { readonly isDead: boolean }): StreamStore {
  const { log, catalog } = store;
  return {
    catalog,
    status: () => store.status(),
    close: () => store.close(),
    log: {
      commit: (intents) => (gate.isDead ? new Promise(() => undefined) : log.commit(intents)),
      read: (request) => log.read(request),
      readFrames: (request) => log.readFrames(request),
      appendEnd: (id, seq) => log.appendEnd(id, seq),
      seekTime: (id, atMs) => log.seekTime(id, atMs),
      unsealed: (id) => log.unsealed(id),
      largestUnsealed: (limit) => log.largestUnsealed(limit),
      trimPoint: (id, bounds) => log.trimPoint(id, bounds),
      follow: (listener) => log.follow(listener),
    },
  };
}
