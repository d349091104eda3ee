/**
 * The server observes itself in a stream of its own: each second one `live.tick` record for every stream whose live queries did
 * something, template events as they happen, and each minute the templates as a whole. Counters belong to whoever counts; a
 * tick takes them and appends one commit for all streams. What could not be appended is told with the next tick. Nothing
 * here delays or fails a request, and nothing here is counted.
 */

import { Result } from "better-result";
import type { Engine } from "../../engine/engine.ts";
import { utf8 } from "../../kit/bytes.ts";
import type { Deadline } from "../../kit/deadlines.ts";
import { type EventLoopLag, mergeLag, NO_LAG } from "../../kit/event-loop-lag.ts";
import { nextTurn } from "../../kit/turn.ts";
import { isJson } from "../../protocol/content-type.ts";
import type { Outcome, RecordIntent } from "../../protocol/intents.ts";
import { BACKGROUND_TURN_MS } from "../../protocol/limits.ts";
import { type Retention, sameRetention } from "../../protocol/retention.ts";
import { type Commit, INTERNAL, isInternal, type StreamHead } from "../../protocol/stream.ts";
import { mergeActivity, type TemplateEvent, type TemplateSnapshot, type TouchReport } from "../touch/index.ts";
import { MAX_APPEND_BYTES, MAX_STREAM_BYTES, MAX_UNTOLD_EVENTS, RECORDS_PER_LOOK, SNAPSHOT_RECORDS } from "./limits.ts";
import { eventRecord, type Identity, snapshotRecords, tickRecord } from "./records.ts";

/** What a tick asks: touch, or a stand-in in tests. `take` reads and resets. */
export interface TickSource {
  take(): Iterable<TouchReport>;
  snapshots(): Iterable<{ readonly id: number; readonly name: string; snapshot(): Iterable<TemplateSnapshot> }>;
}

/** Where the records go: the engine, or one that fails on purpose. */
export type TickLog = Pick<Engine, "record" | "create" | "find" | "setProfile" | "retain">;

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
  readonly lag: Pick<EventLoopLag, "start" | "stop" | "take">;
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

type Appends = RecordIntent["appends"][number][];

export class LiveMetricsV2 {
  readonly #options: LiveMetricsOptions;
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
  #ticking = false;
  #flushing = false;
  #lastFault = "";

