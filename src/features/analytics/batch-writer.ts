/**
 * Writes batches in order, all that are held in one write. What failed is written again as it is, later. What its writer refuses for good is
 * written batch by batch, then halved, until the event that cannot be written stands alone: that one is a dead letter, and all
 * others are written.
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

/** Resolves once all of them are as durable as they will be. Rejects: tried again; with `UnwritableBatch`: event by event. */
export type WriteBatches = (batches: readonly EventBatch[]) => Promise<void>;

/** The writer will never take these batches as they are. */
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
  readonly #write: WriteBatches;
  readonly #parts: BatchWriterParts;
  /** Those under way or that failed, and the parts of those that were refused. */
  #held: HeldBatch[] = [];
  /** Of `#held`, how many were refused together or are parts of them: they are written one by one. */
  #suspects = 0;
  #failures = 0;
  #errors: readonly string[] = [];
  readonly #totals = { stored: 0, batches: 0, givenUp: 0 };

  constructor(write: WriteBatches, parts: BatchWriterParts) {
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

  /** Writes what is held, or the first of those that were refused together. False when that failed and is to be tried again. */
  async writeNext(): Promise<boolean> {
    const writing = this.#suspects > 0 ? this.#held.slice(0, 1) : [...this.#held];
    const [first] = writing;
    if (first === undefined) return true;
    try {
      await this.#write(writing.map(({ batch }) => batch));
    } catch (cause) {
      const reason = cause instanceof Error ? cause.message : String(cause);
      this.#parts.onError?.(cause);
      this.#errors = [...this.#errors, reason].slice(-MAX_ERRORS);
      if (!(cause instanceof UnwritableBatch)) {
        this.#failures++;
        return false;
      }
      this.#failures = 0;
      if (writing.length > 1) this.#suspects = writing.length;
      else this.#divide(first, reason);
      return true;
    }
    this.#release(writing.length);
    this.#failures = 0;
    this.#errors = [];
    this.#totals.batches += writing.length;
    for (const { batch } of writing) this.#totals.stored += batch.events.length;
    return true;
  }

  #release(batches: number): void {
    this.#held.splice(0, batches);
    this.#suspects = Math.max(0, this.#suspects - batches);
  }

  /** Puts parts of a refused batch in its place. */
  #putBack(parts: readonly HeldBatch[]): void {
    this.#held.unshift(...parts);
    this.#suspects += parts.length;
  }

  /** Windows and counts go with the first half. */
  #divide({ batch, oldestTicket }: HeldBatch, reason: string): void {
    const { events, windows, counts, number } = batch;
    this.#release(1);
    if (events.length > 1) {
      const middle = Math.ceil(events.length / 2);
      const [first, second] = [events.slice(0, middle), events.slice(middle)];
      this.#putBack([
        { batch: { number, events: first, windows, counts: { ...counts, stored: first.length } }, oldestTicket },
        {
          batch: { number, events: second, windows: [], counts: { ...noCounts(), stored: second.length } },
          oldestTicket,
        },
      ]);
      return;
    }
    const [event] = events;
    this.#totals.givenUp += event === undefined ? counts.aggregated : 1;
    this.#parts.onGivenUp(event === undefined ? counts.aggregated : 1);
    if (event === undefined) return;
    this.#parts.onDeadLetter?.(event, reason);
    if (counts.received === 0 && windows.length === 0) return;
    this.#putBack([{ batch: { number, events: [], windows, counts: { ...counts, stored: 0 } }, oldestTicket }]);
  }
}

export function noCounts(): BatchCounts {
  return { received: 0, stored: 0, aggregated: 0, sampledOut: 0, dropped: 0 };
}
