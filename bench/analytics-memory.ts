/**
 * Memory of the analytics stage, one case in a process of its own: `bun bench/analytics-memory.ts queued|posted|windows <values>`. Prints
 * one line of JSON: what the heap says after a collection, and what the system gave the process.
 */

import { readEventBody } from "../src/features/analytics/event-body.ts";
import { type AnalyticsConfig, EventBatchingService } from "../src/features/analytics/index.ts";
import { seriesOf } from "../src/features/analytics/event.ts";
import { WindowSet } from "../src/features/analytics/window-set.ts";
import { systemClock } from "../src/kit/clock.ts";
import { nextTurn } from "../src/kit/turn.ts";
import { seededRandom } from "../test/support/random.ts";
import { eventSource } from "./analytics-events.ts";

export interface MemoryFigures {
  readonly heapBytes: number;
  readonly rssBytes: number;
  readonly textBytes: number;
}

const EVENTS = 100_000;
const EVENTS_PER_POST = 100;
const SERIES = 1_000;
const SPANS = 10;
const SPAN_MS = 60_000;

/** Twice, with a pause: freed pages go back later. */
async function settledMemory() {
  for (let turn = 0; turn < 3; turn++) {
    Bun.gc(true);
    await Bun.sleep(100);
  }
  return process.memoryUsage();
}

/** Queues everything behind a write that never ends. */
async function stuckService(): Promise<EventBatchingService> {
  const config: AnalyticsConfig = { ack: "memory", aggregate: [], samplingRates: {}, batchIntervalMs: 60_000 };
  const bounds: AnalyticsConfig = { maxBatchSize: 1, maxQueuedEvents: 2 * EVENTS };
  const service = new EventBatchingService(() => new Promise(() => undefined), { ...config, ...bounds });
  service.queueEvent(eventSource(2).mixed());
  await nextTurn();
  await nextTurn();
  return service;
}

async function queuedEvents(isPosted: boolean): Promise<MemoryFigures> {
  const source = eventSource(1);
  const service = await stuckService();
  const before = await settledMemory();
  let textBytes = 0;
  for (let at = 0; at < EVENTS; at += EVENTS_PER_POST) {
    const events = Array.from({ length: EVENTS_PER_POST }, () => source.mixed());
    for (const event of events) textBytes += JSON.stringify(event).length;
    if (isPosted) {
      const body = await readEventBody(new TextEncoder().encode(JSON.stringify(events)), false, systemClock);
      if ("kind" in body) throw new Error(body.kind);
      for (const event of body.events) service.take(event);
    } else {
      for (const event of events) service.queueEvent(event);
    }
  }
  const after = await settledMemory();
  const { queueDepth } = service.getMetrics();
  if (queueDepth !== EVENTS) throw new Error(`${queueDepth} events wait, not ${EVENTS}`);
  return perThing(before, after, EVENTS, textBytes);
}

async function openWindows(values: number): Promise<MemoryFigures> {
  const random = seededRandom(1);
  const windows = new WindowSet({ take: () => true, give: () => undefined }, 1_000);
  const before = await settledMemory();
  for (let span = 0; span < SPANS; span++) {
    for (let series = 0; series < SERIES; series++) {
      const id = seriesOf("performance", `metric_${series % 10}`, `{"endpoint":"/page/${series}"}`);
      const place = { startMs: span * SPAN_MS, endMs: (span + 1) * SPAN_MS };
      for (let at = 0; at < values; at++) windows.add(place, id, 1 + random.below(1_000_000) / 100, 1, 0);
    }
  }
  const after = await settledMemory();
  if (windows.size !== SPANS * SERIES) throw new Error(`${windows.size} windows are open`);
  return perThing(before, after, SPANS * SERIES, 0);
}

function perThing(
  before: NodeJS.MemoryUsage,
  after: NodeJS.MemoryUsage,
  things: number,
  textBytes: number,
): MemoryFigures {
  const per = (bytes: number): number => Math.round(bytes / things);
  return {
    heapBytes: per(after.heapUsed - before.heapUsed),
    rssBytes: per(after.rss - before.rss),
    textBytes: per(textBytes),
  };
}

if (import.meta.main) {
  const [what = "", values = "20"] = process.argv.slice(2);
  const figures = what === "windows" ? await openWindows(Number(values)) : await queuedEvents(what === "posted");
  console.log(JSON.stringify(figures));
  process.exit(0);
}
