/** Sampling (docs/analytics.md): who is left out, that keys stay together, and that counts, sums and averages are estimated without bias. */

import { describe, expect, test } from "bun:test";
import {
  aggregateOf,
  analyticsStreams,
  batchesOf,
  command,
  fatesOf,
  performanceOf,
  postAll,
  sum,
  times,
  type Counts,
} from "../support/analytics-client.ts";
import { sharedServer } from "../support/shared-server.ts";
import type { StreamUnderTest } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const server = sharedServer();
const { analyticsStream } = analyticsStreams(server, "ana-sampling", {
  batchIntervalMs: 10,
  compression: "none",
  maxBatchSize: 5000,
});

type Estimates = Readonly<
  Record<"count" | "countError" | "sum" | "sumError" | "avg" | "avgError" | "observed", number>
>;

interface SampledEvent {
  readonly data: Readonly<Record<string, unknown>>;
  readonly sampleKey?: string;
}

const fates = async (stream: StreamUnderTest): Promise<Counts> => fatesOf(await batchesOf(stream));

async function stored(stream: StreamUnderTest): Promise<{ event: SampledEvent; weight: number }[]> {
  const batches = await batchesOf<SampledEvent>(stream);
  return batches.flatMap(({ events, weights }) => events.map((event, at) => ({ event, weight: weights?.[at] ?? 1 })));
}

async function resultOf(stream: StreamUnderTest, metric: string): Promise<Estimates> {
  const { result } = await aggregateOf<Estimates>(stream, `metric=${metric}`);
  return result ?? expect.unreachable("no result");
}

describe("the rate of an event", () => {
  test.each([
    ["the full key before the name", { "performance.m": 0, m: 1, performance: 1 }, false],
    ["the full key before the others, the other way", { "performance.m": 1, m: 0, performance: 0 }, true],
    ["the name before the type", { m: 0, performance: 1 }, false],
    ["the name before the type, the other way", { m: 1, performance: 0 }, true],
    ["the type alone", { performance: 0 }, false],
    ["another name", { other: 0, "performance.mm": 0, command: 0 }, true],
    ["none", {}, true],
  ] as const)("%s", async (name, samplingRates, isKept) => {
    const stream = await analyticsStream(name.replaceAll(/[ ,]/g, "-"), { samplingRates });
    await postAll(
      stream,
      times(5, (at) => performanceOf("m", at)),
    );
    const expected = isKept ? { aggregated: 5, sampledOut: 0 } : { aggregated: 0, sampledOut: 5 };
    expect(await fates(stream)).toEqual({ received: 5, stored: 0, dropped: 0, ...expected });
  });

  test("every type has keys", async () => {
    const samplingRates = {
      "command.a": 0,
      b: 0,
      "engagement.page": 0,
      error: 0,
      "datastore.get:kv": 0,
      "performance.x.y": 0,
    };
    const stream = await analyticsStream("types", { samplingRates, aggregate: [] });
    const out = [
      command("a"),
      command("b"),
      { type: "engagement", data: { eventType: "b" } },
      { type: "engagement", data: { eventType: "page" } },
      { type: "error", data: { errorHash: "h" } },
      { type: "error", data: {} },
      { type: "datastore", data: { operation: "get", storeType: "kv" } },
      performanceOf("x.y", 1),
    ];
    const kept = [
      command("page"),
      { type: "engagement", data: { eventType: "a" } },
      { type: "datastore", data: { operation: "set", storeType: "kv" } },
      performanceOf("x", 1),
    ];
    await postAll(stream, [...out, ...kept]);
    expect((await stored(stream)).map(({ event }) => event) as unknown[]).toEqual(kept);
    expect(await fates(stream)).toMatchObject({ sampledOut: out.length, stored: kept.length });
  });

  test("who was sampled by the sender is not sampled again", async () => {
    const stream = await analyticsStream("sender", { samplingRates: { a: 0 } });
    await postAll(stream, [command("a", { sampled: true }), command("a", { sampleRate: 0.5 }), command("a")]);
    expect((await stored(stream)).map(({ weight }) => weight)).toEqual([1, 2]);
    expect(await fates(stream)).toMatchObject({ stored: 2, sampledOut: 1 });
  });

  test("the defaults: message_processed, cache_hit and some metrics are thinned, response_time by half", async () => {
    const stream = await analyticsStream("defaults");
    const each = 4000;
    for (let round = 0; round < 4; round++) {
      const part = each / 4;
      await postAll(stream, [
        ...times(part, () => command("message_processed")),
        ...times(part, () => ({ type: "engagement", data: { eventType: "cache_hit" } })),
        ...times(part, () => command("help")),
      ]);
      await postAll(stream, [
        ...times(part, () => performanceOf("response_time", 1)),
        ...times(part, () => performanceOf("memory_usage", 1)),
        ...times(part, () => performanceOf("cache_hit_rate", 1)),
        ...times(part, () => performanceOf("other", 1)),
      ]);
    }
    const events = await stored(stream);
    for (const [name, rate] of [
      ["message_processed", 0.1],
      ["cache_hit", 0.05],
      ["help", 1],
    ] as const) {
      const of = events.filter(({ event: { data } }) => data["commandName"] === name || data["eventType"] === name);
      // Five standard deviations.
      const slack = 5 * Math.sqrt(each * rate * (1 - rate));
      expect([name, Math.abs(of.length - each * rate) <= slack]).toEqual([name, true]);
      expect([...new Set(of.map(({ weight }) => weight))]).toEqual([1 / rate]);
    }
    for (const [metric, rate] of [
      ["response_time", 0.5],
      ["memory_usage", 0.1],
      ["cache_hit_rate", 0.05],
      ["other", 1],
    ] as const) {
      const { observed, count } = await resultOf(stream, metric);
      const slack = 5 * Math.sqrt(each * rate * (1 - rate));
      expect([metric, Math.abs(observed - each * rate) <= slack]).toEqual([metric, true]);
      expect(count).toBeCloseTo(observed / rate, 6);
    }
  });
});

