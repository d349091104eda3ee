/**
 * Writes batches, one at a time and in order. One that failed is written again as it is, later. One that its writer refuses for good is
 * halved until the event that cannot be written stands alone: that one is a dead letter, and all others are written.
 */

import type { QueuedEvent } from "./event-queue.ts";
import { RETRY_MS } from "./limits.ts";
import type { PartialWindow } from "./window-set.ts";

export interface BatchCounts {
  received: number;
  stored: number;
  aggregated: number;
  sampledOut: number;
  /** Shed because the queue was full, or given up because it cannot be written. */
  dropped: number;
}

/** One write. */
export interface EventBatch {
  /** From 1, for as long as the service lives; parts of a batch that had to be divided share it. */
  readonly number: number;
  readonly events: readonly QueuedEvent[];
  /** What was measured since the batch before, to be merged. */
  readonly windows: readonly PartialWindow[];
  /** What happened since the batch before. */
  readonly counts: Readonly<BatchCounts>;
}

/** Resolves once the batch is as durable as it will be. Rejects: it is tried again; with `UnwritableBatch`: event by event. */
export type WriteBatch = (batch: EventBatch) => Promise<void>;

/** The writer will never take this batch as it is. */
export class UnwritableBatch extends Error {
  override readonly name = "UnwritableBatch";
}

/** Takes an event that cannot be written. Must not throw. */
export type DeadLetter = (event: QueuedEvent, reason: string) => void;

export interface BatchWriterParts {
  readonly onDeadLetter?: DeadLetter;
  /** Told of each failed write. Must not throw. */
  readonly onError?: (cause: unknown) => void;
  /** So many events will never be written. */
  readonly onGivenUp: (events: number) => void;
}

/** A batch that is to be written, and the smallest ticket of what it holds. */
interface HeldBatch {
  readonly batch: EventBatch;
  readonly oldestTicket: number;
}

const MAX_ERRORS = 5;

export class BatchWriter {
  readonly #write: WriteBatch;
  readonly #parts: BatchWriterParts;
  /** The one under way or that failed, and the parts of one that was refused. */
  #held: HeldBatch[] = [];
  #failures = 0;
  #errors: readonly string[] = [];
  readonly #totals = { stored: 0, batches: 0, givenUp: 0 };

  constructor(write: WriteBatch, parts: BatchWriterParts) {
    this.#write = write;
    this.#parts = parts;
  }

  get hasWork(): boolean {
    return this.#held.length > 0;
  }

  /** The last write failed; it is to be tried again after `retryMs`. */
  get isFailing(): boolean {
    return this.#failures > 0;
  }

  get retryMs(): number {
    return Math.min(RETRY_MS.last, RETRY_MS.first * 2 ** (this.#failures - 1));
  }

  /** What the last writes failed of; empty once one succeeds. */
  get errors(): readonly string[] {
    return this.#errors;
  }

  get totals(): { readonly stored: number; readonly batches: number; readonly givenUp: number } {
    return this.#totals;
  }

  /** Infinity when nothing is held. */
  oldestTicket(): number {
    return this.#held.reduce((oldest, { oldestTicket }) => Math.min(oldest, oldestTicket), Infinity);
  }

  /** When the earliest held window begins; Infinity when there is none. */
  earliestWindowMs(): number {
    const windows = this.#held.flatMap(({ batch }) => batch.windows);
    return windows.reduce((earliestMs, { startMs }) => Math.min(earliestMs, startMs), Infinity);
  }

  add(batch: EventBatch, oldestTicket: number): void {
    this.#held.push({ batch, oldestTicket });
  }

  /** Writes the first batch. False when that failed and is to be tried again. */
  async writeNext(): Promise<boolean> {
    const [held] = this.#held;
    if (held === undefined) return true;
    try {
      await this.#write(held.batch);
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      this.#parts.onError?.(cause);
      this.#errors = [...this.#errors, reason].slice(-MAX_ERRORS);
      if (!(cause instanceof UnwritableBatch)) {
        this.#failures++;
        return false;
      }
      this.#failures = 0;
      this.#divide(held, reason);
      return true;
    }
    this.#held.shift();
    this.#failures = 0;
    this.#errors = [];
    this.#totals.batches++;
    this.#totals.stored += held.batch.events.length;
    return true;
  }

  /** Windows and counts go with the first half. */
  #divide({ batch, oldestTicket }: HeldBatch, reason: string): void {
    const { events, windows, counts, number } = batch;
    this.#held.shift();
    if (events.length > 1) {
      const middle = Math.ceil(events.length / 2);
      const [first, second] = [events.slice(0, middle), events.slice(middle)];
      this.#held.unshift(
        { batch: { number, events: first, windows, counts: { ...counts, stored: first.length } }, oldestTicket },
        {
          batch: { number, events: second, windows: [], counts: { ...noCounts(), stored: second.length } },
          oldestTicket,
        },
      );
      return;
    }
    const [event] = events;
    this.#totals.givenUp += event === undefined ? counts.aggregated : 1;
    this.#parts.onGivenUp(event === undefined ? counts.aggregated : 1);
    if (event === undefined) return;
    this.#parts.onDeadLetter?.(event, reason);
    if (counts.received === 0 && windows.length === 0) return;
    this.#held.unshift({ batch: { number, events: [], windows, counts: { ...counts, stored: 0 } }, oldestTicket });
  }
}

export function noCounts(): BatchCounts {
  return { received: 0, stored: 0, aggregated: 0, sampledOut: 0, dropped: 0 };
}
