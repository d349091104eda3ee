/**
 * Touch of all streams: brings a stream's state into memory when a client first asks, hands it the commit feed, and drops it when
 * unused. A stream that nobody asks about costs nothing, not even a look.
 */

import { Admission } from "../../engine/admission.ts";
import type { Engine } from "../../engine/engine.ts";
import type { Deadline } from "../../kit/deadlines.ts";
import type { Commit, StreamHead } from "../../protocol/stream.ts";
import type { Rejection } from "../../protocol/verdicts.ts";
import { type Hash64, KeyWriter } from "../../protocol/touch-keys.ts";
import { touchSettingsOf } from "../state-protocol/index.ts";
import { TouchActivity } from "./activity.ts";
import { JournalBudget } from "./journal.ts";
import { IDLE_MS, MAX_JOURNAL_ENTRIES, MAX_PARKED_KEYS, MAX_REPLAY_RECORDS, MAX_STREAMS } from "./limits.ts";
import { Replayer } from "./replay.ts";
import type { Durable } from "./templates.ts";
import type { TouchParts } from "./touch-parts.ts";
import { TouchStream } from "./touch-stream.ts";
import type { TemplateEvent, TemplateListener, TouchReport } from "./report.ts";
import { registerTouchMetrics } from "./touch-metrics.ts";
import { WakeQueue } from "./wake-queue.ts";

export interface TouchOptions {
  readonly engine: Engine;
  readonly hash64: Hash64;
  /** Smaller bounds than those of `limits.ts`, for tests that want to meet them. */
  /** Somebody takes the reports and hears of template events. */
  readonly onTemplate?: TemplateListener | null;
  readonly bounds?: { readonly journalEntries?: number; readonly replayRecords?: number };
  readonly onFault: (operation: string, cause: unknown) => void;
}

const TOTALS_MS = 100;

/** What a stream without touch answers. */
export const TOUCH_OFF = "touch-off";

export class Touch {
  readonly engine: Engine;
  readonly writer: KeyWriter;
  readonly #parts: TouchParts;
  readonly #streams = new Map<number, TouchStream>();
  readonly #upkeep = new Map<number, Deadline>();
  /** Keys that all waits together may name. */
  readonly mostParkedKeys: number;
  readonly #onTemplate: TemplateListener | null;
  /** Last intervals of states that were dropped, until somebody takes them. Only kept when somebody does. */
  #leaving: TouchReport[] = [];
  /** All that dropped states have counted. */
  readonly #dropped = new TouchActivity();
  #totals: { readonly atMs: number; readonly activity: TouchActivity } | null = null;

