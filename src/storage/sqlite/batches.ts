/**
 * Cold storage: reading sealed batches and writing new ones. A batch is contiguous records of one stream, compressed as one
 * frame, with a checksum over its place, shape and frame; it is verified at every read, so damage is an error and never
 * a silent gap.
 *
 *   shape := continued:byte blocks:varint (atMs - first_ms:varint, run shape) × blocks
 *   continued = 1: its first append began in the batch before.
 */

import type { Database } from "bun:sqlite";
import { ByteReader, ByteWriter } from "../../kit/bytes.ts";
import { crc32 } from "../../kit/crc32.ts";
import type { AppendMark } from "../../protocol/stream.ts";
import { DamagedRange } from "../../protocol/faults.ts";
import { readFrameHeader } from "../../protocol/zstd-frame.ts";
import type { FrameChunk } from "../port.ts";
import { select } from "./corruption.ts";
import { decodePart, type PartSource, type ReadPart } from "./large-files.ts";
import { readMeta } from "./meta.ts";
import { isCount } from "./stored-head.ts";
import { decodeShape, type Piece, type RunShape } from "./run-codec.ts";

/** `file`: the frame is an encoded `FilePart`. */
export const CODEC = { plain: 0, zstd: 1, file: 2 } as const;

/** What a batch row says besides its bytes. */
export interface BatchPlace {
  readonly stream: number;
  readonly first_seq: number;
  readonly count: number;
  readonly bytes: number;
  readonly first_ms: number;
  readonly last_ms: number;
  readonly raw: number;
  readonly codec: number;
}

export interface BatchRow extends BatchPlace {
  readonly crc: number;
  readonly shape: Uint8Array;
  readonly frame: Uint8Array;
  /** The number in the frame, when that is a part of a file. */
  readonly file: number | null;
}

/** One commit's part of a batch. */
export interface Block extends RunShape {
  readonly atMs: number;
}

export interface BatchShape {
  readonly continued: boolean;
  readonly blocks: readonly Block[];
}

const placeWriter = new ByteWriter(96);

export function batchCrc(place: BatchPlace, shape: Uint8Array, frame: Uint8Array): number {
  placeWriter.reset();
  for (const value of [
    place.stream,
    place.first_seq,
    place.count,
    place.bytes,
    place.first_ms,
    place.last_ms,
    place.raw,
    place.codec,
  ]) {
    placeWriter.varint(value);
  }
  return crc32(frame, crc32(shape, crc32(placeWriter.take())));
}

export function decodeBatchShape(row: Pick<BatchRow, "shape" | "first_ms">): BatchShape {
  const reader = new ByteReader(row.shape);
  const continued = reader.byte() === 1;
  const count = reader.varint();
  const blocks: Block[] = [];
  for (let index = 0; index < count; index++) {
    const atMs = row.first_ms + reader.varint();
    blocks.push({ ...decodeShape(reader), atMs });
  }
  return { continued, blocks };
}

export class Batches {
  readonly #statements;
  readonly #large: PartSource;
  /** Ids only grow, also past freed ones: `meta.sealed_batch` tells visible batches from those of an unfinished pass. */
  #nextId: number;

  constructor(db: Database, large: PartSource) {
    this.#large = large;
    this.#statements = prepare(db);
    const last = this.#statements.lastId.get()?.id ?? 0;
    this.#nextId = Math.max(last, readMeta(db).sealed_batch) + 1;
  }

