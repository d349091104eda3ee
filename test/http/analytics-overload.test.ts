/** Too many events (docs/analytics.md): who is shed, who is refused, what operators see. */

import { describe, expect, test } from "bun:test";
import { type Family, parseExposition } from "../../src/cli/exposition-parser.ts";
import {
  analyticsStreams,
  batchesOf,
  fatesOf,
  outputOf,
  shownOf,
  sum,
  times,
  waiting,
  type CommandEvent,
  type Counts,
} from "../support/analytics-client.ts";
import { sharedServer } from "../support/shared-server.ts";
import { call, errorOf, type StreamUnderTest } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const server = sharedServer();
const LONG_MS = 60_000;
const { analyticsStream, reconfigure } = analyticsStreams(server, "ana-overload", {
  compression: "none",
  samplingRates: {},
  maxBatchSize: 10_000,
});

const command = (commandName: string, priority?: string) => ({
  type: "command",
  ...(priority !== undefined && { priority }),
  data: { commandName },
});

const fates = async (stream: StreamUnderTest): Promise<Counts> => fatesOf(await batchesOf(stream));

describe("memory mode", () => {
  /** Holds everything until the profile is changed. */
  const held = { ack: "memory", batchIntervalMs: LONG_MS, highPriorityFlushThreshold: 10_000, maxQueuedEvents: 100 };

  test("low events fill 80 %, normal ones 90 %, high ones all of it; what is shed is counted", async () => {
    const stream = await analyticsStream("shares", held);
    const push = async (count: number, priority: string): Promise<number[]> =>
      Promise.all(
        times(count, async (at) => (await stream.post(JSON.stringify(command(`${priority}${at}`, priority)))).status),
      );
    expect(new Set(await push(95, "low"))).toEqual(new Set([202]));
    expect((await shownOf(stream)).metrics["queueDepth"]).toBe(80);
    expect(new Set(await push(30, "normal"))).toEqual(new Set([202]));
    const high = await push(40, "high");
    expect(high.filter((status) => status !== 202 && status !== 429)).toEqual([]);
    const taken = high.filter((status) => status === 202).length;
    await reconfigure(stream, { ...held, batchIntervalMs: 5 });
    const counts = await until("all is written", async () => {
      const { received, ...rest } = await fates(stream);
      return sum(Object.values(rest)) >= 95 + 30 + taken && { received, ...rest };
    });
    expect(counts.received).toBe(counts.stored + counts.dropped);
    const names = (await batchesOf<CommandEvent>(stream)).flatMap(({ events }) =>
      events.map(({ priority = "normal" }) => priority),
    );
    const kept = (priority: string): number => names.filter((one) => one === priority).length;
    expect(kept("high")).toBe(taken);
    expect([kept("normal") <= 90, kept("low") <= 80, names.length <= 100]).toEqual([true, true, true]);
    expect(counts.stored).toBe(names.length);
    expect(counts.dropped).toBeGreaterThan(0);
  });

  test("high events are kept while low ones are shed for them", async () => {
    const stream = await analyticsStream("kept", held);
    await stream.post(JSON.stringify(times(200, (at) => command(`low${at}`, "low"))));
    const answer = await stream.post(JSON.stringify(times(50, (at) => command(`high${at}`, "high"))));
    expect(answer.status).toBe(202);
    await reconfigure(stream, { ...held, batchIntervalMs: 5 });
    const counts = await until("all is written", async () => {
      const { received, ...rest } = await fates(stream);
      return sum(Object.values(rest)) >= 250 && { received, ...rest };
    });
    expect(counts.received).toBe(250);
    const stored = (await batchesOf<CommandEvent>(stream)).flatMap(({ events }) => events);
    expect(stored.filter(({ priority }) => priority === "high").length).toBe(50);
    expect(counts.stored).toBeLessThanOrEqual(100);
    expect(counts.dropped).toBe(250 - counts.stored);
    expect((await shownOf(stream)).metrics["droppedOverflow"]).toBe(counts.dropped);
  });

  test("bytes are bounded too", async () => {
    const stream = await analyticsStream("bytes", { ...held, maxQueuedEvents: 100_000, maxQueuedBytes: 100_000 });
    const pad = "x".repeat(1000);
    for (let round = 0; round < 5; round++) {
      const events = times(100, (at) => ({ type: "command", priority: "low", data: { commandName: `c${at}`, pad } }));
      expect((await stream.post(JSON.stringify(events))).status).toBe(202);
    }
    expect((await shownOf(stream)).metrics["queuedBytes"]).toBeLessThanOrEqual(100_000);
    await reconfigure(stream, { ...held, batchIntervalMs: 5 });
    const counts = await until("all is written", async () => {
      const soFar = await fates(stream);
      return soFar.stored + soFar.dropped >= 500 && soFar;
    });
    expect(counts.dropped).toBeGreaterThan(300);
    expect(counts.stored).toBeGreaterThan(50);
  });

  test("values are aggregated however full the queue is", async () => {
    const stream = await analyticsStream("values", held);
    await stream.post(JSON.stringify(times(200, (at) => command(`c${at}`, "low"))));
    const values = times(500, (at) => ({ type: "performance", data: { metric: "m", value: at } }));
    expect((await stream.post(JSON.stringify(values))).status).toBe(202);
    await reconfigure(stream, { ...held, batchIntervalMs: 5 });
    await until("all is written", async () => (await fates(stream)).aggregated >= 500);
    const told = await (await call("GET", `${stream.url}/aggregate?metric=m`)).json();
    expect(told).toMatchObject({ result: { count: 500 } });
  });
});

