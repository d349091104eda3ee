/** An event on its way into the stage: checked, and with its text at hand. Pure. */

import { type Priority, type ReadEvent, readEvent } from "./event.ts";
import type { Room } from "./event-queue.ts";
import { ENTRY_BYTES, MAX_AHEAD_MS, MAX_EVENT_BYTES } from "./limits.ts";

/** An event with its text, read before: it may be taken without being checked again. */
export interface PreparedEvent {
  readonly read: ReadEvent;
  /** Of its text in UTF-8: at least as many as it has characters. */
  readonly bytes: number;
  /** Its text; asked for only when it is stored. */
  readonly text: () => string;
}

/** An event with its text, or why it is none. */
export function prepareEvent(event: unknown, bytes: number, text: () => string, nowMs: number): PreparedEvent | string {
  if (bytes > MAX_EVENT_BYTES) return tooLarge;
  const read = readEvent(event);
  if (typeof read === "string") return read;
  if (read.timestampMs !== null && read.timestampMs > nowMs + MAX_AHEAD_MS) return "timestamp lies in the future";
  return { read, bytes, text };
}

/** The room in a queue that they take at most. */
export function roomFor(
  events: Iterable<{ readonly read: Pick<ReadEvent, "priority">; readonly bytes: number }>,
): Readonly<Record<Priority, Room>> {
  const room = { high: { events: 0, bytes: 0 }, normal: { events: 0, bytes: 0 }, low: { events: 0, bytes: 0 } };
  for (const { read, bytes } of events) {
    const wanted = room[read.priority];
    wanted.events++;
    wanted.bytes += bytes + ENTRY_BYTES;
  }
  return room;
}

export function boundedText(json: string): string {
  if (json.length > MAX_EVENT_BYTES) throw new TypeError(tooLarge);
  return json;
}

const tooLarge = `an event has at most ${MAX_EVENT_BYTES} bytes`;