  /** The batches of a stream from the one that holds `from`, as pieces, oldest first; stops below `before`. */
  *pieces(id: number, from: number, before: number): Generator<Piece> {
    for (const row of this.#rows(id, from, before)) yield toPiece(row, this.#large.read);
  }

  /** The same as a piece of `pieces`: read from its file, or decompressed when it is large, in the thread pool. */
  async inflate(row: BatchRow): Promise<Piece> {
    if (row.codec === CODEC.file) {
      const part = decodePart(row.frame);
      return plainPiece(row, expectPart(row, await this.#large.readOffLoop(part)));
    }
    if (row.codec !== CODEC.zstd || row.raw < INFLATE_OFF_LOOP_BYTES) return toPiece(row, this.#large.read);
    return plainPiece(row, await Bun.zstdDecompress(row.frame));
  }

  /** The rows that one read of `maxBytes` from `from` takes, and no more: what follows is another read's. */
  rowsWithin(id: number, from: number, before: number, maxBytes: number): BatchRow[] {
    const rows: BatchRow[] = [];
    let raw = 0;
    for (const row of this.#rows(id, from, before)) {
      raw += row.raw;
      if (rows.length > 0 && raw > maxBytes) break;
      rows.push(row);
      if (raw >= maxBytes) break;
    }
    return rows;
  }

  /**
   * Whole batches from exactly `from` on and up to `to`, as they are stored: frames that say what they unpack to. Null when what comes
   * next is not such a batch. `maxBytes` of frames, and the rest of the last one.
   */
  framesWithin(id: number, from: number, to: number, maxBytes: number): FrameChunk | null {
    const frames: Uint8Array[] = [];
    let [next, frameBytes, rawBytes] = [from, 0, 0];
    for (const row of this.#rows(id, from, to)) {
      const end = row.first_seq + row.count;
      if (row.first_seq !== next || end > to || !isSelfContained(row)) break;
      frames.push(row.frame);
      next = end;
      frameBytes += row.frame.length;
      rawBytes += row.raw;
      if (frameBytes >= maxBytes) break;
    }
    return frames.length === 0 ? null : { frames, next, rawBytes };
  }

  /** End of the append that holds record `seq`, as far as it is sealed; `before` when it goes on there. */
  appendEnd(id: number, seq: number, before: number): number {
    let end = seq;
    for (const row of this.#rows(id, seq, before)) {
      const shape = decodeBatchShape(row);
      if (end > seq && !shape.continued) return end;
      let at = row.first_seq;
      for (const append of shape.blocks.flatMap((block) => block.appends)) {
        at += append.count;
        if (at > seq) {
          end = at;
          break;
        }
      }
      if (end < row.first_seq + row.count) return end;
    }
    return end;
  }

  /** First seq from `from` on and below `before` that was appended at or after `atMs`; all in between is sealed. */
  seekTime(id: number, atMs: number, from: number, before: number): number | undefined {
    const row = this.#statements.atTime.get(id, atMs, before);
    if (row !== null) verify(row, id);
    this.#expectOlder(id, atMs, from, row?.first_seq ?? before);
    if (row === null) return undefined;
    let seq = row.first_seq;
    for (const block of decodeBatchShape(row).blocks) {
      if (block.atMs >= atMs) return seq;
      seq += block.lengths.length;
    }
    return seq;
  }

  /** Throws unless the record before `seq` is there and older than `atMs`: the index may have lost the batch that was asked for. */
  #expectOlder(id: number, atMs: number, from: number, seq: number): void {
    if (seq <= from) return;
    const older = this.#statements.holding.get(id, seq - 1);
    if (older !== null) verify(older, id);
    if (older === null || older.first_seq + older.count < seq || older.last_ms >= atMs) {
      throw new DamagedRange(id, older === null ? from : older.first_seq + older.count, seq);
    }
  }

  /** Returns the new batch's id. */
  insert(row: BatchRow): number {
    const id = this.#nextId++;
    this.#statements.insert.run(
      id,
      row.stream,
      row.first_seq,
      row.count,
      row.bytes,
      row.first_ms,
      row.last_ms,
      row.raw,
      row.codec,
      row.crc,
      row.shape,
      row.frame,
      row.file,
    );
    return id;
  }

  /** The seq after the last sealed record of a stream; null when it has none. */
  endOf(id: number): number | null {
    return this.#statements.end.get(id)?.end ?? null;
  }

  /** Whether the oldest batch of a stream ends at or below `before`. */
  endsBelow(id: number, before: number): boolean {
    const first = this.#statements.first.get(id);
    return first !== null && first.end <= before;
  }

  /** Notes, in the transaction under way, that a file has lost a reference. */
  noteFreedFile(file: number): void {
    this.#statements.noteFreedFile.run(file);
  }

  /** Files that lost a reference, and whether a batch still refers to them. */
  freedFiles(limit: number): readonly { readonly file: number; readonly isReferred: boolean }[] {
    const { freedFiles, ofFile } = this.#statements;
    return freedFiles.all(limit).map(({ file }) => ({ file, isReferred: ofFile.get(file) !== null }));
  }

  /** Notes that a file is gone, or still needed. */
  forgetFreedFile(file: number): void {
    this.#statements.forgetFreedFile.run(file);
  }

  /** Frees batches that end at or below `before`; true when none is left. */
  freeBelow(id: number, before: number, limit: number): boolean {
    this.#statements.noteFilesBelow.run(id, before, limit);
    return this.#statements.freeBelow.run(id, before, limit, id, before).changes < limit;
  }

  /** Frees batches written by a sealing pass that never became visible. */
  freeInvisible(lastVisible: number): void {
    this.#statements.freeInvisible.run(lastVisible);
  }

  *#rows(id: number, from: number, before: number): Generator<BatchRow> {
    let row = this.#statements.holding.get(id, from);
    if (row !== null && row.first_seq + row.count <= from) row = null;
    row ??= this.#statements.next.get(id, from);
    while (row !== null && row.first_seq < before) {
      verify(row, id);
      yield row;
      row = this.#statements.next.get(id, row.first_seq);
    }
  }
}

function verify(row: BatchRow, id: number): void {
  // A damaged row may hold anything, also what has no checksum.
  const { stream, first_seq, count, bytes, first_ms, last_ms, raw, codec, shape, frame, file } = row;
  const counts = [stream, first_seq, count, bytes, first_ms, last_ms, raw, codec];
  const sane = counts.every(isCount) && shape instanceof Uint8Array && frame instanceof Uint8Array;
  if (!sane || stream !== id || batchCrc(row, shape, frame) !== row.crc || file !== fileOf(row)) {
    throw new DamagedRange(id, first_seq, first_seq + count);
  }
}

/** What `file` has to be in a row whose checksum is right. */
export function fileOf({ codec, frame }: Pick<BatchRow, "codec" | "frame">): number | null {
  return codec === CODEC.file ? decodePart(frame).file : null;
}

/** Below this, handing a frame to the thread pool costs more than it saves. */
const INFLATE_OFF_LOOP_BYTES = 32 * 1024;

function plainPiece(row: BatchRow, frame: Uint8Array): Piece {
  return toPiece({ ...row, codec: CODEC.plain, frame }, () => null);
}

/** The payload of a batch whose checksum is right. Throws a `DamagedRange` when its file is not what it must be. */
export function payloadOf(row: BatchRow, readFile: ReadPart): Uint8Array {
  if (row.codec === CODEC.zstd) return Bun.zstdDecompressSync(row.frame);
  if (row.codec === CODEC.file) return expectPart(row, readFile(decodePart(row.frame)));
  return row.frame;
}

/** Frames of older releases lack the checksum. */
function isSelfContained({ codec, frame, raw }: BatchRow): boolean {
  if (codec !== CODEC.zstd) return false;
  const header = readFrameHeader(frame);
  return header !== null && header.hasChecksum && header.contentBytes === raw;
}

function expectPart({ stream, first_seq, count, raw }: BatchPlace, bytes: Uint8Array | null): Uint8Array {
  if (bytes === null || bytes.length !== raw) throw new DamagedRange(stream, first_seq, first_seq + count);
  return bytes;
}

function toPiece(row: BatchRow, readFile: ReadPart): Piece {
  let payload: Uint8Array | null = null;
  return {
    firstSeq: row.first_seq,
    count: row.count,
    lastMs: row.last_ms,
    // Only when asked for: retention looks at lengths and times alone.
    get payload() {
      return (payload ??= payloadOf(row, readFile));
    },
    bytes: row.bytes,
    shape: () => flatten(decodeBatchShape(row)),
  };
}

function flatten({ blocks }: BatchShape): RunShape {
  const lengths: number[] = [];
  const appends: AppendMark[] = [];
  for (const block of blocks) {
    for (const length of block.lengths) lengths.push(length);
    for (const append of block.appends) appends.push(append);
  }
  return { lengths, appends, separated: blocks[0]?.separated ?? false };
}

export const COLUMNS = "stream, first_seq, count, bytes, first_ms, last_ms, raw, codec, crc, shape, frame, file";
/** Which rows `freeBelow` frees: the index finds them. */
const BELOW = "SELECT id FROM batches WHERE stream = ? AND first_seq + count <= ? ORDER BY first_seq LIMIT ?";

function prepare(db: Database) {
  return {
    holding: select<BatchRow, [number, number]>(
      db,
      `SELECT ${COLUMNS} FROM batches WHERE stream = ? AND first_seq <= ? ORDER BY first_seq DESC LIMIT 1`,
    ),
    next: select<BatchRow, [number, number]>(
      db,
      `SELECT ${COLUMNS} FROM batches WHERE stream = ? AND first_seq > ? ORDER BY first_seq LIMIT 1`,
    ),
    atTime: select<BatchRow, [number, number, number]>(
      db,
      `SELECT ${COLUMNS} FROM batches WHERE stream = ? AND last_ms >= ? AND first_seq < ? ORDER BY first_seq LIMIT 1`,
    ),
    insert: db.query<never, [...number[], Uint8Array, Uint8Array, number | null]>(
      `INSERT INTO batches (id, ${COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)`,
    ),
    lastId: select<{ id: number | null }, []>(db, "SELECT max(id) AS id FROM batches"),
    end: select<{ end: number | null }, [number]>(
      db,
      "SELECT max(first_seq + count) AS end FROM batches WHERE stream = ?",
    ),
    first: select<{ end: number }, [number]>(
      db,
      "SELECT first_seq + count AS end FROM batches WHERE stream = ? ORDER BY first_seq LIMIT 1",
    ),
    // Asked twice: the index finds them, and the row must say so too before it goes.
    freeBelow: db.query<never, [number, number, number, number, number]>(
      `DELETE FROM batches NOT INDEXED
       WHERE id IN (${BELOW})
       AND stream = ? AND first_seq + count <= ?`,
    ),
    noteFilesBelow: db.query<never, [number, number, number]>(
      `INSERT OR IGNORE INTO freed_files SELECT file FROM batches WHERE id IN (${BELOW}) AND file IS NOT NULL`,
    ),
    noteFreedFile: db.query<never, [number]>("INSERT OR IGNORE INTO freed_files VALUES (?)"),
    freedFiles: select<{ file: number }, [number]>(db, "SELECT file FROM freed_files LIMIT ?"),
    ofFile: select<{ id: number }, [number]>(db, "SELECT id FROM batches WHERE file = ? LIMIT 1"),
    forgetFreedFile: db.query<never, [number]>("DELETE FROM freed_files WHERE file = ?"),
    freeInvisible: db.query<never, [number]>("DELETE FROM batches WHERE id > ?"),
  };
}
