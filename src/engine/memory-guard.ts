/**
 * Keeps the process below its memory limit. The budget sizes what we hold (`protocol/budget.ts`); what we do not hold ourselves
 * (sockets, garbage, copies on their way) is watched here: over the high mark requests that bring or fetch records get 429,
 * and garbage is collected, until the process is below the low mark again. Without a limit there is no guard.
 */

import type { Clock } from "../kit/clock.ts";
import type { Deadlines } from "../kit/deadlines.ts";
import type { Metrics } from "../kit/metrics.ts";

/** Shares of the limit: between the high mark and the limit lies what requests in flight may still allocate. */
const HIGH = 0.75;
const LOW = 0.65;
const SAMPLE_MS = 50;
/** What a byte of a request costs until it is answered: where it arrived, our copy, and the one on its way out. */
const COPIES = 3;
/** A collection of some 100 MB takes about 50 ms: while memory is short at most a tenth of the time. */
const COLLECT_EVERY_MS = 500;

/** What requests hear that need memory while it is short. */
export const SHORT_OF_MEMORY = { kind: "overloaded", reason: "the server is short of memory" } as const;

export interface MemoryGuardOptions {
  readonly limitBytes: number;
  /** Resident bytes of the process. */
  readonly residentBytes: () => number;
  /** Frees what garbage there is. */
  readonly collect: () => void;
}

export class MemoryGuard {
  readonly #options: MemoryGuardOptions;
  readonly #clock: Clock;
  readonly #deadlines: Deadlines;
  readonly #collections;
  #shedding = false;
  #collectedMs = -Infinity;
  #residentBytes: number;
  /** Taken for requests since the last look; the process may not show it yet. */
  #notedBytes = 0;

  constructor(options: MemoryGuardOptions, clock: Clock, deadlines: Deadlines, metrics: Metrics) {
    this.#options = options;
    this.#clock = clock;
    this.#deadlines = deadlines;
    this.#residentBytes = options.residentBytes();
    const { limitBytes } = options;
    metrics.gauge("streams_memory_limit_bytes", "Memory that the process may use.", () => limitBytes);
    metrics.gauge("streams_memory_shedding", "1 while requests are refused to save memory.", () =>
      Number(this.shedding),
    );
    this.#collections = metrics.counter("streams_memory_collections_total", "Garbage collections the guard asked for.");
    this.#arm();
  }

  get limitBytes(): number {
    return this.#options.limitBytes;
  }

  /** Whether requests that need memory are to be refused now. */
  get shedding(): boolean {
    return this.#shedding || this.#residentBytes + this.#notedBytes * COPIES > this.#options.limitBytes * HIGH;
  }

  /** So many bytes are on their way for a request: a burst is quicker than the looks at the process. */
  note(bytes: number): void {
    this.#notedBytes += bytes;
  }

  /** One look. Public so that tests drive it. */
  sample(): void {
    const { limitBytes, residentBytes, collect } = this.#options;
    this.#residentBytes = residentBytes();
    this.#notedBytes = 0;
    this.#shedding = this.#residentBytes > limitBytes * (this.#shedding ? LOW : HIGH);
    const nowMs = this.#clock.monotonicMs();
    if (!this.#shedding || nowMs - this.#collectedMs < COLLECT_EVERY_MS) return;
    this.#collectedMs = nowMs;
    this.#collections.add();
    collect();
  }

  #arm(): void {
    this.#deadlines.after(SAMPLE_MS, () => {
      this.sample();
      this.#arm();
    });
  }
}
