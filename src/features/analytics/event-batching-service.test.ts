/** The stage in process, on a clock of the test's own: when batches are written, in which order, and that every event has one fate. */

import { describe, expect, test } from "bun:test";
import { assert as check, asyncProperty, integer, record, array, constantFrom, boolean } from "fast-check";
import { Deadlines } from "../../kit/deadlines.ts";
import { nextTurn } from "../../kit/turn.ts";
import { type EventBatch, UnwritableBatch, type WriteBatches } from "./batch-writer.ts";
import type { AnalyticsEvent, Priority } from "./event.ts";
import { type BatchingParts, BatchingStopped, EventBatchingService } from "./event-batching-service.ts";
import { type AnalyticsConfig, DEFAULT_SAMPLING_RATES } from "./settings.ts";

/** A service on a clock of the test's own, whose writes are kept. */
function service(config: AnalyticsConfig = {}, parts: BatchingParts & { readonly write?: WriteBatches } = {}) {
  const time = { ms: Date.parse("2030-01-01T00:00:00Z") };
  const clock = { nowMs: () => time.ms, monotonicMs: () => time.ms };
  const deadlines = new Deadlines(clock);
  const batches: EventBatch[] = [];
  const write: WriteBatches = async (some) => {
    await parts.write?.(some);
    batches.push(...some);
  };
  const batching = new EventBatchingService(write, { samplingRates: {}, ...config }, { clock, deadlines, ...parts });
  const settle = async (): Promise<void> => {
    for (let turn = 0; turn < 10; turn++) await nextTurn();
  };
  const pass = async (ms: number): Promise<void> => {
    time.ms += ms;
    deadlines.tick();
    await settle();
  };
  return { batching, batches, time, deadlines, settle, pass };
}

function command(commandName: string, priority?: Priority): AnalyticsEvent {
  return { type: "command", data: { commandName, success: true }, ...(priority !== undefined && { priority }) };
}

function performance(metric: string, value: number): AnalyticsEvent {
  return { type: "performance", data: { metric, value } };
}

function names(batch: EventBatch | undefined): string[] {
  return (batch?.events ?? []).map(
    ({ json }) => (JSON.parse(json) as { data: { commandName: string } }).data.commandName,
  );
}

describe("a batch is written", () => {
  test("when its interval is over, and not before", async () => {
    const { batching, batches, pass } = service({ ack: "memory" });
    batching.queueEvent(command("a"));
    await pass(999);
    expect(batches).toEqual([]);
    await pass(1);
    expect(batches.map(names)).toEqual([["a"]]);
  });

  test("when it is full", async () => {
    const { batching, batches, settle } = service({ ack: "memory", maxBatchSize: 3 });
    for (const name of ["a", "b", "c", "d"]) batching.queueEvent(command(name));
    await settle();
    expect(batches.map(names)).toEqual([["a", "b", "c"]]);
    expect(batching.getMetrics().queueDepth).toBe(1);
  });

  test("when enough high events wait, of any type", async () => {
    const { batching, batches, settle } = service({ ack: "memory", highPriorityFlushThreshold: 2 });
    batching.queueEvent(command("normal"));
    // A value waits for nothing.
    batching.queueEvent({ type: "error", data: { errorHash: "abc" } });
    batching.queueEvent({ type: "command", data: { commandName: "failed", success: false } });
    await settle();
    expect(batches).toEqual([]);
    batching.queueEvent({ type: "error", data: { message: "without a hash" } });
    await settle();
    expect(batches).toHaveLength(1);
    expect(batches[0]?.events).toHaveLength(3);
    expect(batches[0]?.windows.map(({ series }) => series.id)).toEqual(["error.abc"]);
  });

  test("at once when somebody waits for enough of them, the rest along with it", async () => {
    const { batching, batches, settle } = service({ ack: "durable", maxBatchSize: 10 });
    for (let at = 0; at < 8; at++) batching.queueEvent(performance("load", at));
    for (let at = 0; at < 17; at++) batching.queueEvent(command(`c${at}`));
    await batching.whenWritten();
    await settle();
    expect(batches.map(({ events }) => events.length)).toEqual([10, 7]);
    expect(batches[0]?.windows[0]?.stats.observed).toBe(8);
  });

  test("by flush, with all that was taken before it", async () => {
    const { batching, batches } = service({ ack: "memory", maxBatchSize: 2 });
    for (const name of ["a", "b", "c"]) batching.queueEvent(command(name));
    await batching.flush();
    expect(batches.flatMap(names)).toEqual(["a", "b", "c"]);
    await batching.flush();
    expect(batches).toHaveLength(2);
  });

  test("for each turn of events when batching is off, as they are", async () => {
    const { batching, batches, settle } = service({ enabled: false, samplingRates: { load: 0 } });
    batching.queueEvent(performance("load", 1));
    await settle();
    batching.queueEvent(command("a"));
    await settle();
    expect(batches.map(({ events, windows }) => [events.length, windows.length])).toEqual([
      [1, 0],
      [1, 0],
    ]);
  });
});

