/**
 * Events for a stream with the profile `analytics` (docs/analytics.md), sent in batches from where they happen: collected until
 * there are enough of them, an interval is over, the page is hidden, or `flush` and `close` want it. Requests outlive their page
 * where the platform can do that (`keepalive`).
 *
 * Analytics may be lossy, and this is: what does not fit into the queue pushes out the oldest, and what is queued when a page ends
 * is gone. And not exact: a batch whose answer was lost is sent again, and counts twice. Losses are counted (`droppedEvents`).
 * Bounds: events and bytes queued, one request at a time, each of a size that browsers let outlive a page.
 */

import { Result } from "better-result";
import { utf8 } from "../kit/bytes.ts";
import type { JsonObject } from "../kit/json-object.ts";
import { checkLimits, jsonText } from "./appending.ts";
import { documentPage, type Page } from "./page-attention.ts";
import { retryDelayMs } from "./retry-policy.ts";
import { Refused, type StreamError } from "./stream-error.ts";
import type { Transport } from "./transport.ts";

/** The server checks it (docs/analytics.md). Without a `timestamp` an event happened when it arrives: clocks of pages are often wrong. */
export interface TrackedEvent {
  readonly type: "command" | "engagement" | "error" | "performance" | "datastore";
  readonly data: JsonObject;
  readonly priority?: "high" | "normal" | "low";
  /** Milliseconds since the Unix epoch. */
  readonly timestamp?: number;
  readonly sampleRate?: number;
  readonly sampled?: boolean;
  readonly sampleKey?: string;
}

export interface TrackerOptions {
  /** Events that wait while they cannot be sent; default 1,000. */
  readonly maxQueuedEvents?: number;
  /** So many events are sent at once without waiting; default 100. */
  readonly maxBatchEvents?: number;
  /** Fewer than that are sent after this; default 5,000. */
  readonly flushIntervalMs?: number;
  /** Default: the browser's document, where there is one. */
  readonly page?: Page | null;
  /** Ends it at once, with what is queued. */
  readonly signal?: AbortSignal;
}

interface Queued {
  /** Counts events from 0. */
  readonly seq: number;
  readonly text: string;
  readonly bytes: number;
}

/** Browsers let requests of 64 KiB outlive their page. */
const MAX_BATCH_BYTES = 60_000;
/** The server takes no larger one. */
const MAX_EVENT_BYTES = 32 * 1024;
const MAX_QUEUED_BYTES = 4 * 1024 * 1024;
/** The longest wait for a server that cannot be reached. */
const MAX_PAUSE_MS = 60_000;

export class Tracker {
  readonly #transport: Transport;
  readonly #url: string;
  readonly #maxQueuedEvents: number;
  readonly #maxBatchEvents: number;
  readonly #flushIntervalMs: number;
  readonly #page: Page | null;
  readonly #signal: AbortSignal | undefined;
  /** The oldest first; without the batch under way. */
  readonly #queue: Queued[] = [];
  #queuedBytes = 0;
  #tracked = 0;
  /** Events with a lower seq are due. */
  #dueBefore = 0;
  #dropped = 0;
  #lastError: unknown = null;
  /** Smaller for a while after a batch was refused, to find the event that is none. */
  #batchEvents: number;
  #failedRounds = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #sending: Promise<Result<void, StreamError>> | null = null;
  #closing: Promise<Result<void, StreamError>> | null = null;
  #isOpen = true;

