/** Windows of an analytics stream (docs/analytics.md): what they tell equals what is computed naively, however late the values come. */

import { describe, expect, test } from "bun:test";
import { assert, asyncProperty, array, constantFrom, double, integer, nat, record } from "fast-check";
import {
  aggregateOf,
  analyticsStreams,
  measured,
  naive,
  outputOf,
  post,
  sum,
  windowsOf,
  type Figures,
} from "../support/analytics-client.ts";
import { sharedServer } from "../support/shared-server.ts";
import type { StreamUnderTest } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const server = sharedServer();
const { analyticsStream } = analyticsStreams(server, "ana-windows", {
  batchIntervalMs: 5,
  samplingRates: {},
  aggregationWindowMs: 1000,
  allowedLatenessMs: 0,
});

async function resultOf(stream: StreamUnderTest, query: string): Promise<Figures | null | undefined> {
  return (await aggregateOf(stream, query)).result;
}

function expectClose(told: Figures, values: readonly number[], percentiles?: readonly number[]): void {
  const expected = naive(values, percentiles);
  const size = Math.max(1e-9, ...values.map(Math.abs)) * Math.max(1, values.length);
  const flat = ({ percentiles: of, ...rest }: Figures): [string, number][] => Object.entries({ ...rest, ...of });
  const wanted = new Map(flat(expected));
  const found = new Map(flat(told));
  const off = [...wanted].filter(
    ([name, value]) => !(Math.abs((found.get(name) ?? Number.NaN) - value) <= size * 1e-9),
  );
  expect(off.map(([name, value]) => [name, value, found.get(name)])).toEqual([]);
  expect(Object.keys(told.percentiles)).toEqual(Object.keys(expected.percentiles));
}

test("a window tells the statistics of its values, under the key of its series", async () => {
  const stream = await analyticsStream("one", { allowedLatenessMs: 100 });
  const at = Math.floor(Date.now() / 1000) * 1000 - 5000;
  const values = [4, -2.5, 0, 100, 7, 7];
  await post(stream, ...values.map((value) => measured("m", value, at + 500, { endpoint: "/a" })));
  const [window] = await windowsOf(stream, 6);
  expect(window).toMatchObject({
    type: "analytics.window",
    eventType: "performance",
    eventKey: "m",
    startTime: at,
    endTime: at + 1000,
    patterns: [],
    metadata: { context: { endpoint: "/a" } },
  });
  expectClose(window ?? expect.unreachable("no window"), values);
  expect(typeof window?.stats).toBe("object");
  expect((window?.windowId ?? "").length).toBeGreaterThan(0);
  const keyed = await outputOf(stream, "windows").records("offset=-1&key=performance.m");
  expect(keyed).toEqual([window]);
});

test("values without a time belong to the window in which they came, which is told after its end", async () => {
  const stream = await analyticsStream("now", { allowedLatenessMs: 200 });
  const before = Date.now();
  await post(stream, measured("m", 1));
  const after = Date.now();
  const [window] = await windowsOf(stream, 1);
  const told = Date.now();
  const { startTime = 0, endTime = 0 } = window ?? {};
  expect([startTime % 1000, endTime - startTime]).toEqual([0, 1000]);
  expect([startTime <= after, endTime > before]).toEqual([true, true]);
  expect([told >= endTime + 200, told < endTime + 1000]).toEqual([true, true]);
});

