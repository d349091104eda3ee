/**
 * The sweep: what was read is known until it is durable, what is over ends although there is much of it, and nothing that is wrong with
 * some streams holds up the others. On a clock of the test's own, over a store in memory that can refuse, fail and count.
 */

import { expect, test } from "bun:test";
import { Deadlines } from "../kit/deadlines.ts";
import { Metrics } from "../kit/metrics.ts";
import { utf8 } from "../kit/bytes.ts";
import { DamagedStream } from "../protocol/faults.ts";
import type { Decided, Intent } from "../protocol/intents.ts";
import { MAX_REMEMBERED_TOUCHES, SWEEP_STREAMS, SWEEP_WORK_MS, TOUCH_PERSIST_MS } from "../protocol/limits.ts";
import { KEEP_ALL, type Retention } from "../protocol/retention.ts";
import { isExpired, newHead, type StreamHead } from "../protocol/stream.ts";
import { MemoryStore } from "../storage/memory/memory-store.ts";
import type { StreamStore } from "../storage/port.ts";
import { AppendQueue } from "./append-queue.ts";
import { Sweeper } from "./sweeper.ts";

const TTL_SECONDS = 60;
/** Records that one look of retention sees. */
const LOOK_RECORDS = 10;

function world() {
  const state = { nowMs: 1_800_000_000_000, monotonicMs: 0, lookMs: 0, isFull: false, fails: false, isLifting: false };
  const clock = { nowMs: () => state.nowMs, monotonicMs: () => (state.monotonicMs += state.lookMs) };
  const memory = new MemoryStore(clock);
  const damaged = new Set<number>();
  /** Of each commit that the sweep made. */
  const commits: (readonly Intent[])[] = [];
  const store: StreamStore = {
    status: () => memory.status(),
    close: () => memory.close(),
    catalog: {
      byName: (name) => memory.byName(name),
      byId: async (id) => {
        if (damaged.has(id)) throw new DamagedStream(`stream ${id}`);
        return memory.byId(id);
      },
      peek: (name) => memory.peek(name),
      attributes: (id) => memory.attributes(id),
      annotated: (key, after, limit) => memory.annotated(key, after, limit),
      list: (query) => memory.list(query),
      pastDeadline: (nowMs, limit) => memory.pastDeadline(nowMs, limit),
      withRetention: (after, limit) => memory.withRetention(after, limit),
    },
    log: {
      commit: async (intents): Promise<readonly Decided[]> => {
        if (state.fails) throw new Error("the disk fails");
        commits.push(intents);
        if (!state.isFull) return memory.commit(intents);
        return intents.map(() => ({ kind: "rejected", rejection: { kind: "disk-full" } }));
      },
      read: (request) => memory.read(request),
      readFrames: () => memory.readFrames(),
      appendEnd: (id, seq) => memory.appendEnd(id, seq),
      seekTime: (id, atMs) => memory.seekTime(id, atMs),
      unsealed: (id) => memory.unsealed(id),
      largestUnsealed: (limit) => memory.largestUnsealed(limit),
      trimPoint: async (id, bounds) => {
        const head = (await memory.byId(id)) ?? expect.unreachable("no stream");
        const point = await memory.trimPoint(id, bounds);
        if (state.isLifting) await memory.commit([{ kind: "retain", name: head.config.name, retention: KEEP_ALL }]);
        const retainedFrom = Math.min(point.retainedFrom, head.retainedFrom + LOOK_RECORDS);
        return { retainedFrom, trimmedBytes: retainedFrom, more: retainedFrom < point.retainedFrom };
      },
      follow: (listener) => memory.follow(listener),
    },
  };
  const metrics = new Metrics();
  const faults: string[] = [];
  const queue = new AppendQueue(store.log, clock, metrics, null);
  const parts = { store, queue, clock, deadlines: new Deadlines(clock), metrics };
  const sweeper = new Sweeper(parts, (operation) => faults.push(operation));
  const create = async (name: string, retention: Retention | null, records: number): Promise<StreamHead> => {
    const seconds = TTL_SECONDS;
    const expiry = retention === null ? ({ kind: "ttl", seconds } as const) : ({ kind: "never" } as const);
    const body = { payload: utf8("x".repeat(records)), lengths: Array.from({ length: records }, () => 1) };
    const none = { close: false, key: null, fork: null };
    const [made] = await memory.commit([
      { kind: "create", name, contentType: "text/plain", expiry, retention, body, ...none },
    ]);
    return made?.kind === "created" ? made.head : expect.unreachable("not created");
  };
  const createMany = (count: number, retention: Retention | null = null, records = 1): Promise<StreamHead[]> =>
    Promise.all(Array.from({ length: count }, (_, index) => create(`s/${index}`, retention, records)));
  const pass = (ms: number): void => {
    state.nowMs += ms;
    state.monotonicMs += ms;
  };
  const ended = (heads: readonly StreamHead[]): number => heads.filter(({ deletion }) => deletion === "hard").length;
  const stored = async (head: StreamHead): Promise<number> => {
    // What a restart would know.
    const touches = commits.flat().flatMap((intent) => (intent.kind === "touch" ? intent.accesses : []));
    return touches.filter(([id]) => id === head.id).at(-1)?.[1] ?? 0;
  };
  return { state, sweeper, memory, damaged, commits, faults, createMany, pass, ended, stored };
}

