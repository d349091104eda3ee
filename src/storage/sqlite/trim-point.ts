/**
 * How far retention may move the retained start of a stream: past every record that is too old, then past the oldest ones
 * until the rest fits. Whole runs go by their sums; only the one that holds the new start is looked into.
 */

import { isJson } from "../../protocol/content-type.ts";
import type { StreamHead } from "../../protocol/stream.ts";
import type { TrimBounds, TrimPoint } from "../port.ts";
import type { Piece } from "./run-codec.ts";

/** What is looked at in one call, in one turn: so many pieces, or so much payload that lies in batches which do not compress, are 2 ms. */
const MAX_PIECES = 64;
const MAX_BYTES = 2 * 1024 * 1024;

export function findTrimPoint(head: StreamHead, pieces: Iterable<Piece>, bounds: TrimBounds): TrimPoint {
  const separated = isJson(head.config.contentType);
  let retainedFrom = Math.max(head.retainedFrom, head.config.from);
  let trimmedBytes = head.trimmedBytes;
  const excess = (): number => (bounds.maxBytes === null ? 0 : head.bytes - trimmedBytes - bounds.maxBytes);
  let looked = 0;
  for (const piece of pieces) {
    const isEnough = looked++ === MAX_PIECES || trimmedBytes - head.trimmedBytes >= MAX_BYTES;
    if (isEnough) return { retainedFrom, trimmedBytes, more: true };
    const old = bounds.beforeMs !== null && piece.lastMs < bounds.beforeMs;
    if (!old && excess() <= 0) break;
    const bytes = piece.bytes ?? piece.payload.length - (separated ? piece.count - 1 : 0);
    const whole = retainedFrom === piece.firstSeq && (old || bytes <= excess());
    if (whole) {
      retainedFrom = piece.firstSeq + piece.count;
      trimmedBytes += bytes;
      continue;
    }
    let seq = piece.firstSeq;
    for (const length of piece.shape().lengths) {
      if (seq++ < retainedFrom) continue;
      if (!old && excess() <= 0) break;
      retainedFrom = seq;
      trimmedBytes += length;
    }
  }
  return { retainedFrom, trimmedBytes, more: false };
}
