/**
 * The stage between events and the log: each event is left out by sampling, becomes a value of a window, or waits for a batch; a
 * batch is written when it is full, when enough high events wait, or when its interval is over. One batch is written at a
 * time; what comes meanwhile is the next one. Every event has exactly one fate, and the fates of a batch are counted in it:
 * received = stored + aggregated + sampled out + dropped (+ what waits). Events whose senders wait until they are durable are let in
 * whole requests at a time, each with room for all of it: what is let in is not dropped.
 * What failed to be written is written again, the same, later; it is given up only when the writer says that it never will be.
 */

import { type Clock, systemClock, systemRandom } from "../../kit/clock.ts";
import { type Deadline, Deadlines } from "../../kit/deadlines.ts";
import { Ring } from "../../kit/ring.ts";
import { nextTurn } from "../../kit/turn.ts";
import { BatchWriter, type DeadLetter, noCounts, type WriteBatches } from "./batch-writer.ts";
import { type AnalyticsEvent, type EventType, type ReadEvent, seriesOf } from "./event.ts";
import { EventQueue, type HeldRoom, type QueueBounds, type QueuedEvent, type SharedBudget } from "./event-queue.ts";
import { MAX_BATCHES_PER_WRITE, MAX_WRITE_BYTES } from "./limits.ts";
import { boundedText, type PreparedEvent, prepareEvent, roomFor } from "./prepared-event.ts";
import { Sampler } from "./sampler.ts";
import { type AnalyticsConfig, type AnalyticsSettings, completeSettings } from "./settings.ts";
import { type SeriesBudget, spanAt, UNBOUNDED, WindowSet } from "./window-set.ts";

/** What became of an event at once. */
export type EventFate = "queued" | "aggregated" | "sampled-out" | "dropped";

/** Work that was promised cannot be done any more. */
export class BatchingStopped extends Error {
  override readonly name = "BatchingStopped";
}

/** Too many events wait to be written: this one is not taken, and counted as dropped. */
export class EventDropped extends Error {
  override readonly name = "EventDropped";
  constructor() {
    super("too many events wait to be written: wait, or raise maxQueuedEvents and maxQueuedBytes");
  }
}

export interface BatchingParts {
  readonly clock?: Clock;
  /** The timer that it shares with others; default: one of its own. */
  readonly deadlines?: Deadlines;
  /** In [0, 1). */
  readonly random?: () => number;
  readonly hash?: (text: string) => bigint;
  readonly queueBudget?: SharedBudget;
  readonly seriesBudget?: SeriesBudget;
  readonly onDeadLetter?: DeadLetter;
  /** Told of each failed write. Must not throw. */
  readonly onError?: (cause: unknown) => void;
}

export interface BatchingMetrics {
  /** Everything that came. */
  readonly eventsReceived: number;
  /** Came into the queue. */
  readonly eventsQueued: number;
  /** Were written as events. */
  readonly eventsProcessed: number;
  readonly batchesProcessed: number;
  /** Sampled out, shed and given up. */
  readonly eventsDropped: number;
  readonly eventsSampledOut: number;
  readonly droppedOverflow: number;
  readonly failedWrites: number;
  /** Kept by a rate below one. */
  readonly eventsSampled: number;
  readonly eventsAggregated: number;
  /** Events stored per batch. */
  readonly averageBatchSize: number;
  readonly lastFlushTime: number | null;
  readonly queueDepth: number;
  readonly queuedBytes: number;
  readonly activeWindows: number;
}

export interface BatchingHealth {
  readonly healthy: boolean;
  /** The last failures while writes fail. */
  readonly errors: readonly string[];
}

/** A request that was let in. */
export interface Admitted {
  /** There is room for all of it: none of its events is dropped. */
  readonly isPromised: boolean;
  /** Takes one of its events. */
  take(event: PreparedEvent): EventFate;
  /** All of it was taken, or no more of it will be. To be called once. */
  end(): void;
}

interface Waiting {
  readonly ticket: number;
  readonly resolve: () => void;
  readonly reject: (cause: unknown) => void;
}

