/**
 * The analytics stage of one stream: events come in, batches go into the stream, and the chain of window stages follows what is durable
 * there. Everything that is derived can be derived again from the stream, so a crash loses nothing that was acknowledged.
 */

import type { Engine } from "../../engine/engine.ts";
import type { Deadline } from "../../kit/deadlines.ts";
import { joinRecords } from "../../protocol/json-records.ts";
import type { Rejection } from "../../protocol/verdicts.ts";
import { BATCH_TYPE, decodeBatch, encodeBatch } from "./batch-record.ts";
import type { EventBatch } from "./batch-writer.ts";
import { DerivedStream } from "./derived-stream.ts";
import {
  type Admitted,
  type BatchingHealth,
  type BatchingMetrics,
  EventBatchingService,
} from "./event-batching-service.ts";
import type { SharedBudget } from "./event-queue.ts";
import { RETRY_MS, ROLLUP_DELAY_MS } from "./limits.ts";
import { PatternWatch } from "./pattern-watch.ts";
import type { PreparedEvent } from "./prepared-event.ts";
import type { AnalyticsSettings } from "./settings.ts";
import { noTick, type StageCounters } from "./stage-counters.ts";
import { decodeCheckpoint, decodeWindow, type PatternRecord } from "./window-record.ts";
import { type PartialWindow, type SeriesBudget, type Span, spanAt } from "./window-set.ts";
import { keyOf, type StageParts, WindowStage } from "./window-stage.ts";

/** On the stream while windows are open: a start takes such streams up again. */
export const OPEN_ATTRIBUTE = "analytics/open";

/** Up to which write of windows patterns are told. */
const PATTERNS_ATTRIBUTE = "analytics/patterns";

const HOUR_MS = 3_600_000;
const DAY_MS = 24 * HOUR_MS;
/** Weeks begin on Mondays, UTC; 1970-01-01 was a Thursday. */
const MONDAY_MS = 4 * DAY_MS;
/** Clocks and queues between an event and its batch. */
const WATERMARK_SLACK_MS = 60_000;
const PATTERN_TYPE = "analytics.pattern";

export interface Level {
  readonly suffix: string;
  /** Null: as the settings say. */
  readonly sizeMs: number | null;
  readonly offsetMs: number;
}

export const LEVELS: readonly Level[] = [
  { suffix: "windows", sizeMs: null, offsetMs: 0 },
  { suffix: "rollups/1h", sizeMs: HOUR_MS, offsetMs: 0 },
  { suffix: "rollups/1d", sizeMs: DAY_MS, offsetMs: 0 },
  { suffix: "rollups/1w", sizeMs: 7 * DAY_MS, offsetMs: MONDAY_MS },
];

const queueFull: Rejection = { kind: "overloaded", reason: "too many events wait to be written" };

export interface AnalyticsStreamParts {
  readonly engine: Engine;
  readonly queueBudget: SharedBudget;
  readonly seriesBudget: SeriesBudget;
  readonly counters: StageCounters;
  readonly hash: (text: string) => bigint;
  readonly onFault: (operation: string, cause: unknown) => void;
}

export class AnalyticsStream {
  readonly id: number;
  readonly name: string;
  readonly batching: EventBatchingService;
  readonly stages: readonly WindowStage[];
  readonly #parts: AnalyticsStreamParts;
  readonly #watch: PatternWatch;
  readonly #patterns: DerivedStream;
  readonly #deadLetters: DerivedStream;
  /** Patterns that are not told yet, and up to which write of windows they were seen. */
  #untold: PatternRecord[] = [];
  #seenThrough = 0;
  #timer: Deadline | null = null;
  #timerDueMs = Infinity;
  /** Closing of windows, one at a time. */
  #work: Promise<void> | null = null;
  #failures = 0;
  #failure = "";
  #tick = noTick();
  #lastWriteMs: number;
  #isMarked = false;
  #stopped = false;

