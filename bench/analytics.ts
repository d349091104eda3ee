/**
 * What analytics costs. In process: `aggregate` events that become values, per second; `memory` of what waits and of open windows; `overload`
 * in memory mode; `size` of the batches in the log; `detect` patterns. `http`: a real server. Without a name: all.
 */

import { join } from "node:path";
import { parseArgs } from "node:util";
import { encodeBatch } from "../src/features/analytics/batch-record.ts";
import { readEvent } from "../src/features/analytics/event.ts";
import {
  type AnalyticsConfig,
  type AnalyticsEvent,
  EventBatchingService,
  type EventBatch,
} from "../src/features/analytics/index.ts";
import { type PreparedEvent, prepareEvent } from "../src/features/analytics/prepared-event.ts";
import { SeriesDetector } from "../src/features/analytics/series-detector.ts";
import { nextTurn } from "../src/kit/turn.ts";
import { eventSource, makeEvents, median } from "./analytics-events.ts";
import { httpCost } from "./analytics-http.ts";
import type { MemoryFigures } from "./analytics-memory.ts";

const USAGE = `bun bench/analytics.ts [aggregate | http | memory | overload | size | detect]… [options]
  --ack durable|memory   http: when a POST is answered (durable)
  --rounds N             aggregate, http, detect: rounds (aggregate and detect 9, http 3)
  --seconds N            http: length of a round (10)
  --settings JSON        http: further settings of the profile
  --profile DIR          http: the server writes CPU profiles there`;

const { values: asked, positionals } = parseArgs({
  args: process.argv.slice(2),
  allowPositionals: true,
  options: {
    ack: { type: "string", default: "durable" },
    rounds: { type: "string" },
    seconds: { type: "string", default: "10" },
    settings: { type: "string", default: "{}" },
    profile: { type: "string" },
    help: { type: "boolean", default: false },
  },
});

const source = eventSource(1);
const WARM_UP = 3;
const ROUNDS = Number(asked.rounds ?? 9);

const AGGREGATED = 500_000;
/** Different ones: more would measure the collector, which walks over them. */
const SAMPLES = 20_000;
/** Events between two turns of the event loop: five POSTs. */
const BURST = 500;

/** Takes one event in one of the ways that events come. */
type Taking = (service: EventBatchingService, event: AnalyticsEvent, json: string) => void;

function prepared(event: unknown, json: string): PreparedEvent {
  const ready = prepareEvent(event, json.length, () => json, Date.now());
  if (typeof ready === "string") throw new Error(ready);
  return ready;
}

const WAYS: Readonly<Record<string, Taking>> = {
  queueEvent: (service, event) => void service.queueEvent(event),
  "prepareEvent, take": (service, event, json) => void service.take(prepared(event, json)),
  "JSON.parse, prepareEvent, take": (service, _, json) => void service.take(prepared(JSON.parse(json), json)),
};

interface Contender {
  readonly ack: "memory" | "durable";
  readonly way: string;
  readonly take: Taking;
  readonly service: EventBatchingService;
  readonly perSecond: number[];
  readonly perCpuSecond: number[];
}

function contenders(): readonly Contender[] {
  return (["memory", "durable"] as const).flatMap((ack) =>
    Object.entries(WAYS).map(([way, take]) => {
      const service = new EventBatchingService(async () => undefined, { ack, samplingRates: {} });
      return { ack, way, take, service, perSecond: [], perCpuSecond: [] };
    }),
  );
}