export class EventBatchingService {
  readonly #writer: BatchWriter;
  readonly #clock: Clock;
  readonly #deadlines: Deadlines;
  readonly #onError: (cause: unknown) => void;
  readonly #sampler: Sampler;
  readonly #queue: EventQueue;
  /** What was measured since the batch before. */
  readonly #windows: WindowSet;
  readonly #totals = { ...noCounts(), queued: 0, sampled: 0, shed: 0 };
  readonly #waiting = new Ring<Waiting>();
  #settings: AnalyticsSettings;
  /** Since the batch before. */
  #counts = noCounts();
  /** Of the next event, and of the first one that is counted but in no batch yet. */
  #ticket = 0;
  #countedFrom = Infinity;
  #batchNumber = 0;
  /** Requests that are being taken. */
  #admitted = 0;
  /** Of the interval, or of the next attempt. */
  #timer: Deadline | null = null;
  #running: Promise<void> | null = null;
  /** Everything before this ticket is to be written without waiting for more. */
  #forcedBefore = 0;
  #lastFlushMs: number | null = null;
  #stopped: BatchingStopped | null = null;
  /** The first of what was given up by `stop`. */
  #lostFrom = Infinity;

  /** @throws RangeError when a setting is wrong. */
  constructor(write: WriteBatches, config: AnalyticsConfig = {}, parts: BatchingParts = {}) {
    const { clock = systemClock, deadlines = new Deadlines(clock), random = systemRandom } = parts;
    const { hash = (text) => Bun.hash.xxHash3(text), queueBudget = UNBOUNDED, seriesBudget = UNBOUNDED } = parts;
    this.#writer = new BatchWriter(write, { ...parts, onGivenUp: (events) => this.#drop(events) });
    this.#clock = clock;
    this.#deadlines = deadlines;
    this.#onError = parts.onError ?? (() => undefined);
    this.#settings = completeSettings(config);
    this.#sampler = new Sampler(this.#settings, { clock, random, hash });
    this.#queue = new EventQueue(boundsOf(this.#settings), queueBudget);
    this.#windows = new WindowSet(seriesBudget, this.#settings.maxValuesPerWindow);
  }

