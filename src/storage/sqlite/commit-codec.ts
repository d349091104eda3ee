/**
 * A commit as one row: `hdr` (what changed, binary) and `data` (payload bytes in the order of the runs). Large runs lie in a file of
 * the commit instead (`large-files.ts`). Described in docs/storage-format.md. Rare parts travel as JSON inside the header; the
 * hot parts (id, run, byte count, producers) are varints.
 *
 *   hdr    := version:byte no:varint atMs:varint prevCrc:varint changes:varint change* [file]
 *   change := id:varint flags:varint parts in the order of the flags
 *   file   := length:varint crc:varint, in version 2 only
 */

import { ByteReader, ByteWriter, joinBytes } from "../../kit/bytes.ts";
import { crc32 } from "../../kit/crc32.ts";
import { isJson } from "../../protocol/content-type.ts";
import { LARGE_BODY_BYTES, LARGE_RUN_BYTES } from "../../protocol/limits.ts";
import type {
  Commit,
  Deletion,
  ProducerClaim,
  Run,
  StreamChange,
  StreamConfig,
  StreamHead,
  StreamProfile,
} from "../../protocol/stream.ts";
import type { Retention } from "../../protocol/retention.ts";
import { LARGE_DIRECTORY, type ReadPart } from "./large-files.ts";
import { decodeShape, encodeShape, separatorOf } from "./run-codec.ts";

const VERSION = 1;
/** Some runs lie in a file. */
const FILED_VERSION = 2;

const FLAG = {
  created: 1,
  run: 2,
  bytes: 4,
  producers: 8,
  streamSeq: 16,
  closed: 32,
  closedBy: 64,
  deletion: 128,
  forks: 256,
  retention: 512,
  trimmed: 1024,
  accessed: 2048,
  profile: 4096,
  attributes: 8192,
  /** The run lies in the commit's file. */
  filed: 16384,
} as const;

const DELETIONS: readonly Deletion[] = ["none", "soft", "hard"];

/** Where one run lies in an encoded commit. */
export interface RunPlace {
  readonly streamId: number;
  readonly firstSeq: number;
  readonly count: number;
  /** Offset of the run's shape in `hdr`. */
  readonly shapeAt: number;
  readonly dataAt: number;
  readonly dataLength: number;
}

export interface EncodedCommit {
  readonly no: number;
  readonly atMs: number;
  readonly crc: number;
  readonly hdr: Uint8Array;
  /** All payload; the first `inlineBytes` stand in the row, the rest in the commit's file. */
  readonly data: Uint8Array;
  readonly inlineBytes: number;
  readonly runs: readonly RunPlace[];
}

const writer = new ByteWriter(64 * 1024);

/** Encodes a commit. `headOf` answers for every stream that has a run. Cost: one copy of the payload. */
export function encodeCommit(
  commit: Commit,
  prevCrc: number,
  headOf: (id: number) => Pick<StreamHead, "config">,
): EncodedCommit {
  const { inline, filed } = dataLengths(commit.changes, headOf);
  writer.reset();
  writer.byte(filed === 0 ? VERSION : FILED_VERSION);
  writer.varint(commit.no);
  writer.varint(commit.atMs);
  writer.varint(prevCrc);
  writer.varint(commit.changes.length);
  const data = new Uint8Array(inline + filed);
  const runs: RunPlace[] = [];
  let inlineAt = 0;
  let filedAt = inline;
  for (const change of commit.changes) {
    const { run } = change;
    const separator = run === undefined ? null : separatorOf(isJson(headOf(change.id).config.contentType));
    const isFiled = filed > 0 && run !== undefined && isLarge(run, joinedLength(run, separator !== null));
    const shapeAt = encodeChange(change, separator !== null, isFiled);
    if (run === undefined) continue;
    const start = isFiled ? filedAt : inlineAt;
    let at = start;
    for (const part of run.parts) {
      if (separator !== null && at > start) data[at++] = separator;
      data.set(part, at);
      at += part.length;
    }
    if (isFiled) filedAt = at;
    else inlineAt = at;
    const count = run.lengths.length;
    runs.push({ streamId: change.id, firstSeq: run.firstSeq, count, shapeAt, dataAt: start, dataLength: at - start });
  }
  if (filed > 0) {
    writer.varint(filed);
    writer.varint(crc32(data.subarray(inline)));
  }
  const hdr = writer.take();
  const crc = commitCrc(hdr, filed === 0 ? data : data.subarray(0, inline));
  return { no: commit.no, atMs: commit.atMs, crc, hdr, data, inlineBytes: inline, runs };
}