async function aggregateCost(): Promise<void> {
  const events = makeEvents(SAMPLES, () => source.performance());
  const pairs = events.map((event) => [event, JSON.stringify(event)] as const);
  const all = contenders();
  for (let round = 0; round < WARM_UP + ROUNDS; round++) {
    for (const contender of all) await aggregateRound(contender, pairs, round >= WARM_UP);
  }
  console.log(`events aggregated per second, ${AGGREGATED} values of 50 series a round, ${ROUNDS} rounds in turns`);
  const rows = all.map(({ ack, way, service, perSecond, perCpuSecond }) => {
    const { eventsAggregated, batchesProcessed } = service.getMetrics();
    if (eventsAggregated !== AGGREGATED * (WARM_UP + ROUNDS)) throw new Error(`${eventsAggregated} were aggregated`);
    const [slowest, middle, fastest] = [Math.min(...perSecond), median(perSecond), Math.max(...perSecond)].map(
      Math.round,
    );
    const perCore = Math.round(median(perCpuSecond));
    return { ack, way, slowest, median: middle, fastest, "median per CPU second": perCore, batches: batchesProcessed };
  });
  console.table(rows);
}

async function aggregateRound(
  { service, take, perSecond, perCpuSecond }: Contender,
  pairs: readonly (readonly [AnalyticsEvent, string])[],
  counts: boolean,
): Promise<void> {
  Bun.gc(true);
  const [startMs, before] = [performance.now(), process.cpuUsage()];
  for (let turn = 0; turn < AGGREGATED / SAMPLES; turn++) {
    for (const [at, [event, json]] of pairs.entries()) {
      take(service, event, json);
      if (at % BURST === 0) await nextTurn();
    }
  }
  await service.flush();
  const { user, system } = process.cpuUsage(before);
  if (!counts) return;
  perSecond.push(AGGREGATED / ((performance.now() - startMs) / 1000));
  perCpuSecond.push(AGGREGATED / ((user + system) / 1e6));
}

async function memoryCost(): Promise<void> {
  const cases: Readonly<Record<string, readonly string[]>> = {
    "event queued by queueEvent": ["queued"],
    "event queued from a POST": ["posted"],
    "open window of 20 values": ["windows", "20"],
    "open window of 1,000 values": ["windows", "1000"],
    "open window of 2,000 values (sketch)": ["windows", "2000"],
  };
  const rows: Record<string, MemoryFigures> = {};
  for (const [name, args] of Object.entries(cases)) {
    const child = Bun.spawn([process.execPath, join(import.meta.dir, "analytics-memory.ts"), ...args], {
      stderr: "inherit",
    });
    rows[name] = JSON.parse(await new Response(child.stdout).text()) as MemoryFigures;
  }
  console.log("bytes of one of 100,000 queued mixed events, of 10,000 open windows; each case in a process of its own");
  console.table(rows);
}

const OVERLOAD_SECONDS = 8;
/** What the writer manages: a batch of 100 every 10 ms. */
const WRITE_MS = 10;
const BATCH = 100;
const OFFERED_PER_STORED = 10;
const TICK_MS = 10;

interface OverloadSetup {
  readonly name: string;
  /** Added to each event. */
  readonly paddingChars: number;
  readonly config: AnalyticsConfig;
}

async function overloadCost(): Promise<void> {
  const setups: readonly OverloadSetup[] = [
    { name: "140 B, 100,000 events", paddingChars: 0, config: {} },
    { name: "2 kB, 16 MiB", paddingChars: 1_900, config: { maxQueuedBytes: 16 * 1024 * 1024 } },
  ];
  console.log(
    `${OVERLOAD_SECONDS} s of ${OFFERED_PER_STORED} times what is written, memory mode; most of each while it lasted`,
  );
  for (const setup of setups) await overloadRun(setup);
}