  constructor(parts: LiveMetricsParts, options: Partial<LiveMetricsOptions> = {}) {
    this.#parts = parts;
    this.#options = { ...LIVE_METRICS_DEFAULTS, ...options };
    this.#retention = { maxAgeMs: this.#options.retentionMs, maxBytes: MAX_STREAM_BYTES };
    const { metrics } = parts.engine;
    this.#counters = {
      ticks: metrics.counter("streams_live_metrics_ticks_total", "Ticks that had something to tell."),
      records: metrics.counter("streams_live_metrics_records_total", "Records appended to the metrics stream."),
      failures: metrics.counter("streams_live_metrics_failures_total", "Appends that failed; told with the next tick."),
      dropped: metrics.counter("streams_live_metrics_dropped_total", "Events given up while appends kept failing."),
    };
  }

  /** Begins to tick. Idempotent. */
  start(): void {
    if (!this.#options.enabled || this.#running) return;
    this.#running = true;
    this.#parts.lag.start();
    this.#enqueue("preparing the metrics stream", async () => {
      await this.#ensure();
    });
    this.#every(this.#options.intervalMs, () => this.#tickSoon());
    this.#every(this.#options.snapshotIntervalMs, () =>
      this.#enqueue("a snapshot of templates", () => this.#snapshot()),
    );
  }

  /** Clears every timer and waits for what runs. Idempotent. */
  async stop(): Promise<void> {
    this.#running = false;
    this.#parts.lag.stop();
    for (const timer of this.#timers.splice(0)) timer.cancel();
    await this.#work;
  }

  /** Makes the stream what it has to be: JSON, internal, with its retention. A verdict when it is something else. */
  async ensureStreamResult(): Promise<Result<void, LiveMetricsVerdict>> {
    if (!this.#options.enabled) return Result.ok(undefined);
    const { stream: name } = this.#options;
    const { log } = this.#parts;
    let head = await log.find(name, "look");
    if ("kind" in head) {
      await log.create({
        name,
        contentType: "application/json",
        expiry: { kind: "never" },
        retention: this.#retention,
        close: false,
        body: new Uint8Array(),
        key: null,
        fork: null,
      });
      head = await log.find(name, "look");
    }
    if ("kind" in head) return refused(`it cannot be created: ${head.kind}`);
    return this.#adopt(head);
  }

  /** Appends one template event at once, under `<stream>|<type>`. */
  emitLifecycle(stream: string, event: TemplateEvent): void {
    if (!this.#options.enabled) return;
    if (this.#events.length >= MAX_UNTOLD_EVENTS) {
      this.#counters.dropped.add();
      return;
    }
    const record = eventRecord(stream, event, this.#parts.identity, this.#parts.engine.clock.nowMs());
    this.#events.push({ key: `${stream}|${event.type}`, record });
    if (this.#flushing) return;
    // The events of one request come in one turn, and go in one append.
    this.#flushing = true;
    this.#enqueue("appending template events", async () => {
      this.#flushing = false;
      await this.#flushEvents();
    });
  }

  /** Takes what was counted and appends it. The timer does this; public for tests. */
  async tick(): Promise<void> {
    if (!this.#options.enabled) return;
    this.#tickSoon();
    await this.#work;
  }

  /** Appends what templates are active. The timer does this; public for tests. */
  async snapshot(): Promise<void> {
    if (!this.#options.enabled) return;
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

  #enqueue(operation: string, work: () => Promise<void>): void {
    this.#work = this.#work.then(work).catch((cause: unknown) => this.#parts.onFault(operation, cause));
  }

  /** While a tick is slow the next ones join it: their counts wait where they are counted. */
  #tickSoon(): void {
    if (this.#ticking) return;
    this.#ticking = true;
    this.#enqueue("a tick of the metrics stream", async () => {
      this.#ticking = false;
      await this.#tick();
    });
  }

  async #tick(): Promise<void> {
    await this.#collect();
    const events = this.#events.splice(0);
    const reports = [...this.#untold.values()];
    if (reports.length + events.length === 0) return;
    this.#counters.ticks.add();
    const { identity, engine } = this.#parts;
    const nowMs = engine.clock.nowMs();
    const lag = this.#untoldLag;
    const told = await this.#append([...events, ...reports], (item) => {
      if (!("activity" in item)) return item;
      return { key: `${item.stream}|live.tick`, record: tickRecord(item, lag, identity, nowMs) };
    });
    this.#keepEvents(events, told);
    for (const report of reports) if (told.has(report)) this.#untold.delete(report.id);
    if (this.#untold.size === 0) this.#untoldLag = NO_LAG;
  }

  /** Adds what was counted since the last tick to what could not be told then. */
  async #collect(): Promise<void> {
    const { source, lag, engine } = this.#parts;
    this.#untoldLag = mergeLag(this.#untoldLag, lag.take());
    let endMs = engine.clock.monotonicMs() + BACKGROUND_TURN_MS;
    let taken = 0;
    for (const report of source.take()) {
      const earlier = this.#untold.get(report.id);
      if (earlier !== undefined) {
        mergeActivity(earlier.activity, report.activity);
        this.#untold.set(report.id, { ...report, activity: earlier.activity });
      } else this.#untold.set(report.id, report);
      if (++taken % RECORDS_PER_LOOK > 0 || engine.clock.monotonicMs() < endMs) continue;
      await nextTurn();
      endMs = engine.clock.monotonicMs() + BACKGROUND_TURN_MS;
    }
    if (this.#untold.size === 0) this.#untoldLag = NO_LAG;
  }

  async #flushEvents(): Promise<void> {
    const events = this.#events.splice(0);
    this.#keepEvents(events, await this.#append(events, (entry) => entry));
  }

  /** What is not told goes with the next tick, before what came since. */
  #keepEvents(events: readonly Entry[], told: ReadonlySet<unknown>): void {
    this.#events.unshift(...events.filter((entry) => !told.has(entry)));
  }

  async #snapshot(): Promise<void> {
    const { source, identity, engine, onFault } = this.#parts;
    const nowMs = engine.clock.nowMs();
    let entries: Entry[] = [];
    const flush = async (): Promise<void> => {
      await this.#append(entries, (entry) => entry);
      entries = [];
    };
    for (const active of source.snapshots()) {
      const { id, name: stream } = active;
      try {
        const templates = [...active.snapshot()];
        for (const record of snapshotRecords(
          { stream, id, templates },
          this.#options.snapshotChunkSize,
          identity,
          nowMs,
        )) {
          entries.push({ key: `${stream}|${record.type}`, record });
        }
      } catch (cause) {
        // One broken stream does not stop the others.
        onFault(`a snapshot of the templates of ${stream}`, cause);
      }
      if (entries.length >= SNAPSHOT_RECORDS) await flush();
    }
    await flush();
  }

  /** Appends what `toEntry` makes of the items, in as few commits as their bounds allow. Answers what is durable; never rejects. */
  async #append<T>(items: readonly T[], toEntry: (item: T) => Entry): Promise<ReadonlySet<T>> {
    const told = new Set<T>();
    if (items.length === 0) return told;
    const { clock } = this.#parts.engine;
    let appends: Appends = [];
    let bytes = 0;
    let from = 0;
    let endMs = clock.monotonicMs() + BACKGROUND_TURN_MS;
    for (const [index, item] of items.entries()) {
      const { key, record } = toEntry(item);
      const payload = utf8(JSON.stringify(record));
      appends.push({ key, body: { payload, lengths: [payload.length] } });
      bytes += payload.length;
      if (bytes >= MAX_APPEND_BYTES || index === items.length - 1) {
        if (!(await this.#record(appends))) return told;
        for (const done of items.slice(from, index + 1)) told.add(done);
        from = index + 1;
        appends = [];
        bytes = 0;
      }
      if ((index + 1) % RECORDS_PER_LOOK > 0 || clock.monotonicMs() < endMs) continue;
      await nextTurn();
      endMs = clock.monotonicMs() + BACKGROUND_TURN_MS;
    }
    return told;
  }

  /** One commit; false when it failed, which is counted, and said once. */
  async #record(appends: Appends): Promise<boolean> {
    const { log } = this.#parts;
    const { stream, onAppended } = this.#options;
    try {
      if (await this.#ensure()) {
        const outcome = await log.record(stream, appends);
        if (outcome.kind === "appended") {
          this.#counters.records.add(appends.length);
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
    this.#parts.onFault(`appending to ${this.#options.stream}`, new Error(reason));
  }
}

function refusalOf(outcome: Outcome): string {
  return outcome.kind === "rejected" ? outcome.rejection.kind : outcome.kind;
}

function refused(message: string): Result<void, LiveMetricsVerdict> {
  return Result.err({ code: "live_metrics_stream_refused", message });
}