test("events with the same sampleKey are kept or left out together, whatever they are named", async () => {
  const stream = await analyticsStream("keys", { samplingRates: { a: 0.5, b: 0.5, engagement: 0.5 } });
  const sessions = times(300, (at) => `session ${at}`);
  for (let round = 0; round < 3; round++) {
    await postAll(
      stream,
      sessions.flatMap((sampleKey) => [
        command("a", { sampleKey }),
        command("b", { sampleKey }),
        { type: "engagement", data: { eventType: "view" }, sampleKey },
      ]),
    );
  }
  const counts = new Map<string, number>();
  for (const { event } of await stored(stream))
    counts.set(event.sampleKey ?? "", (counts.get(event.sampleKey ?? "") ?? 0) + 1);
  expect([...new Set(counts.values())]).toEqual([9]);
  expect(counts.size > 100 && counts.size < 200).toBe(true);
});

describe("estimates", () => {
  const values = times(600, (at) => ((at * 7919) % 997) / 10);

  test("with rates of the sender: weights, and half of a 95 % interval", async () => {
    const stream = await analyticsStream("weighted");
    const rates = [1, 0.5, 0.25, 0.1];
    const sample = values.map((value, at) => ({ value, weight: 1 / (rates[at % 4] ?? 1) }));
    await postAll(
      stream,
      sample.map(({ value, weight }) => performanceOf("m", value, { sampleRate: 1 / weight })),
    );
    const result = await resultOf(stream, "m");
    const count = sum(sample.map(({ weight }) => weight));
    const total = sum(sample.map(({ value, weight }) => value * weight));
    const avg = total / count;
    const interval = (of: (value: number) => number): number =>
      1.96 * Math.sqrt(sum(sample.map(({ value, weight }) => weight * (weight - 1) * of(value) ** 2)));
    expect(result.observed).toBe(600);
    expect(result.count).toBeCloseTo(count, 6);
    expect(result.sum).toBeCloseTo(total, 3);
    expect(result.avg).toBeCloseTo(avg, 6);
    const close = (told: number, naive: number): boolean => Math.abs(told / naive - 1) < 0.01;
    expect([
      result.countError,
      close(
        result.countError,
        interval(() => 1),
      ),
    ]).toEqual([result.countError, true]);
    expect([
      result.sumError,
      close(
        result.sumError,
        interval((value) => value),
      ),
    ]).toEqual([result.sumError, true]);
    const avgError = interval((value) => value - avg) / count;
    expect([result.avgError, close(result.avgError, avgError)]).toEqual([result.avgError, true]);
  });

  test("without sampling they are exact", async () => {
    const stream = await analyticsStream("exact");
    await postAll(
      stream,
      values.map((value) => performanceOf("m", value)),
    );
    const { count, countError, observed, sumError, avgError, sum: total, avg } = await resultOf(stream, "m");
    expect({ count, countError, observed, sumError, avgError }).toEqual({
      count: 600,
      countError: 0,
      observed: 600,
      sumError: 0,
      avgError: 0,
    });
    expect(total).toBeCloseTo(sum(values), 6);
    expect(avg).toBeCloseTo(sum(values) / 600, 9);
  });

  test("with a rate of the server the truth lies within the intervals", async () => {
    const stream = await analyticsStream("unbiased", { samplingRates: { m: 0.3, page: 0.2 }, maxBatchSize: 10_000 });
    for (let round = 0; round < 5; round++) {
      await postAll(
        stream,
        values.flatMap((value) => [performanceOf("m", value), command("page")]),
      );
    }
    const result = await resultOf(stream, "m");
    expect(result.count).toBeCloseTo(result.observed / 0.3, 6);
    // Two and a half half-widths of 95 % are five standard deviations.
    expect(Math.abs(result.count - 3000)).toBeLessThan(2.5 * result.countError);
    expect(Math.abs(result.sum - 5 * sum(values))).toBeLessThan(2.5 * result.sumError);
    expect(Math.abs(result.avg - sum(values) / 600)).toBeLessThan(2.5 * result.avgError);
    const pages = await stored(stream);
    const estimate = sum(pages.map(({ weight }) => weight));
    expect(Math.abs(estimate - 3000)).toBeLessThan(5 * Math.sqrt(3000 * 4));
  });
});