async function overloadRun({ name, paddingChars, config }: OverloadSetup): Promise<void> {
  const written = { high: 0, normal: 0, low: 0 };
  const write = async (batches: readonly EventBatch[]): Promise<void> => {
    for (const { json } of batches.flatMap(({ events }) => events)) written[priorityOf(JSON.parse(json))]++;
    await Bun.sleep(WRITE_MS * batches.length);
  };
  const settings: AnalyticsConfig = { ack: "memory", samplingRates: {}, aggregate: [], maxBatchSize: BATCH, ...config };
  const service = new EventBatchingService(write, settings);
  const padding = "x".repeat(paddingChars);
  const offered = { high: 0, normal: 0, low: 0 };
  const most = { queuedEvents: 0, queuedMB: 0, heapMB: 0, rssMB: 0 };
  const startMs = performance.now();
  for (let sent = 0, elapsedMs = 0; elapsedMs < OVERLOAD_SECONDS * 1000; elapsedMs = performance.now() - startMs) {
    const due = (elapsedMs / WRITE_MS) * BATCH * OFFERED_PER_STORED;
    const events = makeEvents(Math.max(0, Math.floor(due - sent)), () => source.mixed());
    sent += events.length;
    for (const event of events) {
      // Fewer high ones than are written: of those none may be lost.
      const priority = event.type === "error" ? "normal" : priorityOf(event);
      offered[priority]++;
      service.queueEvent({ ...event, priority, data: paddingChars === 0 ? event.data : { ...event.data, padding } });
    }
    const { queueDepth, queuedBytes } = service.getMetrics();
    const { heapUsed, rss } = process.memoryUsage();
    most.queuedEvents = Math.max(most.queuedEvents, queueDepth);
    most.queuedMB = Math.max(most.queuedMB, queuedBytes / 1e6);
    most.heapMB = Math.max(most.heapMB, heapUsed / 1e6);
    most.rssMB = Math.max(most.rssMB, rss / 1e6);
    await Bun.sleep(TICK_MS);
  }
  await service.shutdown();
  const { droppedOverflow, eventsReceived, eventsProcessed } = service.getMetrics();
  const rounded = Object.fromEntries(Object.entries(most).map(([what, value]) => [what, Number(value.toFixed(1))]));
  console.log(name, rounded, { eventsReceived, eventsProcessed, droppedOverflow });
  const rows = (["high", "normal", "low"] as const).map((priority) => {
    const dropped = offered[priority] - written[priority];
    const share = `${((100 * dropped) / offered[priority]).toFixed(1)} %`;
    return { priority, offered: offered[priority], written: written[priority], dropped, share };
  });
  console.table(rows);
}

function priorityOf(event: unknown): "high" | "normal" | "low" {
  const read = readEvent(event);
  if (typeof read === "string") throw new Error(read);
  return read.priority;
}

const SIZED_EVENTS = 60_000;
/** What the store compresses at once. */
const RANGE_BYTES = 256 * 1024;
const SENT_PER_MS = 10;

interface SizeCase {
  readonly users: number;
  readonly config: AnalyticsConfig;
}

async function sizeCost(): Promise<void> {
  const cases: Readonly<Record<string, SizeCase>> = {
    mix: { users: 5_000, config: {} },
    "mix, all stored": { users: 5_000, config: { aggregate: [] } },
    "mix of 50 users": { users: 50, config: {} },
  };
  const rows: Record<string, unknown>[] = [];
  for (const [name, { users, config }] of Object.entries(cases)) {
    const source = eventSource(1, users);
    const events = makeEvents(SIZED_EVENTS, () => source.mixed());
    const lines = events.map((event) => `${JSON.stringify(event)}\n`);
    const raw = bytesOf(lines) / SIZED_EVENTS;
    rows.push({ events: name, batch: "none, JSON lines", ...sizes(lines, raw) });
    for (const maxBatchSize of [100, 500]) {
      const batches = await batchesOf(events, { ...config, maxBatchSize });
      for (const compression of ["none", "zstd"] as const) {
        const { texts, us } = encoded(batches, compression);
        rows.push({ events: name, batch: maxBatchSize, compression, ...sizes(texts, raw), "encode µs": us });
      }
    }
  }
  console.log(`bytes per event that came, of ${SIZED_EVENTS}; at rest: ${RANGE_BYTES / 1024} KiB compressed together`);
  console.table(rows);
}

/** As records, and the microseconds for each event. */
function encoded(batches: readonly EventBatch[], compression: "none" | "zstd") {
  const us: number[] = [];
  let texts: readonly string[] = [];
  for (let round = 0; round < WARM_UP + ROUNDS; round++) {
    const startMs = performance.now();
    texts = batches.map((batch, at) => encodeBatch(batch, compression, at * BATCH));
    if (round >= WARM_UP) us.push(((performance.now() - startMs) * 1000) / SIZED_EVENTS);
  }
  return { texts, us: Number(median(us).toFixed(2)) };
}

