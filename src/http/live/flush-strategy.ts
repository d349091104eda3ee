/**
 * When a client buffer is flushed: every so often, in the turn after each item, after so many items, or by the client's health. Owns
 * the deadlines of one buffer; a failing `send` is reported once per flush, and the item it could not send stays first.
 *
 *     const { flush, ...bounds } = DASHBOARD;
 *     const buffer = new ClientBuffer<string>(bounds);
 *     const flusher = new Flusher(buffer, flush, { onError: () => socket.close() });
 *     buffer.enqueue("hello", (text) => socket.send(text));
 *     flusher.enqueued();
 */

import { systemClock } from "../../kit/clock.ts";
import { type Deadline, Deadlines } from "../../kit/deadlines.ts";
import { nextTurn } from "../../kit/turn.ts";
import { type ClientBuffer, DEFAULT_MAX_SIZE, DEFAULT_THRESHOLD } from "./client-buffer.ts";

export type FlushStrategy =
  | { readonly kind: "periodic"; readonly everyMs: number }
  /** In the turn after an item was enqueued. */
  | { readonly kind: "event" }
  | { readonly kind: "batch"; readonly items: number }
  /** Periodic; `pause` when the client is slow, `resume` when it is healthy again. */
  | { readonly kind: "adaptive"; readonly everyMs: number };

export interface ClientPreset {
  readonly maxSize: number;
  readonly backpressureThreshold: number;
  readonly flush: FlushStrategy;
}

/** A live dashboard: small, warned early, flushed often. */
export const DASHBOARD: ClientPreset = {
  maxSize: 100,
  backpressureThreshold: 0.3,
  flush: { kind: "periodic", everyMs: 50 },
};
/** High throughput: large, warned late, flushed in batches. */
export const ANALYTICS: ClientPreset = {
  maxSize: 5_000,
  backpressureThreshold: 0.8,
  flush: { kind: "batch", items: 100 },
};
/** An unstable network: room to recover, and the subscription pauses while the client is slow. */
export const MOBILE: ClientPreset = {
  maxSize: 2_000,
  backpressureThreshold: DEFAULT_THRESHOLD,
  flush: { kind: "adaptive", everyMs: 200 },
};
export const STANDARD: ClientPreset = {
  maxSize: DEFAULT_MAX_SIZE,
  backpressureThreshold: DEFAULT_THRESHOLD,
  flush: { kind: "periodic", everyMs: 100 },
};

export interface FlusherParts {
  /** Default: one timer for all flushers that name none. */
  readonly deadlines?: Deadlines;
  /** A `send` failed: the connection is to be closed, its client resumes. */
  readonly onError: (cause: unknown) => void;
  readonly pause?: () => void;
  readonly resume?: () => void;
}

const DEADLINES = new Deadlines(systemClock);

export class Flusher<T> {
  readonly #buffer: ClientBuffer<T>;
  readonly #strategy: FlushStrategy;
  readonly #parts: FlusherParts;
  readonly #deadlines: Deadlines;
  #timer: Deadline | null = null;
  #enqueued = 0;
  #isSoon = false;
  #paused = false;
  #stopped = false;

  constructor(buffer: ClientBuffer<T>, strategy: FlushStrategy, parts: FlusherParts) {
    this.#buffer = buffer;
    this.#strategy = strategy;
    this.#parts = parts;
    this.#deadlines = parts.deadlines ?? DEADLINES;
    this.#arm();
  }

  /** Call after each enqueue. */
  enqueued(): void {
    const { kind } = this.#strategy;
    if (kind === "event") this.#soon();
    else if (kind === "batch" && ++this.#enqueued >= this.#strategy.items) this.#now();
  }

  /** Leaves nothing behind; a flush that runs goes on to its end. */
  stop(): void {
    this.#stopped = true;
    this.#timer?.cancel();
  }

  #arm(): void {
    if (this.#stopped || !("everyMs" in this.#strategy)) return;
    this.#timer = this.#deadlines.after(this.#strategy.everyMs, () => {
      this.#now();
      this.#arm();
    });
  }

  #soon(): void {
    if (this.#isSoon) return;
    this.#isSoon = true;
    nextTurn()
      .then(() => {
        this.#isSoon = false;
        if (!this.#stopped) this.#now();
      })
      .catch(this.#parts.onError);
  }

  #now(): void {
    this.#enqueued = 0;
    this.#adapt();
    this.#buffer
      .flush()
      .then(() => this.#adapt())
      .catch(this.#parts.onError);
  }

  #adapt(): void {
    if (this.#strategy.kind !== "adaptive" || this.#buffer.isHealthy() !== this.#paused) return;
    this.#paused = !this.#paused;
    if (this.#paused) this.#parts.pause?.();
    else this.#parts.resume?.();
  }
}