/** Payload bytes for the row, and for the file. */
function dataLengths(changes: readonly StreamChange[], headOf: (id: number) => Pick<StreamHead, "config">) {
  let inline = 0;
  let filed = 0;
  for (const { id, run } of changes) {
    if (run === undefined) continue;
    const length = joinedLength(run, isJson(headOf(id).config.contentType));
    if (isLarge(run, length)) filed += length;
    else inline += length;
  }
  return { inline, filed };
}

/** Many small appends of one busy stream are compressed and sorted with the others; a file is for large bodies. */
function isLarge(run: Run, length: number): boolean {
  return length >= LARGE_RUN_BYTES && length >= run.appends.length * LARGE_BODY_BYTES;
}

function joinedLength(run: Run, separated: boolean): number {
  let length = separated ? run.parts.length - 1 : 0;
  for (const part of run.parts) length += part.length;
  return length;
}

/** Writes one change; returns where its run's shape begins. */
function encodeChange(change: StreamChange, separated: boolean, isFiled: boolean): number {
  writer.varint(change.id);
  writer.varint(flagsOf(change) | (isFiled ? FLAG.filed : 0));
  if (change.created !== undefined) writer.text(JSON.stringify(change.created));
  let shapeAt = -1;
  if (change.run !== undefined) {
    writer.varint(change.run.firstSeq);
    writer.varint(joinedLength(change.run, separated));
    shapeAt = writer.length;
    encodeShape(writer, { ...change.run, separated });
  }
  if (change.bytes !== undefined) writer.varint(change.bytes);
  if (change.producers !== undefined) {
    writer.varint(change.producerCount ?? 0);
    writer.varint(change.producers.size);
    for (const [id, state] of change.producers) {
      writer.text(id);
      writer.varint(state.epoch);
      writer.varint(state.lastSeq);
    }
  }
  if (change.streamSeq !== undefined) writer.text(change.streamSeq);
  if (change.closedBy !== undefined) writer.text(JSON.stringify(change.closedBy));
  if (change.deletion !== undefined) writer.byte(DELETIONS.indexOf(change.deletion));
  if (change.forks !== undefined) writer.varint(change.forks);
  if (change.retention !== undefined) writer.text(JSON.stringify(change.retention));
  if (change.retainedFrom !== undefined) {
    writer.varint(change.retainedFrom);
    writer.varint(change.trimmedBytes ?? 0);
  }
  if (change.accessedMs !== undefined) writer.varint(change.accessedMs);
  if (change.profile !== undefined) writer.text(JSON.stringify(change.profile));
  if (change.attributes !== undefined) writer.text(JSON.stringify([...change.attributes]));
  return shapeAt;
}

function flagsOf(change: StreamChange): number {
  return (
    (change.created === undefined ? 0 : FLAG.created) |
    (change.run === undefined ? 0 : FLAG.run) |
    (change.bytes === undefined ? 0 : FLAG.bytes) |
    (change.producers === undefined ? 0 : FLAG.producers) |
    (change.streamSeq === undefined ? 0 : FLAG.streamSeq) |
    (change.closed === undefined ? 0 : FLAG.closed) |
    (change.closedBy === undefined ? 0 : FLAG.closedBy) |
    (change.deletion === undefined ? 0 : FLAG.deletion) |
    (change.forks === undefined ? 0 : FLAG.forks) |
    (change.retention === undefined ? 0 : FLAG.retention) |
    (change.retainedFrom === undefined ? 0 : FLAG.trimmed) |
    (change.accessedMs === undefined ? 0 : FLAG.accessed) |
    (change.profile === undefined ? 0 : FLAG.profile) |
    (change.attributes === undefined ? 0 : FLAG.attributes)
  );
}

export interface DecodedCommit extends EncodedCommit {
  readonly prevCrc: number;
  readonly changes: readonly StreamChange[];
}

/**
 * Decodes a row whose CRC was checked, and reads its file if it has one. Runs come back with shape but empty `parts`: their bytes stay in
 * `data`. Throws a `RangeError` when the header or the file is not what a release has written.
 */