describe("priorities", () => {
  test("high goes first whatever its type, then normal, then low", async () => {
    const { batching, batches } = service({ ack: "memory", maxBatchSize: 10, highPriorityFlushThreshold: 100 });
    batching.queueEvent(command("low", "low"));
    batching.queueEvent(command("normal"));
    batching.queueEvent(command("high", "high"));
    await batching.flush();
    expect(batches.flatMap(names)).toEqual(["high", "normal", "low"]);
  });

  test("low waits for ten batches at most", async () => {
    const { batching, batches } = service({ ack: "memory", maxBatchSize: 4, highPriorityFlushThreshold: 10_000 });
    batching.queueEvent(command("low", "low"));
    for (let at = 0; at < 100; at++) batching.queueEvent(command(`high${at}`, "high"));
    await batching.flush();
    expect(batches.findIndex((batch) => names(batch).includes("low"))).toBe(10);
    // The share of those that have waited is bounded: high ones go on.
    expect(names(batches[10])).toEqual(["low", "high40", "high41", "high42"]);
  });

  test("past the bound low events make way for high ones, and are counted", async () => {
    const { batching, batches } = service({ ack: "memory", maxQueuedEvents: 10, highPriorityFlushThreshold: 100 });
    const fates = Array.from({ length: 10 }, (_, at) => batching.queueEvent(command(`low${at}`, "low")));
    expect(fates.filter((fate) => fate === "dropped")).toHaveLength(2);
    for (let at = 0; at < 10; at++) expect(batching.queueEvent(command(`high${at}`, "high"))).toBe("queued");
    expect(batching.queueEvent(command("one more", "high"))).toBe("dropped");
    await batching.flush();
    expect(batches.flatMap(names)).toEqual(Array.from({ length: 10 }, (_, at) => `high${at}`));
    expect(batching.getMetrics()).toMatchObject({ eventsReceived: 21, droppedOverflow: 11, eventsProcessed: 10 });
  });
});

describe("what fails", () => {
  test("is written again, the same, later and later; health says why", async () => {
    let failing = true;
    const { batching, batches, pass, settle } = service(
      { maxBatchSize: 1 },
      { write: () => (failing ? Promise.reject(new Error("disk on fire")) : Promise.resolve()) },
    );
    batching.queueEvent(command("a"));
    await settle();
    expect(batching.health()).toEqual({ healthy: false, errors: ["disk on fire"] });
    const written = batching.whenWritten();
    await pass(100);
    await pass(199);
    failing = false;
    expect(batches).toEqual([]);
    await pass(1);
    await written;
    expect(batches.map(names)).toEqual([["a"]]);
    expect(batching.health()).toEqual({ healthy: true, errors: [] });
  });

  test("makes flush reject, and keeps what was to be written", async () => {
    let failures = 1;
    const { batching, batches } = service(
      {},
      { write: () => (failures-- > 0 ? Promise.reject(new Error("no")) : Promise.resolve()) },
    );
    batching.queueEvent(command("a"));
    expect(batching.flush()).rejects.toThrow("no");
    await nextTurn();
    await nextTurn();
    await batching.flush();
    expect(batches.map(names)).toEqual([["a"]]);
  });

  test("for good is found event by event: a dead letter, and everything else is written", async () => {
    const letters: string[] = [];
    const { batching, batches } = service(
      {},
      {
        write: async (some) => {
          if (some.flatMap(names).includes("poison")) throw new UnwritableBatch("will not have it");
        },
        onDeadLetter: ({ json }, reason) => letters.push(`${reason}: ${json}`),
      },
    );
    batching.queueEvent(performance("load", 1));
    for (const name of ["a", "b", "poison", "c", "d"]) batching.queueEvent(command(name));
    await batching.flush();
    expect(batches.flatMap(names)).toEqual(["a", "b", "c", "d"]);
    expect(batches.flatMap(({ windows }) => windows)).toHaveLength(1);
    expect(letters).toEqual([`will not have it: ${JSON.stringify(command("poison"))}`]);
    expect(batching.getMetrics()).toMatchObject({ failedWrites: 1, eventsProcessed: 4, eventsDropped: 1 });
  });
});

