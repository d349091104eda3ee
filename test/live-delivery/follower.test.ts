/** Live readers in one process: what they share, what a slow one costs and gets, and that none of them loses a record. */

import { expect, test } from "bun:test";
import { assert, asyncProperty, integer } from "fast-check";
import type { Follower, LiveItem } from "../../src/http/live/follower.ts";
import { parseFilter } from "../../src/protocol/filter.ts";
import {
  FAN_OUT_SLICE,
  FEEDS_PER_TURN,
  LAG_NOTICE_MS,
  MAX_LIVE_REQUESTS_PER_STREAM,
} from "../../src/protocol/limits.ts";
import { liveWorld, type LiveWorld, next, recordsOf, turns } from "./live-world.ts";
import { offsetAt } from "../../src/protocol/offset.ts";
import { seededRandom } from "../support/random.ts";

test("readers at the tail share one read, one step and one encoding", async () => {
  const world = liveWorld();
  await world.create("s");
  const plan = await world.plan("s", "now");
  const readers = Array.from({ length: 50 }, () => world.follow(plan));
  const waiting = readers.map(next);
  await turns(3);
  expect(world.engine.waiters.size).toBe(1);
  const before = world.metric("streams_read_chunks_total");
  await world.append("s", [1, 2]);
  const steps = await Promise.all(waiting);
  expect(new Set(steps).size).toBe(1);
  expect(steps.map(recordsOf)[0]).toEqual([1, 2]);
  expect(world.metric("streams_read_chunks_total")).toBe(before + 1);
});

test("different selections do not share, and each gets its own", async () => {
  const world = liveWorld();
  await world.create("s");
  const parsed = parseFilter("n > 1");
  if (!parsed.ok) throw new Error(parsed.reason);
  const all = world.follow(await world.plan("s", "now"));
  const some = world.follow(await world.plan("s", "now", { key: null, filter: parsed.filter }));
  const waiting = [next(all), next(some)];
  await turns(2);
  await world.append("s", [{ n: 1 }, { n: 2 }]);
  const [whole, part] = await Promise.all(waiting);
  expect([whole, part].map((item) => item && recordsOf(item))).toEqual([[{ n: 1 }, { n: 2 }], [{ n: 2 }]]);
});

test("more readers than one slice: all get it, over several turns", async () => {
  const world = liveWorld();
  await world.create("s");
  const plan = await world.plan("s", "now");
  const count = 2 * FAN_OUT_SLICE + 1;
  const readers = Array.from({ length: count }, () => world.follow(plan));
  expect(await turnsToDeliver(world, readers)).toBeGreaterThanOrEqual(3);
});

/** Appends one record; in how many turns it came to all of them. */
async function turnsToDeliver(world: LiveWorld, readers: readonly Follower[]): Promise<number> {
  let delivered = 0;
  const all = Promise.all(readers.map((reader) => next(reader).then(() => delivered++)));
  await turns(2);
  await world.append("s", ["x"]);
  const seen = new Set<number>();
  for (let turn = 0; turn < 40; turn++) {
    await turns(1);
    seen.add(delivered);
  }
  await all;
  expect(delivered).toBe(readers.length);
  return seen.size;
}

test("a reader that was behind for a second is told from where to where, then gets all of it", async () => {
  const world = liveWorld();
  await world.create("s");
  const reader = world.follow(await world.plan("s", "now"));
  const first = next(reader);
  await turns(2);
  await world.append("s", [1]);
  await first;
  // It does not ask for more: a connection that does not drain.
  const waiting = reader.ready();
  await turns(1);
  await world.append("s", [2]);
  await waiting;
  await world.append("s", [3]);
  await turns(3);
  expect(reader.behindSinceMs).not.toBeNull();
  await world.pass(LAG_NOTICE_MS);
  expect(recordsOf(await next(reader))).toEqual([2]);
  const lagged = await next(reader);
  expect(lagged).toMatchObject({ kind: "lagged", ms: LAG_NOTICE_MS });
  if (lagged.kind === "lagged") expect(lagged.fromOffset < lagged.toOffset).toBe(true);
  expect(recordsOf(await next(reader))).toEqual([3]);
  expect([reader.dropped, world.metric("streams_live_lagged_total")]).toEqual([0, 1]);
});

test("behind for less than that: no word, and nothing missing", async () => {
  const world = liveWorld();
  await world.create("s");
  const reader = world.follow(await world.plan("s", "now"));
  const waiting = reader.ready();
  await turns(2);
  await world.append("s", [1]);
  await waiting;
  await world.append("s", [2]);
  await turns(3);
  expect(recordsOf(await next(reader))).toEqual([1]);
  expect(recordsOf(await next(reader))).toEqual([2]);
});

