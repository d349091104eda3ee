/** The bound that all streams share is full: in durable mode a request is let in whole or refused whole, and nothing is shed. */

import { expect, test } from "bun:test";
import { memoryBudget, MIN_MEMORY_LIMIT_BYTES } from "../../src/protocol/budget.ts";
import type { Outcome } from "../../src/protocol/intents.ts";
import { runSeed, seededRandom } from "../support/random.ts";
import { type AnalyticsWorld, analyticsWorld, OTHER, STREAM } from "./analytics-world.ts";

const INTERVAL_MS = 20_000;
const settings = {
  samplingRates: {},
  batchIntervalMs: INTERVAL_MS,
  maxBatchSize: 10_000,
  highPriorityFlushThreshold: 10_000,
};
/** 64 MiB over all streams become 3 MB: a hundred of the largest events. */
const budget = memoryBudget(MIN_MEMORY_LIMIT_BYTES);
const pad = "x".repeat(31_000);

interface Asked {
  readonly name: string;
  readonly ids: readonly string[];
  outcome: Outcome | null;
}

function asker(world: AnalyticsWorld) {
  const asked: Asked[] = [];
  const ask = async (name: string, priorities: readonly string[]): Promise<Asked> => {
    const ids = priorities.map((_, at) => `${asked.length}.${at}`);
    const one: Asked = { name, ids, outcome: null };
    asked.push(one);
    const events = ids.map((id, at) => ({
      type: "command",
      priority: priorities[at],
      data: { commandName: "c", id, pad },
    }));
    void world.post(events, name).then((outcome) => (one.outcome = outcome));
    await world.settle();
    return one;
  };
  return { asked, ask };
}

const isRefused = ({ outcome }: Asked): boolean =>
  outcome?.kind === "rejected" && outcome.rejection.kind === "overloaded";

/** Everything that was acknowledged is stored, and nothing that was refused. */
async function expectKept(world: AnalyticsWorld, asked: readonly Asked[], about: string): Promise<void> {
  for (const name of [STREAM, OTHER]) {
    const acknowledged = asked.filter((one) => one.name === name && one.outcome?.kind === "appended");
    const stored = ((await world.stored(name)) as { data: { id: string } }[]).map(({ data }) => data.id);
    expect(stored.toSorted(), `${about} ${name}`).toEqual(acknowledged.flatMap(({ ids }) => ids).toSorted());
  }
  expect(asked.filter((one) => one.outcome?.kind !== "appended" && !isRefused(one), about)).toEqual([]);
  expect(world.faults, about).toEqual([]);
}

test("a backlog of another stream sheds nothing: what finds no room is refused, and nothing of it is taken", async () => {
  const world = await analyticsWorld(settings, budget);
  const { asked, ask } = asker(world);
  const low = await ask(
    STREAM,
    Array.from({ length: 20 }, () => "low"),
  );
  for (let at = 0; at < 3; at++)
    await ask(
      OTHER,
      Array.from({ length: 30 }, () => "high"),
    );
  const high = await ask(
    STREAM,
    Array.from({ length: 30 }, () => "high"),
  );
  expect(isRefused(high)).toBe(true);
  expect(low.outcome).toBeNull();
  for (let at = 0; at < 3; at++) await world.pass(INTERVAL_MS);
  expect(low.outcome?.kind).toBe("appended");
  await expectKept(world, asked, "");
  // The room is there again.
  const again = await ask(
    STREAM,
    Array.from({ length: 30 }, () => "high"),
  );
  for (let at = 0; at < 3; at++) await world.pass(INTERVAL_MS);
  expect(again.outcome?.kind).toBe("appended");
});

test("whatever comes to two streams that share it: what was acknowledged is stored, and nothing that was refused", async () => {
  const seed = runSeed();
  const random = seededRandom(seed);
  const world = await analyticsWorld({ ...settings, maxQueuedEvents: 60 }, budget);
  const { asked, ask } = asker(world);
  for (let step = 0; step < 60; step++) {
    if (random.below(8) === 0) await world.pass(INTERVAL_MS);
    const priorities = Array.from(
      { length: 1 + random.below(25) },
      () => ["low", "normal", "high"][random.below(3)] ?? "",
    );
    await ask(random.below(2) === 0 ? STREAM : OTHER, priorities);
  }
  for (let at = 0; at < 10; at++) await world.pass(INTERVAL_MS);
  expect(asked.some(isRefused), `seed ${seed}`).toBe(true);
  await expectKept(world, asked, `seed ${seed}`);
}, 60_000);
