/**
 * JSON mode (PROTOCOL §7.1): one body in, the raw bytes of its records out. A top-level array is flattened one level.
 * Validation is one `JSON.parse`; the records are slices of the request's own bytes, so numbers and spelling survive.
 * Invariant: `payload` is the records joined by commas and `lengths` are their byte lengths, in order.
 */

import { joinBytes } from "../kit/bytes.ts";
import { MAX_JSON_DEPTH, MAX_RECORDS_PER_APPEND } from "./limits.ts";

export interface SplitRecords {
  /** Records joined by `,`; shares the body's memory when it can. */
  readonly payload: Uint8Array;
  readonly lengths: readonly number[];
}

export type JsonProblem =
  | { readonly kind: "json-invalid"; readonly reason: string }
  | { readonly kind: "json-too-deep" }
  | { readonly kind: "too-many-records" };

export type SplitResult =
  | ({ readonly ok: true } & SplitRecords)
  | { readonly ok: false; readonly problem: JsonProblem };

const COMMA = 0x2c;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Splits a complete JSON text. Cost: one parse and one pass over the bytes. An empty array gives no records. */
export function splitJsonRecords(body: Uint8Array): SplitResult {
  const problem = findProblem(body);
  if (problem !== null) return { ok: false, problem };
  const first = skipSpace(body, 0);
  const last = skipSpaceBack(body, body.length);
  const scan = scanValue(body, first, last);
  if (scan.tooDeep) return { ok: false, problem: { kind: "json-too-deep" } };
  if (body[first] !== 0x5b) return { ok: true, payload: body.subarray(first, last), lengths: [last - first] };
  if (scan.commas.length >= MAX_RECORDS_PER_APPEND) return { ok: false, problem: { kind: "too-many-records" } };
  return { ok: true, ...cutElements(body, first + 1, last - 1, scan.commas) };
}

function findProblem(body: Uint8Array): JsonProblem | null {
  try {
    JSON.parse(decoder.decode(body));
    return null;
  } catch (cause) {
    const reason = cause instanceof SyntaxError ? cause.message : "the body is not valid UTF-8";
    return { kind: "json-invalid", reason };
  }
}

interface Scan {
  /** Positions of the commas between the elements of the outermost array. */
  readonly commas: number[];
  readonly tooDeep: boolean;
}

/** One pass over a text that `JSON.parse` accepted: only strings and brackets matter. */
function scanValue(body: Uint8Array, from: number, to: number): Scan {
  const commas: number[] = [];
  let depth = 0;
  for (let at = from; at < to; at++) {
    switch (body[at]) {
      case QUOTE:
        for (at++; body[at] !== QUOTE; at++) if (body[at] === BACKSLASH) at++;
        break;
      case 0x7b:
      case 0x5b:
        if (++depth > MAX_JSON_DEPTH) return { commas, tooDeep: true };
        break;
      case 0x7d:
      case 0x5d:
        depth--;
        break;
      case COMMA:
        if (depth === 1) {
          commas.push(at);
          if (commas.length >= MAX_RECORDS_PER_APPEND) return { commas, tooDeep: false };
        }
        break;
    }
  }
  return { commas, tooDeep: false };
}

function cutElements(body: Uint8Array, from: number, to: number, commas: readonly number[]): SplitRecords {
  if (skipSpace(body, from) >= to) return { payload: body.subarray(from, from), lengths: [] };
  const starts: number[] = [];
  const lengths: number[] = [];
  let joinedLength = commas.length;
  let start = from;
  for (let index = 0; index <= commas.length; index++) {
    const end = commas[index] ?? to;
    const cutStart = skipSpace(body, start);
    const length = skipSpaceBack(body, end) - cutStart;
    starts.push(cutStart);
    lengths.push(length);
    joinedLength += length;
    start = end + 1;
  }
  // No space around the commas, as most encoders write it: the array's inside already is the payload.
  if (joinedLength === to - from) return { payload: body.subarray(from, to), lengths };
  const slices = starts.map((at, index) => body.subarray(at, at + (lengths[index] ?? 0)));
  return { payload: joinBytes(slices, COMMA), lengths };
}

function isSpace(byte: number | undefined): boolean {
  return byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09;
}

function skipSpace(body: Uint8Array, from: number): number {
  let at = from;
  while (isSpace(body[at])) at++;
  return at;
}

function skipSpaceBack(body: Uint8Array, to: number): number {
  let at = to;
  while (at > 0 && isSpace(body[at - 1])) at--;
  return at;
}
