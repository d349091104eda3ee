/** What becomes of events (docs/analytics.md): every one has one fate, the batches count them, and what is stored comes back as it was sent. */

import { describe, expect, test } from "bun:test";
import { assert, asyncProperty, array, boolean, constantFrom, double, integer, nat, option, record } from "fast-check";
import {
  analyticsStreams,
  fatesOf,
  outputOf,
  performanceOf,
  postAll,
  sum,
  type BatchContent,
  type BatchFrame,
  type Counts,
} from "../support/analytics-client.ts";
import { rawArrayValues } from "../support/json-values.ts";
import { sharedServer } from "../support/shared-server.ts";
import { call, type StreamUnderTest } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const server = sharedServer();
const LEVELS = ["rollups/1h", "rollups/1d", "rollups/1w"] as const;

const { analyticsStream } = analyticsStreams(server, "ana-batches");

/** A stored event as a reader of the documentation would make it out. */
interface Stored {
  readonly text: string;
  readonly time: number;
  readonly weight: number;
}

/** The JSON text that has a batch's events, times, weights and windows. */
function contentText(batchText: string): string {
  const { encoding, content = "" } = JSON.parse(batchText) as BatchFrame;
  return encoding === "zstd" ? Bun.zstdDecompressSync(Uint8Array.fromBase64(content)).toString() : batchText;
}

async function batchesOf(
  stream: StreamUnderTest,
): Promise<{ batch: BatchFrame; content: BatchContent; stored: Stored[] }[]> {
  return rawArrayValues(await stream.text()).map((batchText) => {
    const text = contentText(batchText);
    const content = JSON.parse(text) as BatchContent;
    let time = 0;
    const stored = rawArrayValues(text.slice(text.indexOf('"events":['))).map((event, at) => ({
      text: event,
      time: (time += content.times?.[at] ?? Number.NaN),
      weight: content.weights?.[at] ?? 1,
    }));
    return { batch: JSON.parse(batchText) as BatchFrame, content, stored };
  });
}

async function countsOf(stream: StreamUnderTest): Promise<Counts> {
  return fatesOf((await batchesOf(stream)).map(({ batch }) => batch));
}

const command = (commandName: string, more: object = {}, data: object = {}) => ({
  type: "command",
  data: { commandName, success: true, ...data },
  ...more,
});