test("drop-oldest: the newest thousand, after a gap that counts the others exactly", async () => {
  const world = liveWorld();
  await world.create("s");
  const reader = world.follow(await world.plan("s", "now"), "drop-oldest");
  const waiting = reader.ready();
  await turns(2);
  await world.append("s", ["first"]);
  await waiting;
  const numbers = Array.from({ length: 1_500 }, (_, index) => index);
  await world.append("s", numbers);
  await turns(3);
  expect(recordsOf(await next(reader))).toEqual(["first"]);
  const from = reader.offset;
  const gap = await next(reader);
  expect(gap).toMatchObject({ kind: "gap", count: 500, fromOffset: from, toOffset: reader.offset });
  expect(recordsOf(await next(reader))).toEqual(numbers.slice(500));
  expect([reader.dropped, world.metric("streams_live_dropped_records_total")]).toEqual([500, 500]);
});

test("drop-oldest keeps what it asked for from the past: a catch-up is no overflow", async () => {
  const world = liveWorld();
  await world.create("s");
  const numbers = Array.from({ length: 3_000 }, (_, index) => index);
  await world.append("s", numbers);
  const reader = world.follow(await world.plan("s", "start"), "drop-oldest");
  expect(recordsOf(await next(reader))).toEqual(numbers);
});

test("drop-oldest under retention: what was trimmed is part of the gap", async () => {
  const world = liveWorld();
  await world.create("s");
  const reader = world.follow(await world.plan("s", "now"), "drop-oldest");
  const waiting = reader.ready();
  await turns(2);
  await world.append("s", ["first"]);
  await waiting;
  await world.append("s", [1, 2, 3]);
  await turns(3);
  expect(recordsOf(await next(reader))).toEqual(["first"]);
  await world.engine.retain("s", { maxAgeMs: null, maxBytes: 1 });
  for (let sweep = 0; sweep < 5; sweep++) await world.pass(1_100);
  await world.append("s", [4]);
  const head = await world.engine.find("s", "look");
  const trimmed = "retainedFrom" in head ? head.retainedFrom : 0;
  expect(trimmed).toBeGreaterThan(1);
  expect(await next(reader)).toMatchObject({ kind: "gap", count: trimmed - 1 });
});

test("drop-oldest on a fork keeps a megabyte of its own records, however many it inherited", async () => {
  const world = liveWorld();
  await world.create("s");
  await world.append(
    "s",
    Array.from({ length: 10_000 }, (_, n) => n),
  );
  await world.create("fork", "s");
  const reader = world.follow(await world.plan("fork", "now"), "drop-oldest");
  const waiting = reader.ready();
  await turns(2);
  await world.append("fork", ["first"]);
  await waiting;
  const large = "x".repeat(256 * 1024);
  for (let record = 0; record < 12; record++) await world.append("fork", [large]);
  await turns(3);
  expect(recordsOf(await next(reader))).toEqual(["first"]);
  const gap = await next(reader);
  expect(gap.kind === "gap" && gap.count).toBeGreaterThanOrEqual(8);
});

/** A world in which all records of `s` but the newest go while the next read is under way. */
async function trimmedUnderRead(): Promise<LiveWorld> {
  const world = liveWorld();
  await world.create("s");
  await world.append("s", [1, 2, 3, 4]);
  world.store.beforeNextRead(async () => {
    await world.engine.retain("s", { maxAgeMs: null, maxBytes: 1 });
    for (let sweep = 0; sweep < 5; sweep++) await world.pass(1_100);
  });
  return world;
}

test("trimmed while it is read: the end says what is still there", async () => {
  const world = await trimmedUnderRead();
  const reader = world.follow(await world.plan("s", "start"));
  const end = await next(reader);
  const { lineage } = await world.plan("s", "start");
  expect(end).toEqual({ kind: "end", why: { kind: "offset-trimmed", earliest: offsetAt(lineage, 3) } });
});

test("trimmed while it is read, with drop-oldest: a gap, then what is still there", async () => {
  const world = await trimmedUnderRead();
  const reader = world.follow(await world.plan("s", "start"), "drop-oldest");
  expect(await next(reader)).toMatchObject({ kind: "gap", count: 3, toOffset: reader.offset });
  expect(recordsOf(await next(reader))).toEqual([4]);
});

test("deleted while it is read: the end says so", async () => {
  const world = await trimmedUnderRead();
  world.store.beforeNextRead(() => world.engine.delete("s"));
  expect(await next(world.follow(await world.plan("s", "start")))).toEqual({ kind: "end", why: { kind: "not-found" } });
});

test("many readers of different records, woken by one commit, go on over several turns", async () => {
  const world = liveWorld();
  await world.create("s");
  const count = 10 * FEEDS_PER_TURN;
  const plans = await Promise.all(
    Array.from({ length: count }, (_, key) => world.plan("s", "now", { key: `k${key}`, filter: null })),
  );
  const readers = plans.map((plan) => world.follow(plan));
  expect(await turnsToDeliver(world, readers)).toBeGreaterThanOrEqual(7);
});

