/**
 * The server observes itself in a stream of its own: each second one `live.tick` record for every stream whose live queries did
 * something, template events as they happen, and each minute the templates as a whole. Counters belong to whoever counts; a
 * tick takes them and appends one commit for all streams. What could not be appended is told with the next tick. Nothing
 * here delays or fails a request, and nothing here is counted.
 */

import { Result } from "better-result";
import type { Engine } from "../../engine/engine.ts";
import type { Deadline } from "../../kit/deadlines.ts";
import { type EventLoopLag, type Lag, mergeLag, NO_LAG } from "../../kit/event-loop-lag.ts";
import { nextTurn } from "../../kit/turn.ts";
import { isJson } from "../../protocol/content-type.ts";
import type { Outcome } from "../../protocol/intents.ts";
import type { SplitRecords } from "../../protocol/json-records.ts";
import { BACKGROUND_TURN_MS } from "../../protocol/limits.ts";
import { type Retention, sameRetention } from "../../protocol/retention.ts";
import { type Commit, INTERNAL, isInternal, type StreamHead } from "../../protocol/stream.ts";
import type { TemplateEvent, TemplateSnapshot, TouchReport } from "../touch/index.ts";
import { MAX_APPEND_BYTES, MAX_STREAM_BYTES, MAX_UNTOLD_EVENTS, RECORDS_PER_LOOK } from "./limits.ts";
import { RecordText } from "./record-text.ts";
import {
  eventRecord,
  type FeatureTick,
  featureRecord,
  type Identity,
  snapshotRecords,
  type Stamp,
  stampOf,
  tickRecord,
} from "./records.ts";

/** What a tick asks: touch, or a stand-in in tests. `take` reads and resets. */
export interface TickSource {
  take(): Iterable<TouchReport>;
  snapshots(): Iterable<{ readonly id: number; readonly name: string; snapshot(): Iterable<TemplateSnapshot> }>;
}

/** Where the records go: the engine, or one that fails on purpose. */
export type TickLog = Pick<Engine, "record" | "createOwn" | "find" | "setProfile" | "retain">;

export interface LiveMetricsOptions {
  /** False: every method does nothing. */
  readonly enabled: boolean;
  readonly stream: string;
  readonly intervalMs: number;
  readonly snapshotIntervalMs: number;
  /** Templates per chunk of a snapshot. */
  readonly snapshotChunkSize: number;
  /** Age at which records go; the stream is bounded in bytes besides. */
  readonly retentionMs: number;
  /** Told after each successful append. Must not throw. */
  readonly onAppended: (appended: { readonly lastOffset: string; readonly stream: string }) => void;
}

export const LIVE_METRICS_DEFAULTS: LiveMetricsOptions = {
  enabled: true,
  stream: "live.metrics",
  intervalMs: 1_000,
  snapshotIntervalMs: 60_000,
  snapshotChunkSize: 200,
  retentionMs: 7 * 86_400_000,
  onAppended: () => undefined,
};

export interface LiveMetricsParts {
  readonly engine: Pick<Engine, "clock" | "deadlines" | "metrics">;
  readonly log: TickLog;
  readonly source: TickSource;
  /** What other features counted since the last tick; reads and resets. */
  readonly features?: () => Iterable<FeatureTick>;
  readonly lag: Pick<EventLoopLag, "take">;
  readonly identity: Identity;
  readonly onFault: (operation: string, cause: unknown) => void;
}

/** Why the stream cannot be used as it is. */
export interface LiveMetricsVerdict {
  readonly code:
    | "live_metrics_stream_content_type_mismatch"
    | "live_metrics_stream_closed"
    | "live_metrics_stream_refused";
  readonly message: string;
}

interface Entry {
  readonly key: string;
  readonly record: object;
}

