/** Windows in process: when they close, what they say, and what patterns are seen in them. */

import { describe, expect, test } from "bun:test";
import { Deadlines } from "../../kit/deadlines.ts";
import type { AggregationResult } from "./aggregation-result.ts";
import { type AggregatorConfig, EventAggregatorService } from "./event-aggregator-service.ts";
import type { AnalyticsEvent } from "./event.ts";
import type { SeenPattern } from "./pattern-watch.ts";

const MINUTE_MS = 60_000;

function aggregator(config: AggregatorConfig = {}) {
  const start = Date.parse("2030-01-01T00:00:00Z");
  const time = { ms: start };
  const clock = { nowMs: () => time.ms, monotonicMs: () => time.ms };
  const deadlines = new Deadlines(clock);
  const closed: AggregationResult[] = [];
  const patterns: SeenPattern[] = [];
  const service = new EventAggregatorService(config, {
    clock,
    deadlines,
    onClosed: (result) => closed.push(result),
    onPattern: (pattern) => patterns.push(pattern),
  });
  const pass = (ms: number): void => {
    time.ms += ms;
    deadlines.tick();
  };
  const add = (metric: string, value: number, more: Partial<AnalyticsEvent> = {}, context?: object): void => {
    const data = context === undefined ? { metric, value } : { metric, value, context };
    service.addEvent({ type: "performance", data, ...more });
  };
  return { service, start, time, closed, patterns, pass, add };
}

describe("windows", () => {
  test("close a while after their end, not each time something ticks", () => {
    const { add, pass, closed } = aggregator();
    for (let value = 1; value <= 100; value++) add("response_time", value);
    pass(MINUTE_MS + 4_999);
    expect(closed).toEqual([]);
    pass(1);
    expect(closed).toHaveLength(1);
    expect(closed[0]).toMatchObject({
      eventType: "performance",
      eventKey: "response_time",
      count: 100,
      sum: 5_050,
      min: 1,
      max: 100,
      avg: 50.5,
      median: 50.5,
      patterns: [],
    });
    const { "90": p90 = 0, "99": p99 = 0 } = closed[0]?.percentiles ?? {};
    expect(p90).toBeCloseTo(90.1, 9);
    expect(p99).toBeCloseTo(99.01, 9);
    expect(closed[0]?.stdDev).toBeCloseTo(Math.sqrt((100 ** 2 - 1) / 12), 9);
  });

  test("are of the time of the event; what is late within the lateness is in its window", () => {
    const { service, add, pass, closed, start } = aggregator();
    pass(MINUTE_MS + 3_000);
    add("load", 1, { timestamp: start + 1_000 });
    add("load", 2, { timestamp: start + MINUTE_MS });
    pass(5_000);
    expect(closed.map(({ startTime, sum }) => [startTime - start, sum])).toEqual([[0, 1]]);
    expect(service.getStats().activeWindows).toBe(1);
  });

  test("are negative and empty of nothing: min and max of values below zero", () => {
    const { service, add } = aggregator();
    for (const value of [-5, -2, -9]) add("balance", value);
    expect(service.closeWindows("all")).toMatchObject([{ min: -9, max: -2, sum: -16, metadata: { partial: true } }]);
  });

  test("tell contexts apart, in any order of their names", () => {
    const { service, add } = aggregator();
    add("load", 1, {}, { host: "a", zone: 1 });
    add("load", 2, {}, { zone: 1, host: "a" });
    add("load", 4, {}, { host: "b", zone: 1 });
    expect(service.closeWindows("all").map(({ sum, metadata }) => [sum, metadata.context])).toEqual([
      [3, { host: "a", zone: 1 }],
      [4, { host: "b", zone: 1 }],
    ]);
  });

  test("undo sampling", () => {
    const { service, add } = aggregator();
    for (let at = 0; at < 50; at++) add("load", 10, { sampleRate: 0.1 });
    const [result] = service.closeWindows("all");
    expect(result).toMatchObject({ observed: 50, count: 500, sum: 5_000, avg: 10, avgError: 0 });
    expect(result?.countError).toBeCloseTo(1.96 * Math.sqrt(50 * 90), 6);
  });

  test("aggregate errors by hash and stores by operation, and take nothing else", () => {
    const { service } = aggregator();
    service.addEvent({ type: "error", data: { errorHash: "abc" } });
    service.addEvent({ type: "error", data: { errorHash: "abc" } });
    service.addEvent({ type: "datastore", data: { operation: "get", storeType: "kv", durationMs: 7 } });
    expect(service.addEvent({ type: "command", data: { commandName: "help" } })).toBe(false);
    expect(
      service.closeWindows("all").map(({ eventType, eventKey, count, sum }) => [eventType, eventKey, count, sum]),
    ).toEqual([
      ["error", "abc", 2, 2],
      ["datastore", "get:kv", 1, 7],
    ]);
  });
});

test("results are found by time and type, and kept for a day", () => {
  const { service, add, pass, start } = aggregator({ allowedLatenessMs: 0 });
  add("load", 1);
  pass(MINUTE_MS);
  service.addEvent({ type: "error", data: { errorHash: "abc" } });
  pass(MINUTE_MS);
  expect(service.getAggregations(start, start + 2 * MINUTE_MS)).toHaveLength(2);
  expect(service.getAggregations(start, start + 2 * MINUTE_MS, "error")).toHaveLength(1);
  expect(service.getAggregations(start, start + 2 * MINUTE_MS - 1)).toHaveLength(1);
  pass(24 * 60 * MINUTE_MS);
  add("load", 1);
  pass(MINUTE_MS);
  expect(service.getStats().results).toBe(1);
  service.clear();
  expect(service.getStats()).toEqual({ activeWindows: 0, results: 0, patternCacheSize: 0 });
});

test("a spike of one context is told, and one of the metric over contexts that come and go", () => {
  const { add, pass, closed, patterns } = aggregator({ allowedLatenessMs: 0 });
  for (let window = 0; window < 12; window++) {
    for (let at = 0; at < 20; at++) {
      add("response_time", 100 + (at % 5), {}, { endpoint: "/a" });
      add("response_time", 100 + (at % 5), {}, { user: `u${window}` });
    }
    pass(MINUTE_MS);
  }
  expect(patterns).toEqual([]);
  for (let at = 0; at < 20; at++) {
    add("response_time", 300, {}, { endpoint: "/a" });
    add("response_time", 300, {}, { user: "new" });
  }
  pass(MINUTE_MS);
  expect(patterns.map(({ type, series }) => [type, series.context])).toEqual([
    ["spike", '{"endpoint":"/a"}'],
    ["spike", ""],
  ]);
  expect(closed.at(-2)?.patterns).toMatchObject([{ type: "spike", confidence: 1 }]);
});

test("settings are checked, and change from the next window on", () => {
  expect(() => aggregator({ windowSizeMs: 0 })).toThrow(RangeError);
  const { service, add, pass, closed } = aggregator({ allowedLatenessMs: 0, enablePatternDetection: false });
  add("load", 1);
  service.configure({ windowSizeMs: 1_000, percentilesToCalculate: [75] });
  add("load", 2);
  pass(1_000);
  pass(MINUTE_MS);
  expect(closed.map(({ startTime, endTime, percentiles }) => [endTime - startTime, percentiles])).toEqual([
    [1_000, { "75": 2 }],
    [MINUTE_MS, { "75": 1 }],
  ]);
});