  private constructor(id: number, name: string, settings: AnalyticsSettings, parts: AnalyticsStreamParts) {
    const { engine, queueBudget, seriesBudget, hash, onFault } = parts;
    this.id = id;
    this.name = name;
    this.#parts = parts;
    this.#lastWriteMs = engine.clock.monotonicMs();
    this.#watch = new PatternWatch(settings);
    this.#patterns = new DerivedStream(engine, this, "patterns");
    this.#deadLetters = new DerivedStream(engine, this, "dead-letter");
    this.batching = new EventBatchingService((batches) => this.#write(batches), settings, {
      clock: engine.clock,
      deadlines: engine.deadlines,
      random: engine.random,
      hash,
      queueBudget,
      seriesBudget,
      onDeadLetter: ({ json }, reason) => void this.writeDeadLetters([{ json, reason }]),
      onError: (cause) => onFault(`a batch of ${name}`, cause),
    });
    this.stages = LEVELS.map((level, at) => new WindowStage(this.#stageParts(level, at)));
  }

  /** The stage of a stream as the log says it was. @throws CannotRead */
  static async open(
    head: { readonly id: number; readonly name: string },
    settings: AnalyticsSettings,
    parts: AnalyticsStreamParts,
  ): Promise<AnalyticsStream> {
    const stream = new AnalyticsStream(head.id, head.name, settings, parts);
    await stream.#recover();
    stream.#arm();
    return stream;
  }

  get settings(): AnalyticsSettings {
    return this.batching.getConfig();
  }

  /** Lets a request in, or says why not. In durable mode it has room for all of it then: what is taken is a promise. */
  admit(events: readonly PreparedEvent[], mustPromise: boolean): Admitted | Rejection {
    // A server that shuts down still takes what comes, until it stops: `stop` writes it.
    const refusal = this.#parts.engine.refusals().find(({ kind }) => kind !== "closing");
    if (refusal !== undefined) return refusal;
    return this.batching.admit(events, mustPromise || this.settings.ack === "durable") ?? queueFull;
  }

  /** Settings that changed; they hold at once, a window's size from its next window on. */
  configure(settings: AnalyticsSettings): void {
    this.batching.updateConfig(settings);
    this.#watch.configure(settings);
    for (const stage of this.stages) stage.configure();
    this.#arm();
  }

  /** Appends events that are none, with the reason. False when that failed, which is said. */
  async writeDeadLetters(letters: readonly { readonly json: string; readonly reason: string }[]): Promise<boolean> {
    const atMs = this.#parts.engine.clock.nowMs();
    const texts = letters.map(
      ({ json, reason }) =>
        `${JSON.stringify({ type: "analytics.dead-letter", at: atMs, reason }).slice(0, -1)},"event":${json}}`,
    );
    try {
      await this.#deadLetters.append(
        texts,
        texts.map(() => "analytics.dead-letter"),
      );
      this.#parts.counters.deadLetters.add(letters.length);
      return true;
    } catch (cause) {
      this.#parts.onFault(`dead letters of ${this.name}`, cause);
      return false;
    }
  }

  /** What it did since it was asked last; null when that is nothing. */
  takeTick(): Readonly<Record<string, number>> | null {
    const tick = this.#tick;
    if (Object.values(tick).every((count) => count === 0)) return null;
    this.#tick = noTick();
    const { queueDepth, queuedBytes } = this.batching.getMetrics();
    return { ...tick, queueDepth, queuedBytes, openSeries: this.openSeries };
  }

  /** Whether batches and windows are written, and if not why. */
  health(): BatchingHealth {
    const { healthy, errors } = this.batching.health();
    return this.#failures === 0 ? { healthy, errors } : { healthy: false, errors: [...errors, this.#failure] };
  }

  /** What it did and holds. */
  getMetrics(): BatchingMetrics {
    return { ...this.batching.getMetrics(), activeWindows: this.stages[0]?.size ?? 0 };
  }

  /** Whether nothing came for so long that only rollups wait: the log has all that it holds. */
  isIdle(idleMs: number): boolean {
    const isQuiet = this.#parts.engine.clock.monotonicMs() - this.#lastWriteMs >= idleMs;
    return isQuiet && this.#work === null && this.stages[0]?.size === 0 && this.batching.isEmpty;
  }

