/**
 * JSON mode (PROTOCOL §7.1): one body in, the raw bytes of its records out. A top-level array is flattened one level.
 * The records are slices of the request's own bytes, so numbers and spelling survive.
 * Invariant: `payload` is the records joined by commas and `lengths` are their byte lengths, in order.
 */

import { joinBytes, utf8 } from "../kit/bytes.ts";
import { type JsonProblem, scanJson } from "./json-scan.ts";

export interface SplitRecords {
  /** Records joined by `,`; shares the body's memory when it can. */
  readonly payload: Uint8Array;
  readonly lengths: readonly number[];
  /** See `AppendMark.digest`. */
  readonly digest?: unknown;
}

export type SplitResult =
  | ({ readonly ok: true } & SplitRecords)
  | { readonly ok: false; readonly problem: JsonProblem };

/** Records that the server made itself, as an append takes them. */
export function joinRecords(texts: readonly string[]): SplitRecords {
  return { payload: utf8(texts.join(",")), lengths: texts.map((text) => Buffer.byteLength(text)) };
}

const COMMA = 0x2c;

/** Splits a complete JSON text. Cost: one pass over the bytes. An empty array gives no records. */
export function splitJsonRecords(body: Uint8Array): SplitResult {
  const scan = scanJson(body);
  if ("kind" in scan) return { ok: false, problem: scan };
  const { first, last, commas } = scan;
  if (body[first] !== 0x5b) return { ok: true, payload: body.subarray(first, last), lengths: [last - first] };
  return { ok: true, ...cutElements(body, first + 1, last - 1, commas) };
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
