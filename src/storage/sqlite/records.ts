/**
 * Reading the records of a stream, wherever they are: sealed in batches, or in the window. What is there is continuous from the retained
 * start to the tail; a gap that neither retention nor deletion made is damage, never a shorter answer.
 */

import { present } from "../../kit/assert.ts";
import { DamagedRange } from "../../protocol/faults.ts";
import type { Chunk, FrameChunk, FrameRequest, ReadRequest, TrimBounds, TrimPoint } from "../port.ts";
import type { Batches } from "./batches.ts";
import type { Heads } from "./heads.ts";
import { type Piece, PieceCutter } from "./run-codec.ts";
import { findTrimPoint } from "./trim-point.ts";
import type { Window } from "./window.ts";

export class Records {
  readonly #heads: Heads;
  readonly #window: Window;
  readonly #batches: Batches;

  constructor(heads: Heads, window: Window, batches: Batches) {
    this.#heads = heads;
    this.#window = window;
    this.#batches = batches;
  }

  async read(request: ReadRequest): Promise<Chunk> {
    const { id, from, to, maxBytes } = request;
    const cutter = new PieceCutter(request);
    if (from >= to) return { parts: [], next: from };
    const windowFirst = this.#window.firstSeqOf(id);
    const hot = windowFirst !== undefined && from >= windowFirst;
    // Cold: the frames are our own copies, so they may be decompressed off the loop; what is hot comes with the next read.
    const pieces = hot ? this.#window.pieces(id, from) : await this.#cold(id, from, windowFirst ?? Infinity, maxBytes);
    let missingTo = Math.min(to, windowFirst ?? to);
    for (const piece of pieces) {
      if (piece.firstSeq > cutter.next) {
        missingTo = Math.min(to, piece.firstSeq);
        break;
      }
      if (!cutter.take(piece)) break;
    }
    if (cutter.next === from) this.#expectFreed(id, from, missingTo);
    return { parts: cutter.parts, next: cutter.next };
  }

  /** Sealed batches from `from` on, as they are stored; null when what comes next is not a whole one. */
  readFrames({ id, from, to, maxBytes }: FrameRequest): FrameChunk | null {
    const sealedTo = Math.min(to, this.#window.firstSeqOf(id) ?? to);
    return from < sealedTo ? this.#batches.framesWithin(id, from, sealedTo, maxBytes) : null;
  }

  async #cold(id: number, from: number, before: number, maxBytes: number): Promise<readonly Piece[]> {
    const rows = this.#batches.rowsWithin(id, from, before, maxBytes);
    try {
      return await Promise.all(rows.map((row) => this.#batches.inflate(row)));
    } catch (cause) {
      // A file may go between its row and its bytes.
      if (cause instanceof DamagedRange && this.#isFreed(id, from)) return [];
      throw cause;
    }
  }

  /** Retention or deletion gave these records up since the read was planned. Nothing else may make them go. */
  #expectFreed(id: number, from: number, to: number): void {
    if (!this.#isFreed(id, from)) throw new DamagedRange(id, from, to);
  }

  #isFreed(id: number, from: number): boolean {
    const head = this.#heads.byId(id);
    return head === undefined || head.deletion === "hard" || head.retainedFrom > from;
  }

  appendEnd(id: number, seq: number): number {
    const windowFirst = this.#window.firstSeqOf(id);
    if (windowFirst === undefined || seq < windowFirst) {
      const end = this.#batches.appendEnd(id, seq, windowFirst ?? Infinity);
      if (end === seq && seq < (this.#heads.byId(id)?.next ?? 0)) this.#expectFreed(id, seq, seq + 1);
      return end;
    }
    for (const piece of this.#window.pieces(id, seq)) {
      let end = piece.firstSeq;
      for (const append of piece.shape().appends) {
        end += append.count;
        if (end > seq) return end;
      }
    }
    return seq;
  }

  seekTime(id: number, atMs: number): number {
    const head = present(this.#heads.byId(id), `no head of stream ${id}`);
    const windowFirst = this.#window.firstSeqOf(id) ?? head.next;
    const from = head.deletion === "hard" ? Infinity : Math.max(head.retainedFrom, head.config.from);
    return this.#batches.seekTime(id, atMs, from, windowFirst) ?? this.#window.seekTime(id, atMs) ?? head.next;
  }

  /** `noteUnfreed` is told the retained start when rows below it wait to be freed. */
  trimPoint(id: number, bounds: TrimBounds, noteUnfreed: (from: number) => void): TrimPoint {
    const head = present(this.#heads.byId(id), `no head of stream ${id}`);
    const from = Math.max(head.retainedFrom, head.config.from);
    // Trimmed before a restart and not freed yet: nothing else remembers it.
    if (this.#batches.endsBelow(id, from)) noteUnfreed(from);
    return findTrimPoint(head, this.#pieces(id, from), bounds);
  }

  *#pieces(id: number, from: number): Generator<Piece> {
    const windowFirst = this.#window.firstSeqOf(id);
    let next = from;
    if (windowFirst === undefined || from < windowFirst) {
      for (const piece of this.#batches.pieces(id, from, windowFirst ?? Infinity)) {
        if (piece.firstSeq > next) throw new DamagedRange(id, next, piece.firstSeq);
        yield piece;
        next = piece.firstSeq + piece.count;
      }
    }
    if (windowFirst !== undefined && next < windowFirst) throw new DamagedRange(id, next, windowFirst);
    // While a sealed range is being dropped from the window, its last batch reaches into what is still there.
    yield* this.#window.pieces(id, Math.max(next, windowFirst ?? next));
  }
}