  /** When the next window expires; Infinity when none is open. */
  dueMs(): number {
    return this.stages.reduce((earliestMs, stage) => Math.min(earliestMs, stage.dueMs()), Infinity);
  }

  /** Series in open windows of all levels. */
  get openSeries(): number {
    return this.stages.reduce((sum, { size }) => sum + size, 0);
  }

  /** Ends it: what is queued is written first, unless the stream is gone. Never rejects. */
  async stop(why: "closing" | "gone"): Promise<void> {
    try {
      if (why === "closing") await this.batching.flush();
    } catch (cause) {
      this.#parts.onFault(`the last events of ${this.name}`, cause);
    }
    this.#stopped = true;
    this.batching.stop(why === "gone" ? "the stream is gone" : "the stage was closed");
    this.#timer?.cancel();
    await this.#work;
    for (const stage of this.stages) stage.clear();
  }

  #stageParts({ suffix, sizeMs, offsetMs }: Level, at: number): StageParts {
    const { engine, seriesBudget, counters } = this.#parts;
    const isFirst = at === 0;
    return {
      engine,
      target: new DerivedStream(engine, this, suffix),
      attribute: checkpointOf(LEVELS[at]),
      source: {
        decode: isFirst ? decodeBatchWindows : decodeWindowPart,
        watermarkMs: isFirst ? (nowMs) => this.#watermark(nowMs) : () => this.stages[at - 1]?.watermarkMs ?? 0,
      },
      // Batches hold windows of the size that was set when they were measured.
      spanOf: (part: Span) => (sizeMs === null ? part : spanAt(part.startMs, sizeMs, offsetMs)),
      delayMs: () => this.settings.allowedLatenessMs + at * ROLLUP_DELAY_MS,
      maxValues: () => this.settings.maxValuesPerWindow,
      percentiles: () => this.settings.percentilesToCalculate,
      budget: seriesBudget,
      observe: isFirst ? (windows) => this.#watch.observe(windows) : null,
      onWritten: (windows, from, { patterns, number }) => {
        counters.windows.add(windows.length);
        this.#tick.windows += windows.length;
        this.#tellPatterns(patterns, number);
        for (const [offset, part] of windows.entries())
          this.stages[at + 1]?.merge([part], from.streamId, from.seq + offset);
      },
    };
  }

  /** Windows of later batches begin at this time at the earliest. */
  #watermark(nowMs: number): number {
    const { maxLatenessMs, aggregationWindowMs } = this.settings;
    const earliestMs = spanAt(nowMs - maxLatenessMs - WATERMARK_SLACK_MS, aggregationWindowMs).startMs;
    return Math.min(earliestMs, this.batching.earliestWindowMs());
  }

  /** One record per batch, all in one commit. Rejects as `WriteBatches` says. */
  async #write(batches: readonly EventBatch[]): Promise<void> {
    const { engine, counters } = this.#parts;
    const nowMs = engine.clock.nowMs();
    const texts = batches.map((batch) => encodeBatch(batch, this.settings.compression, nowMs));
    const keys = batches.map(() => BATCH_TYPE);
    // Windows open with it: a start has to find the stream.
    const isFirst = !this.#isMarked && batches.some(({ windows }) => windows.length > 0);
    const note = isFirst ? { id: this.id, attributes: new Map([[OPEN_ATTRIBUTE, "1"]]) } : null;
    const outcome = await engine.record(this.name, joinRecords(texts), keys, { id: this.id, note });
    if (outcome.kind !== "appended") {
      const why = outcome.kind === "rejected" ? outcome.rejection.kind : outcome.kind;
      if (why !== "overloaded" && why !== "disk-full" && why !== "closing") this.batching.stop(`the stream is ${why}`);
      throw new Error(`the batch was refused: ${why}`);
    }
    if (isFirst) this.#isMarked = true;
    this.#lastWriteMs = engine.clock.monotonicMs();
    const from = outcome.next - batches.length;
    for (const [at, { counts, windows }] of batches.entries()) {
      counters.count(counts, this.#tick);
      this.stages[0]?.merge(windows, this.id, from + at);
    }
    this.#arm();
  }

  async #unmark(): Promise<void> {
    if (!this.#isMarked || this.openSeries > 0) return;
    this.#isMarked = false;
    await this.#parts.engine.annotate(this.id, new Map([[OPEN_ATTRIBUTE, null]]));
  }

  #tellPatterns(patterns: readonly PatternRecord[], number: number): void {
    this.#untold.push(...patterns);
    this.#seenThrough = number;
  }

  async #writePatterns(): Promise<void> {
    const patterns = this.#untold;
    if (patterns.length === 0) return;
    const texts = patterns.map(({ type, ...pattern }) =>
      JSON.stringify({ type: PATTERN_TYPE, pattern: type, ...pattern }),
    );
    const keys = patterns.map(({ eventType, eventKey }) => keyOf(eventType, eventKey));
    await this.#patterns.append(texts, keys, new Map([[PATTERNS_ATTRIBUTE, String(this.#seenThrough)]]));
    this.#parts.counters.patterns.add(texts.length);
    this.#tick.patterns += texts.length;
    this.#untold = this.#untold.slice(texts.length);
  }

  /** One timer: for the next window that expires. */
  #arm(): void {
    if (this.#stopped || this.#work !== null || this.#failures > 0) return;
    const dueMs = this.dueMs();
    if (this.#timer !== null && this.#timerDueMs <= dueMs) return;
    this.#timer?.cancel();
    this.#timer = null;
    if (dueMs === Infinity) return;
    this.#wakeAfter(Math.max(1, dueMs - this.#parts.engine.clock.nowMs()));
    this.#timerDueMs = dueMs;
  }

  #wakeAfter(delayMs: number): void {
    this.#timer = this.#parts.engine.deadlines.after(delayMs, () => {
      this.#timer = null;
      this.#work = this.#closeExpired();
    });
  }

  /** Never rejects: what fails is tried again later. */
  async #closeExpired(): Promise<void> {
    try {
      for (const stage of this.stages) await stage.closeExpired();
      await this.#writePatterns();
      await this.#unmark();
      this.#failures = 0;
    } catch (cause) {
      if (this.#failures++ === 0) this.#parts.onFault(`closing windows of ${this.name}`, cause);
      this.#failure = cause instanceof Error ? cause.message : String(cause);
    }
    this.#work = null;
    if (this.#failures === 0) this.#arm();
    else if (!this.#stopped) this.#wakeAfter(Math.min(RETRY_MS.last, RETRY_MS.first * 2 ** (this.#failures - 1)));
  }

  async #recover(): Promise<void> {
    const attributes = await this.#parts.engine.attributes(this.id);
    this.#isMarked = attributes.has(OPEN_ATTRIBUTE);
    let sourceId: number | null = this.id;
    for (const [at, stage] of this.stages.entries()) {
      const checkpoint = decodeCheckpoint(attributes.get(checkpointOf(LEVELS[at])));
      await stage.recover(sourceId, checkpoint, (windows) => void this.#watch.observe(windows));
      // What was seen in the last windows, when the process ended before it was told.
      const told = Number(attributes.get(PATTERNS_ATTRIBUTE) ?? 0);
      if (at === 0 && checkpoint !== null && checkpoint.number > told)
        this.#tellPatterns(checkpoint.patterns, checkpoint.number);
      // It may have told nothing, or what it told was deleted.
      sourceId = (await stage.target.find())?.head.id ?? null;
    }
  }
}

function checkpointOf(level: Level | undefined): string {
  return `analytics/${level?.suffix ?? ""}`;
}

function decodeBatchWindows(text: string): readonly PartialWindow[] {
  return decodeBatch(JSON.parse(text))?.windows ?? [];
}

function decodeWindowPart(text: string): readonly PartialWindow[] {
  const record = decodeWindow(JSON.parse(text));
  return record === null ? [] : [record.part];
}