describe("one fate", () => {
  const anEvent = record({
    kind: constantFrom("command", "failure", "engagement", "error", "bare-error", "performance", "datastore"),
    name: constantFrom("a", "b", "cache_hit", "response_time", "memory_usage"),
    priority: option(constantFrom("high", "normal", "low"), { nil: undefined }),
    sampled: option(boolean(), { nil: undefined }),
    sampleRate: option(double({ min: 0.01, max: 1, noNaN: true }), { nil: undefined }),
    sampleKey: option(constantFrom("s1", "s2", "s3"), { nil: undefined }),
    value: double({ min: -1000, max: 1000, noNaN: true }),
    ageMs: option(nat(7_200_000), { nil: undefined }),
  });
  type AnEvent = typeof anEvent extends { generate(...args: never[]): { readonly value: infer V } } ? V : never;

  function eventOf({ kind, name, value, ageMs, ...rest }: AnEvent, nowMs: number): object {
    const more = { ...rest, ...(ageMs !== undefined && { timestamp: nowMs - ageMs }) };
    switch (kind) {
      case "command":
        return command(name, more);
      case "failure":
        return command(name, more, { success: false });
      case "engagement":
        return { type: "engagement", data: { eventType: name }, ...more };
      case "error":
        return { type: "error", data: { errorHash: name, message: "boom" }, ...more };
      case "bare-error":
        return { type: "error", data: { message: name }, ...more };
      case "performance":
        return performanceOf(name, value, more);
      default:
        return { type: "datastore", data: { operation: name, storeType: "kv" }, ...more };
    }
  }

  test("counts add up for every mix of events and settings, and stored events are among those that were sent", async () => {
    let run = 0;
    const settings = record({
      ack: constantFrom("durable", "memory"),
      compression: constantFrom("none", "zstd"),
      maxBatchSize: integer({ min: 1, max: 40 }),
      batchIntervalMs: integer({ min: 1, max: 20 }),
      highPriorityFlushThreshold: integer({ min: 1, max: 20 }),
      samplingRates: constantFrom({}, { a: 0, performance: 0.5 }, { b: 0.5, command: 0.3, error: 0, cache_hit: 0.1 }),
      aggregate: constantFrom(["performance", "error", "datastore"], ["performance"], []),
      aggregationWindowMs: constantFrom(1000, 60_000),
      maxLatenessMs: constantFrom(0, 3_600_000, 86_400_000),
    });
    await assert(
      asyncProperty(
        settings,
        array(array(anEvent, { minLength: 1, maxLength: 60 }), { minLength: 1, maxLength: 6 }),
        async (given, requests) => {
          const stream = await analyticsStream(`mix-${run++}`, given);
          const nowMs = Date.now();
          const sent = requests.map((events) => events.map((event) => eventOf(event, nowMs)));
          const status = given.ack === "memory" ? 202 : 204;
          await Promise.all(sent.map((events) => postAll(stream, events, status)));
          const total = sum(sent.map(({ length }) => length));
          const counts = await until("all is accounted for", async () => {
            const { received, ...fates } = await countsOf(stream);
            return sum(Object.values(fates)) >= total && { received, ...fates };
          });
          expect(counts.received).toBe(total);
          expect(counts.stored + counts.aggregated + counts.sampledOut + counts.dropped).toBe(total);
          expect(counts.dropped).toBe(0);
          const batches = await batchesOf(stream);
          for (const { batch, stored } of batches) {
            expect([batch.type, batch.counts.stored]).toEqual(["analytics.batch", stored.length]);
            expect(stored.length).toBeLessThanOrEqual(given.maxBatchSize);
          }
          expect(batches.map(({ batch }) => batch.batch)).toEqual(batches.map((_, at) => at + 1));
          const left = new Map<string, number>();
          for (const text of sent.flat().map((event) => JSON.stringify(event)))
            left.set(text, (left.get(text) ?? 0) + 1);
          for (const { text } of batches.flatMap(({ stored }) => stored)) {
            const count = left.get(text) ?? 0;
            expect([text, count > 0]).toEqual([text, true]);
            left.set(text, count - 1);
          }
          const observed = batches.flatMap(({ content }) => content.windows.map(({ stats }) => stats.observed));
          expect(sum(observed)).toBe(counts.aggregated);
        },
      ),
      { numRuns: 40, interruptAfterTimeLimit: 8000 },
    );
  }, 60_000);
});

/** A third commands, a third values of several metrics, the rest errors, datastore, engagement and cache hits. */
function documentedMix(count: number, timestamp?: number): object[] {
  return Array.from({ length: count }, (_, at) => {
    const more = timestamp === undefined ? {} : { timestamp };
    const third = at % 3;
    if (third === 0)
      return command(["help", "play", "ban"][(at % 7) % 3] ?? "help", more, { success: at % 30 !== 0, user: `u${at}` });
    if (third === 1)
      return performanceOf(
        ["response_time", "render", "memory_usage", "queue_wait"][at % 4] ?? "m",
        (at * 37) % 200,
        more,
      );
    switch (Math.floor(at / 3) % 4) {
      case 0:
        return { type: "error", data: { errorHash: `h${at % 5}`, message: "boom" }, ...more };
      case 1:
        return {
          type: "datastore",
          data: { operation: at % 2 === 0 ? "get" : "set", storeType: "kv", durationMs: at % 9 },
          ...more,
        };
      case 2:
        return { type: "engagement", data: { eventType: "page_view", page: `/p${at % 20}` }, ...more };
      default:
        return { type: "engagement", data: { eventType: "cache_hit" }, ...more };
    }
  });
}

