/**
 * Deadlines that are moved far more often than they are met: a timing wheel with lazy entries. Moving one later is a write; it is
 * looked at where it was first put, and put further on when it is not due yet. One timer of `Deadlines` for all, none while empty.
 * For the few that are mostly met or cancelled, `Deadlines` alone is simpler.
 */

import { assert } from "./assert.ts";
import type { Clock } from "./clock.ts";
import type { Deadline, Deadlines } from "./deadlines.ts";

/**
 * Where an entry stands in the wheel. Best fields of the entry itself: a mark of one of many is a look at cold memory, and this
 * saves the second. Only the wheel writes here.
 */
export interface WheelPlace {
  /** When it is due; Infinity = not at all. */
  dueMs: number;
  /** Number of the slot that it is looked at in; -1 = in none. */
  slot: number;
}

export interface WheelParts<T> {
  readonly clock: Clock;
  readonly deadlines: Deadlines;
  /** The place of an entry; always the same object. */
  readonly placeOf: (entry: T) => WheelPlace;
  /** Told of entries that are due, in the order of their slots. Must not throw. */
  readonly onDue: (entries: readonly T[]) => void;
  /** Resolution: an entry is told at most this much late, besides the lateness of timers. Default 5 ms. */
  readonly tickMs?: number;
}

/** 1,024 slots of 5 ms: most deadlines are less than five seconds away. A later one is looked at once a turn of the wheel. */
const SLOTS = 1024;
const DEFAULT_TICK_MS = 5;

export class DeadlineWheel<T> {
  readonly #parts: WheelParts<T>;
  readonly #tickMs: number;
  readonly #slots: T[][] = Array.from({ length: SLOTS }, () => []);
  /** Entries in slots, stale ones included. */
  #held = 0;
  /** All slots up to this one were looked at. */
  #seen: number;
  #timer: Deadline | null = null;
  #timerSlot = Infinity;

  constructor(parts: WheelParts<T>) {
    this.#parts = parts;
    this.#tickMs = parts.tickMs ?? DEFAULT_TICK_MS;
    this.#seen = this.#slotOf(parts.clock.monotonicMs()) - 1;
  }

  /** Makes an entry due at `dueMs`, whatever it was before. */
  set(entry: T, dueMs: number): void {
    const place = this.#parts.placeOf(entry);
    place.dueMs = dueMs;
    // Where it is looked at is early enough: the common case, and all there is to do.
    if (place.slot >= 0 && place.slot * this.#tickMs <= dueMs) return;
    this.#put(entry, place);
  }

  /** It will not be due. */
  clear(entry: T): void {
    this.#parts.placeOf(entry).dueMs = Infinity;
  }

  /** Looks at what may be due. The timer does it; public so that tests can. */
  tick(): void {
    const { clock, placeOf, onDue } = this.#parts;
    const nowMs = clock.monotonicMs();
    const last = Math.floor(nowMs / this.#tickMs);
    const due: T[] = [];
    const later: T[] = [];
    // After a long sleep each slot is looked at once, not once for every turn that was missed.
    for (let slot = Math.max(this.#seen + 1, last - SLOTS + 1); slot <= last; slot++) {
      for (const entry of this.#take(slot)) {
        const place = placeOf(entry);
        // It was put into an earlier slot since, and this is what is left of it here.
        if (place.slot < 0 || place.slot > last || (place.slot - slot) % SLOTS !== 0) continue;
        place.slot = -1;
        if (place.dueMs <= nowMs) due.push(entry);
        else if (place.dueMs < Infinity) later.push(entry);
      }
    }
    this.#seen = Math.max(this.#seen, last);
    for (const entry of later) this.#put(entry, placeOf(entry));
    this.#arm();
    if (due.length > 0) onDue(due);
  }

  close(): void {
    this.#timer?.cancel();
    for (const slot of this.#slots) slot.length = 0;
    this.#held = 0;
  }

  #put(entry: T, place: WheelPlace): void {
    const slot = Math.min(Math.max(this.#slotOf(place.dueMs), this.#seen + 1), this.#seen + SLOTS);
    place.slot = slot;
    this.#slots[slot % SLOTS]?.push(entry);
    this.#held++;
    if (slot < this.#timerSlot) this.#armAt(slot);
  }

  /** The first slot whose time is not before `ms`. */
  #slotOf(ms: number): number {
    return Math.ceil(ms / this.#tickMs);
  }

  #take(slot: number): T[] {
    const entries = this.#slots[slot % SLOTS];
    assert(entries !== undefined, "a slot of the wheel");
    if (entries.length === 0) return entries;
    this.#slots[slot % SLOTS] = [];
    this.#held -= entries.length;
    return entries;
  }

  /** At the next slot that holds anything. */
  #arm(): void {
    this.#timer?.cancel();
    this.#timer = null;
    this.#timerSlot = Infinity;
    if (this.#held === 0) return;
    for (let slot = this.#seen + 1; slot <= this.#seen + SLOTS; slot++) {
      if ((this.#slots[slot % SLOTS]?.length ?? 0) > 0) return this.#armAt(slot);
    }
  }

  #armAt(slot: number): void {
    this.#timer?.cancel();
    this.#timerSlot = slot;
    const delayMs = Math.max(0, slot * this.#tickMs - this.#parts.clock.monotonicMs());
    this.#timer = this.#parts.deadlines.after(delayMs, () => this.tick());
  }
}
