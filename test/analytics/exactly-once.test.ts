/**
 * Random events, on time and late, over hours and days, with crashes at any point, also in the middle of a write: what was acknowledged is in
 * the batches, every level of windows holds exactly what the batches hold, and an aggregate of any span says what lies in it.
 */

import { expect, test } from "bun:test";
import { LEVELS } from "../../src/features/analytics/analytics-stream.ts";
import { WindowStats } from "../../src/features/analytics/window-stats.ts";
import { runSeed, seededRandom, type SeededRandom } from "../support/random.ts";
import { type AnalyticsWorld, analyticsWorld } from "./analytics-world.ts";

const ROUNDS = Number(process.env["ANALYTICS_ROUNDS"] ?? 6);
const STEPS = 60;
const MINUTE_MS = 60_000;
const HOUR_MS = 60 * MINUTE_MS;
/** Later than an hour they would be stored as events; the clock may go on before they are looked at. */
const LATEST_MS = HOUR_MS - 2 * MINUTE_MS;
const DAY_MS = 24 * HOUR_MS;
const METRICS = ["latency", "size", "cpu.load"];
const ENDPOINTS = ["/a", "/b", null];

test("every level holds what was measured, once, whatever crashes", async () => {
  const seed = runSeed();
  for (let round = 0; round < ROUNDS; round++) await oneWorld(seed + round);
}, 120_000);

async function oneWorld(seed: number): Promise<void> {
  const random = seededRandom(seed);
  const world = await analyticsWorld({
    samplingRates: {},
    compression: share(random) < 0.5 ? "zstd" : "none",
    maxValuesPerWindow: share(random) < 0.5 ? 1_000 : 20,
    maxBatchSize: 1 + random.below(50),
  });
  const about = `seed ${seed}`;
  let [acknowledged, sent] = [0, 0];
  for (let step = 0; step < STEPS; step++) {
    const action = share(random);
    if (action < 0.6) {
      const events = Array.from({ length: 1 + random.below(30) }, () => event(random, world.time.ms));
      sent += events.length;
      // One that a crash cuts off is never answered.
      void world.post(events).then((outcome) => {
        expect(outcome.kind, about).toBe("appended");
        acknowledged += events.length;
      });
      // Sometimes the step after this one comes in the middle of it.
      if (share(random) < 0.7) await world.pass(1_000);
    } else if (action < 0.75) await world.pass(random.below(3 * MINUTE_MS));
    else if (action < 0.8) await world.pass(random.below(2 * HOUR_MS));
    else if (action < 0.82) await world.pass(random.below(2 * DAY_MS));
    else if (action < 0.92) await world.crash();
    else await compare(world, random, about);
  }
  await world.pass(1_000);
  await compare(world, random, about);
  const measured = total(await world.measured(0));
  expect(measured, about).toBeGreaterThanOrEqual(acknowledged);
  expect(measured, about).toBeLessThanOrEqual(sent);

  // Once everything has expired, everything is told, nothing is open, and no start has to take it up.
  await world.pass(9 * DAY_MS);
  for (const [level, { suffix }] of LEVELS.entries()) {
    const stage = await world.stage();
    expect(stage.stages[level]?.size, `${about}: open in ${suffix}`).toBe(0);
  }
  await compare(world, random, about);
  expect(await world.isMarked(), about).toBe(false);
  expect(world.faults, about).toEqual([]);
}

function event(random: SeededRandom, nowMs: number): object {
  const late = share(random);
  const lateMs = late < 0.6 ? 0 : late < 0.9 ? random.below(2 * MINUTE_MS) : random.below(LATEST_MS);
  const endpoint = ENDPOINTS[random.below(ENDPOINTS.length)] ?? null;
  const data = { metric: METRICS[random.below(METRICS.length)], value: random.below(1_000) };
  return {
    type: "performance",
    timestamp: nowMs - lateMs,
    data: endpoint === null ? data : { ...data, context: { endpoint } },
  };
}

async function compare(world: AnalyticsWorld, random: SeededRandom, about: string): Promise<void> {
  await world.settle();
  const windows = await world.measured(0);
  // What a lower level has open is not in a higher one yet.
  let below = new Map<string, WindowStats>();
  for (const [level, { suffix }] of LEVELS.entries()) {
    const expected = await world.measured(level);
    const derived = await world.derived(level);
    if (level === 0) expectSame(derived, expected, `${about}: ${suffix}`);
    else expect(total(derived) + total(below), `${about}: ${suffix}`).toBe(total(expected));
    for (const [key, stats] of derived) expect(stats.observed).toBeLessThanOrEqual(expected.get(key)?.observed ?? 0);
    const unwritten = (await world.stage()).stages.slice(0, level + 1).flatMap((stage) => stage.unwritten().windows);
    below = new Map(unwritten.map(({ stats }, at) => [String(at), stats]));
  }
  await compareAggregate(world, windows, random, about);
}

async function compareAggregate(
  world: AnalyticsWorld,
  windows: ReadonlyMap<string, WindowStats>,
  random: SeededRandom,
  about: string,
): Promise<void> {
  const name = METRICS[random.below(METRICS.length)] ?? "";
  const reach = share(random) < 0.5 ? 3 * HOUR_MS : 20 * DAY_MS;
  const toMs = Math.ceil((world.time.ms - random.below(reach / 2)) / MINUTE_MS) * MINUTE_MS;
  const fromMs = toMs - Math.ceil(random.below(reach) / MINUTE_MS) * MINUTE_MS;
  const expected = new WindowStats();
  for (const [key, stats] of windows) {
    const [, start = "", end = "", series = ""] = /^(\d+)-(\d+)\/([^\n]*)/.exec(key) ?? [];
    if (series === `performance.${name}` && Number(start) >= fromMs && Number(end) <= toMs) expected.merge(stats);
  }
  const groups = await world.ask({ type: "performance", name, fromMs, toMs, groupBy: null });
  const told = groups.get("") ?? new WindowStats();
  const what = `${about}: ${name} from ${new Date(fromMs).toISOString()} to ${new Date(toMs).toISOString()}`;
  expect(told.observed, what).toBe(expected.observed);
  expect(told.sum, what).toBe(expected.sum);
  expect([told.min, told.max], what).toEqual([expected.min, expected.max]);
}

function expectSame(
  actual: ReadonlyMap<string, WindowStats>,
  expected: ReadonlyMap<string, WindowStats>,
  about: string,
): void {
  expect([...actual.keys()].sort(), about).toEqual([...expected.keys()].sort());
  for (const [key, stats] of expected) {
    // Whole numbers: their sums are exact in any order.
    expect([actual.get(key)?.observed, actual.get(key)?.sum], `${about} ${key}`).toEqual([stats.observed, stats.sum]);
  }
}

function total(windows: ReadonlyMap<string, WindowStats>): number {
  return [...windows.values()].reduce((sum, { observed }) => sum + observed, 0);
}

/** In [0, 1). */
function share(random: SeededRandom): number {
  return random.below(1_000_000) / 1_000_000;
}
