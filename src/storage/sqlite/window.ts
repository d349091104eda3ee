/**
 * The unsealed commits in memory: the bytes of each commit, and for each stream the ranges it has in them. Serves every hot
 * read; rebuilt from the commit rows only at start. Ranges are typed-array rows in commit order; a stream in the window owns
 * one small list of row numbers. A stream outside the window costs nothing.
 * Invariant: the ranges of one stream are contiguous in seq and end at its durable tail.
 */

import { assert, present } from "../../kit/assert.ts";
import { ByteReader } from "../../kit/bytes.ts";
import type { EncodedCommit } from "./commit-codec.ts";
import { decodeShape, type Piece } from "./run-codec.ts";

interface StreamRanges {
  /** Row numbers, oldest first; rows before `start` are already dropped. */
  readonly rows: number[];
  start: number;
  /** Payload of the rows from `start` on. */
  bytes: number;
}

const FIRST_CAPACITY = 4096;

export class Window {
  /** Commits `#firstNo`.. in order. */
  #commits: EncodedCommit[] = [];
  #firstNo = 1;
  #bytes = 0;
  readonly #streams = new Map<number, StreamRanges>();
  // Range rows, a ring: row n lives at n % capacity. One row is 44 bytes.
  #capacity = FIRST_CAPACITY;
  #streamId = new Float64Array(FIRST_CAPACITY);
  #firstSeq = new Float64Array(FIRST_CAPACITY);
  #commitNo = new Float64Array(FIRST_CAPACITY);
  #count = new Uint32Array(FIRST_CAPACITY);
  #shapeAt = new Uint32Array(FIRST_CAPACITY);
  #dataAt = new Uint32Array(FIRST_CAPACITY);
  #dataLength = new Uint32Array(FIRST_CAPACITY);
  #oldestRow = 0;
  #nextRow = 0;

  /** Payload and header bytes held. */
  get bytes(): number {
    return this.#bytes;
  }

  get ranges(): number {
    return this.#nextRow - this.#oldestRow;
  }

  get commits(): number {
    return this.#commits.length;
  }

  /** When the oldest commit was made, or null when the window is empty. */
  get oldestMs(): number | null {
    return this.#commits[0]?.atMs ?? null;
  }

  /** Numbers of commits that have a file. */
  filedCommits(): readonly number[] {
    return this.#commits.filter(({ data, inlineBytes }) => inlineBytes < data.length).map(({ no }) => no);
  }

