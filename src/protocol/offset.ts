/**
 * Offsets on the wire: `<16 digits>_<16 digits>` = stream epoch, seq. Opaque to clients, sortable as text.
 * The only file that encodes or parses them.
 *
 * A stream's offsets run along its lineage: one segment per ancestor of a fork, oldest first. Positions up to a fork
 * point carry the epoch they came from, later ones the fork's own (epochs only grow), so offsets sort like positions.
 */

import { assert } from "../kit/assert.ts";

/** One stretch of a lineage: positions `from`..`to` (both inclusive) of the stream incarnation `epoch`. */
export interface LineageSegment {
  readonly epoch: number;
  readonly from: number;
  readonly to: number;
}

/** Oldest first; `to` of one is `from` of the next; the last segment is the stream itself, `to` its tail. */
export type Lineage = readonly LineageSegment[];

export type OffsetToken =
  | { readonly kind: "start" }
  | { readonly kind: "now" }
  | { readonly kind: "at"; readonly epoch: number; readonly seq: number };

export type Position =
  | { readonly kind: "seq"; readonly seq: number }
  /** The offset was never issued for this stream, or lies past its tail. */
  | { readonly kind: "invalid"; readonly reason: string }
  /** The offset belongs to a former incarnation of this name. */
  | { readonly kind: "gone" };

const PATTERN = /^(\d{16})_(\d{16})$/;

export function encodeOffset(epoch: number, seq: number): string {
  // On the path of every append: no message is built for a check that holds.
  assert(Number.isSafeInteger(epoch) && Number.isSafeInteger(seq) && seq >= 0, "an offset is two whole numbers");
  return `${String(epoch).padStart(16, "0")}_${String(seq).padStart(16, "0")}`;
}

/** `-1` (start), `now`, or an encoded offset; null when it is none of them. */
export function parseOffset(text: string): OffsetToken | null {
  if (text === "-1") return { kind: "start" };
  if (text === "now") return { kind: "now" };
  const match = PATTERN.exec(text);
  if (match === null) return null;
  const epoch = Number(match[1]);
  const seq = Number(match[2]);
  if (!Number.isSafeInteger(epoch) || !Number.isSafeInteger(seq)) return null;
  if (epoch === 0) return seq === 0 ? { kind: "start" } : null;
  return { kind: "at", epoch, seq };
}

/** The offset of position `seq` in a stream with this lineage. */
export function offsetAt(lineage: Lineage, seq: number): string {
  for (const segment of lineage) if (seq <= segment.to) return encodeOffset(segment.epoch, seq);
  const last = lineage[lineage.length - 1];
  assert(last !== undefined, "a lineage has at least one segment");
  return encodeOffset(last.epoch, seq);
}

/** Where a parsed offset points in a stream with this lineage. `now` is the tail. */
export function resolveOffset(lineage: Lineage, token: OffsetToken): Position {
  const own = lineage[lineage.length - 1];
  assert(own !== undefined, "a lineage has at least one segment");
  if (token.kind === "start") return { kind: "seq", seq: 0 };
  if (token.kind === "now") return { kind: "seq", seq: own.to };
  const segment = lineage.find((candidate) => candidate.epoch === token.epoch);
  if (segment === undefined) {
    if (token.epoch < own.epoch) return { kind: "gone" };
    return { kind: "invalid", reason: "the offset was not issued by this stream" };
  }
  if (token.seq > segment.to) {
    const reason =
      segment === own ? "the offset is past the tail" : "the offset is past the point where this stream was forked";
    return { kind: "invalid", reason };
  }
  if (token.seq < segment.from) return { kind: "invalid", reason: "the offset was not issued by this stream" };
  return { kind: "seq", seq: token.seq };
}