export class LiveMetricsV2 {
  /** Completed by the defaults. */
  readonly options: LiveMetricsOptions;
  readonly #parts: LiveMetricsParts;
  readonly #retention: Retention;
  readonly #counters;
  /** Intervals that are not in the log yet, by stream. */
  #untold = new Map<number, TouchReport>();
  #untoldLag = NO_LAG;
  /** Events that are not in the log yet. */
  #events: Entry[] = [];
  #timers: Deadline[] = [];
  #running = false;
  #ready = false;
  /** One piece of work at a time, in order. */
  #work: Promise<void> = Promise.resolve();
  /** Operations that wait for their turn: each at most once. */
  readonly #waiting = new Set<string>();
  #lastFault = "";
  /** The records of one append; reused by the next. */
  readonly #text = new RecordText();

  constructor(parts: LiveMetricsParts, options: Partial<LiveMetricsOptions> = {}) {
    this.#parts = parts;
    this.options = { ...LIVE_METRICS_DEFAULTS, ...options };
    this.#retention = { maxAgeMs: this.options.retentionMs, maxBytes: MAX_STREAM_BYTES };
    const { metrics } = parts.engine;
    this.#counters = {
      records: metrics.counter("streams_live_metrics_records_total", "Records appended to the metrics stream."),
      failures: metrics.counter("streams_live_metrics_failures_total", "Appends that failed; told with the next tick."),
      dropped: metrics.counter("streams_live_metrics_dropped_total", "Events given up while appends kept failing."),
    };
  }

  /** Begins to tick. Idempotent. */
  start(): void {
    if (!this.options.enabled || this.#running) return;
    this.#running = true;
    this.#enqueue("preparing the metrics stream", async () => {
      await this.#ensure();
    });
    this.#every(this.options.intervalMs, () => this.#tickSoon());
    this.#every(this.options.snapshotIntervalMs, () =>
      this.#enqueue("a snapshot of templates", () => this.#snapshot()),
    );
  }

  /** Clears every timer and waits for what runs. Idempotent. */
  async stop(): Promise<void> {
    this.#running = false;
    for (const timer of this.#timers.splice(0)) timer.cancel();
    await this.#work;
  }

  /** Makes the stream what it has to be: JSON, internal, with its retention. A verdict when it is something else. */
  async ensureStreamResult(): Promise<Result<void, LiveMetricsVerdict>> {
    if (!this.options.enabled) return Result.ok(undefined);
    const { stream: name } = this.options;
    const { log } = this.#parts;
    let head = await log.find(name, "look");
    if ("kind" in head) {
      await log.createOwn(name, this.#retention);
      head = await log.find(name, "look");
    }
    if ("kind" in head) return refused(`it cannot be created: ${head.kind}`);
    return this.#adopt(head);
  }

  /** Appends one template event at once, under `<stream>|<type>`. */
  emitLifecycle(stream: string, event: TemplateEvent): void {
    if (!this.options.enabled) return;
    if (this.#events.length >= MAX_UNTOLD_EVENTS) {
      this.#counters.dropped.add();
      return;
    }
    const record = eventRecord(stream, event, this.#stamp());
    this.#events.push({ key: `${stream}|${event.type}`, record });
    // The events of one request come in one turn, and go in one append.
    this.#enqueue("appending template events", () => this.#flushEvents());
  }

  /** Takes what was counted and appends it. The timer does this; public for tests. */
  async tick(): Promise<void> {
    if (!this.options.enabled) return;
    this.#tickSoon();
    await this.#work;
  }

  /** Appends what templates are active. The timer does this; public for tests. */
  async snapshot(): Promise<void> {
    if (!this.options.enabled) return;
    this.#enqueue("a snapshot of templates", () => this.#snapshot());
    await this.#work;
  }

  /** Streams whose counters wait here to be told again. */
  getMemoryStats(): { readonly counterStreams: number } {
    return { counterStreams: this.#untold.size };
  }

  /** Follows the commit feed: what a deleted stream had counted is told to nobody. */
  onCommit(commit: Commit): void {
    if (this.#untold.size === 0) return;
    for (const { id, deletion } of commit.changes) if (deletion !== undefined) this.#untold.delete(id);
  }

  #stamp(): Stamp {
    return stampOf(this.#parts.identity, this.#parts.engine.clock.nowMs());
  }

  #every(intervalMs: number, action: () => void): void {
    const { deadlines } = this.#parts.engine;
    const arm = (): void => {
      const timer = deadlines.after(intervalMs, () => {
        this.#timers.splice(this.#timers.indexOf(timer), 1);
        action();
        arm();
      });
      this.#timers.push(timer);
    };
    arm();
  }

  /** In order, one at a time. What waits already is not asked for twice: its counts wait where they are counted. */
  #enqueue(operation: string, work: () => Promise<void>): void {
    if (this.#waiting.has(operation)) return;
    this.#waiting.add(operation);
    this.#work = this.#work
      .then(() => {
        this.#waiting.delete(operation);
        return work();
      })
      .catch((cause: unknown) => this.#parts.onFault(operation, cause));
  }

  #tickSoon(): void {
    this.#enqueue("a tick of the metrics stream", () => this.#tick());
  }

  async #tick(): Promise<void> {
    const stamp = this.#stamp();
    const lag = (this.#untoldLag = mergeLag(this.#untoldLag, this.#parts.lag.take()));
    const events = [...this.#events.splice(0), ...this.#featureEntries(stamp)];
    const told = new Set<Entry>();
    await this.#append(
      this.#due(events),
      (item) => ("activity" in item ? this.#tickEntry(item, lag, stamp) : item),
      (items) => {
        for (const item of items) {
          if ("activity" in item) this.#untold.delete(item.id);
          else told.add(item);
        }
      },
    );
    this.#keepEvents(events, told);
    if (this.#untold.size === 0) this.#untoldLag = NO_LAG;
  }

  /** Counts that were taken are told as events are: until they are. */
  #featureEntries(stamp: Stamp): Entry[] {
    const ticks = [...(this.#parts.features?.() ?? [])].slice(0, MAX_UNTOLD_EVENTS - this.#events.length);
    return ticks.map((tick) => ({ key: `${tick.stream}|${tick.type}`, record: featureRecord(tick, stamp) }));
  }

  #tickEntry(report: TouchReport, lag: Lag, stamp: Stamp): Entry {
    return { key: `${report.stream}|live.tick`, record: tickRecord(report, lag, stamp) };
  }

  /** What a tick has to tell: events, what was counted since the last tick, and what could not be told before. */
  *#due(events: readonly Entry[]): Generator<Entry | TouchReport> {
    yield* events;
    const earlier = new Map(this.#untold);
    for (const report of this.#parts.source.take()) {
      const before = earlier.get(report.id);
      earlier.delete(report.id);
      before?.activity.add(report.activity);
      const whole = before === undefined ? report : { ...report, activity: before.activity };
      this.#untold.set(whole.id, whole);
      yield whole;
    }
    yield* earlier.values();
  }

  async #flushEvents(): Promise<void> {
    const events = this.#events.splice(0);
    const told = new Set<Entry>();
    await this.#append(
      events,
      (entry) => entry,
      (entries) => entries.forEach((entry) => told.add(entry)),
    );
    this.#keepEvents(events, told);
  }

  /** What is not told goes with the next tick, before what came since. */
  #keepEvents(events: readonly Entry[], told: ReadonlySet<Entry>): void {
    this.#events.unshift(...events.filter((entry) => !told.has(entry)));
  }

  async #snapshot(): Promise<void> {
    await this.#append(
      this.#snapshots(),
      (entry) => entry,
      () => undefined,
    );
  }

  /** One snapshot after the other; a broken stream does not stop the others. */
  *#snapshots(): Generator<Entry> {
    const { source, onFault } = this.#parts;
    const stamp = this.#stamp();
    for (const active of source.snapshots()) {
      const { id, name: stream } = active;
      let templates: TemplateSnapshot[] = [];
      try {
        templates = [...active.snapshot()];
      } catch (cause) {
        onFault(`a snapshot of the templates of ${stream}`, cause);
        continue;
      }
      for (const record of snapshotRecords({ stream, id, templates }, this.options.snapshotChunkSize, stamp)) {
        yield { key: `${stream}|${record.type}`, record };
      }
    }
  }

  /**
   * Appends what `toEntry` makes of the items, in turns of their own and in as few commits as their bounds allow. `told` hears
   * which are durable. Ends with the first append that fails; never rejects.
   */
  async #append<T>(
    items: Iterable<T>,
    toEntry: (item: T) => Entry,
    told: (items: readonly T[]) => void,
  ): Promise<void> {
    const { clock } = this.#parts.engine;
    let batch: T[] = [];
    let keys: string[] = [];
    const flush = async (): Promise<boolean> => {
      const isDone = await this.#record(this.#text.take(), keys);
      if (isDone) told(batch);
      [batch, keys] = [[], []];
      return isDone;
    };
    let endMs = clock.monotonicMs() + BACKGROUND_TURN_MS;
    for (const item of items) {
      const { key, record } = toEntry(item);
      this.#text.add(JSON.stringify(record));
      batch.push(item);
      keys.push(key);
      if (this.#text.bytes >= MAX_APPEND_BYTES && !(await flush())) return;
      if (batch.length % RECORDS_PER_LOOK > 0 || clock.monotonicMs() < endMs) continue;
      await nextTurn();
      endMs = clock.monotonicMs() + BACKGROUND_TURN_MS;
    }
    if (batch.length > 0) await flush();
  }

  /** One commit; false when it failed, which is counted, and said once. */
  async #record(body: SplitRecords, keys: readonly string[]): Promise<boolean> {
    const { log } = this.#parts;
    const { stream, onAppended } = this.options;
    try {
      if (await this.#ensure()) {
        const outcome = await log.record(stream, body, keys);
        if (outcome.kind === "appended") {
          this.#counters.records.add(keys.length);
          this.#lastFault = "";
          onAppended({ lastOffset: outcome.offset, stream });
          return true;
        }
        // Deleted, closed or replaced meanwhile: looked at again before the next append.
        this.#ready = false;
        this.#complain(`the append was refused: ${refusalOf(outcome)}`);
      }
    } catch (cause) {
      this.#complain(cause instanceof Error ? cause.message : String(cause));
    }
    this.#counters.failures.add();
    return false;
  }

  async #ensure(): Promise<boolean> {
    if (this.#ready) return true;
    const result = await this.ensureStreamResult();
    this.#ready = result.isOk();
    if (result.isErr()) this.#complain(`${result.error.code}: ${result.error.message}`);
    return this.#ready;
  }

  async #adopt(head: StreamHead): Promise<Result<void, LiveMetricsVerdict>> {
    const { log } = this.#parts;
    const { name, contentType } = head.config;
    if (!isJson(contentType)) {
      const message = `the stream ${name} holds ${contentType}; delete it, or name another one for the metrics`;
      return Result.err({ code: "live_metrics_stream_content_type_mismatch", message });
    }
    if (head.closed) {
      const message = `the stream ${name} is closed; delete it, and it is made anew`;
      return Result.err({ code: "live_metrics_stream_closed", message });
    }
    const outcomes: Outcome[] = [];
    const { id, retention } = head;
    const wasInternal = isInternal(head);
    if (!sameRetention(retention, this.#retention)) outcomes.push(await log.retain(name, this.#retention));
    if (!wasInternal) outcomes.push(await log.setProfile(name, id, { kind: INTERNAL, config: {} }));
    const failed = outcomes.find(({ kind }) => kind === "rejected");
    return failed === undefined ? Result.ok(undefined) : refused(refusalOf(failed));
  }

  /** The same trouble is said once, not every second. */
  #complain(reason: string): void {
    if (reason === this.#lastFault) return;
    this.#lastFault = reason;
    this.#parts.onFault(`appending to ${this.options.stream}`, new Error(reason));
  }
}

function refusalOf(outcome: Outcome): string {
  return outcome.kind === "rejected" ? outcome.rejection.kind : outcome.kind;
}

function refused(message: string): Result<void, LiveMetricsVerdict> {
  return Result.err({ code: "live_metrics_stream_refused", message });
}
