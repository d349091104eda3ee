/** The front of the stage, as an application uses it. */

import { expect, test } from "bun:test";
import { Deadlines } from "../../kit/deadlines.ts";
import { nextTurn } from "../../kit/turn.ts";
import type { EventBatch } from "./batch-writer.ts";
import { EventTrackingService } from "./event-tracking-service.ts";
import type { AnalyticsConfig } from "./settings.ts";

function tracking(config: AnalyticsConfig) {
  const time = { ms: Date.parse("2030-01-01T00:00:00Z") };
  const clock = { nowMs: () => time.ms, monotonicMs: () => time.ms };
  const deadlines = new Deadlines(clock);
  const batches: EventBatch[] = [];
  const service = new EventTrackingService(async (some) => void batches.push(...some), config, { clock, deadlines });
  const pass = async (ms: number): Promise<void> => {
    time.ms += ms;
    deadlines.tick();
    for (let turn = 0; turn < 10; turn++) await nextTurn();
  };
  return { service, batches, time, pass };
}

test("the guide's example: a hundred measurements become one aggregated record", async () => {
  const { service, batches, time } = tracking({ ack: "memory", samplingRates: {} });
  await service.trackCommandUsage({
    commandName: "help",
    userHash: "user123",
    serverHash: "server456",
    success: true,
    durationMs: 250,
  });
  for (let at = 0; at < 100; at++) await service.trackPerformance("response_time", at);
  await service.trackEngagement("page_view", { page: "/" });
  await service.trackError("abc", { message: "no" });
  await service.trackDatastore("get", "kv", 3);
  await service.flushBatchedEvents();
  expect(batches).toHaveLength(1);
  expect(batches[0]?.events).toHaveLength(2);
  const results = service.getAggregations(time.ms, time.ms + 60_000, "performance");
  expect(results).toMatchObject([
    { eventKey: "response_time", count: 100, min: 0, max: 99, metadata: { partial: true } },
  ]);
  expect(service.getMetrics()).toMatchObject({
    eventsReceived: 104,
    eventsQueued: 2,
    eventsProcessed: 2,
    eventsAggregated: 102,
    batchesProcessed: 1,
    averageBatchSize: 2,
    eventsDropped: 0,
    results: 3,
  });
  expect(service.health()).toEqual({ healthy: true, errors: [] });
});

test("in durable mode a call resolves when its event is written", async () => {
  const { service, batches, pass } = tracking({ samplingRates: {} });
  let written = false;
  const done = service.trackPerformance("load", 1).then(() => (written = true));
  await pass(999);
  expect(written).toBe(false);
  await pass(1);
  await done;
  expect(batches).toHaveLength(1);
});

test("switched off, what was queued is written, and every event after it at once, as it is", async () => {
  const { service, batches } = tracking({ ack: "memory", samplingRates: { chat: 0 } });
  await service.trackCommandUsage({ commandName: "help", success: true });
  await service.configureBatching(false);
  expect(batches).toHaveLength(1);
  await service.trackPerformance("load", 1);
  await service.trackCommandUsage({ commandName: "chat", success: true });
  await nextTurn();
  await nextTurn();
  expect(batches.slice(1).flatMap(({ events }) => events)).toHaveLength(2);
  await service.configureBatching(true, { maxBatchSize: 500, aggregationWindowMs: 300_000 });
  expect(service.getConfig()).toMatchObject({ enabled: true, maxBatchSize: 500 });
  await service.trackPerformance("load", 1);
  expect(service.getMetrics().eventsAggregated).toBe(1);
});

test("shutdown writes what is queued, and closes what is open", async () => {
  const { service, batches } = tracking({ ack: "memory", samplingRates: {} });
  await service.trackPerformance("load", 1);
  await service.shutdown();
  expect(batches.flatMap(({ windows }) => windows)).toHaveLength(1);
  expect(service.trackPerformance("load", 1)).rejects.toThrow("shut down");
});
