/**
 * Rows of `streams` for an inspection: decoding one, and what is wrong with one by itself. Never throws on what a row holds: damage is
 * a finding.
 */

import type { Database } from "bun:sqlite";
import { isJsonObject } from "../../kit/json-object.ts";
import { expiryDeadlineMs } from "../../protocol/expiry.ts";
import { parseStreamName, STREAM_PREFIX, streamPath } from "../../protocol/names.ts";
import { keepsAll } from "../../protocol/retention.ts";
import type { Deletion, StreamHead } from "../../protocol/stream.ts";
import { streamCrc, type StreamRow } from "./row-crc.ts";

export interface CheckedStreamRow extends StreamRow {
  readonly crc: number;
}

const DELETIONS: readonly Deletion[] = ["none", "soft", "hard"];
const COLUMNS = "id, name, deletion, deadline_ms, retained, head, crc";

/** All rows in the order of their ids. */
export function streamRows(db: Database): Iterable<CheckedStreamRow> {
  return db.query<CheckedStreamRow, []>(`SELECT ${COLUMNS} FROM streams ORDER BY id`).iterate();
}

/** The head in the table; null when there is none that can be read. */
export function headById(db: Database, id: number): StreamHead | null {
  const row = db.query<CheckedStreamRow, [number]>(`SELECT ${COLUMNS} FROM streams WHERE id = ?`).get(id);
  return row === null ? null : decodeRow(row);
}

/** Null when the row holds no head. */
export function decodeRow(row: StreamRow): StreamHead | null {
  let stored: unknown;
  try {
    stored = JSON.parse(row.head);
  } catch {
    // Not JSON: the caller reports the row.
    return null;
  }
  if (!isHead(stored)) return null;
  const deletion = DELETIONS[row.deletion] ?? "none";
  return { ...stored, profile: stored.profile ?? null, id: row.id, deletion, producers: new Map() };
}

type StoredHead = Omit<StreamHead, "id" | "producers" | "deletion">;

const COUNTERS = ["next", "bytes", "trimmedBytes", "retainedFrom", "forks", "producerCount", "lastCommit"] as const;

function isHead(value: unknown): value is StoredHead {
  if (!isJsonObject(value) || !isJsonObject(value["config"]) || !isJsonObject(value["retention"])) return false;
  const { name, from, expiry, fork } = value["config"];
  if (typeof name !== "string" || !isCount(from) || !isJsonObject(expiry)) return false;
  if (fork !== null && !(isJsonObject(fork) && isCount(fork["sourceId"]) && Array.isArray(fork["inherited"])))
    return false;
  return COUNTERS.every((field) => isCount(value[field]));
}

function isCount(value: unknown): boolean {
  return Number.isSafeInteger(value) && Number(value) >= 0;
}

/** What is wrong with a row by itself; `head` is what it decodes to. */
export function rowProblems(row: CheckedStreamRow, head: StreamHead | null, nextId: number): string[] {
  const problems: string[] = [];
  if (streamCrc(row) !== row.crc) problems.push("its row has a wrong checksum");
  if (row.id >= nextId) problems.push(`its id was never given out (the next one is ${nextId})`);
  if (head === null) return [...problems, "its row holds no head"];
  if (DELETIONS[row.deletion] === undefined) problems.push(`its deletion mark is ${row.deletion}`);
  if (row.name !== head.config.name) problems.push(`its head says that it is '${head.config.name}'`);
  if (!isName(row.name)) problems.push("its name is none that a stream can have");
  if (row.retained !== (keepsAll(head.retention) ? 0 : 1)) problems.push("its retention mark is wrong");
  const deadlineMs = expiryDeadlineMs(head.config.expiry, head.accessedMs);
  if (row.deadline_ms !== (Number.isFinite(deadlineMs) ? deadlineMs : null)) problems.push("its deadline is wrong");
  if (head.config.from > head.next) problems.push(`it begins at ${head.config.from} and ends at ${head.next}`);
  if (head.retainedFrom > head.next) problems.push(`it is trimmed to ${head.retainedFrom} and ends at ${head.next}`);
  return problems;
}

function isName(name: string): boolean {
  try {
    return parseStreamName(streamPath(name).slice(STREAM_PREFIX.length)).ok;
  } catch {
    // Text that is no Unicode has no path.
    return false;
  }
}