test.each(["isFull", "fails"] as const)("a read is known until a commit took it: the disk %s", async (trouble) => {
  const { state, sweeper, createMany, pass, stored, commits } = world();
  const [head = expect.unreachable("none")] = await createMany(1);
  pass(1_000);
  const readMs = state.nowMs;
  sweeper.touch(head, readMs);
  state[trouble] = true;
  pass(TOUCH_PERSIST_MS);
  await Promise.allSettled([sweeper.tick()]);
  expect(sweeper.holdsAccesses).toBe(true);
  // As read from the table again.
  const fresh = newHead(head.id, head.config);
  sweeper.refresh(fresh);
  expect(fresh.accessedMs).toBe(readMs);
  state[trouble] = false;
  commits.length = 0;
  pass(TOUCH_PERSIST_MS);
  await sweeper.tick();
  expect(await stored(head)).toBe(readMs);
  expect(sweeper.holdsAccesses).toBe(false);
});

test("what is read while its last read is being written waits for the next time", async () => {
  const { state, sweeper, createMany, pass, stored } = world();
  const [head = expect.unreachable("none")] = await createMany(1);
  sweeper.touch(head, state.nowMs);
  pass(TOUCH_PERSIST_MS);
  const ticking = sweeper.tick();
  const againMs = state.nowMs + 1;
  sweeper.touch(head, againMs);
  await ticking;
  expect(sweeper.holdsAccesses).toBe(true);
  await sweeper.stop();
  expect([await stored(head), sweeper.holdsAccesses]).toEqual([againMs, false]);
});

test("ten thousand reads are written in a few commits, not one after the other", async () => {
  const { state, sweeper, createMany, commits } = world();
  for (const head of await createMany(10_000)) sweeper.touch(head, state.nowMs);
  await sweeper.tick();
  expect(commits.flat()).toHaveLength(10_000 / SWEEP_STREAMS);
  expect(commits.length).toBeLessThanOrEqual(20);
  expect(sweeper.holdsAccesses).toBe(false);
});

test("more reads than can be remembered lengthen other lives, and shorten none", async () => {
  const { state, sweeper, createMany, pass } = world();
  const [head = expect.unreachable("none")] = await createMany(1);
  pass(TTL_SECONDS * 1_000 - 1);
  const { nowMs } = state;
  for (let id = 1; id <= MAX_REMEMBERED_TOUCHES; id++) sweeper.touch(newHead(1_000_000 + id, head.config), nowMs);
  sweeper.touch(head, nowMs);
  pass(TTL_SECONDS * 1_000 - 1);
  const fresh = newHead(head.id, head.config);
  sweeper.refresh(fresh);
  expect(isExpired(fresh, state.nowMs)).toBe(false);
  pass(1);
  expect(isExpired(fresh, state.nowMs)).toBe(true);
  await sweeper.stop();
  expect(sweeper.holdsAccesses).toBe(true);
});