/** All records that the server wrote for a stream, by stream. */
async function recordCounts(stream: StreamUnderTest): Promise<Record<string, number>> {
  const counts: Record<string, number> = {};
  for (const suffix of ["", "/windows", "/patterns", ...LEVELS.map((level) => `/${level}`), "/dead-letter"]) {
    const response = await call("GET", `${stream.url}${suffix}`);
    counts[suffix] = response.status === 404 ? 0 : ((await response.json()) as unknown[]).length;
  }
  return counts;
}

test("1,000 mixed events with the default rates, batches and windows become at most 50 records over all streams", async () => {
  async function reduced(name: string, perRequest: number): Promise<void> {
    const stream = await analyticsStream(`thousand-${perRequest}`, { ack: "memory", allowedLatenessMs: 300 });
    // Two minutes ago, so that the window is told soon and not in a minute.
    const events = documentedMix(1000, Date.now() - 120_000);
    for (let at = 0; at < events.length; at += 100) {
      const requests = Array.from({ length: 100 / perRequest }, (_, request) =>
        events.slice(at + request * perRequest, at + (request + 1) * perRequest),
      );
      await Promise.all(requests.map((request) => postAll(stream, request, 202)));
    }
    const counts = await until("all is written", async () => {
      const { received, ...fates } = await countsOf(stream);
      return sum(Object.values(fates)) >= 1000 && { received, ...fates };
    });
    const windows = outputOf(stream, "windows");
    const observed = await until(
      "the windows are told",
      async () => {
        if ((await windows.head()).status !== 200) return false;
        const records = (await windows.records()) as { observed: number }[];
        const seen = sum(records.map((record) => record.observed));
        return seen >= counts.aggregated && seen;
      },
      10_000,
    );
    const records = await recordCounts(stream);
    const total = sum(Object.values(records));
    const reduction = `${name}: 1000 events became ${total} records: ${JSON.stringify(records)} ${JSON.stringify(counts)}`;
    console.log(reduction);
    expect([reduction, total <= 50]).toEqual([reduction, true]);
    expect(counts.received).toBe(1000);
    expect(counts.stored + counts.aggregated + counts.sampledOut).toBe(1000);
    expect([counts.dropped, observed]).toEqual([0, counts.aggregated]);
    const isCommand = (text: string): boolean => text.includes('"command"');
    const stored = (await batchesOf(stream)).flatMap((batch) => batch.stored.map(({ text }) => text)).filter(isCommand);
    const sent = events.map((event) => JSON.stringify(event)).filter(isCommand);
    expect(stored.toSorted()).toEqual(sent.toSorted());
  }
  await Promise.all([reduced("in requests of 100", 100), reduced("one request each", 1)]);
}, 60_000);

