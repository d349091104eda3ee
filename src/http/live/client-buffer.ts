/**
 * What one slow client has not taken yet: a bounded queue between whoever produces and a `send` that may wait. It never sends by
 * itself, never grows past its bounds, and never loses silently: full, it drops the oldest and counts it.
 *
 *     const buffer = new ClientBuffer<string>({ maxSize: 100 });
 *     buffer.on("backpressure", ({ buffered, dropped }) => …);
 *     buffer.enqueue("hello", (text) => socket.send(text));
 *     await buffer.flush();
 *
 * For derived data that may be dropped. Records of a stream need no such queue: a client that is behind is an offset, and is
 * read again from the log.
 */

import { type Clock, systemClock } from "../../kit/clock.ts";
import { Ring } from "../../kit/ring.ts";

export interface ClientBufferOptions<T> {
  /** Items kept, besides the one that is being sent. Default 1,000. */
  readonly maxSize?: number;
  /** Bytes kept, as `sizeOf` counts them. Default 1 MiB. */
  readonly maxBytes?: number;
  /** Share of `maxSize` above which the client counts as slow, in (0, 1]. Default 0.5. */
  readonly backpressureThreshold?: number;
  /** Bytes of one item. Default: the length of text and bytes, 0 for everything else. */
  readonly sizeOf?: (data: T) => number;
  readonly clock?: Clock;
}

export interface ClientBufferMetrics {
  /** Items not sent yet, the one being sent included. */
  readonly buffered: number;
  /** Items given up since the last reset. */
  readonly dropped: number;
  readonly maxSize: number;
  /** How long the last flush that sent something took. */
  readonly lastFlushLatencyMs: number;
}

/** `backpressure`: at every enqueue above the threshold. `drained`: once, when half the threshold is reached again. */
export type ClientBufferEvent = "backpressure" | "drained";

type Listener = (metrics: ClientBufferMetrics) => void;

interface Item<T> {
  readonly data: T;
  readonly bytes: number;
  readonly send: (data: T) => void | Promise<void>;
}

export const DEFAULT_MAX_SIZE = 1_000;
export const DEFAULT_MAX_BYTES = 1024 * 1024;
export const DEFAULT_THRESHOLD = 0.5;

export class ClientBuffer<T> {
  readonly maxSize: number;
  readonly #maxBytes: number;
  readonly #threshold: number;
  readonly #sizeOf: (data: T) => number;
  readonly #clock: Clock;
  readonly #items = new Ring<Item<T>>();
  readonly #listeners: Readonly<Record<ClientBufferEvent, Set<Listener>>> = {
    backpressure: new Set(),
    drained: new Set(),
  };
  #bytes = 0;
  #sending: Item<T> | null = null;
  #flushing: Promise<void> | null = null;
  #dropped = 0;
  #latencyMs = 0;
  /** Above the threshold, and not back at half of it since. */
  #slow = false;

  /** @throws RangeError when a bound is not a positive whole number, or the threshold not in (0, 1]. */
  constructor(options: ClientBufferOptions<T> = {}) {
    const { maxSize = DEFAULT_MAX_SIZE, maxBytes = DEFAULT_MAX_BYTES, sizeOf = lengthOf } = options;
    const { backpressureThreshold = DEFAULT_THRESHOLD, clock = systemClock } = options;
    for (const [name, bound] of Object.entries({ maxSize, maxBytes })) {
      if (!Number.isSafeInteger(bound) || bound <= 0)
        throw new RangeError(`${name} is a positive whole number, not ${bound}`);
    }
    if (!(backpressureThreshold > 0 && backpressureThreshold <= 1)) {
      throw new RangeError(`backpressureThreshold is above 0 and at most 1, not ${backpressureThreshold}`);
    }
    this.maxSize = maxSize;
    this.#maxBytes = maxBytes;
    this.#threshold = Math.floor(maxSize * backpressureThreshold);
    this.#sizeOf = sizeOf;
    this.#clock = clock;
  }

  get size(): number {
    return this.#items.length + (this.#sending === null ? 0 : 1);
  }

  /** Bytes of what is kept, the item being sent included. */
  get bytes(): number {
    return this.#bytes;
  }

  get droppedCount(): number {
    return this.#dropped;
  }

  isHealthy(): boolean {
    return this.size <= this.#threshold;
  }

  getMetrics(): ClientBufferMetrics {
    const { size: buffered, maxSize } = this;
    return { buffered, dropped: this.#dropped, maxSize, lastFlushLatencyMs: this.#latencyMs };
  }

  /** Keeps an item for the next flush; full, the oldest that is not being sent go. One larger than `maxBytes` is kept alone. */
  enqueue(data: T, send: (data: T) => void | Promise<void>): void {
    const bytes = this.#sizeOf(data);
    while (this.#items.length >= this.maxSize || (this.#items.length > 0 && this.#bytes + bytes > this.#maxBytes)) {
      this.#bytes -= this.#items.shift()?.bytes ?? 0;
      this.#dropped++;
    }
    this.#items.push({ data, bytes, send });
    this.#bytes += bytes;
    if (this.isHealthy()) return;
    this.#slow = true;
    this.#tell("backpressure");
  }

  /**
   * Sends everything in order, one after the other, also what comes meanwhile. A call during a flush is the same flush. Rejects with
   * the error of a `send`: what it was about to send stays first, and the next flush begins with it.
   */
  flush(): Promise<void> {
    if (this.#flushing !== null) return this.#flushing;
    const { promise, resolve } = Promise.withResolvers<void>();
    // First: it may be over before it answers.
    this.#flushing = promise;
    resolve(this.#flush());
    return promise;
  }

  /** Forgets what is buffered, and what was counted. An item being sent is on its way. */
  reset(): void {
    this.#items.clear();
    this.#bytes = this.#sending?.bytes ?? 0;
    this.#dropped = this.#latencyMs = 0;
    this.#slow = false;
  }

  /** Calls `listener` with the metrics at each event; the answer takes it off again. It must not throw. */
  on(event: ClientBufferEvent, listener: Listener): () => void {
    this.#listeners[event].add(listener);
    return () => void this.#listeners[event].delete(listener);
  }

  async #flush(): Promise<void> {
    const isEmpty = this.#items.length === 0;
    const startMs = this.#clock.monotonicMs();
    try {
      for (let item = this.#items.shift(); item !== undefined; item = this.#items.shift()) await this.#sendOne(item);
      if (!isEmpty) this.#latencyMs = this.#clock.monotonicMs() - startMs;
    } finally {
      // In the turn in which it saw that nothing is left: what comes after that needs a flush of its own.
      this.#flushing = null;
    }
  }

  async #sendOne(item: Item<T>): Promise<void> {
    this.#sending = item;
    try {
      await item.send(item.data);
    } catch (cause) {
      this.#items.unshift(item);
      throw cause;
    } finally {
      this.#sending = null;
    }
    this.#bytes -= item.bytes;
    this.#recover();
  }

  #recover(): void {
    if (!this.#slow || this.size > Math.floor(this.#threshold / 2)) return;
    this.#slow = false;
    this.#tell("drained");
  }

  #tell(event: ClientBufferEvent): void {
    if (this.#listeners[event].size === 0) return;
    const metrics = this.getMetrics();
    for (const listener of this.#listeners[event]) listener(metrics);
  }
}

function lengthOf(data: unknown): number {
  return typeof data === "string" || data instanceof Uint8Array ? data.length : 0;
}