  /** Starts an empty window after commit `sealedNo`. */
  startAfter(sealedNo: number): void {
    assert(this.#commits.length === 0, "the window starts empty");
    this.#firstNo = sealedNo + 1;
  }

  push(commit: EncodedCommit): void {
    assert(commit.no === this.#firstNo + this.#commits.length, `commit ${commit.no} is not the next of the window`);
    this.#commits.push(commit);
    this.#bytes += commit.hdr.length + commit.data.length;
    for (const run of commit.runs) {
      if (this.ranges === this.#capacity) this.#grow();
      const row = this.#nextRow++;
      const at = row % this.#capacity;
      this.#streamId[at] = run.streamId;
      this.#firstSeq[at] = run.firstSeq;
      this.#commitNo[at] = commit.no;
      this.#count[at] = run.count;
      this.#shapeAt[at] = run.shapeAt;
      this.#dataAt[at] = run.dataAt;
      this.#dataLength[at] = run.dataLength;
      const ranges = this.#streams.get(run.streamId);
      if (ranges === undefined) {
        this.#streams.set(run.streamId, { rows: [row], start: 0, bytes: run.dataLength });
      } else {
        ranges.rows.push(row);
        ranges.bytes += run.dataLength;
      }
    }
  }

  /** First seq of a stream that is in the window; undefined when it has none. */
  firstSeqOf(id: number): number | undefined {
    const ranges = this.#streams.get(id);
    return ranges === undefined ? undefined : this.#rowFirstSeq(this.#rowAt(ranges, ranges.start));
  }

  /** Payload bytes per stream; may go on in a later turn. */
  *sizes(): Generator<{ id: number; bytes: number }> {
    for (const [id, { bytes }] of this.#streams) yield { id, bytes };
  }

  /** Payload bytes of a stream in the window. */
  bytesOf(id: number): number {
    return this.#streams.get(id)?.bytes ?? 0;
  }

  /** The seq after the last record of a stream in the window; undefined when it has none. */
  endOf(id: number): number | undefined {
    const ranges = this.#streams.get(id);
    if (ranges === undefined) return undefined;
    const at = this.#rowAt(ranges, ranges.rows.length - 1) % this.#capacity;
    return (this.#firstSeq[at] ?? 0) + (this.#count[at] ?? 0);
  }

  /** The pieces of a stream from the one that holds `from`, oldest first. Empty when `from` is past its end. */
  *pieces(id: number, from: number): Generator<Piece> {
    const ranges = this.#streams.get(id);
    if (ranges === undefined) return;
    for (let index = this.#indexOf(ranges, from); index < ranges.rows.length; index++) {
      const piece = this.#piece(this.#rowAt(ranges, index));
      if (from < piece.firstSeq + piece.count) yield piece;
    }
  }

  /** First seq appended at or after `atMs`; undefined when every range is older. */
  seekTime(id: number, atMs: number): number | undefined {
    const ranges = this.#streams.get(id);
    if (ranges === undefined) return undefined;
    let low = ranges.start;
    let high = ranges.rows.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      if (this.#commitOf(this.#rowAt(ranges, middle)).atMs < atMs) low = middle + 1;
      else high = middle;
    }
    return low === ranges.rows.length ? undefined : this.#rowFirstSeq(this.#rowAt(ranges, low));
  }

  /** Last commit, at or before `maxBytes` of the oldest ones; at least one commit. */
  lastNoWithin(maxBytes: number): number {
    let bytes = 0;
    let no = this.#firstNo - 1;
    for (const commit of this.#commits) {
      bytes += commit.hdr.length + commit.data.length;
      if (bytes > maxBytes && no >= this.#firstNo) break;
      no = commit.no;
    }
    return no;
  }

  crcOf(no: number): number {
    return present(this.#commits[no - this.#firstNo], `commit ${no} is not in the window`).crc;
  }

  /**
   * Forgets ranges and bytes of commits up to `no`, at most `maxRows` ranges. True when done.
   * Only after their records can be read from batches.
   */
  dropThrough(no: number, maxRows: number): boolean {
    for (let dropped = 0; this.#oldestRow < this.#nextRow; dropped++) {
      const at = this.#oldestRow % this.#capacity;
      if ((this.#commitNo[at] ?? 0) > no) break;
      if (dropped === maxRows) return false;
      this.#dropRange(this.#streamId[at] ?? 0, this.#dataLength[at] ?? 0);
      this.#oldestRow++;
    }
    let gone = 0;
    for (const commit of this.#commits) {
      if (commit.no > no) break;
      this.#bytes -= commit.hdr.length + commit.data.length;
      gone++;
    }
    this.#commits = this.#commits.slice(gone);
    this.#firstNo += gone;
    return true;
  }

  #dropRange(id: number, bytes: number): void {
    const ranges = present(this.#streams.get(id), `stream ${id} has a range but no list`);
    ranges.start++;
    ranges.bytes -= bytes;
    if (ranges.start === ranges.rows.length) {
      this.#streams.delete(id);
    } else if (ranges.start >= 1024 && ranges.start * 2 >= ranges.rows.length) {
      ranges.rows.splice(0, ranges.start);
      ranges.start = 0;
    }
  }

  /** Index of the range that holds `seq`, or of the first one after it. */
  #indexOf(ranges: StreamRanges, seq: number): number {
    let low = ranges.start;
    let high = ranges.rows.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const at = this.#rowAt(ranges, middle) % this.#capacity;
      if ((this.#firstSeq[at] ?? 0) + (this.#count[at] ?? 0) <= seq) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  #rowAt(ranges: StreamRanges, index: number): number {
    return present(ranges.rows[index], "range list index");
  }

  #rowFirstSeq(row: number): number {
    return this.#firstSeq[row % this.#capacity] ?? 0;
  }

  #commitOf(row: number): EncodedCommit {
    const no = this.#commitNo[row % this.#capacity] ?? 0;
    return present(this.#commits[no - this.#firstNo], `commit ${no} left the window before its ranges`);
  }

  #piece(row: number): Piece {
    const at = row % this.#capacity;
    const commit = this.#commitOf(row);
    const dataAt = this.#dataAt[at] ?? 0;
    const shapeAt = this.#shapeAt[at] ?? 0;
    return {
      firstSeq: this.#firstSeq[at] ?? 0,
      count: this.#count[at] ?? 0,
      lastMs: commit.atMs,
      payload: commit.data.subarray(dataAt, dataAt + (this.#dataLength[at] ?? 0)),
      bytes: null,
      shape: () => decodeShape(new ByteReader(commit.hdr, shapeAt)),
    };
  }

  #grow(): void {
    const capacity = this.#capacity * 2;
    const move = <T extends Float64Array | Uint32Array>(from: T, to: T): T => {
      for (let row = this.#oldestRow; row < this.#nextRow; row++) to[row % capacity] = from[row % this.#capacity] ?? 0;
      return to;
    };
    this.#streamId = move(this.#streamId, new Float64Array(capacity));
    this.#firstSeq = move(this.#firstSeq, new Float64Array(capacity));
    this.#commitNo = move(this.#commitNo, new Float64Array(capacity));
    this.#count = move(this.#count, new Uint32Array(capacity));
    this.#shapeAt = move(this.#shapeAt, new Uint32Array(capacity));
    this.#dataAt = move(this.#dataAt, new Uint32Array(capacity));
    this.#dataLength = move(this.#dataLength, new Uint32Array(capacity));
    this.#capacity = capacity;
  }
}