describe("what is stored", () => {
  test.each(["none", "zstd"] as const)("comes back byte for byte, compression %s", async (compression) => {
    const stream = await analyticsStream(`bytes-${compression}`, {
      compression,
      batchIntervalMs: 10,
      samplingRates: {},
    });
    const texts = Array.from(
      { length: 250 },
      (_, at) => `{"type":"command", "data":{"commandName":"c${at}","n":1e400,"t":"日\\u0041","d":1.0,"d":-0}}`,
    );
    const response = await stream.post(`[${texts.join(",")}]`);
    expect(response.status).toBe(204);
    const batches = await batchesOf(stream);
    expect(batches.flatMap(({ stored }) => stored.map(({ text }) => text))).toEqual(texts);
    expect(batches.map(({ batch }) => batch.counts.stored)).toEqual([100, 100, 50]);
    for (const { batch } of batches) {
      expect([batch.encoding, "events" in batch, "windows" in batch]).toEqual(
        compression === "zstd" ? ["zstd", false, false] : [undefined, true, true],
      );
      expect(typeof batch.content).toBe(compression === "zstd" ? "string" : "undefined");
      expect(Math.abs(batch.at - Date.now())).toBeLessThan(5000);
    }
  });

  test("compression pays: a batch of 100 usual events takes less than a quarter of its text", async () => {
    const stream = await analyticsStream("ratio", { compression: "zstd", batchIntervalMs: 10, samplingRates: {} });
    const events = documentedMix(300).filter((event) => JSON.stringify(event).includes('"command"'));
    await postAll(stream, events);
    const [first] = rawArrayValues(await stream.text());
    expect((first ?? "").length).toBeLessThan(JSON.stringify(events).length / 4);
  });

  test("weights are 1 over the sender's rate and stand there only when one is not 1", async () => {
    const stream = await analyticsStream("weights", { batchIntervalMs: 10, compression: "none", samplingRates: {} });
    await postAll(stream, [command("a"), command("b", { sampleRate: 1 })]);
    await postAll(stream, [command("a", { sampleRate: 0.25 }), command("b"), command("c", { sampleRate: 0.00001 })]);
    const batches = await batchesOf(stream);
    expect("weights" in (batches[0]?.content ?? {})).toBe(false);
    expect(batches[1]?.stored.map(({ weight }) => Math.round(weight))).toEqual([4, 1, 100_000]);
  });

  test("high goes before normal before low, whatever their types", async () => {
    const stream = await analyticsStream("order", {
      batchIntervalMs: 20,
      maxBatchSize: 4,
      compression: "none",
      samplingRates: {},
    });
    const low = [
      { type: "engagement", data: { eventType: "cache_hit" } },
      command("cache_hit"),
      command("x", { priority: "low" }),
      { type: "error", data: {}, priority: "low" },
    ];
    const normal = [
      command("help"),
      { type: "engagement", data: { eventType: "view" } },
      command("no", { priority: "normal" }, { success: false }),
      command("nothing said of success", {}, { success: undefined }),
    ];
    const high = [
      { type: "error", data: { message: "boom" } },
      command("fails", {}, { success: false }),
      command("vip", { priority: "high" }),
      { type: "engagement", data: { eventType: "cache_hit" }, priority: "high" },
    ];
    await postAll(
      stream,
      [...low, ...normal, ...high].map((_, at) => [...low, ...normal, ...high][(at * 5) % 12]),
    );
    const stored = (await batchesOf(stream)).map(({ content }) => content.events.map((event) => JSON.stringify(event)));
    const sorted = [high, normal, low].map((events) => events.map((event) => JSON.stringify(event)).toSorted());
    expect(stored.map((texts) => texts.toSorted())).toEqual(sorted);
  });

  test("metrics of the machinery are low, when metrics are stored at all", async () => {
    const stream = await analyticsStream("routine", {
      batchIntervalMs: 20,
      maxBatchSize: 2,
      compression: "none",
      samplingRates: {},
      aggregate: [],
    });
    const low = [performanceOf("memory_usage", 1), performanceOf("cache_hit_rate", 1)];
    const normal = [
      performanceOf("response_time", 1),
      { type: "datastore", data: { operation: "get", storeType: "kv" } },
    ];
    await postAll(stream, [...low, ...normal]);
    expect((await batchesOf(stream)).map(({ content }) => content.events)).toEqual([normal, low]);
  });

  test("a low event waits for ten batches at most", async () => {
    const stream = await analyticsStream("ageing", {
      ack: "memory",
      batchIntervalMs: 60_000,
      maxBatchSize: 4,
      highPriorityFlushThreshold: 1000,
      compression: "none",
    });
    const lows = ["low1", "low2", "low3"].map((name) => command(name, { priority: "low" }));
    await postAll(stream, lows, 202);
    for (let round = 1; round <= 14; round++) {
      await postAll(
        stream,
        [1, 2, 3, 4].map((at) => command(`${round}.${at}`, { priority: "high" })),
        202,
      );
      await until("it is written", async () => (await batchesOf(stream)).length >= round);
    }
    const at = (await batchesOf(stream)).flatMap(({ content }, index) =>
      content.events.filter((event) => JSON.stringify(event).includes('"low"')).map(() => index),
    );
    // A quarter of a batch of four is one. A batch that was made before all of a request was taken has room for all three.
    expect(at.length).toBe(3);
    for (const [index, batch] of at.entries()) expect(batch).toBeLessThanOrEqual(10 + index);
  });
});