test("the end: closed, deleted, created again, shutting down", async () => {
  const world = liveWorld();
  for (const name of ["closed", "deleted", "again", "open"]) await world.create(name);
  const readers = await Promise.all(
    ["closed", "deleted", "again", "open"].map(async (name) => world.follow(await world.plan(name, "now"))),
  );
  const waiting = readers.map(next);
  await turns(2);
  await world.append("closed", [], true);
  await world.engine.delete("deleted");
  await world.engine.delete("again");
  await world.create("again");
  const [closed, deleted, again] = await Promise.all(waiting.slice(0, 3));
  expect(closed).toMatchObject({ kind: "step", parts: [], rest: { closed: true } });
  expect(readers[0] && (await next(readers[0]))).toEqual({ kind: "end", why: null });
  expect(deleted).toEqual({ kind: "end", why: { kind: "not-found" } });
  expect(["not-found", "offset-gone"]).toContain(again?.kind === "end" ? (again.why?.kind ?? "") : "");
  world.engine.beginDrain();
  expect(await waiting[3]).toEqual({ kind: "end", why: { kind: "closing" } });
  expect(world.faults).toEqual([]);
});

test("who stops leaves nothing behind, in whatever state", async () => {
  const world = liveWorld();
  await world.create("s");
  const deadlines = world.engine.deadlines.size;
  const plan = await world.plan("s", "now");
  const [idle, parked, holding] = [world.follow(plan), world.follow(plan), world.follow(plan)];
  const waits = [parked.ready(), holding.ready()];
  await turns(2);
  await world.append("s", [1]);
  await Promise.all(waits);
  const again = parked.takeHeld() === null ? Promise.resolve() : parked.ready();
  for (const reader of [idle, parked, holding, idle]) reader.stop();
  await again;
  await turns(5);
  expect([world.engine.liveRequests.used, world.engine.waiters.size]).toEqual([0, 0]);
  expect(world.engine.deadlines.size).toBe(deadlines);
});

test("one stream has room for so many readers", async () => {
  const world = liveWorld();
  await world.create("s");
  const plan = await world.plan("s", "now");
  const readers = Array.from({ length: MAX_LIVE_REQUESTS_PER_STREAM }, () => world.follow(plan));
  expect(world.followers.open(plan, "resume")).toMatchObject({ kind: "overloaded" });
  readers[0]?.stop();
  expect("stop" in world.followers.open(plan, "resume")).toBe(true);
});

test("a reader that stalls for seconds in the middle of catching up is told that it lagged", async () => {
  const world = liveWorld();
  await world.create("s");
  const follower = world.follow(await world.plan("s", "now"));
  await Promise.all([next(follower), world.append("s", [0])]);
  // Behind for a moment: the feed goes on without it, it reads by itself.
  const large = "x".repeat(200_000);
  for (let n = 1; n <= 4; n++) {
    await world.append("s", [{ n, large }]);
    await turns(4);
  }
  const seen: unknown[] = [(recordsOf(await next(follower))[0] as { n: number }).n];
  expect(follower.plan.from).toBeLessThan(follower.plan.to);
  // Now its socket takes nothing for ten seconds, and more is written.
  await world.pass(10_000);
  await world.append("s", [{ n: 5, large }]);
  const kinds: string[] = [];
  while (seen.at(-1) !== 5) {
    const item = await next(follower);
    kinds.push(item.kind);
    if (item.kind === "step") for (const record of recordsOf(item)) seen.push((record as { n: number }).n);
  }
  expect(seen).toEqual([1, 2, 3, 4, 5]);
  expect(kinds).toContain("lagged");
  follower.stop();
});

test("any pace of readers and appends: every log is whole, or says what it skipped", async () => {
  await assert(
    asyncProperty(integer(), async (seed) => {
      const random = seededRandom(seed);
      const world = liveWorld();
      await world.create("s");
      const log = { appended: 0, isWritten: false };
      const stopped: Follower[] = [];
      const read = async (): Promise<void> => {
        const late = random.below(20);
        await turns(late);
        const dropping = random.below(3) === 0;
        const reader = world.follow(await world.plan("s", "start"), dropping ? "drop-oldest" : "resume");
        stopped.push(reader);
        for (let expected = 0; !log.isWritten || expected < log.appended;) {
          const item: LiveItem = await next(reader);
          if (item.kind === "lagged") continue;
          if (item.kind === "end") return expect.unreachable(`the end: ${JSON.stringify(item.why)}`);
          if (item.kind === "gap") {
            expect(dropping).toBe(true);
            expected += item.count;
            continue;
          }
          for (const record of recordsOf(item)) expect(record).toBe(expected++);
          if (random.below(3) === 0) await turns(random.below(12));
          if (random.below(10) === 0) await world.pass(random.below(1_500));
        }
      };
      const readers = Array.from({ length: 1 + random.below(12) }, read);
      for (let round = 0; round < 40; round++) {
        const many = random.below(8) === 0 ? 1_200 : 1 + random.below(5);
        await world.append(
          "s",
          Array.from({ length: many }, () => log.appended++),
        );
        if (random.below(2) === 0) await turns(random.below(6));
      }
      log.isWritten = true;
      await world.append("s", [log.appended++]);
      await Promise.all(readers);
      for (const reader of stopped) reader.stop();
      await turns(5);
      expect([world.engine.liveRequests.used, world.engine.waiters.size, world.faults.length]).toEqual([0, 0, 0]);
    }),
    { numRuns: 60 },
  );
}, 60_000);