  constructor({ engine, hash64, onFault, onTemplate, bounds = {} }: TouchOptions) {
    this.engine = engine;
    this.#onTemplate = onTemplate ?? null;
    this.writer = new KeyWriter(hash64);
    const { share } = engine.budget;
    this.mostParkedKeys = Math.floor(MAX_PARKED_KEYS * share);
    this.#parts = {
      engine,
      writer: this.writer,
      budget: new JournalBudget(bounds.journalEntries ?? Math.floor(MAX_JOURNAL_ENTRIES * share)),
      wakes: new WakeQueue(engine.clock, onFault),
      replayer: new Replayer(engine, bounds.replayRecords ?? MAX_REPLAY_RECORDS),
      parkedKeys: new Admission(this.mostParkedKeys),
      onFault,
    };
    engine.follow((commit) => this.#onCommit(commit));
    engine.holdAcks((id, next) => {
      const position = this.#streams.get(id)?.position;
      return position === undefined || position.derived >= next ? null : position.whenDerived(next);
    });
    engine.onDrain(() => this.close());
    engine.onTrim((trim) => this.#streams.get(trim.id)?.meter.trimmed(trim));
    registerTouchMetrics(engine.metrics, this);
  }

  /** The interval of every stream that counted something or has a waiter. */
  *take(): Generator<TouchReport> {
    const leaving = this.#leaving;
    this.#leaving = [];
    yield* leaving;
    const nowMs = this.engine.clock.nowMs();
    for (const stream of this.#streams.values()) {
      const report = stream.take(nowMs);
      if (report !== null) yield report;
    }
  }

  /** Waits parked per stream. */
  *sizes(): Generator<{ id: number; waiters: number }> {
    for (const { id, interests } of this.#streams.values()) yield { id, waiters: interests.size };
  }

  /** The streams with state in memory, for snapshots. */
  *snapshots(): Generator<Pick<TouchStream, "id" | "name" | "snapshot">> {
    yield* this.#streams.values();
  }

  /** All that was ever counted, of all streams. Looked at anew at most ten times a second. */
  totals(): TouchActivity {
    const nowMs = this.engine.clock.monotonicMs();
    if (this.#totals !== null && nowMs - this.#totals.atMs < TOTALS_MS) return this.#totals.activity;
    const activity = new TouchActivity();
    activity.add(this.#dropped);
    for (const stream of this.#streams.values()) activity.add(stream.meter.totals());
    this.#totals = { atMs: nowMs, activity };
    return activity;
  }

  /** Streams with state in memory, and what they hold: all 0 when nobody has asked for a while. For leak checks. */
  holdings(): { streams: number; waiters: number; indexEntries: number; parkedKeys: number; journalEntries: number } {
    let waiters = 0;
    let indexEntries = 0;
    for (const { interests } of this.#streams.values()) {
      waiters += interests.size;
      indexEntries += interests.entries;
    }
    const { parkedKeys, budget } = this.#parts;
    const streams = this.#streams.size;
    return { streams, waiters, indexEntries, parkedKeys: parkedKeys.used, journalEntries: budget.entries };
  }

  /** The touch state of a stream, in the turn of its head. */
  async open(name: string): Promise<TouchStream | Rejection | typeof TOUCH_OFF> {
    const found = await this.#find(name);
    if (typeof found === "string" || "kind" in found) return found;
    const known = this.#streams.get(found.id);
    if (known !== undefined) return known;
    const attributes = await this.engine.attributes(found.id);
    // The tail that derivation starts from is read in the turn that makes the state, so no commit falls between.
    const head = await this.#find(name);
    if (typeof head === "string" || "kind" in head) return head;
    const meanwhile = this.#streams.get(head.id);
    if (meanwhile !== undefined) return meanwhile;
    if (head.id !== found.id) return { kind: "overloaded", reason: "the stream was recreated a moment ago" };
    if (this.engine.closing) return { kind: "closing" };
    if (this.#streams.size >= MAX_STREAMS) return { kind: "overloaded", reason: "too many streams with live queries" };
    const settings = touchSettingsOf(head.profile);
    if (settings === null) return TOUCH_OFF;
    const { name: streamName } = head.config;
    const stream = new TouchStream(this.#parts, {
      id: head.id,
      name: streamName,
      tail: head.next,
      settings,
      attributes,
    });
    this.#streams.set(head.id, stream);
    this.#armUpkeep(stream);
    return stream;
  }

  /**
   * Makes changes of templates durable. When the store refuses them, what memory holds is more than what a restart would
   * know: the state is dropped, its waits end, and the refusal is returned.
   */
  async persist(stream: TouchStream, durable: Durable): Promise<Rejection | null> {
    if (durable.size === 0) return null;
    const events = stream.templates.takeEvents();
    const outcome = await this.engine.annotate(stream.id, durable);
    if (outcome.kind !== "rejected") {
      this.#tell(stream, events);
      return null;
    }
    if (this.#streams.get(stream.id) === stream) this.#drop(stream);
    return outcome.rejection;
  }

  /** Makes uses of templates durable, which no client waits for; a refused one is written with a later use. */
  #persistLater(stream: TouchStream, durable: Durable): void {
    if (durable.size === 0) return;
    this.#tell(stream, stream.templates.takeEvents());
    this.engine
      .annotate(stream.id, durable)
      .catch((cause: unknown) => this.#parts.onFault("keeping touch templates", cause));
  }

  #tell(stream: TouchStream, events: readonly TemplateEvent[]): void {
    const { now } = stream.meter;
    for (const event of events) {
      if (event.type === "live.template_activated") now.activated++;
      else if (event.type === "live.template_retired") now.retired++;
      else now.evicted++;
      this.#onTemplate?.(stream.name, event);
    }
  }

  /** Ends every wait. */
  close(): void {
    for (const stream of this.#streams.values()) this.#drop(stream);
  }

  async #find(name: string): Promise<StreamHead | Rejection | typeof TOUCH_OFF> {
    const head = await this.engine.find(name, "read");
    if ("kind" in head) return head;
    return touchSettingsOf(head.profile) === null ? TOUCH_OFF : head;
  }

  #onCommit(commit: Commit): void {
    if (this.#streams.size === 0) return;
    for (const change of commit.changes) {
      const stream = this.#streams.get(change.id);
      if (stream === undefined) continue;
      try {
        if (change.deletion !== undefined) this.#drop(stream, "deleted");
        else if (change.profile !== undefined) this.#drop(stream);
        else stream.onChange(change, commit.atMs);
      } catch (cause) {
        // A defect here must not take the store with it: its clients hear that they are stale.
        this.#parts.onFault("deriving touches", cause);
        this.#drop(stream);
      }
    }
  }

  /** What a deleted stream counted is told to nobody any more. */
  #drop(stream: TouchStream, why: "deleted" | "unused" = "unused"): void {
    this.#streams.delete(stream.id);
    const left = this.#onTemplate === null || why === "deleted" ? null : stream.take(this.engine.clock.nowMs());
    if (left !== null && this.#leaving.length < MAX_STREAMS) this.#leaving.push(left);
    this.#dropped.add(stream.meter.totals());
    this.#upkeep.get(stream.id)?.cancel();
    this.#upkeep.delete(stream.id);
    stream.close();
  }

  /** Retires unused templates now and then, and the whole state once nobody has asked for a while. */
  #armUpkeep(stream: TouchStream): void {
    const everyMs = Math.min(IDLE_MS, Math.max(1000, stream.settings.templates.gcIntervalMs));
    const due = this.engine.deadlines.after(everyMs, () => {
      const around = stream.around();
      const durable: Durable = new Map();
      stream.templates.collect(around, durable);
      const idle = stream.interests.size === 0 && around.nowMs - stream.usedMs >= IDLE_MS;
      if (idle) stream.templates.flush(durable);
      this.#persistLater(stream, durable);
      if (idle) this.#drop(stream);
      else this.#armUpkeep(stream);
    });
    this.#upkeep.set(stream.id, due);
  }
}
