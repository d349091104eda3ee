/** The batcher on a clock of the test's own: what it promises, and each place where the founding guide's code did otherwise. */

import { expect, test } from "bun:test";
import { assert, asyncProperty, integer } from "fast-check";
import { Deadlines } from "../../kit/deadlines.ts";
import { nextTurn } from "../../kit/turn.ts";
import { HybridUserUpdateBatcher, type HybridUserUpdateBatcherConfig, type ProcessUser } from "./hybrid-batcher.ts";

function world(process: ProcessUser, config: HybridUserUpdateBatcherConfig = {}) {
  const time = { ms: 10_000 };
  const clock = { nowMs: () => time.ms, monotonicMs: () => time.ms };
  const deadlines = new Deadlines(clock);
  const errors: string[] = [];
  const onError = (userId: string, cause: unknown): void => void errors.push(`${userId}: ${String(cause)}`);
  const batcher = new HybridUserUpdateBatcher(process, config, { clock, deadlines, onError });
  const pass = async (ms: number, stepMs = 5): Promise<void> => {
    for (const end = time.ms + ms; time.ms < end;) {
      time.ms = Math.min(end, time.ms + stepMs);
      deadlines.tick();
      await nextTurn();
      await nextTurn();
    }
  };
  return { time, deadlines, errors, batcher, pass };
}

/** A process function that writes down who was worked on. */
function recorder() {
  const processed: string[] = [];
  return { processed, process: (userId: string): void => void processed.push(userId) };
}

test("an isolated change is worked on a debounce after it", async () => {
  const { processed, process } = recorder();
  const { batcher, pass } = world(process);
  batcher.markUserAsDirty("user-123", { reason: "viewport_change" });
  await pass(195);
  expect(processed).toEqual([]);
  await pass(15);
  expect(processed).toEqual(["user-123"]);
  expect(batcher.getStats()).toMatchObject({ totalDebounceTimersFired: 1, totalSweeperRuns: 0, currentDirtyUsers: 0 });
});

test("rapid marks are one call; users do not disturb each other", async () => {
  const { processed, process } = recorder();
  const { batcher, pass } = world(process);
  batcher.markUserAsDirty("quiet");
  for (let mark = 0; mark < 10; mark++) {
    batcher.markUserAsDirty("panning");
    await pass(50);
  }
  expect(processed).toEqual(["quiet"]);
  await pass(210);
  expect(processed).toEqual(["quiet", "panning"]);
});

test("marked all the time: worked on five seconds after the first mark, each time", async () => {
  const called: number[] = [];
  const { batcher, pass, time } = world(() => void called.push(time.ms));
  const start = time.ms;
  for (let mark = 0; mark < 110; mark++) {
    batcher.markUserAsDirty("storm");
    await pass(100);
  }
  expect(called.length).toBe(2);
  for (const [index, ms] of called.entries()) expect(ms - start).toBeLessThanOrEqual((index + 1) * 5_000 + index * 100);
  expect(batcher.getStats()).toMatchObject({ totalDebounceTimersFired: 0, totalSweeperRuns: 2 });
});

test("the stats of the guide, and what marks were for", async () => {
  const { process } = recorder();
  const { batcher, pass } = world(process);
  batcher.markUserAsDirty("a", { reason: "viewport_change" });
  batcher.markUserAsDirty("a", { reason: "event_update", eventId: "e1" });
  batcher.markUserAsDirty("b", { reason: "event_update" });
  expect(batcher.getStats()).toMatchObject({
    totalUsersMarkedDirty: 3,
    uniqueUsersMarked: 2,
    currentDirtyUsers: 2,
    currentActiveTimers: 2,
    marksByReason: { viewport_change: 1, event_update: 2 },
  });
  await pass(100);
  expect(batcher.getStats().oldestDirtyAgeMs).toBe(100);
  await pass(200);
  const stats = batcher.getStats();
  expect(stats).toMatchObject({ totalUsersProcessed: 2, currentDirtyUsers: 0, currentActiveTimers: 0 });
  expect([stats.latencyP50Ms, stats.latencyP99Ms]).toEqual([200, 200]);
  expect(stats.config).toMatchObject({ debounceTimeoutMs: 200, sweepIntervalMs: 5_000, maxBatchSize: 100 });
});