describe("naive statistics", () => {
  test("for random values over many windows, series and requests", async () => {
    let run = 0;
    const anEvent = record({
      series: constantFrom("m", "n", "error", "get:kv", "m/a", "m/b"),
      value: double({ min: -1e6, max: 1e6, noNaN: true }),
      ageMs: nat(20_000),
    });
    await assert(
      asyncProperty(
        array(array(anEvent, { minLength: 1, maxLength: 80 }), { minLength: 1, maxLength: 4 }),
        integer({ min: 1, max: 1000 }),
        async (requests, maxValuesPerWindow) => {
          const stream = await analyticsStream(`random-${run++}`, {
            percentilesToCalculate: [10, 50, 99.9],
            maxValuesPerWindow,
          });
          const from = Date.now() - 3000;
          const values = new Map<string, number[]>();
          for (const request of requests) {
            const events = request.map(({ series, value, ageMs }) => {
              const timestamp = from - ageMs;
              const [metric = "", part] = series.split("/");
              const isError = series === "error";
              const key = `${Math.floor(timestamp / 1000) * 1000} ${series}`;
              values.set(key, [...(values.get(key) ?? []), isError ? 1 : value]);
              if (isError) return { type: "error", data: { errorHash: "h" }, timestamp };
              if (series === "get:kv")
                return { type: "datastore", data: { operation: "get", storeType: "kv", durationMs: value }, timestamp };
              return measured(metric, value, timestamp, part === undefined ? undefined : { part });
            });
            await post(stream, ...events);
          }
          const total = sum([...values.values()].map(({ length }) => length));
          const windows = await windowsOf(stream, total);
          expect(sum(windows.map(({ count }) => count))).toBe(total);
          const counts = new Map<string, number>();
          for (const window of windows) {
            const { eventType, eventKey, startTime, metadata, count } = window;
            const { part } = metadata.context ?? {};
            const series = eventType === "error" ? "error" : part === undefined ? eventKey : `${eventKey}/${part}`;
            const key = `${startTime} ${series}`;
            counts.set(key, (counts.get(key) ?? 0) + count);
            const held = values.get(key) ?? [];
            // A window that was told in parts tells parts: those are compared by their sums below.
            if (count === held.length && count <= maxValuesPerWindow) expectClose(window, held, [10, 50, 99.9]);
          }
          expect(counts).toEqual(new Map([...values].map(([key, { length }]) => [key, length])));
        },
      ),
      { numRuns: 25, interruptAfterTimeLimit: 8000 },
    );
  }, 60_000);

  test.each([
    ["1,000 values are held as they are", 1000, 1000],
    ["past them percentiles are within 1 %", 1500, 1000],
    ["or past as many as the setting says", 1500, 20],
  ] as const)("%s", async (name, count, maxValuesPerWindow) => {
    const stream = await analyticsStream(name.replaceAll(/\W/g, "-"), { maxValuesPerWindow, allowedLatenessMs: 200 });
    const at = Date.now() - 5000;
    const values = Array.from({ length: count }, (_, index) => Math.exp(((index * 7919) % count) / 150) - 3);
    await post(stream, ...values.map((value) => measured("m", value, at)));
    const [window] = await windowsOf(stream, count);
    const found = window ?? expect.unreachable("no window");
    if (count <= maxValuesPerWindow) return expectClose(found, values);
    const expected = naive(values);
    const sorted = values.toSorted((left, right) => left - right);
    expect([found.count, found.min, found.max]).toEqual([expected.count, expected.min, expected.max]);
    expect(Math.abs(found.sum / expected.sum - 1)).toBeLessThan(1e-9);
    expect(Math.abs(found.stdDev / expected.stdDev - 1)).toBeLessThan(1e-9);
    for (const [p, value] of Object.entries(found.percentiles)) {
      const rank = ((count - 1) * Number(p)) / 100;
      const [low = 0, high = 0] = [sorted[Math.floor(rank)], sorted[Math.ceil(rank)]];
      expect([p, value >= low - Math.abs(low) * 0.0101, value <= high + Math.abs(high) * 0.0101]).toEqual([
        p,
        true,
        true,
      ]);
    }
  });
});

test("late values are one more record of the same window, and merging is right", async () => {
  const stream = await analyticsStream("late");
  const at = Math.floor(Date.now() / 1000) * 1000 - 10_000;
  const rounds = [[1, 2, 3], [10], [-5, 6], [100]];
  let count = 0;
  for (const values of rounds) {
    await post(stream, ...values.map((value) => measured("m", value, at + 300)));
    count += values.length;
    await windowsOf(stream, count);
  }
  const windows = await windowsOf(stream, count);
  expect(windows.map(({ count: one, sum: total }) => [one, total])).toEqual(
    rounds.map((values) => [values.length, sum(values)]),
  );
  expect(new Set(windows.map(({ startTime, endTime }) => `${startTime} ${endTime}`))).toEqual(
    new Set([`${at} ${at + 1000}`]),
  );
  expect(new Set(windows.map(({ windowId }) => windowId)).size).toBe(1);
  const merged = await resultOf(stream, `metric=m&from=${at}&to=${at + 1000}`);
  expectClose(merged ?? expect.unreachable("no result"), rounds.flat());
});

