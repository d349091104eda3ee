/** What the main thread and the storage worker say to each other. One request at a time; each has one reply. */

export type WorkerRequest =
  /** First message: which database to open. */
  | { readonly kind: "open"; readonly path: string }
  | { readonly kind: "close" }
  | { readonly kind: "checkpoint"; readonly last: boolean }
  /** Regroup commits `from`..`to` (inclusive) into batches. */
  | { readonly kind: "prepare"; readonly from: number; readonly to: number };

export interface CheckpointReply {
  readonly kind: "checkpoint";
  /** Frames in the WAL, and how many of them the database file now holds. */
  readonly log: number;
  readonly checkpointed: number;
}

/** Numbers per batch in `PrepareReply.table`, in this order. */
export const BATCH_COLUMNS = [
  "stream",
  "first_seq",
  "count",
  "bytes",
  "first_ms",
  "last_ms",
  "raw",
  "codec",
  "crc",
  "shape",
  "frame",
  "file",
] as const;

export interface PrepareReply {
  readonly kind: "prepare";
  /** One row of `BATCH_COLUMNS` per batch, ordered by stream and seq; `shape` and `frame` are byte lengths, `file` 0 is none. */
  readonly table: Float64Array;
  /** Shape, then frame, of each batch in order. */
  readonly bytes: Uint8Array;
}

export type WorkerReply =
  | { readonly kind: "open" | "close" }
  /** The answer to `prepare` while there are no file descriptors. */
  | { readonly kind: "later" }
  | CheckpointReply
  | PrepareReply
  | { readonly kind: "failed"; readonly reason: string };