test("without batching a mark works on its user before it returns, and is counted", () => {
  const { processed, process } = recorder();
  const { batcher, deadlines } = world(process, { enableBatching: false });
  batcher.markUserAsDirty("now");
  expect(processed).toEqual(["now"]);
  expect(deadlines.size).toBe(0);
  expect(batcher.getStats()).toMatchObject({ totalUsersMarkedDirty: 1, totalUsersProcessed: 1, currentDirtyUsers: 0 });
});

test("without batching, and marked again during its call: once more afterwards", async () => {
  let calls = 0;
  const gate = Promise.withResolvers<void>();
  const { batcher, pass } = world(() => (++calls === 1 ? gate.promise : undefined), { enableBatching: false });
  for (let mark = 0; mark < 3; mark++) batcher.markUserAsDirty("a");
  expect(calls).toBe(1);
  gate.resolve();
  await pass(10);
  expect(calls).toBe(2);
});

test("maxBatchSize: so many in one turn, the longest dirty first", async () => {
  const turns: string[][] = [[]];
  const { batcher, deadlines, time } = world((userId) => void turns.at(-1)?.push(userId), { maxBatchSize: 3 });
  const users = Array.from({ length: 8 }, (_, index) => `u${index}`);
  for (const user of users) batcher.markUserAsDirty(user);
  time.ms += 205;
  deadlines.tick();
  for (let turn = 0; turn < 6; turn++) {
    turns.push([]);
    await nextTurn();
  }
  expect(turns.flat()).toEqual(users);
  expect(Math.max(...turns.map((turn) => turn.length))).toBe(3);
  expect(batcher.getStats().totalBatchesProcessed).toBe(3);
});

test("one call per user at a time; marked meanwhile, it is called once more", async () => {
  let [running, most, calls] = [0, 0, 0];
  const gates: (() => void)[] = [];
  const { batcher, pass } = world(async () => {
    calls++;
    most = Math.max(most, ++running);
    await new Promise<void>((resolve) => gates.push(resolve));
    running--;
  });
  batcher.markUserAsDirty("a");
  await pass(205);
  for (let mark = 0; mark < 5; mark++) {
    batcher.markUserAsDirty("a");
    await pass(300);
  }
  expect([calls, most]).toEqual([1, 1]);
  gates.shift()?.();
  await pass(300);
  expect([calls, most]).toEqual([2, 1]);
  gates.shift()?.();
  await pass(600);
  expect([calls, batcher.getStats().currentDirtyUsers]).toEqual([2, 0]);
});

test("so many calls at a time, and no more", async () => {
  let [running, most] = [0, 0];
  const { batcher, pass } = world(
    async () => {
      most = Math.max(most, ++running);
      await nextTurn();
      running--;
    },
    { concurrency: 4 },
  );
  for (let user = 0; user < 50; user++) batcher.markUserAsDirty(`u${user}`);
  await pass(300);
  expect([most, batcher.getStats().totalUsersProcessed]).toEqual([4, 50]);
});

test("a call that fails is made again, later and later, and never stops the others", async () => {
  let broken = true;
  const called: [string, number][] = [];
  const { batcher, pass, errors, time } = world(async (userId) => {
    called.push([userId, time.ms]);
    if (userId === "bad" && broken) throw new Error("no");
  });
  const start = time.ms;
  batcher.markUserAsDirty("bad");
  batcher.markUserAsDirty("good");
  await pass(20_000);
  const tries = called.filter(([userId]) => userId === "bad").map(([, ms]) => ms - start);
  const pauses = tries.slice(1).map((ms, index) => ms - (tries[index] ?? 0));
  expect(pauses.slice(0, 4).map((ms) => Math.round(ms / 100) * 100)).toEqual([400, 800, 1_600, 3_200]);
  for (const ms of pauses.slice(4)) expect(Math.abs(ms - 4_950)).toBeLessThanOrEqual(20);
  expect(called.filter(([userId]) => userId === "good").length).toBe(1);
  expect(errors.length).toBe(tries.length);
  broken = false;
  await pass(5_100);
  expect(batcher.getStats()).toMatchObject({ currentDirtyUsers: 0, totalErrors: errors.length });
});

test("a call that throws at once is the same as one that rejects", async () => {
  let calls = 0;
  const { batcher, pass, errors } = world(() => {
    if (++calls === 1) throw new Error("at once");
  });
  batcher.markUserAsDirty("a");
  await pass(700);
  expect([calls, errors]).toEqual([2, ["a: Error: at once"]]);
});