export function decodeCommit(hdr: Uint8Array, inline: Uint8Array, crc: number, readFile: ReadPart): DecodedCommit {
  const reader = new ByteReader(hdr);
  const version = reader.byte();
  if (version !== VERSION && version !== FILED_VERSION)
    throw new RangeError(`commit format ${version} is not known to this release`);
  const no = reader.varint();
  const atMs = reader.varint();
  const prevCrc = reader.varint();
  const count = reader.varint();
  const changes: StreamChange[] = [];
  const runs: RunPlace[] = [];
  let inlineAt = 0;
  let filedAt = inline.length;
  for (let index = 0; index < count; index++) {
    const change: StreamChange = { id: reader.varint() };
    const place = decodeChange(reader, change);
    changes.push(change);
    if (place === null || change.run === undefined) continue;
    const records = change.run.lengths.length;
    runs.push({
      streamId: change.id,
      firstSeq: change.run.firstSeq,
      count: records,
      shapeAt: place.shapeAt,
      dataAt: place.isFiled ? filedAt : inlineAt,
      dataLength: place.joined,
    });
    if (place.isFiled) filedAt += place.joined;
    else inlineAt += place.joined;
  }
  const data = version === FILED_VERSION ? joinBytes([inline, fileOf(reader, no, readFile)]) : inline;
  return { no, atMs, crc, hdr, data, inlineBytes: inline.length, runs, prevCrc, changes };
}

function fileOf(reader: ByteReader, no: number, readFile: ReadPart): Uint8Array {
  const bytes = readFile({ file: no, at: 0, length: reader.varint(), crc: reader.varint() });
  if (bytes === null) throw new RangeError(`its file ${LARGE_DIRECTORY}/${no} is missing or damaged`);
  return bytes;
}

interface DecodedPlace {
  readonly shapeAt: number;
  readonly joined: number;
  readonly isFiled: boolean;
}

function decodeChange(reader: ByteReader, change: StreamChange): DecodedPlace | null {
  const flags = reader.varint();
  const has = (flag: number): boolean => (flags & flag) !== 0;
  let place: DecodedPlace | null = null;
  if (has(FLAG.created)) change.created = parseJson<StreamConfig>(reader.text());
  if (has(FLAG.run)) {
    const firstSeq = reader.varint();
    const joined = reader.varint();
    const shapeAt = reader.at;
    const shape = decodeShape(reader);
    const run: Run = { firstSeq, lengths: [...shape.lengths], appends: [...shape.appends], parts: [] };
    change.run = run;
    change.next = firstSeq + run.lengths.length;
    place = { shapeAt, joined, isFiled: has(FLAG.filed) };
  }
  if (has(FLAG.bytes)) change.bytes = reader.varint();
  if (has(FLAG.producers)) {
    const producerCount = reader.varint();
    if (producerCount > 0) change.producerCount = producerCount;
    change.producers = new Map();
    const producers = reader.varint();
    for (let index = 0; index < producers; index++) {
      const id = reader.text();
      const epoch = reader.varint();
      change.producers.set(id, { epoch, lastSeq: reader.varint() });
    }
  }
  if (has(FLAG.streamSeq)) change.streamSeq = reader.text();
  if (has(FLAG.closed)) change.closed = true;
  if (has(FLAG.closedBy)) change.closedBy = parseJson<ProducerClaim>(reader.text());
  if (has(FLAG.deletion)) change.deletion = DELETIONS[reader.byte()] ?? "none";
  if (has(FLAG.forks)) change.forks = reader.varint();
  if (has(FLAG.retention)) change.retention = parseJson<Retention>(reader.text());
  if (has(FLAG.trimmed)) {
    change.retainedFrom = reader.varint();
    change.trimmedBytes = reader.varint();
  }
  if (has(FLAG.accessed)) change.accessedMs = reader.varint();
  if (has(FLAG.profile)) change.profile = parseJson<StreamProfile | null>(reader.text());
  if (has(FLAG.attributes)) change.attributes = new Map(parseJson<[string, string | null][]>(reader.text()));
  return place;
}

/** The checksum of a row: header, then payload; the header holds its predecessor's, which makes a chain, and its file's. */
export function commitCrc(hdr: Uint8Array, data: Uint8Array): number {
  return crc32(data, crc32(hdr));
}

function parseJson<T>(text: string): T {
  return JSON.parse(text) as T;
}