test("adaptive: rates follow the traffic, never for high events and purchases under *, and estimates stay right", async () => {
  const stream = await analyticsStream("adaptive", {
    samplingRates: { ruled: 1 },
    adaptiveSampling: { "*": { targetPerSecond: 50, minRate: 0.01 } },
    maxBatchSize: 10_000,
  });
  const perRound = 200;
  let rounds = 0;
  const started = Date.now();
  while (Date.now() - started < 2500) {
    await postAll(stream, [
      ...times(perRound, () => command("busy")),
      ...times(20, () => command("ruled")),
      ...times(20, () => command("fails", { priority: "high" })),
      ...times(20, () => ({ type: "engagement", data: { eventType: "purchase" } })),
      ...times(20, () => ({ type: "error", data: { message: "boom" } })),
    ]);
    rounds++;
  }
  const sent = rounds * perRound;
  const events = await stored(stream);
  const named = (name: string) =>
    events.filter(({ event: { data } }) => data["commandName"] === name || data["eventType"] === name);
  for (const name of ["ruled", "fails", "purchase"]) expect([name, named(name).length]).toEqual([name, rounds * 20]);
  expect(events.filter(({ event: { data } }) => data["message"] === "boom").length).toBe(rounds * 20);
  const busy = named("busy");
  expect(busy.length).toBeLessThan(sent * 0.8);
  const estimate = busy.reduce((total, { weight }) => total + weight, 0);
  expect([sent, Math.round(estimate), Math.abs(estimate / sent - 1) < 0.15]).toEqual([
    sent,
    Math.round(estimate),
    true,
  ]);
  // By a factor of two a second at most, from 1: at most 2^4 after some three seconds.
  expect(Math.max(...busy.map(({ weight }) => weight))).toBeLessThanOrEqual(17);
  await until("all is accounted for", async () => {
    const { received, ...rest } = await fates(stream);
    return received === rounds * (perRound + 80) && Object.values(rest).reduce((a, b) => a + b, 0) === received;
  });
}, 60_000);
