/**
 * Keeps the process below its memory limit. The budget sizes what we hold (`protocol/budget.ts`); what we do not hold ourselves
 * (sockets, garbage, copies on their way) is watched here: over the high mark requests that bring or fetch records get 429,
 * and garbage is collected, until the process is below the low mark again. Without a limit there is no guard.
 */

import type { Deadlines } from "../kit/deadlines.ts";
import type { Metrics } from "../kit/metrics.ts";

/** Shares of the limit: between the high mark and the limit lies what requests in flight may still allocate. */
const HIGH = 0.8;
const LOW = 0.72;
const SAMPLE_MS = 50;
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
  readonly #deadlines: Deadlines;
  readonly #collections;
  #shedding = false;
  #sinceCollectMs = Infinity;

  constructor(options: MemoryGuardOptions, deadlines: Deadlines, metrics: Metrics) {
    this.#options = options;
    this.#deadlines = deadlines;
    const { limitBytes } = options;
    metrics.gauge("streams_memory_limit_bytes", "Memory that the process may use.", () => limitBytes);
    metrics.gauge("streams_memory_shedding", "1 while requests are refused to save memory.", () =>
      Number(this.#shedding),
    );
    this.#collections = metrics.counter("streams_memory_collections_total", "Garbage collections the guard asked for.");
    this.#arm();
  }

  get limitBytes(): number {
    return this.#options.limitBytes;
  }

  /** Whether requests that need memory are to be refused now. */
  get shedding(): boolean {
    return this.#shedding;
  }

  /** One look. Public so that tests drive it. */
  sample(): void {
    const { limitBytes, residentBytes, collect } = this.#options;
    const used = residentBytes();
    this.#shedding = used > limitBytes * (this.#shedding ? LOW : HIGH);
    this.#sinceCollectMs += SAMPLE_MS;
    if (!this.#shedding || this.#sinceCollectMs < COLLECT_EVERY_MS) return;
    this.#sinceCollectMs = 0;
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
