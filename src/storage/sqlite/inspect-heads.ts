/**
 * Rows of `streams` for an inspection: all of them, one, and what is wrong with one by itself. Never throws on what a row holds; a
 * page that SQLite cannot read does throw.
 */

import type { Database } from "bun:sqlite";
import { parseStreamName, STREAM_PREFIX, streamPath } from "../../protocol/names.ts";
import type { StreamHead } from "../../protocol/stream.ts";
import { streamCrc, type StreamRow } from "./row-crc.ts";
import { decodeHead, DELETIONS, marksOf, STREAM_COLUMNS } from "./stored-head.ts";

export interface CheckedStreamRow extends StreamRow {
  readonly crc: number;
}

/** All rows in the order of their ids. */
export function* streamRows(db: Database): Generator<CheckedStreamRow> {
  yield* db.query<CheckedStreamRow, []>(`SELECT ${STREAM_COLUMNS} FROM streams ORDER BY id`).iterate();
}

/** The head in the table; null when there is none that can be read. */
export function headById(db: Database, id: number): StreamHead | null {
  const row = db.query<CheckedStreamRow, [number]>(`SELECT ${STREAM_COLUMNS} FROM streams WHERE id = ?`).get(id);
  return row === null ? null : decodeHead(row);
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
  const marks = marksOf(head);
  // Older releases kept the marks of deleted streams.
  if (row.retained !== marks.retained && head.deletion !== "hard") problems.push("its retention mark is wrong");
  if (row.deadline_ms !== marks.deadline_ms && head.deletion === "none") problems.push("its deadline is wrong");
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