test("five thousand streams that are over end in one sweep", async () => {
  const { sweeper, createMany, pass, ended, faults } = world();
  const heads = await createMany(5_000);
  pass(TTL_SECONDS * 1_000);
  await sweeper.tick();
  expect([ended(heads), faults]).toEqual([5_000, []]);
});

test("a sweep that takes long leaves the rest to the next one", async () => {
  const { state, sweeper, createMany, pass, ended } = world();
  const heads = await createMany(5_000);
  pass(TTL_SECONDS * 1_000);
  state.lookMs = SWEEP_WORK_MS / 1_000;
  await sweeper.tick();
  const first = ended(heads);
  expect(first).toBeGreaterThan(0);
  expect(first).toBeLessThan(5_000);
  await sweeper.tick();
  expect(ended(heads)).toBeGreaterThan(first);
});

test("damaged streams that are over do not keep the others from ending", async () => {
  const { sweeper, damaged, createMany, pass, ended, faults } = world();
  const heads = await createMany(2_000);
  for (const { id } of heads.slice(0, 600)) damaged.add(id);
  pass(TTL_SECONDS * 1_000);
  await sweeper.tick();
  expect([ended(heads), faults.length]).toEqual([1_400, 600]);
});

test("a store that takes nothing is not asked again in the same sweep", async () => {
  const { state, sweeper, commits, createMany, pass, ended } = world();
  const heads = await createMany(2_000);
  pass(TTL_SECONDS * 1_000);
  state.isFull = true;
  await sweeper.tick();
  expect([ended(heads), commits.length]).toEqual([0, 1]);
});

test("a stream that the index names too early is written with its last read, and is not named again", async () => {
  const { state, sweeper, memory, commits, createMany, pass, stored } = world();
  const [head = expect.unreachable("none")] = await createMany(1);
  pass(TTL_SECONDS * 1_000 - 1);
  const readMs = state.nowMs;
  // The store's face of it has not heard of the read.
  sweeper.touch(newHead(head.id, head.config), readMs);
  pass(1);
  expect(await memory.pastDeadline(state.nowMs, 10)).toEqual([head.id]);
  await sweeper.tick();
  expect(commits.flat()).toHaveLength(1);
  expect([await stored(head), head.deletion]).toEqual([readMs, "none"]);
  expect(await memory.pastDeadline(state.nowMs, 10)).toEqual([]);
});

test("retention looks again at a stream until it is done with it", async () => {
  const { sweeper, createMany, commits } = world();
  const heads = await createMany(3, { maxAgeMs: null, maxBytes: 5 }, 20 * LOOK_RECORDS);
  const trims: number[] = [];
  sweeper.onTrim(({ records }) => trims.push(records));
  await sweeper.tick();
  expect(heads.map(({ retainedFrom }) => retainedFrom)).toEqual(heads.map(({ next }) => next - 5));
  expect(trims.reduce((sum, records) => sum + records, 0)).toBe(3 * (20 * LOOK_RECORDS - 5));
  // All three at once.
  expect(commits.every((intents) => intents.length <= 3)).toBe(true);
});

test("retention that takes long goes on where it was in the next sweep", async () => {
  const { state, sweeper, createMany } = world();
  const heads = await createMany(SWEEP_STREAMS, { maxAgeMs: null, maxBytes: 1 }, 3);
  state.lookMs = SWEEP_WORK_MS / 60;
  const trimmed = (): number => heads.filter(({ retainedFrom }) => retainedFrom > 0).length;
  await sweeper.tick();
  const first = trimmed();
  expect(first).toBeGreaterThan(0);
  expect(first).toBeLessThan(SWEEP_STREAMS);
  for (let sweep = 0; sweep < SWEEP_STREAMS / first + 1; sweep++) await sweeper.tick();
  expect(trimmed()).toBe(SWEEP_STREAMS);
});

test("nothing is counted as trimmed when the policy was lifted meanwhile", async () => {
  const { state, sweeper, createMany } = world();
  const [head = expect.unreachable("none")] = await createMany(1, { maxAgeMs: null, maxBytes: 1 }, 5);
  const trims: unknown[] = [];
  sweeper.onTrim((trim) => trims.push(trim));
  // While its new start is looked for.
  state.isLifting = true;
  await sweeper.tick();
  expect([head.retainedFrom, trims]).toEqual([0, []]);
});