test("forceProcessBatch resolves when all that were dirty have been tried, not the first hundred", async () => {
  const processed: string[] = [];
  const { batcher } = world(async (userId) => {
    await nextTurn();
    processed.push(userId);
  });
  for (let user = 0; user < 350; user++) batcher.markUserAsDirty(`u${user}`);
  await batcher.forceProcessBatch();
  expect([processed.length, new Set(processed).size]).toEqual([350, 350]);
  expect(batcher.getStats().currentDirtyUsers).toBe(0);
});

test("forceProcessBatch takes the calls under way along, and what became dirty during them", async () => {
  const gates: (() => void)[] = [];
  const { batcher, pass } = world(() => new Promise<void>((resolve) => gates.push(resolve)));
  batcher.markUserAsDirty("a");
  await pass(205);
  batcher.markUserAsDirty("a");
  let done = false;
  const forced = batcher.forceProcessBatch().then(() => (done = true));
  gates.shift()?.();
  await pass(10);
  expect([done, gates.length]).toEqual([false, 1]);
  gates.shift()?.();
  await forced;
});

test("shutdown works on what is dirty, then refuses", async () => {
  const { processed, process } = recorder();
  const { batcher, deadlines } = world(process);
  for (const user of ["a", "b", "c"]) batcher.markUserAsDirty(user);
  await batcher.shutdown();
  expect(processed).toEqual(["a", "b", "c"]);
  expect([batcher.markUserAsDirty("late"), batcher.getStats().totalUsersMarkedDirty]).toEqual([false, 3]);
  expect(deadlines.size).toBe(0);
});

test("shutdown does not wait for ever for a call that hangs", async () => {
  const { batcher, pass } = world(() => new Promise<void>(() => undefined), { drainTimeoutMs: 1_000 });
  batcher.markUserAsDirty("hangs");
  let done = false;
  const down = batcher.shutdown().then(() => (done = true));
  await pass(900);
  expect(done).toBe(false);
  await pass(200);
  await down;
});

test("who is forgotten is not worked on, also when its call is under way and fails", async () => {
  const called: string[] = [];
  const gate = Promise.withResolvers<void>();
  const { batcher, pass } = world((userId) => {
    called.push(userId);
    return userId === "running" ? gate.promise : undefined;
  });
  batcher.markUserAsDirty("running");
  await pass(205);
  batcher.markUserAsDirty("waiting");
  batcher.markUserAsDirty("running");
  batcher.forgetUser("waiting");
  batcher.forgetUser("running");
  gate.reject(new Error("gone"));
  await pass(10_000);
  expect([called, batcher.getStats().currentDirtyUsers]).toEqual([["running"], 0]);
});

test.each([{ debounceTimeoutMs: 0 }, { sweepIntervalMs: -1 }, { maxBatchSize: NaN }, { concurrency: Infinity }])(
  "%o is refused",
  (config) => {
    expect(() => world(() => undefined, config)).toThrow(RangeError);
  },
);

test("any storm: every mark is followed by a whole call within the limit, one at a time, and none without a mark", async () => {
  await assert(
    asyncProperty(integer(), async (seed) => {
      let state = seed >>> 0;
      const below = (bound: number): number => {
        state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
        return Math.floor((state / 2 ** 32) * bound);
      };
      const marked = new Map<string, number>();
      const running = new Set<string>();
      const { batcher, pass, time } = world(
        async (userId) => {
          expect(running.has(userId)).toBe(false);
          running.add(userId);
          const since = marked.get(userId) ?? expect.unreachable(`${userId} was not marked`);
          expect(time.ms - since).toBeLessThanOrEqual(500 + 40);
          marked.delete(userId);
          for (let turn = below(3); turn > 0; turn--) await nextTurn();
          running.delete(userId);
        },
        { debounceTimeoutMs: 50, sweepIntervalMs: 500, concurrency: 64, maxBatchSize: 5 },
      );
      for (let step = 0; step < 150; step++) {
        for (let mark = below(8); mark > 0; mark--) {
          const userId = `u${below(20)}`;
          if (!marked.has(userId)) marked.set(userId, time.ms);
          batcher.markUserAsDirty(userId);
        }
        await pass(1 + below(30));
      }
      await pass(600);
      expect([marked.size, batcher.getStats().currentDirtyUsers]).toEqual([0, 0]);
    }),
    { numRuns: 15 },
  );
}, 60_000);