/** Exactly so many stored in each. */
async function batchesOf(events: readonly AnalyticsEvent[], config: AnalyticsConfig): Promise<readonly EventBatch[]> {
  const batches: EventBatch[] = [];
  let nowMs = 1_790_000_000_000;
  const clock = { nowMs: () => nowMs, monotonicMs: () => nowMs };
  const fixed = {
    ack: "memory",
    samplingRates: {},
    highPriorityFlushThreshold: 10_000,
    batchIntervalMs: 60_000,
  } as const;
  const write = async (some: readonly EventBatch[]): Promise<void> => void batches.push(...some);
  const service = new EventBatchingService(write, { ...fixed, ...config }, { clock });
  for (const [at, event] of events.entries()) {
    if (at % SENT_PER_MS === 0) nowMs++;
    service.queueEvent(event);
    if (service.getMetrics().queueDepth < (config.maxBatchSize ?? 0)) continue;
    await nextTurn();
    await nextTurn();
  }
  await service.shutdown();
  return batches;
}

function sizes(texts: readonly string[], rawPerEvent: number) {
  const perEvent = (bytes: number): number => Number((bytes / SIZED_EVENTS).toFixed(1));
  const [record, level1, level3] = [bytesOf(texts), atRest(texts, 1), atRest(texts, 3)].map(perEvent);
  const ratio = Number((rawPerEvent / (level1 ?? NaN)).toFixed(1));
  return { "record B": record, "at rest B, level 1": level1, "level 3": level3, "raw ÷ at rest": ratio };
}

function bytesOf(texts: readonly string[]): number {
  return texts.reduce((sum, text) => sum + Buffer.byteLength(text), 0);
}

function atRest(texts: readonly string[], level: number): number {
  const all = Buffer.from(texts.join(","));
  let bytes = 0;
  for (let at = 0; at < all.length; at += RANGE_BYTES) {
    const range = all.subarray(at, at + RANGE_BYTES);
    const { length } = Bun.zstdCompressSync(range, { level });
    // As the store does: what hardly shrinks is left as it is.
    bytes += length < range.length * 0.9 ? length : range.length;
  }
  return bytes;
}

const POINTS = 1_000_000;

function detectCost(): void {
  const points = new Float64Array(POINTS).map(() => 100 + 10 * gaussian());
  const ns: number[] = [];
  let told = 0;
  for (let round = 0; round < WARM_UP + ROUNDS; round++) {
    const detector = new SeriesDetector({ threshold: 0.8, history: 10, minimum: 3 });
    told = 0;
    const startMs = performance.now();
    for (const point of points) told += detector.observe(point).length;
    if (round >= WARM_UP) ns.push(((performance.now() - startMs) * 1e6) / POINTS);
  }
  console.log(`a Gaussian series of ${POINTS} points: ${median(ns).toFixed(0)} ns per point, ${told} detections`);
}

function gaussian(): number {
  return Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random());
}

const commands: Readonly<Record<string, () => void | Promise<void>>> = {
  aggregate: aggregateCost,
  memory: memoryCost,
  overload: overloadCost,
  size: sizeCost,
  detect: detectCost,
  http: () =>
    httpCost({
      ack: asked.ack === "memory" ? "memory" : "durable",
      rounds: Number(asked.rounds ?? 3),
      seconds: Number(asked.seconds),
      profileDir: asked.profile,
      settings: JSON.parse(asked.settings) as AnalyticsConfig,
    }),
};
if (asked.help) {
  console.log(USAGE);
  process.exit(0);
}
for (const name of positionals.length > 0 ? positionals : Object.keys(commands)) {
  const command = commands[name];
  if (command === undefined) throw new Error(USAGE);
  await command();
}
process.exit(0);