test("values within the allowed lateness are in the one record of their window", async () => {
  const stream = await analyticsStream("in-time", { allowedLatenessMs: 1000 });
  const at = Date.now();
  await post(stream, measured("m", 1, at));
  await until("the window has ended", () => Date.now() > Math.floor(at / 1000) * 1000 + 1000);
  await post(stream, measured("m", 2, at));
  const windows = await windowsOf(stream, 2);
  expect(windows).toMatchObject([{ count: 2, sum: 3 }]);
});

test("the order of the dimensions makes no other series; their values and types do", async () => {
  const stream = await analyticsStream("contexts", { allowedLatenessMs: 100 });
  const at = Date.now() - 5000;
  const contexts = [
    { a: 1, b: "x" },
    { b: "x", a: 1 },
    { a: "1", b: "x" },
    { a: true },
    { a: "true" },
    {},
    undefined,
    { a: 1 },
  ];
  await post(stream, ...contexts.map((context, index) => measured("m", index, at, context)));
  const windows = await windowsOf(stream, contexts.length);
  const told = windows.map(({ metadata, count, sum: total }) => [JSON.stringify(metadata.context ?? {}), count, total]);
  expect(told.map(String).toSorted()).toEqual(
    [
      ['{"a":1,"b":"x"}', 2, 1],
      ['{"a":"1","b":"x"}', 1, 2],
      ['{"a":true}', 1, 3],
      ['{"a":"true"}', 1, 4],
      ["{}", 2, 11],
      ['{"a":1}', 1, 7],
    ]
      .map(String)
      .toSorted(),
  );
});

test("past 1,000 series of a window values go to the series (other) of their type, and none is lost", async () => {
  const stream = await analyticsStream("other", { allowedLatenessMs: 200 });
  const at = Date.now() - 5000;
  await post(stream, ...Array.from({ length: 1200 }, (_, index) => measured("m", 2, at, { user: `u${index}` })));
  await post(
    stream,
    ...Array.from({ length: 5 }, (_, index) => ({ type: "error", data: { errorHash: `h${index}` }, timestamp: at })),
  );
  const windows = await windowsOf(stream, 1205);
  expect([sum(windows.map(({ count }) => count)), sum(windows.map((window) => window.sum))]).toEqual([1205, 2405]);
  const others = windows.filter(({ eventKey }) => eventKey === "(other)");
  expect(others.length).toBeGreaterThan(0);
  expect(others.find(({ eventType }) => eventType === "performance")?.count).toBeGreaterThanOrEqual(200);
  const open = await resultOf(stream, `metric=${encodeURIComponent("performance.(other)")}`);
  const told = await resultOf(stream, "metric=m");
  expect((open?.count ?? 0) + (told?.count ?? 0)).toBeGreaterThanOrEqual(1200);
});

test("values with weights: counts and sums are estimates, what was seen is told", async () => {
  const stream = await analyticsStream("weights", { allowedLatenessMs: 100 });
  const at = Date.now() - 5000;
  const sampled = [1, 2, 3, 4].map((value) => ({ ...measured("m", value, at), sampleRate: 0.25 }));
  await post(stream, ...sampled, measured("m", 10, at));
  const [window] = await windowsOf(stream, 5);
  expect(window).toMatchObject({ observed: 5, count: 17, sum: 50, min: 1, max: 10 });
  expect(window?.avg).toBeCloseTo(50 / 17, 9);
  const naiveError = 1.96 * Math.sqrt(4 * 4 * 3);
  expect(Math.abs((window as unknown as { countError: number }).countError / naiveError - 1)).toBeLessThan(0.001);
});