describe("durable mode", () => {
  test("what has no room is refused with 429 and when to come back; what was acknowledged is there", async () => {
    const settings = { batchIntervalMs: 30, maxBatchSize: 10, maxQueuedEvents: 20, highPriorityFlushThreshold: 1000 };
    const stream = await analyticsStream("refused", settings);
    const acknowledged: string[] = [];
    let refusals = 0;
    for (let round = 0; round < 10; round++) {
      await Promise.all(
        times(100, async (at) => {
          const priority = ["low", "normal", "high"][at % 3];
          const name = `${round}.${at}`;
          const response = await stream.post(JSON.stringify(command(name, priority)));
          if (response.status === 204) return void acknowledged.push(name);
          const error = await errorOf(response);
          expect([response.status, error.code]).toEqual([429, "overloaded"]);
          expect(Number(response.headers.get("retry-after"))).toBeGreaterThan(0);
          refusals++;
        }),
      );
    }
    const stored = (await batchesOf<CommandEvent>(stream)).flatMap(({ events }) =>
      events.map(({ data }) => data.commandName),
    );
    expect(stored.toSorted()).toEqual(acknowledged.toSorted());
    expect(refusals).toBeGreaterThan(0);
    const counts = await fates(stream);
    expect(counts.stored).toBe(acknowledged.length);
    expect(counts.stored + counts.aggregated + counts.sampledOut + counts.dropped).toBe(counts.received);
  });

  test("a request that fits only in part is refused whole, and nothing of it is written", async () => {
    const stream = await analyticsStream("whole", { batchIntervalMs: 50, maxQueuedEvents: 50 });
    const answer = await stream.post(JSON.stringify(times(51, (at) => command(`big${at}`))));
    expect([answer.status, answer.headers.get("retry-after") !== null]).toEqual([429, true]);
    expect((await stream.post(JSON.stringify(times(40, (at) => command(`fits${at}`))))).status).toBe(204);
    const names = (await batchesOf<CommandEvent>(stream)).flatMap(({ events }) =>
      events.map(({ data }) => data.commandName),
    );
    expect(names).toEqual(times(40, (at) => `fits${at}`));
  });

  /** Holds everything until the profile is changed. */
  const held = { batchIntervalMs: LONG_MS, highPriorityFlushThreshold: 10_000, maxQueuedEvents: 100 };
  const many = (count: number, priority: string) => times(count, (at) => command(`${priority}${at}`, priority));
  const send = async (stream: StreamUnderTest, events: readonly unknown[]): Promise<number> =>
    (await stream.post(JSON.stringify(events))).status;

  test("a request of mixed priorities makes none of those who wait give way", async () => {
    const stream = await analyticsStream("mixed", held);
    const low = send(stream, many(50, "low"));
    await waiting(stream, 50);
    const high = send(stream, many(45, "high"));
    await waiting(stream, 95);
    let answer = 0;
    const mixed = send(stream, [command("one", "high"), command("two", "normal")]).then((status) => (answer = status));
    await until("it is taken or refused", async () => {
      const { metrics } = await shownOf(stream);
      return answer !== 0 || metrics["eventsReceived"] === 97;
    });
    await reconfigure(stream, { ...held, batchIntervalMs: 5 });
    expect(await Promise.all([low, high, mixed])).toEqual([204, 204, 429]);
    expect(await fates(stream)).toEqual({ received: 95, stored: 95, aggregated: 0, sampledOut: 0, dropped: 0 });
  });

  test("who waits keeps the place when the profile changes to memory mode", async () => {
    const stream = await analyticsStream("to-memory", held);
    const low = send(stream, many(50, "low"));
    await waiting(stream, 50);
    await reconfigure(stream, { ...held, ack: "memory" });
    expect(await send(stream, many(80, "high"))).toBe(202);
    await reconfigure(stream, { ...held, batchIntervalMs: 5 });
    expect(await low).toBe(204);
    const stored = await until("all is written", async () => {
      const { stored: written, dropped } = await fates(stream);
      return written + dropped === 130 && written;
    });
    const names = (await batchesOf<CommandEvent>(stream)).flatMap(({ events }) =>
      events.map(({ data }) => data.commandName),
    );
    expect(names.filter((name) => name.startsWith("low"))).toHaveLength(50);
    expect(stored).toBe(100);
  });

  test("a request that is refused leaves no dead letter, either", async () => {
    const stream = await analyticsStream("letters", { ...held, batchIntervalMs: 5, onInvalid: "dead-letter" });
    expect(await send(stream, [{ no: "event" }, ...many(91, "normal")])).toBe(429);
    expect((await outputOf(stream, "dead-letter").head()).status).toBe(404);
    expect(await send(stream, [{ no: "event" }, ...many(90, "normal")])).toBe(204);
    expect(await outputOf(stream, "dead-letter").records()).toHaveLength(1);
  });

  test("who closes the stream in memory mode sheds nothing: all of the last events are stored, or none", async () => {
    const stream = await analyticsStream("closing", { ...held, ack: "memory" });
    expect(await send(stream, many(80, "low"))).toBe(202);
    const close = async (count: number): Promise<number> =>
      (await stream.post(JSON.stringify(many(count, "high")), { "stream-closed": "true" })).status;
    expect([await close(21), await close(20)]).toEqual([429, 204]);
    expect(await fates(stream)).toMatchObject({ received: 100, stored: 100, dropped: 0 });
  });

  test("after that the queue is empty again, and takes as much as before", async () => {
    const stream = await analyticsStream("again", { batchIntervalMs: 5, maxQueuedEvents: 20 });
    for (let round = 0; round < 30; round++) {
      expect((await stream.post(JSON.stringify(times(15, (at) => command(`${round}.${at}`))))).status).toBe(204);
    }
    expect((await shownOf(stream)).metrics).toMatchObject({ queueDepth: 0, queuedBytes: 0 });
  });
});

