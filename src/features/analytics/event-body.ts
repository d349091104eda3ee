/** The events of a request body: one JSON object, an array of them, or a line for each (NDJSON). */

import type { Clock } from "../../kit/clock.ts";
import { Pace } from "../../kit/turn.ts";
import { joinBytes, utf8 } from "../../kit/bytes.ts";
import { mediaType } from "../../protocol/content-type.ts";
import { splitJsonRecords } from "../../protocol/json-records.ts";
import { BACKGROUND_TURN_MS } from "../../protocol/limits.ts";
import type { Rejection } from "../../protocol/verdicts.ts";
import { type PreparedEvent, prepareEvent } from "./prepared-event.ts";

/** What is no event, with its text. */
export interface InvalidEvent {
  readonly index: number;
  readonly json: string;
  readonly reason: string;
}

export interface ReadBody {
  readonly events: readonly PreparedEvent[];
  readonly invalid: readonly InvalidEvent[];
}

const NDJSON = new Set(["application/x-ndjson", "application/ndjson", "application/jsonl"]);
/** Events between two looks at the clock: some 50 µs. */
export const EVENTS_PER_LOOK = 64;
const OPEN = utf8("[");
const CLOSE = utf8("]");
const LINE = 0x0a;
/** It and what lies below it: the white space of JSON. */
const SPACE = 0x20;
const COMMA = 0x2c;
const decoder = new TextDecoder();

export function isNdjson(contentType: string): boolean {
  return NDJSON.has(mediaType(contentType) ?? "");
}

/** Parsing takes one turn, everything else short ones. */
export async function readEventBody(body: Uint8Array, isLines: boolean, clock: Clock): Promise<ReadBody | Rejection> {
  const lines = isLines ? linesOf(body) : null;
  const split = splitJsonRecords(lines === null ? body : joinBytes([OPEN, joinBytes(lines, COMMA), CLOSE]));
  if (!split.ok) return split.problem;
  const { payload, lengths } = split;
  const broken = lines?.findIndex((line, at) => trimmedLength(line) !== lengths[at]) ?? -1;
  if (broken >= 0) return { kind: "json-invalid", reason: `line ${broken + 1} that is not empty is no JSON value` };
  if (lengths.length === 0) return { kind: "empty-array" };
  const values = JSON.parse(decoder.decode(joinBytes([OPEN, payload, CLOSE]))) as unknown[];
  const events: PreparedEvent[] = [];
  const invalid: InvalidEvent[] = [];
  const nowMs = clock.nowMs();
  const pace = new Pace(clock, BACKGROUND_TURN_MS);
  let from = 0;
  for (const [index, value] of values.entries()) {
    const bytes = lengths[index] ?? 0;
    const at = from;
    from += bytes + 1;
    // A copy: a queued event must not keep its whole request in memory.
    const text = (): string => decoder.decode(payload.subarray(at, at + bytes));
    const prepared = prepareEvent(value, bytes, text, nowMs);
    if (typeof prepared === "string") invalid.push({ index, json: text(), reason: prepared });
    else events.push(prepared);
    if (index % EVENTS_PER_LOOK === 0 && pace.isOver) await pace.next();
  }
  return { events, invalid };
}

/** Lines that are not empty. */
function linesOf(body: Uint8Array): Uint8Array[] {
  const lines: Uint8Array[] = [];
  for (let from = 0; from < body.length;) {
    const end = body.indexOf(LINE, from);
    const line = body.subarray(from, end < 0 ? body.length : end);
    if (line.some((byte) => byte > SPACE)) lines.push(line);
    from = end < 0 ? body.length : end + 1;
  }
  return lines;
}

/** Without the space around it. */
function trimmedLength(line: Uint8Array): number {
  const first = line.findIndex((byte) => byte > SPACE);
  return line.findLastIndex((byte) => byte > SPACE) + 1 - first;
}
