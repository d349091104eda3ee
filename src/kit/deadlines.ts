/**
 * One timer for any number of deadlines: a heap of (due time, action), cancelled lazily.
 * Bound: cancelled entries are swept once they outnumber the live ones, so memory follows the live count.
 */

import TinyQueue from "tinyqueue";
import type { Clock } from "./clock.ts";

interface Entry {
  readonly dueMs: number;
  action: (() => void) | null;
}

/** A scheduled action; `cancel` is idempotent and O(1). */
export interface Deadline {
  cancel(): void;
}

/** Runs actions at or after their due time, earliest first. Actions must not throw. */
export class Deadlines {
  readonly #clock: Clock;
  #heap = new TinyQueue<Entry>([], byDueTime);
  #live = 0;
  #timer: ReturnType<typeof setTimeout> | null = null;
  #timerDueMs = Infinity;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** How many deadlines wait. */
  get size(): number {
    return this.#live;
  }

  after(delayMs: number, action: () => void): Deadline {
    const entry: Entry = { dueMs: this.#clock.monotonicMs() + delayMs, action };
    this.#heap.push(entry);
    this.#live++;
    this.#arm();
    return { cancel: () => this.#cancel(entry) };
  }

  /** Runs everything that is due. Public so that tests drive it; the timer calls it too. */
  tick(): void {
    const nowMs = this.#clock.monotonicMs();
    for (let next = this.#heap.peek(); next !== undefined && next.dueMs <= nowMs; next = this.#heap.peek()) {
      this.#heap.pop();
      const action = next.action;
      if (action === null) continue;
      next.action = null;
      this.#live--;
      action();
    }
    this.#arm();
  }

  close(): void {
    this.#heap = new TinyQueue<Entry>([], byDueTime);
    this.#live = 0;
    this.#disarm();
  }

  #cancel(entry: Entry): void {
    if (entry.action === null) return;
    entry.action = null;
    this.#live--;
    if (this.#live === 0) {
      this.close();
    } else if (this.#heap.length > 64 && this.#heap.length > 2 * this.#live) {
      this.#heap = new TinyQueue(
        this.#heap.data.filter((candidate) => candidate.action !== null),
        byDueTime,
      );
    }
  }

  #arm(): void {
    const next = this.#heap.peek();
    if (next === undefined) return this.#disarm();
    if (next.dueMs >= this.#timerDueMs) return;
    this.#disarm();
    this.#timerDueMs = next.dueMs;
    const delayMs = Math.min(2 ** 31 - 1, Math.max(1, Math.ceil(next.dueMs - this.#clock.monotonicMs())));
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#timerDueMs = Infinity;
      this.tick();
    }, delayMs);
  }

  #disarm(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
    this.#timerDueMs = Infinity;
  }
}

function byDueTime(left: Entry, right: Entry): number {
  return left.dueMs - right.dueMs;
}