describe("what operators see", () => {
  const figures = async (): Promise<ReadonlyMap<string, Family>> =>
    parseExposition(await (await call("GET", `${server.url}/metrics`)).text());

  async function figure(name: string, labels = ""): Promise<number> {
    const text = await (await call("GET", `${server.url}/metrics`)).text();
    const line = text.split("\n").find((one) => one.startsWith(`${name}${labels === "" ? "" : `{${labels}}`} `));
    return Number(line?.split(" ").at(-1) ?? expect.unreachable(`no ${name}{${labels}}`));
  }

  test("/metrics has the sums of all streams", async () => {
    const families = [...(await figures()).keys()].filter((name) => name.startsWith("streams_analytics_"));
    expect(families.length).toBeGreaterThan(4);
    const labels = ["stored", "aggregated", "sampled-out", "dropped"].map((fate) => `fate="${fate}"`);
    const all = () => Promise.all(labels.map((label) => figure("streams_analytics_events_total", label)));
    const [before, batches] = [await all(), await figure("streams_analytics_batches_total")];
    for (const name of ["sums-1", "sums-2"]) {
      const stream = await analyticsStream(name, { batchIntervalMs: 5, samplingRates: { out: 0 } });
      const events = [
        ...times(3, () => command("a")),
        ...times(4, (at) => ({ type: "performance", data: { metric: "m", value: at } })),
        ...times(5, () => command("out")),
      ];
      expect((await stream.post(JSON.stringify(events))).status).toBe(204);
    }
    const after = await all();
    expect(after.map((value, at) => value - (before[at] ?? 0))).toEqual([6, 8, 10, 0]);
    expect((await figure("streams_analytics_batches_total")) - batches).toBe(2);
    expect(await figure("streams_analytics_queued_bytes")).toBe(0);
    expect(await figure("streams_analytics_open_series")).toBeGreaterThanOrEqual(2);
  });

  test("_analytics adds up with the batches", async () => {
    const stream = await analyticsStream("shown", { batchIntervalMs: 5, samplingRates: { out: 0 }, maxBatchSize: 4 });
    const fresh = await shownOf(stream);
    expect(fresh.settings).toMatchObject({ ack: "durable", maxBatchSize: 4 });
    expect(fresh.health).toEqual({ healthy: true, errors: [] });
    expect(fresh.metrics).toMatchObject({
      eventsReceived: 0,
      eventsQueued: 0,
      eventsProcessed: 0,
      batchesProcessed: 0,
    });
    const events = [
      ...times(10, () => command("a")),
      ...times(7, (at) => ({ type: "performance", data: { metric: "m", value: at } })),
      ...times(5, () => command("out")),
    ];
    const before = Date.now();
    expect((await stream.post(JSON.stringify(events))).status).toBe(204);
    const { metrics } = await shownOf(stream);
    const counts = await fates(stream);
    const batches = await batchesOf<CommandEvent>(stream);
    expect(counts).toEqual({ received: 22, stored: 10, aggregated: 7, sampledOut: 5, dropped: 0 });
    expect(metrics).toMatchObject({
      eventsReceived: 22,
      eventsQueued: 10,
      eventsProcessed: 10,
      eventsAggregated: 7,
      eventsSampledOut: 5,
      eventsDropped: 5,
      batchesProcessed: batches.length,
      averageBatchSize: 10 / batches.length,
      queueDepth: 0,
    });
    expect(metrics["lastFlushTime"]).toBeGreaterThanOrEqual(before);
  });

  test("activeWindows counts the windows that are open", async () => {
    const stream = await analyticsStream("active", { batchIntervalMs: 5 });
    const value = { type: "performance", data: { metric: "m", value: 1 } };
    expect((await stream.post(JSON.stringify(value))).status).toBe(204);
    expect((await shownOf(stream)).metrics["activeWindows"]).toBeGreaterThan(0);
  });

  test("open windows are shown while they are open", async () => {
    const stream = await analyticsStream("open", {
      batchIntervalMs: 5,
      aggregationWindowMs: 1000,
      allowedLatenessMs: 0,
    });
    const series = times(7, (at) => ({ type: "performance", data: { metric: `m${at}`, value: 1 } }));
    expect((await stream.post(JSON.stringify(series))).status).toBe(204);
    const text = JSON.stringify(await shownOf(stream));
    expect(text).toContain(`"${stream.name}/windows","openSeries":7`);
    await until("none is open", async () =>
      JSON.stringify(await shownOf(stream)).includes(`"${stream.name}/windows","openSeries":0`),
    );
    expect((await outputOf(stream, "windows").records()).length).toBe(7);
  });
});
