/**
 * How late the event loop is: a deadline every 100 ms, against the time at which it was due; every second while the process does
 * next to nothing, because ten wake-ups a second are a third of what an idle server costs. After a pause of more than five
 * intervals (a suspended machine) the expectation starts again from now, so one pause counts once.
 */

import type { Clock } from "./clock.ts";
import type { Deadline, Deadlines } from "./deadlines.ts";
import type { Histogram } from "./histogram.ts";

const INTERVAL_MS = 100;
const IDLE_INTERVAL_MS = 1_000;
/** Share of one core since the last sample. */
const IDLE_CPU = 0.05;
const MAX_BEHIND_MS = 500;

/** Lateness in milliseconds since the last `take`. */
export interface Lag {
  readonly maxMs: number;
  readonly sumMs: number;
  readonly samples: number;
}

export const NO_LAG: Lag = { maxMs: 0, sumMs: 0, samples: 0 };

export function mergeLag(left: Lag, right: Lag): Lag {
  return {
    maxMs: Math.max(left.maxMs, right.maxMs),
    sumMs: left.sumMs + right.sumMs,
    samples: left.samples + right.samples,
  };
}

export class EventLoopLag {
  readonly #clock: Clock;
  readonly #deadlines: Deadlines;
  readonly #seconds: Histogram;
  readonly #cpuMs: () => number;
  #expectedMs = 0;
  #sampledMs = 0;
  #sampledCpuMs = 0;
  #lag = NO_LAG;
  #next: Deadline | null = null;

  /** `seconds` sees every sample; `cpuMs` is what the process has used of any core so far. */
  constructor(clock: Clock, deadlines: Deadlines, seconds: Histogram, cpuMs: () => number) {
    this.#cpuMs = cpuMs;
    this.#clock = clock;
    this.#deadlines = deadlines;
    this.#seconds = seconds;
  }

  start(): void {
    if (this.#next !== null) return;
    this.#sampledMs = this.#clock.monotonicMs();
    this.#sampledCpuMs = this.#cpuMs();
    this.#expectedMs = this.#sampledMs + INTERVAL_MS;
    this.#arm();
  }

  stop(): void {
    this.#next?.cancel();
    this.#next = null;
  }

  /** What was seen since the last call. */
  take(): Lag {
    const lag = this.#lag;
    this.#lag = NO_LAG;
    return lag;
  }

  #arm(): void {
    this.#next = this.#deadlines.after(Math.max(0, this.#expectedMs - this.#clock.monotonicMs()), () => this.#sample());
  }

  #sample(): void {
    const nowMs = this.#clock.monotonicMs();
    const lateMs = Math.max(0, nowMs - this.#expectedMs);
    this.#lag = mergeLag(this.#lag, { maxMs: lateMs, sumMs: lateMs, samples: 1 });
    this.#seconds.observe(lateMs / 1000);
    this.#expectedMs = (lateMs > MAX_BEHIND_MS ? nowMs : this.#expectedMs) + this.#intervalMs(nowMs);
    this.#arm();
  }

  #intervalMs(nowMs: number): number {
    const cpuMs = this.#cpuMs();
    const isIdle = cpuMs - this.#sampledCpuMs < IDLE_CPU * (nowMs - this.#sampledMs);
    this.#sampledMs = nowMs;
    this.#sampledCpuMs = cpuMs;
    return isIdle ? IDLE_INTERVAL_MS : INTERVAL_MS;
  }
}