test("settings change at once, a window's size from its next window on", async () => {
  const { batching, batches, pass } = service({ ack: "memory" });
  batching.queueEvent(performance("load", 1));
  batching.updateConfig({ aggregationWindowMs: 1_000, samplingRates: { help: 0 }, batchIntervalMs: 10 });
  batching.queueEvent(performance("load", 2));
  expect(batching.queueEvent(command("help"))).toBe("sampled-out");
  await pass(10);
  expect(batches[0]?.windows.map(({ startMs, endMs }) => endMs - startMs)).toEqual([60_000, 1_000]);
  expect(batching.getConfig()).toMatchObject({ aggregationWindowMs: 1_000, batchIntervalMs: 10, maxBatchSize: 100 });
  expect(() => batching.updateConfig({ aggregationWindowMs: 7_000 })).toThrow(RangeError);
  expect(() => batching.updateConfig({ maxBatchSize: 0 })).toThrow("maxBatchSize");
});

test("the documented defaults, presets by Map too", () => {
  const batching = new EventBatchingService(async () => undefined, { samplingRates: new Map([["chat", 0.01]]) });
  expect(batching.getConfig()).toMatchObject({
    maxBatchSize: 100,
    batchIntervalMs: 1_000,
    highPriorityFlushThreshold: 10,
    aggregationWindowMs: 60_000,
    samplingRates: { chat: 0.01 },
  });
  expect(new EventBatchingService(async () => undefined).getConfig().samplingRates).toEqual(DEFAULT_SAMPLING_RATES);
});

test("after shutdown nothing is taken, and who waits is told", async () => {
  const { batching, batches, settle } = service();
  batching.queueEvent(command("a"));
  await batching.shutdown();
  expect(batches.map(names)).toEqual([["a"]]);
  expect(() => batching.queueEvent(command("b"))).toThrow(BatchingStopped);
  const { batching: other } = service({}, { write: () => Promise.reject(new Error("no")) });
  other.queueEvent(command("a"));
  const written = other.whenWritten();
  other.stop("enough");
  expect(written).rejects.toThrow("enough");
  await settle();
});

test("what is no event is refused by name", () => {
  const { batching } = service();
  expect(() => batching.queueEvent({ type: "performance", data: { metric: "x", value: NaN } })).toThrow("data.value");
  expect(() => batching.queueEvent({ type: "purchase" as "command", data: {} })).toThrow("type is one of");
  expect(() => batching.queueEvent({ ...command("a"), timestamp: Date.parse("2030-01-01T00:02:00Z") })).toThrow(
    "future",
  );
  expect(() => batching.queueEvent({ type: "command", data: { commandName: "a", text: "x".repeat(33_000) } })).toThrow(
    "32768",
  );
});

test("every event has one fate, whatever fails: batches and metrics agree", async () => {
  const event = record({
    kind: constantFrom("command", "low", "high", "performance", "late"),
    value: integer({ min: 0, max: 100 }),
  });
  await check(
    asyncProperty(
      array(event, { maxLength: 60 }),
      array(constantFrom("ok", "fail", "unwritable"), { maxLength: 20 }),
      boolean(),
      async (events, outcomes, isDurable) => {
        const script = [...outcomes];
        const { batching, batches, time, pass } = service(
          { ack: isDurable ? "durable" : "memory", maxBatchSize: 7, maxQueuedEvents: 25, samplingRates: { half: 0.5 } },
          {
            write: async (some) => {
              const written = some.flatMap((batch) => batch.events);
              const outcome = script.shift() ?? "ok";
              if (outcome === "fail") throw new Error("later");
              if (outcome === "unwritable" && written.length > 0) throw new UnwritableBatch("never");
            },
          },
        );
        for (const { kind, value } of events) {
          if (kind === "performance") batching.queueEvent(performance(value > 50 ? "half" : "load", value));
          else if (kind === "late")
            batching.queueEvent({ ...performance("load", value), timestamp: time.ms - 4_000_000 });
          else batching.queueEvent(command(value > 50 ? "half" : "all", kind === "command" ? "normal" : kind));
          if (value % 10 === 0) await pass(500);
        }
        for (let at = 0; at < 12; at++) await pass(20_000);
        const counts = batches.map((batch) => batch.counts);
        const sum = (name: keyof EventBatch["counts"]): number => counts.reduce((total, of) => total + of[name], 0);
        const { eventsReceived, queueDepth, ...metrics } = batching.getMetrics();
        expect(queueDepth).toBe(0);
        expect(eventsReceived).toBe(events.length);
        const fates = [metrics.eventsProcessed, metrics.eventsAggregated, metrics.eventsDropped];
        expect(fates.reduce((total, fate) => total + fate, 0)).toBe(events.length);
        expect(sum("stored")).toBe(batches.flatMap((batch) => batch.events).length);
        const measured = batches
          .flatMap(({ windows }) => windows)
          .reduce((total, { stats }) => total + stats.observed, 0);
        expect(measured).toBe(metrics.eventsAggregated);
        // What was given up after the last batch stands in no batch.
        expect(sum("received")).toBe(events.length);
        expect(sum("dropped")).toBeLessThanOrEqual(metrics.eventsDropped - metrics.eventsSampledOut);
      },
    ),
    { numRuns: 60 },
  );
});
