/**
 * The storage thread: checkpoints the WAL and prepares sealed batches (reads commits, groups them by stream, compresses).
 * It reads over a connection of its own and writes only while the main thread holds its commits.
 * Any failure is reported and is fatal there. No clock, no rules, no heads.
 */

import { Database } from "bun:sqlite";
import { dirname } from "node:path";
import { assert, present, unreachable } from "../../kit/assert.ts";
import { commitCrc, decodeCommit } from "./commit-codec.ts";
import { BUSY_TIMEOUT_MS } from "./data-directory.ts";
import { isDiskFull, isOutOfDescriptors } from "./system-errors.ts";
import { BatchBuilder } from "./batch-builder.ts";
import { partReader } from "./large-files.ts";
import {
  BATCH_COLUMNS,
  type CheckpointReply,
  type PrepareReply,
  type WorkerReply,
  type WorkerRequest,
} from "./worker-messages.ts";

declare const self: Worker;

interface CommitRow {
  readonly no: number;
  readonly crc: number;
  readonly hdr: Uint8Array;
  readonly data: Uint8Array;
}

let opened: Database | null = null;

self.onmessage = (event: MessageEvent<WorkerRequest>) => {
  try {
    const reply = answer(event.data);
    const moved = reply.kind === "prepare" ? [reply.table, reply.bytes].map((view) => view.buffer as ArrayBuffer) : [];
    self.postMessage(reply, moved);
  } catch (cause) {
    self.postMessage({
      kind: "failed",
      reason: cause instanceof Error ? `${cause.name}: ${cause.message}` : String(cause),
    });
  }
};

function answer(request: WorkerRequest): WorkerReply {
  switch (request.kind) {
    case "open":
      opened = open(request.path);
      return { kind: "open" };
    case "close":
      opened?.close();
      opened = null;
      return { kind: "close" };
    case "checkpoint":
      return checkpoint(present(opened, "the database is opened first"), request.last);
    case "prepare":
      return prepareNow(present(opened, "the database is opened first"), request.from, request.to);
    default:
      return unreachable(request);
  }
}

function open(path: string): Database {
  Database.MAX_QUERY_CACHE_SIZE = 100;
  const db = new Database(path, { readwrite: true, strict: true });
  db.run(`PRAGMA busy_timeout = ${BUSY_TIMEOUT_MS}`);
  db.run("PRAGMA synchronous = NORMAL");
  db.run("PRAGMA wal_autocheckpoint = 0");
  return db;
}

/** One passive pass. The last one, with commits held, also makes the first write after the WAL's restart: SQLite syncs there. */
function checkpoint(db: Database, last: boolean): CheckpointReply {
  try {
    return copyFrames(db, last);
  } catch (cause) {
    // No room for the database to grow into: the frames stay in the WAL, and the next try may find room.
    if (isDiskFull(cause)) return { kind: "checkpoint", log: 1, checkpointed: 0 };
    throw cause;
  }
}

function copyFrames(db: Database, last: boolean): CheckpointReply {
  const row = present(
    db.query<{ log: number; checkpointed: number }, []>("PRAGMA wal_checkpoint(PASSIVE)").get(),
    "checkpoint result",
  );
  if (last && row.log === row.checkpointed) db.run("UPDATE meta SET value = value + 1 WHERE key = 'checkpoints'");
  return { kind: "checkpoint", log: row.log, checkpointed: row.checkpointed };
}

function prepareNow(db: Database, from: number, to: number): WorkerReply {
  try {
    return prepare(db, from, to);
  } catch (cause) {
    if (isOutOfDescriptors(cause)) return { kind: "later" };
    throw cause;
  }
}

function prepare(db: Database, from: number, to: number): PrepareReply {
  const builder = new BatchBuilder();
  const readFile = partReader(dirname(db.filename));
  let expected = from;
  const select = db.query<CommitRow, [number, number]>(
    "SELECT no, crc, hdr, data FROM commits WHERE no BETWEEN ? AND ? ORDER BY no",
  );
  for (const row of select.all(from, to)) {
    assert(row.no === expected, `commit ${expected} is missing`);
    expected++;
    assert(commitCrc(row.hdr, row.data) === row.crc, `commit ${row.no} is damaged on disk`);
    builder.add(decodeCommit(row.hdr, row.data, row.crc, readFile));
  }
  assert(expected === to + 1, `commit ${expected} is missing`);
  const batches = builder.finish();
  const table = new Float64Array(batches.length * BATCH_COLUMNS.length);
  let length = 0;
  for (const batch of batches) length += batch.shape.length + batch.frame.length;
  const bytes = new Uint8Array(length);
  let row = 0;
  let at = 0;
  for (const batch of batches) {
    const values = { ...batch, shape: batch.shape.length, frame: batch.frame.length, file: batch.file ?? 0 };
    for (const column of BATCH_COLUMNS) table[row++] = values[column];
    bytes.set(batch.shape, at);
    bytes.set(batch.frame, at + batch.shape.length);
    at += batch.shape.length + batch.frame.length;
  }
  return { kind: "prepare", table, bytes };
}
