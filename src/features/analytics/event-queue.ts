/**
 * Events that wait to be written, by priority. High ones go first, but who has waited for ten batches goes before them, up to a
 * quarter of a batch. Bounded in events and bytes. Events that are promised to be written are let in by room that is held for all of
 * them before the first comes, and are never shed. Of the others a high one may take the place of the oldest low one, then
 * of the oldest normal one.
 */

import { assert } from "../../kit/assert.ts";
import { Ring } from "../../kit/ring.ts";
import { PRIORITIES, type Priority } from "./event.ts";
import { AGED_SHARE, ENTRY_BYTES, MAX_BATCHES_WAITED, MAX_BATCH_BYTES } from "./limits.ts";

/** One event as it will be written. */
export interface QueuedEvent {
  /** As it was sent. */
  readonly json: string;
  /** For how many events it stands. */
  readonly weight: number;
  /** When it happened, or arrived. */
  readonly timestampMs: number;
  /** Its place in the order of arrival. */
  readonly ticket: number;
}

interface Entry extends QueuedEvent {
  /** How many batches there had been. */
  readonly batch: number;
}

/** What all queues together may hold. */
export interface SharedBudget {
  take(bytes: number): boolean;
  give(bytes: number): void;
}

export interface QueueBounds {
  readonly maxEvents: number;
  readonly maxBytes: number;
}

/** A part of the bounds. */
export interface Room {
  readonly events: number;
  readonly bytes: number;
}

/** Room for events that are still to come; it shrinks as they do. */
export interface HeldRoom {
  events: number;
  bytes: number;
}

/** Part of the bounds that events of a priority may fill. */
const SHARE: Readonly<Record<Priority, number>> = { high: 1, normal: 0.9, low: 0.8 };
const LEAST_FIRST = PRIORITIES.toReversed();
const SHED_ORDER: readonly Priority[] = ["low", "normal"];

export function queuedBytes({ json }: QueuedEvent): number {
  return json.length + ENTRY_BYTES;
}

export class EventQueue {
  readonly #rings: Readonly<Record<Priority, Ring<Entry>>> = { high: new Ring(), normal: new Ring(), low: new Ring() };
  readonly #budget: SharedBudget;
  #bounds: QueueBounds;
  #length = 0;
  #bytes = 0;
  #batches = 0;
  /** All room that is held. */
  readonly #held: HeldRoom = { events: 0, bytes: 0 };
  /** What has a smaller ticket is not shed: the last promise was given before it. */
  #keptBefore = 0;

  constructor(bounds: QueueBounds, budget: SharedBudget) {
    this.#bounds = bounds;
    this.#budget = budget;
  }

  get length(): number {
    return this.#length;
  }

  get bytes(): number {
    return this.#bytes;
  }

  get highEvents(): number {
    return this.#rings.high.length;
  }

  configure(bounds: QueueBounds): void {
    this.#bounds = bounds;
  }

  /** Holds room for all of these, as if the low ones came first; null when that would shed any, or pass a bound. */
  hold(wanted: Readonly<Record<Priority, Room>>): HeldRoom | null {
    const all: HeldRoom = { events: 0, bytes: 0 };
    for (const priority of LEAST_FIRST) {
      const { events, bytes } = wanted[priority];
      all.events += events;
      all.bytes += bytes;
      if (events > 0 && !this.#fits(priority, all)) return null;
    }
    if (!this.#budget.take(all.bytes)) return null;
    this.#held.events += all.events;
    this.#held.bytes += all.bytes;
    return all;
  }

  /** Gives up what is left of it. */
  release(room: HeldRoom): void {
    this.#budget.give(room.bytes);
    this.#fill(room, { ...room });
  }

  /** Adds an event that is promised to be written, in room that is held for it. */
  pushHeld(room: HeldRoom, priority: Priority, event: QueuedEvent): void {
    this.#fill(room, { events: 1, bytes: queuedBytes(event) });
    this.#add(priority, event);
    this.#keptBefore = event.ticket + 1;
  }

  /** Adds an event; false when there is no place for it. `onShed` hears of each event that made way. */
  push(priority: Priority, event: QueuedEvent, onShed: (event: QueuedEvent) => void): boolean {
    const bytes = queuedBytes(event);
    while (!this.#fits(priority, { events: 1, bytes }) || !this.#budget.take(bytes)) {
      if (!this.#shed(priority, onShed)) return false;
    }
    this.#add(priority, event);
    return true;
  }

  /** The next batch, at most so many events and 2 MiB of text. */
  take(maxEvents: number): QueuedEvent[] {
    const taken: QueuedEvent[] = [];
    let room = MAX_BATCH_BYTES;
    const takeFrom = (priority: Priority, limit: number, minWaited: number): void => {
      const ring = this.#rings[priority];
      while (taken.length < limit && room > 0) {
        const entry = ring.peek();
        if (entry === undefined || this.#batches - entry.batch < minWaited) return;
        if (taken.length > 0 && entry.json.length > room) return;
        ring.shift();
        room -= entry.json.length;
        this.#left(entry);
        taken.push(entry);
      }
    };
    const aged = Math.ceil(maxEvents * AGED_SHARE);
    takeFrom("low", aged, MAX_BATCHES_WAITED);
    takeFrom("normal", aged, MAX_BATCHES_WAITED);
    for (const priority of PRIORITIES) takeFrom(priority, maxEvents, 0);
    this.#batches++;
    return taken;
  }

  /** The smallest ticket that waits; Infinity when nothing does. */
  oldestTicket(): number {
    let oldest = Infinity;
    for (const priority of PRIORITIES) oldest = Math.min(oldest, this.#rings[priority].peek()?.ticket ?? Infinity);
    return oldest;
  }

  clear(): void {
    for (const priority of PRIORITIES) this.#rings[priority].clear();
    this.#budget.give(this.#bytes);
    this.#length = this.#bytes = 0;
  }

  #fits(priority: Priority, { events, bytes }: Room): boolean {
    const { maxEvents, maxBytes } = this.#bounds;
    const share = SHARE[priority];
    return (
      this.#length + this.#held.events + events <= maxEvents * share &&
      this.#bytes + this.#held.bytes + bytes <= maxBytes * share
    );
  }

  /** Takes a part out of room that is held. */
  #fill(room: HeldRoom, { events, bytes }: Room): void {
    assert(events <= room.events && bytes <= room.bytes, "an event fits into the room that is held for it");
    for (const held of [room, this.#held]) {
      held.events -= events;
      held.bytes -= bytes;
    }
  }

  #add(priority: Priority, event: QueuedEvent): void {
    const { json, weight, timestampMs, ticket } = event;
    this.#rings[priority].push({ json, weight, timestampMs, ticket, batch: this.#batches });
    this.#length++;
    this.#bytes += queuedBytes(event);
  }

  /** Gives up the oldest event of the least priority below `priority`. */
  #shed(priority: Priority, onShed: (event: QueuedEvent) => void): boolean {
    for (const candidate of SHED_ORDER) {
      if (candidate === priority) return false;
      const ring = this.#rings[candidate];
      const entry = ring.peek();
      if (entry === undefined || entry.ticket < this.#keptBefore) continue;
      ring.shift();
      this.#left(entry);
      onShed(entry);
      return true;
    }
    return false;
  }

  #left(event: QueuedEvent): void {
    const bytes = queuedBytes(event);
    this.#length--;
    this.#bytes -= bytes;
    assert(this.#length >= 0 && this.#bytes >= 0, "a queue never holds less than nothing");
    this.#budget.give(bytes);
  }
}