  /** @throws TypeError when the options make no sense. */
  constructor(transport: Transport, url: string, options: TrackerOptions) {
    const { maxQueuedEvents = 1_000, maxBatchEvents = 100, flushIntervalMs = 5_000, signal } = options;
    checkLimits({ maxQueuedEvents, maxBatchEvents });
    this.#transport = transport;
    this.#url = url;
    this.#maxQueuedEvents = maxQueuedEvents;
    this.#maxBatchEvents = maxBatchEvents;
    this.#batchEvents = maxBatchEvents;
    this.#flushIntervalMs = flushIntervalMs;
    this.#signal = signal;
    this.#page = options.page === undefined ? documentPage() : options.page;
    this.#page?.addEventListener("visibilitychange", this.#onVisibility);
    signal?.addEventListener("abort", this.#abandon, { once: true });
    if (signal?.aborted === true) this.#abandon();
  }

  /** Events that will never be sent: pushed out, too large, without JSON, refused by the server, or left when it ended. */
  get droppedEvents(): number {
    return this.#dropped;
  }

  /** Events that wait to be sent; the batch under way aside. */
  get queuedEvents(): number {
    return this.#queue.length;
  }

  /** What went wrong with the last request; null when nothing did. */
  get lastError(): unknown {
    return this.#lastError;
  }

  /**
   * Takes an event as it is now; costs no waiting, and throws nothing. False when it was dropped: it is too large or has no JSON, or
   * the tracker has ended.
   */
  track(event: TrackedEvent): boolean {
    const text = textOf(event);
    const bytes = utf8(text).length;
    if (!this.#isOpen || bytes === 0 || bytes > MAX_EVENT_BYTES) {
      this.#dropped++;
      return false;
    }
    this.#queue.push({ seq: this.#tracked++, text, bytes });
    this.#queuedBytes += bytes;
    this.#trim();
    // While the server cannot be reached a full batch is no reason to try.
    if (this.#queue.length >= this.#maxBatchEvents && this.#failedRounds === 0) this.#sendSoon();
    else this.#arm();
    return true;
  }

  /**
   * Sends what was tracked until now. The error is the one that it met: events that could not be sent stay queued and are tried
   * again; events that were refused are dropped. Rejects when the tracker's signal aborts.
   */
  flush(): Promise<Result<void, StreamError>> {
    this.#dueBefore = this.#tracked;
    return this.#start();
  }

  /** Sends what is queued, and ends; what cannot be sent now is dropped. Idempotent. */
  close(): Promise<Result<void, StreamError>> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close(): Promise<Result<void, StreamError>> {
    this.#isOpen = false;
    try {
      return await this.flush();
    } finally {
      this.#abandon();
    }
  }

  readonly #onVisibility = (): void => {
    if (this.#page?.hidden !== true) return;
    this.#dueBefore = this.#tracked;
    this.#sendSoon();
  };

  readonly #abandon = (): void => {
    this.#isOpen = false;
    clearTimeout(this.#timer);
    this.#page?.removeEventListener("visibilitychange", this.#onVisibility);
    this.#signal?.removeEventListener("abort", this.#abandon);
    this.#dropped += this.#queue.length;
    this.#queue.length = 0;
    this.#queuedBytes = 0;
  };

  #sendSoon(): void {
    this.#start().catch(() => {
      /* `lastError` tells it. */
    });
  }

  #start(): Promise<Result<void, StreamError>> {
    if (this.#sending === null && this.#queue.length === 0) return Promise.resolve(Result.ok());
    this.#sending ??= this.#sendDue();
    return this.#sending;
  }

  /** Batch after batch, until nothing is due or the server cannot be reached. */
  async #sendDue(): Promise<Result<void, StreamError>> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    let refused: StreamError | null = null;
    try {
      while (this.#isDue()) {
        const batch = this.#take();
        const error = await this.#send(batch);
        this.#lastError = error;
        if (error === null) {
          this.#batchEvents = Math.min(this.#maxBatchEvents, this.#batchEvents * 2);
        } else if (isTheirFault(error)) {
          refused = error;
          this.#split(batch);
        } else {
          this.#failedRounds++;
          this.#putBack(batch);
          return Result.err(error);
        }
      }
      this.#failedRounds = 0;
      return refused === null ? Result.ok() : Result.err(refused);
    } finally {
      this.#sending = null;
      this.#arm();
    }
  }

  #isDue(): boolean {
    const [first] = this.#queue;
    return first !== undefined && (first.seq < this.#dueBefore || this.#queue.length >= this.#maxBatchEvents);
  }

  #take(): readonly Queued[] {
    let bytes = 0;
    let count = 0;
    for (const event of this.#queue.slice(0, this.#batchEvents)) {
      bytes += event.bytes + 1;
      if (count > 0 && bytes > MAX_BATCH_BYTES) break;
      this.#queuedBytes -= event.bytes;
      count++;
    }
    return this.#queue.splice(0, count);
  }

  /** The transport tries again, too. Null = sent. */
  async #send(batch: readonly Queued[]): Promise<StreamError | null> {
    try {
      const answer = await this.#transport.send({
        method: "POST",
        url: this.#url,
        headers: { "content-type": "application/json" },
        body: `[${batch.map(({ text }) => text).join(",")}]`,
        // Not exactly: once too often is better than not at all.
        repeatable: true,
        keepalive: true,
        signal: this.#signal,
      });
      return answer.isErr() ? answer.error : null;
    } catch (cause) {
      this.#lastError = cause;
      this.#failedRounds++;
      this.#putBack(batch);
      throw cause;
    }
  }

  /** One event that is none refuses its whole batch: smaller ones find it. */
  #split(batch: readonly Queued[]): void {
    if (batch.length === 1) {
      this.#dropped++;
      return;
    }
    this.#batchEvents = Math.ceil(batch.length / 2);
    this.#putBack(batch, true);
  }

  #putBack(batch: readonly Queued[], areDue = false): void {
    if (this.#signal?.aborted === true) {
      this.#dropped += batch.length;
      return;
    }
    this.#queue.unshift(...batch);
    for (const { bytes } of batch) this.#queuedBytes += bytes;
    const last = batch.at(-1);
    if (areDue && last !== undefined) this.#dueBefore = Math.max(this.#dueBefore, last.seq + 1);
    this.#trim();
  }

  #trim(): void {
    while (this.#queue.length > this.#maxQueuedEvents || this.#queuedBytes > MAX_QUEUED_BYTES) {
      this.#queuedBytes -= this.#queue.shift()?.bytes ?? 0;
      this.#dropped++;
    }
  }

  /** What is queued goes after the interval; after failures later and later. */
  #arm(): void {
    if (this.#queue.length === 0 || this.#timer !== undefined || this.#sending !== null || !this.#isOpen) return;
    const intervalMs = this.#flushIntervalMs;
    const policy = { maxAttempts: 1, baseDelayMs: intervalMs, maxDelayMs: Math.max(intervalMs, MAX_PAUSE_MS) };
    const retryAfterMs = Refused.is(this.#lastError) ? this.#lastError.retryAfterMs : null;
    const delayMs =
      this.#failedRounds === 0
        ? intervalMs
        : retryDelayMs(policy, this.#failedRounds, retryAfterMs, this.#transport.random());
    this.#timer = setTimeout(() => {
      this.#dueBefore = this.#tracked;
      this.#sendSoon();
    }, delayMs);
  }
}

/** Empty for what has no JSON. */
function textOf(event: TrackedEvent): string {
  try {
    return jsonText(event);
  } catch {
    return ""; // An application does not end for what it tells of itself; the event is counted.
  }
}

/** It stays wrong however often it is sent; everything else may be put right: a stream is made, a key renewed. */
function isTheirFault(error: StreamError): boolean {
  return Refused.is(error) && (error.status === 400 || error.status === 413);
}
