/**
 * Regroups commits into batches: by stream, in seq order, about 256 KiB of payload each, compressed when that helps. What lies in a
 * file stays there: its batches say where.
 * Pure computation on decoded commits; runs in the storage thread.
 */

import { constants, zstdCompressSync } from "node:zlib";
import { present } from "../../kit/assert.ts";
import { ByteReader, ByteWriter, joinBytes } from "../../kit/bytes.ts";
import { BATCH_BYTES } from "../../protocol/limits.ts";
import type { AppendMark } from "../../protocol/stream.ts";
import { crc32 } from "../../kit/crc32.ts";
import { batchCrc, type BatchPlace, type BatchRow, type Block, CODEC } from "./batches.ts";
import type { EncodedCommit, RunPlace } from "./commit-codec.ts";
import { encodePart } from "./large-files.ts";
import { decodeShape, encodeShape, separatorOf } from "./run-codec.ts";

/** Below this, a zstd frame's own header eats what it saves. */
const COMPRESS_FROM_BYTES = 512;
const COMPRESS_OPTIONS = {
  params: { [constants.ZSTD_c_compressionLevel]: 1, [constants.ZSTD_c_checksumFlag]: 1 },
};

interface Source {
  readonly commit: EncodedCommit;
  readonly place: RunPlace;
}

export class BatchBuilder {
  readonly #streams = new Map<number, Source[]>();

  add(commit: EncodedCommit): void {
    for (const place of commit.runs) {
      const sources = this.#streams.get(place.streamId);
      if (sources === undefined) this.#streams.set(place.streamId, [{ commit, place }]);
      else sources.push({ commit, place });
    }
  }

  /** All batches, ordered by stream and seq. */
  finish(): BatchRow[] {
    const rows: BatchRow[] = [];
    const ids = [...this.#streams.keys()].sort((left, right) => left - right);
    for (const id of ids) {
      const sources = present(this.#streams.get(id), "sources of a listed stream");
      const stream = new StreamBatcher(id, present(sources[0], "a listed stream has a run").place.firstSeq, rows);
      for (const source of sources) stream.add(source);
      stream.flush();
    }
    return rows;
  }
}

/** Cuts one stream's runs into batches. */
class StreamBatcher {
  readonly #id: number;
  readonly #rows: BatchRow[];
  #firstSeq: number;
  #size = 0;
  #continued = false;
  #blocks: Block[] = [];
  #payloads: Uint8Array[] = [];
  /** The commit whose file holds what is added now; null = none. */
  #filedBy: EncodedCommit | null = null;

  constructor(id: number, firstSeq: number, rows: BatchRow[]) {
    this.#id = id;
    this.#firstSeq = firstSeq;
    this.#rows = rows;
  }

  add({ commit, place }: Source): void {
    const shape = decodeShape(new ByteReader(commit.hdr, place.shapeAt));
    const payload = commit.data.subarray(place.dataAt, place.dataAt + place.dataLength);
    if (place.dataAt >= commit.inlineBytes && payload.length > 0) {
      this.flush();
      this.#filedBy = commit;
      this.#addCut({ ...shape, atMs: commit.atMs }, payload);
      this.flush();
      this.#filedBy = null;
      return;
    }
    if (this.#size > 0 && this.#size + payload.length > BATCH_BYTES) this.flush();
    if (payload.length <= BATCH_BYTES) {
      this.#push({ ...shape, atMs: commit.atMs }, payload);
      return;
    }
    this.#addCut({ ...shape, atMs: commit.atMs }, payload);
  }

  /** A run larger than a batch: cut between records, keeping note of appends that are cut. */
  #addCut(block: Block, payload: Uint8Array): void {
    const gap = block.separated ? 1 : 0;
    let record = 0;
    let at = 0;
    let cutAt = 0;
    let lengths: number[] = [];
    let appends: AppendMark[] = [];
    const cut = (end: number): void => {
      if (lengths.length === 0) return;
      this.#push({ atMs: block.atMs, separated: block.separated, lengths, appends }, payload.subarray(cutAt, end));
      lengths = [];
      appends = [];
    };
    for (const append of block.appends) {
      let count = 0;
      for (let index = 0; index < append.count; index++, record++) {
        const length = present(block.lengths[record], "a run has a length per record");
        if (at + length - cutAt > BATCH_BYTES && at > cutAt) {
          if (count > 0) appends.push({ count, key: append.key });
          cut(at - gap);
          this.flush();
          this.#continued = index > 0;
          cutAt = at;
          count = 0;
        }
        lengths.push(length);
        count++;
        at += length + gap;
      }
      if (count > 0) appends.push({ count, key: append.key });
    }
    cut(payload.length);
  }

  #push(block: Block, payload: Uint8Array): void {
    this.#blocks.push(block);
    this.#payloads.push(payload);
    this.#size += payload.length;
  }

  flush(): void {
    const first = this.#blocks[0];
    const last = this.#blocks[this.#blocks.length - 1];
    if (first === undefined || last === undefined) return;
    const shape = encodeBlocks(this.#blocks, first.atMs, this.#continued);
    const { raw, codec, frame, file } = this.#frame(separatorOf(first.separated));
    let count = 0;
    let bytes = 0;
    for (const block of this.#blocks) {
      count += block.lengths.length;
      for (const length of block.lengths) bytes += length;
    }
    const place: BatchPlace = {
      stream: this.#id,
      first_seq: this.#firstSeq,
      count,
      bytes,
      first_ms: first.atMs,
      last_ms: last.atMs,
      raw,
      codec,
    };
    this.#rows.push({ ...place, crc: batchCrc(place, shape, frame), shape, frame, file });
    this.#firstSeq += count;
    this.#size = 0;
    this.#continued = false;
    this.#blocks = [];
    this.#payloads = [];
  }

  #frame(separator: number | null): Pick<BatchRow, "raw" | "codec" | "frame" | "file"> {
    const filedBy = this.#filedBy;
    if (filedBy === null) {
      const raw = joinBytes(this.#payloads, separator);
      return { raw: raw.length, ...compress(raw), file: null };
    }
    // Every cut of a filed run is a batch of its own, so it is one stretch.
    const stretch = present(this.#payloads[0], "a batch has payload");
    const at = stretch.byteOffset - filedBy.data.byteOffset - filedBy.inlineBytes;
    const frame = encodePart({ file: filedBy.no, at, length: stretch.length, crc: crc32(stretch) });
    return { raw: stretch.length, codec: CODEC.file, frame, file: filedBy.no };
  }
}

const writer = new ByteWriter(16 * 1024);

function encodeBlocks(blocks: readonly Block[], firstMs: number, continued: boolean): Uint8Array {
  writer.reset();
  writer.byte(continued ? 1 : 0);
  writer.varint(blocks.length);
  for (const block of blocks) {
    writer.varint(block.atMs - firstMs);
    encodeShape(writer, block);
  }
  return writer.take();
}

function compress(raw: Uint8Array): { codec: number; frame: Uint8Array } {
  if (raw.length >= COMPRESS_FROM_BYTES) {
    // With the size and a checksum of its content: it may be served as it is.
    const frame = zstdCompressSync(raw, COMPRESS_OPTIONS);
    if (frame.length < raw.length * 0.9) return { codec: CODEC.zstd, frame };
  }
  return { codec: CODEC.plain, frame: raw };
}
