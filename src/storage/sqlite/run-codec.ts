/**
 * The shape of a run (record lengths, append boundaries, keys) as bytes, and cutting payload by it. Used in commit headers
 * and, byte for byte the same, in the index of sealed batches. See docs/storage-format.md.
 *
 *   shape   := kind:byte count:varint [marks] length:varint × count
 *   kind 0  := every append holds one record, no keys
 *   kind 1  := one append, no key
 *   kind 2  := marks: appends:varint (records:varint key:text) × appends; an empty key is none
 *   kind + 4: records are joined by one comma (JSON)
 */

import { assert, present } from "../../kit/assert.ts";
import type { ByteReader, ByteWriter } from "../../kit/bytes.ts";
import type { AppendMark } from "../../protocol/stream.ts";

const COMMA = 0x2c;
const SEPARATED = 4;

export interface RunShape {
  readonly separated: boolean;
  readonly lengths: readonly number[];
  readonly appends: readonly AppendMark[];
}

export function encodeShape(writer: ByteWriter, { lengths, appends, separated }: RunShape): void {
  const keyed = appends.some((append) => append.key !== null);
  const kind = keyed ? 2 : appends.length === lengths.length ? 0 : appends.length === 1 ? 1 : 2;
  writer.byte(kind + (separated ? SEPARATED : 0));
  writer.varint(lengths.length);
  if (kind === 2) {
    writer.varint(appends.length);
    for (const append of appends) {
      writer.varint(append.count);
      writer.text(append.key ?? "");
    }
  }
  for (const length of lengths) writer.varint(length);
}

export function decodeShape(reader: ByteReader): RunShape {
  const first = reader.byte();
  const separated = first >= SEPARATED;
  const kind = separated ? first - SEPARATED : first;
  const count = reader.varint();
  const appends: AppendMark[] = [];
  if (kind === 2) {
    const marks = reader.varint();
    for (let index = 0; index < marks; index++) {
      const records = reader.varint();
      const key = reader.text();
      appends.push({ count: records, key: key === "" ? null : key });
    }
  } else if (kind === 1) {
    appends.push({ count, key: null });
  } else {
    assert(kind === 0, `unknown run kind ${kind}`);
    for (let index = 0; index < count; index++) appends.push({ count: 1, key: null });
  }
  const lengths: number[] = [];
  for (let index = 0; index < count; index++) lengths.push(reader.varint());
  return { lengths, appends, separated };
}

/** One stretch of stored records: its shape is decoded only when a read needs less than all of it. */
export interface Piece {
  readonly firstSeq: number;
  readonly count: number;
  /** When its last record was appended. */
  readonly lastMs: number;
  /** Records joined as they are stored; a cold one is decompressed when first asked for. */
  readonly payload: Uint8Array;
  /** Payload bytes without separators; null = not known without a look at the shape. */
  readonly bytes: number | null;
  shape(): RunShape;
}

/** What a read takes from a list of pieces. */
export class PieceCutter {
  readonly #to: number;
  readonly #key: string | null;
  #budget: number;
  readonly parts: Uint8Array[] = [];
  next: number;

  constructor(options: { from: number; to: number; maxBytes: number; key: string | null }) {
    this.#to = options.to;
    this.#key = options.key;
    this.#budget = options.maxBytes;
    this.next = options.from;
  }

  /** Takes what it may of the piece that holds `next`; false once the read is complete. */
  take(piece: Piece): boolean {
    const end = piece.firstSeq + piece.count;
    assert(
      this.next >= piece.firstSeq && this.next < end,
      `piece ${piece.firstSeq}+${piece.count} does not hold ${this.next}`,
    );
    const whole = this.next === piece.firstSeq && end <= this.#to && this.#key === null;
    if (whole && piece.payload.length <= this.#budget) {
      this.parts.push(piece.payload);
      this.#budget -= piece.payload.length;
      this.next = end;
      return this.next < this.#to && this.#budget > 0;
    }
    // A piece that does not fit begins the next chunk: cutting it here would decode it twice.
    if (this.parts.length > 0 && piece.firstSeq === this.next && this.#key === null && end <= this.#to) return false;
    return this.#takeRecords(piece);
  }

  #takeRecords(piece: Piece): boolean {
    const shape = piece.shape();
    const gap = shape.separated ? 1 : 0;
    const stop = Math.min(this.#to, piece.firstSeq + piece.count);
    let seq = piece.firstSeq;
    let at = 0;
    let cutFrom = -1;
    const flush = (end: number): void => {
      if (cutFrom >= 0) this.parts.push(piece.payload.subarray(cutFrom, end));
      cutFrom = -1;
    };
    for (const append of shape.appends) {
      const wanted = this.#key === null || append.key === this.#key;
      for (let index = 0; index < append.count; index++, seq++) {
        const length = present(shape.lengths[seq - piece.firstSeq], "a run has a length per record");
        const recordAt = at;
        at += length + gap;
        if (seq < this.next) continue;
        const full = this.#budget <= 0 || (length > this.#budget && (this.parts.length > 0 || cutFrom >= 0));
        if (seq >= stop || (wanted && full)) {
          flush(recordAt - gap);
          return false;
        }
        if (wanted) {
          if (cutFrom < 0) cutFrom = recordAt;
          this.#budget -= length;
        } else {
          flush(recordAt - gap);
        }
        this.next = seq + 1;
      }
    }
    flush(piece.payload.length);
    return this.next < this.#to && this.#budget > 0;
  }
}

/** The byte between records of a run, or null. */
export function separatorOf(separated: boolean): number | null {
  return separated ? COMMA : null;
}