  /** @throws TypeError when it is no event, BatchingStopped after the end. */
  queueEvent(event: AnalyticsEvent): EventFate {
    // Its text is made only when it is stored.
    const text = (): string => boundedText(JSON.stringify(event));
    const prepared = prepareEvent(event, 0, text, this.#clock.nowMs());
    if (typeof prepared === "string") throw new TypeError(prepared);
    return this.take(prepared);
  }

  /** Takes an event that was prepared before. In durable mode none is shed for it: it may be dropped itself. */
  take(event: PreparedEvent): EventFate {
    return this.#take(event, null);
  }

  /** Lets a request in; null when it is to be promised and there is no room for all of it: then none of it is taken. */
  admit(events: readonly PreparedEvent[], isPromised: boolean): Admitted | null {
    const room = isPromised ? this.#queue.hold(roomFor(events)) : null;
    if (isPromised && room === null) return null;
    this.#admitted++;
    return {
      isPromised,
      take: (event) => this.#take(event, room),
      end: () => {
        this.#admitted--;
        if (room !== null) this.#queue.release(room);
      },
    };
  }

  /** Writes all that was taken. Rejects when a write failed: what was not written is tried again later, unless it was stopped. */
  async flush(): Promise<void> {
    const ticket = this.#ticket;
    this.#forcedBefore = ticket;
    this.#disarm();
    await this.#run();
    if (this.#isWritten(ticket)) return;
    throw this.#stopped ?? new Error(`events could not be written: ${this.#writer.errors.at(-1) ?? "no reason given"}`);
  }

  /** Resolves when all that was taken so far is written or given up; rejects with BatchingStopped when that will never be. */
  whenWritten(): Promise<void> {
    const ticket = this.#ticket;
    if (this.#isWritten(ticket)) return Promise.resolve();
    if (this.#stopped !== null) return Promise.reject(this.#stopped);
    return new Promise((resolve, reject) => this.#waiting.push({ ticket, resolve, reject }));
  }

  getMetrics(): BatchingMetrics {
    const { received, aggregated, sampledOut, dropped, ...totals } = this.#totals;
    const { stored, batches, givenUp } = this.#writer.totals;
    return {
      eventsReceived: received,
      eventsQueued: totals.queued,
      eventsProcessed: stored,
      batchesProcessed: batches,
      eventsDropped: dropped + sampledOut,
      eventsSampledOut: sampledOut,
      droppedOverflow: totals.shed,
      failedWrites: givenUp,
      eventsSampled: totals.sampled,
      eventsAggregated: aggregated,
      averageBatchSize: batches === 0 ? 0 : stored / batches,
      lastFlushTime: this.#lastFlushMs,
      queueDepth: this.#queue.length,
      queuedBytes: this.#queue.bytes,
      activeWindows: this.#windows.size,
    };
  }

  /** Whether nothing is being taken or waits to be written. */
  get isEmpty(): boolean {
    return this.#admitted === 0 && this.#isWritten(this.#ticket);
  }

  /** When the earliest window begins that is measured but not written yet; Infinity when none is. */
  earliestWindowMs(): number {
    let earliestMs = this.#writer.earliestWindowMs();
    for (const { startMs } of this.#windows.spans) earliestMs = Math.min(earliestMs, startMs);
    return earliestMs;
  }

  getConfig(): AnalyticsSettings {
    return this.#settings;
  }

  /** Changes some settings; they hold at once, a window's size from its next window on. @throws RangeError as the constructor. */
  updateConfig(config: AnalyticsConfig): void {
    this.#settings = completeSettings({ ...this.#settings, ...config });
    this.#sampler.configure(this.#settings);
    this.#queue.configure(boundsOf(this.#settings));
    this.#windows.configure(this.#settings.maxValuesPerWindow);
    if (!this.#writer.isFailing) this.#disarm();
    this.#plan();
  }

  health(): BatchingHealth {
    const { isFailing, errors } = this.#writer;
    return { healthy: !isFailing && this.#stopped === null, errors };
  }

  /** Writes what is queued, then takes nothing any more. Rejects as `flush` does. */
  async shutdown(): Promise<void> {
    try {
      await this.flush();
    } finally {
      this.stop("the service was shut down");
    }
  }

  /** Takes nothing any more, and gives up what is queued. Idempotent. */
  stop(reason: string): void {
    if (this.#stopped !== null) return;
    this.#stopped = new BatchingStopped(reason);
    this.#disarm();
    this.#lostFrom = this.#unbatched();
    this.#queue.clear();
    this.#windows.clear();
    for (let next = this.#waiting.shift(); next !== undefined; next = this.#waiting.shift()) next.reject(this.#stopped);
  }

  #take({ read, text }: PreparedEvent, room: HeldRoom | null): EventFate {
    if (this.#stopped !== null) throw this.#stopped;
    const fate = this.#settings.enabled ? this.#decide(read, text, room) : this.#enqueue(read, text, read.weight, room);
    this.#account(fate);
    this.#countedFrom = Math.min(this.#countedFrom, this.#ticket);
    this.#ticket++;
    if (this.#isForced()) this.#forcedBefore = this.#ticket;
    this.#plan();
    return fate;
  }

  #decide(read: ReadEvent, text: () => string, room: HeldRoom | null): EventFate {
    let { weight } = read;
    if (!read.sampled) {
      const standsFor = this.#sampler.weigh(read);
      if (standsFor === 0) return "sampled-out";
      if (standsFor > 1) this.#totals.sampled++;
      weight *= standsFor;
    }
    return this.#measure(read, weight) ? "aggregated" : this.#enqueue(read, text, weight, room);
  }

  /** False when the event is no value, or one that comes too late. */
  #measure({ type, name, context, value, timestampMs }: ReadEvent, weight: number): boolean {
    const { aggregate, aggregationWindowMs, maxLatenessMs } = this.#settings;
    if (value === null || !(aggregate as readonly EventType[]).includes(type)) return false;
    const nowMs = this.#clock.nowMs();
    const atMs = timestampMs ?? nowMs;
    if (atMs < nowMs - maxLatenessMs) return false;
    this.#windows.add(spanAt(atMs, aggregationWindowMs), seriesOf(type, name, context), value, weight, nowMs);
    return true;
  }

  #enqueue(read: ReadEvent, text: () => string, weight: number, room: HeldRoom | null): EventFate {
    const timestampMs = read.timestampMs ?? this.#clock.nowMs();
    if (this.#place(read, { json: text(), weight, timestampMs, ticket: this.#ticket }, room)) return "queued";
    this.#totals.shed++;
    return "dropped";
  }

  /** Puts an event into the queue: a promised one in room that is held for it, any other in place of lesser ones. */
  #place(read: ReadEvent, event: QueuedEvent, room: HeldRoom | null): boolean {
    if (room === null && this.#settings.ack === "memory") {
      return this.#queue.push(read.priority, event, () => {
        this.#totals.shed++;
        this.#drop(1);
      });
    }
    const held = room ?? this.#queue.hold(roomFor([{ read, bytes: event.json.length }]));
    if (held === null) return false;
    this.#queue.pushHeld(held, read.priority, event);
    return true;
  }

  #account(fate: EventFate): void {
    this.#counts.received++;
    this.#totals.received++;
    if (fate === "queued") {
      this.#totals.queued++;
    } else if (fate === "dropped") {
      this.#drop(1);
    } else {
      const name = fate === "aggregated" ? fate : "sampledOut";
      this.#counts[name]++;
      this.#totals[name]++;
    }
  }

  #drop(events: number): void {
    this.#counts.dropped += events;
    this.#totals.dropped += events;
  }

  /** Starts a write when one is due; else sees to it that one will be. */
  #plan(): void {
    if (this.#running !== null || this.#writer.isFailing || this.#stopped !== null) return;
    if (this.#isDue()) {
      this.#disarm();
      this.#run().catch(this.#onError);
    } else if (this.#timer === null && this.#outstanding() < this.#ticket) {
      this.#timer = this.#deadlines.after(this.#settings.batchIntervalMs, () => {
        this.#timer = null;
        this.#forcedBefore = this.#ticket;
        this.#plan();
      });
    }
  }

  #isDue(): boolean {
    return this.#writer.hasWork || this.#isBatchDue();
  }

  #isBatchDue(): boolean {
    if (this.#unbatched() < this.#forcedBefore) return true;
    const { maxBatchSize, highPriorityFlushThreshold } = this.#settings;
    return this.#queue.highEvents >= highPriorityFlushThreshold || this.#queue.length >= maxBatchSize;
  }

  /** Whether somebody waits for what was taken and it is enough for a batch: then the rest goes along in a smaller one. */
  #isForced(): boolean {
    const { enabled, ack, maxBatchSize } = this.#settings;
    return !enabled || (ack === "durable" && this.#queue.length + this.#counts.aggregated >= maxBatchSize);
  }

  #run(): Promise<void> {
    return (this.#running ??= this.#writeAll());
  }

  async #writeAll(): Promise<void> {
    // What comes in the same turn goes into the same batch.
    await nextTurn();
    while (this.#stopped === null && this.#isDue()) {
      if (!this.#writer.hasWork) this.#makeBatches();
      if (!(await this.#writer.writeNext())) break;
      this.#lastFlushMs = this.#clock.nowMs();
      this.#tellWaiting();
    }
    this.#running = null;
    if (this.#writer.isFailing) this.#retryLater();
    else this.#plan();
  }

  /** All that are due, up to what one write may hold: a write costs the same for one and for many. */
  #makeBatches(): void {
    let bytes = 0;
    for (let made = 0; made < MAX_BATCHES_PER_WRITE && bytes < MAX_WRITE_BYTES && this.#isBatchDue(); made++) {
      bytes += this.#makeBatch();
    }
  }

  /** The bytes of its events. */
  #makeBatch(): number {
    const events = this.#queue.take(this.#settings.maxBatchSize);
    const windows = this.#windows.take(() => true).flatMap(({ windows: taken }) => [...taken.values()]);
    const counts = { ...this.#counts, stored: events.length };
    const oldestTicket = events.reduce((oldest, { ticket }) => Math.min(oldest, ticket), this.#countedFrom);
    this.#counts = noCounts();
    this.#countedFrom = Infinity;
    this.#writer.add({ number: ++this.#batchNumber, events, windows, counts }, oldestTicket);
    return events.reduce((bytes, { json }) => bytes + json.length, 0);
  }

  #retryLater(): void {
    this.#disarm();
    if (this.#stopped !== null) return;
    this.#timer = this.#deadlines.after(this.#writer.retryMs, () => {
      this.#timer = null;
      this.#run().catch(this.#onError);
    });
  }

  /** The smallest ticket that is neither written nor given up. */
  #outstanding(): number {
    return Math.min(this.#unbatched(), this.#writer.oldestTicket());
  }

  /** The smallest ticket that is in no batch yet. */
  #unbatched(): number {
    return Math.min(this.#queue.oldestTicket(), this.#countedFrom, this.#lostFrom);
  }

  #isWritten(ticket: number): boolean {
    return this.#outstanding() >= ticket;
  }

  #tellWaiting(): void {
    const outstanding = this.#outstanding();
    for (
      let next = this.#waiting.peek();
      next !== undefined && next.ticket <= outstanding;
      next = this.#waiting.peek()
    ) {
      this.#waiting.shift();
      next.resolve();
    }
  }

  #disarm(): void {
    this.#timer?.cancel();
    this.#timer = null;
  }
}

function boundsOf({ maxQueuedEvents, maxQueuedBytes }: AnalyticsSettings): QueueBounds {
  return { maxEvents: maxQueuedEvents, maxBytes: maxQueuedBytes };
}
