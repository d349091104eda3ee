/**
 * What the engine asks of a store. Implementations share the rules of `protocol/intents.ts` and differ in where bytes live.
 * Invariants: a commit's outcomes arrive only once it is durable; heads show durable state only; only the store publishes
 * commits; nothing a reader was given is ever changed later.
 */

import type { Decided, Intent } from "../protocol/intents.ts";
import type { Commit, StreamHead } from "../protocol/stream.ts";
import type { Rejection } from "../protocol/verdicts.ts";

/** Records of one stream from storage, at most one chunk, in one turn. */
export interface ReadRequest {
  readonly id: number;
  readonly from: number;
  /** Exclusive. */
  readonly to: number;
  /** Soft bound on the payload returned; one larger record travels alone. */
  readonly maxBytes: number;
  /** Only records appended under this key. */
  readonly key: string | null;
}

export interface Chunk {
  /** Payload in order; JSON records inside a part are comma-joined, so parts join with commas too. */
  readonly parts: readonly Uint8Array[];
  /** Where to go on: the seq after the last record looked at. */
  readonly next: number;
}

/** Whole stretches of a stream as they are stored. */
export interface FrameRequest {
  readonly id: number;
  readonly from: number;
  /** Exclusive. */
  readonly to: number;
  /** Soft bound on the bytes returned. */
  readonly maxBytes: number;
}

export interface FrameChunk {
  /** zstd frames with content size and checksum; what they unpack to joins as the parts of a `Chunk` do. */
  readonly frames: readonly Uint8Array[];
  readonly next: number;
  /** What they unpack to. */
  readonly rawBytes: number;
}

export interface TrimBounds {
  /** Records appended before this time may go; null = no bound by age. */
  readonly beforeMs: number | null;
  /** Payload bytes to keep at most; null = no bound by size. */
  readonly maxBytes: number | null;
}

export interface TrimPoint {
  readonly retainedFrom: number;
  readonly trimmedBytes: number;
  /** The work bound of one call was reached: ask again. */
  readonly more: boolean;
}

export interface ListQuery {
  readonly prefix: string;
  /** Names strictly after this one; empty = from the first. */
  readonly after: string;
  readonly limit: number;
}

/** What operators and `/health` see of a store. Bytes are payload plus headers. */
export interface StoreStatus {
  readonly durableCommit: number;
  readonly unsealedBytes: number;
  readonly unsealedRanges: number;
  readonly walBytes: number;
  readonly streamsInMemory: number;
  /** What commits and batches take up, sealed or not. */
  readonly storedBytes: number;
  /** Null when the store is not on a disk. */
  readonly freeDiskBytes: number | null;
  /** Why no payload is taken now; null while appends are accepted. */
  readonly refusal: Rejection | null;
}

/** The records: one door in, chunked reads out. */
export interface StreamLog {
  /**
   * Decides the intents in order and makes the result durable as one commit. Resolves once it is; then heads, followers and
   * outcomes agree. One call at a time. Throws a fault when the disk failed without ending the process. An intent about a damaged
   * stream `failed`; it changed nothing.
   */
  commit(intents: readonly Intent[]): Promise<readonly Decided[]>;
  /** A damaged or missing range throws a `DamagedRange`, naming its seqs. `next` equal to `from`: deletion or retention took the records. */
  read(request: ReadRequest): Promise<Chunk>;
  /** The same without unpacking anything; null when the records from exactly `from` on are not stored so. */
  readFrames(request: FrameRequest): Promise<FrameChunk | null>;
  /** End (exclusive seq) of the append that holds record `seq`. */
  appendEnd(id: number, seq: number): Promise<number>;
  /** First own seq appended at or after `atMs`; the tail when there is none. */
  seekTime(id: number, atMs: number): Promise<number>;
  /** What of a stream is not sealed yet, from memory: its first seq and payload bytes, separators included. Null when all is. */
  unsealed(id: number): { readonly from: number; readonly bytes: number } | null;
  /** The streams with the most unsealed bytes, largest first. */
  largestUnsealed(limit: number): Promise<readonly { readonly id: number; readonly bytes: number }[]>;
  /** How far `bounds` let the retained start of a stream move. Bounded work per call. */
  trimPoint(id: number, bounds: TrimBounds): Promise<TrimPoint>;
  /** Calls `listener` with every durable commit, in order, in the turn it became durable. Must not throw. */
  follow(listener: (commit: Commit) => void): void;
}

/** The heads. A head is read and dropped within a turn: it moves with the next commit. */
export interface StreamCatalog {
  /** The newest incarnation of a name that is not freed; soft-deleted ones included. */
  byName(name: string): Promise<StreamHead | undefined>;
  byId(id: number): Promise<StreamHead | undefined>;
  /** `byName` without a look at the disk: undefined also when the head is not in memory. */
  peek(name: string): StreamHead | undefined;
  /** What features keep with one incarnation of a stream, by key. */
  attributes(id: number): Promise<ReadonlyMap<string, string>>;
  /** Ids, above `after`, of streams that have an attribute under this key; deleted ones may be among them. */
  annotated(key: string, after: number, limit: number): Promise<readonly number[]>;
  /** Streams in byte order of their names, without deleted ones. */
  list(query: ListQuery): Promise<readonly StreamHead[]>;
  /** Ids of streams whose stored deadline has passed. */
  pastDeadline(nowMs: number, limit: number): Promise<readonly number[]>;
  /** Ids, above `after`, of streams with a retention policy. */
  withRetention(after: number, limit: number): Promise<readonly number[]>;
}

export interface StreamStore {
  readonly log: StreamLog;
  readonly catalog: StreamCatalog;
  status(): StoreStatus;
  /**
   * Finishes background work and closes; nothing may be called afterwards. `accessesKept`: all accesses of TTL streams were committed, so
   * that the next start may judge by them. Default: yes.
   */
  close(accessesKept?: boolean): Promise<void>;
}
