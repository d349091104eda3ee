/**
 * Cuts an input that arrives in pieces into units: lines, JSON values or stretches of bytes. What it cuts depends on the
 * bytes alone, never on how they arrived (except `arrivals`). Memory holds one unit and one piece.
 */

import { JsonArrayError, jsonValues } from "../client/json-array-splitter.ts";
import { joinBytes } from "../kit/bytes.ts";
import { UsageError } from "./failure.ts";

const LINE_FEED = 0x0a;
const OPEN_ARRAY = 0x5b;
const SPACE = /^[ \t\r\n]*$/;
/** What starts with a byte order mark is no JSON to the server either. */
const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** The most one unit may hold; a server's own limit is lower. */
export const MAX_UNIT_BYTES = 256 * 1024 * 1024;

/** Each line with its line end; the last one may have none. */
export async function* lines(input: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array[], void> {
  let carried: Uint8Array[] = [];
  let carriedBytes = 0;
  for await (const piece of input) {
    const found: Uint8Array[] = [];
    let start = 0;
    for (let end = piece.indexOf(LINE_FEED); end !== -1; end = piece.indexOf(LINE_FEED, start)) {
      found.push(joinBytes([...carried, piece.subarray(start, end + 1)]));
      carried = [];
      carriedBytes = 0;
      start = end + 1;
    }
    if (start < piece.length) {
      carried.push(piece.slice(start));
      carriedBytes += piece.length - start;
    }
    if (carriedBytes > MAX_UNIT_BYTES) throw new UsageError(`a line is longer than ${MAX_UNIT_BYTES} bytes`);
    if (found.length > 0) yield found;
  }
  if (carried.length > 0) yield [joinBytes(carried)];
}

/** Each line that is not blank, checked to be one JSON value. */
export async function* jsonLineValues(input: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array[], void> {
  let number = 0;
  for await (const group of lines(input)) {
    const values: Uint8Array[] = [];
    for (const line of group) if (isJsonLine(line, ++number)) values.push(line);
    if (values.length > 0) yield values;
  }
}

/** The values of a JSON array; with `orOneValue`, any other JSON text is one value. */
export async function* jsonInput(
  input: AsyncIterable<Uint8Array>,
  orOneValue: boolean,
): AsyncGenerator<Uint8Array[], void> {
  const { first, pieces } = await peek(input);
  if (first === undefined) return;
  if (first !== OPEN_ARRAY && orOneValue) {
    yield [await oneJsonValue(pieces)];
    return;
  }
  try {
    yield* jsonValues(pieces, MAX_UNIT_BYTES);
  } catch (cause) {
    throw cause instanceof JsonArrayError ? new UsageError(`stdin: ${cause.message}`) : cause;
  }
}

/** The pieces as they arrive, for input whose boundaries mean nothing. */
export async function* arrivals(input: AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array[], void> {
  for await (const piece of input) yield [piece];
}

/** Stretches of exactly `size` bytes; the last one may be shorter. */
export async function* stretches(input: AsyncIterable<Uint8Array>, size: number): AsyncGenerator<Uint8Array[], void> {
  let carried: Uint8Array = new Uint8Array(0);
  for await (const piece of input) {
    let rest = carried.length === 0 ? piece : joinBytes([carried, piece]);
    const full: Uint8Array[] = [];
    for (; rest.length >= size; rest = rest.subarray(size)) full.push(rest.subarray(0, size));
    carried = rest;
    if (full.length > 0) yield full;
  }
  if (carried.length > 0) yield [carried];
}

function isJsonLine(line: Uint8Array, number: number): boolean {
  const what = `line ${number}`;
  const text = textOf(line, what);
  if (SPACE.test(text)) return false;
  checkJson(text, what);
  return true;
}

function textOf(bytes: Uint8Array, what: string): string {
  try {
    return decoder.decode(bytes);
  } catch (cause) {
    throw cause instanceof TypeError ? new UsageError(`${what} is not UTF-8`) : cause;
  }
}

/** Throws a `UsageError` that names `what` when the text is not one JSON value. */
export function checkJson(text: string, what: string): void {
  try {
    JSON.parse(text);
  } catch (cause) {
    if (!(cause instanceof SyntaxError)) throw cause;
    throw new UsageError(`${what} is not JSON: ${cause.message}`);
  }
}

async function oneJsonValue(pieces: AsyncIterable<Uint8Array>): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let bytes = 0;
  for await (const piece of pieces) {
    parts.push(piece);
    bytes += piece.length;
    if (bytes > MAX_UNIT_BYTES) throw new UsageError(`the JSON value is longer than ${MAX_UNIT_BYTES} bytes`);
  }
  const value = joinBytes(parts);
  const text = textOf(value, "stdin");
  try {
    checkJson(text, "stdin");
  } catch (cause) {
    if (!(cause instanceof UsageError)) throw cause;
    throw new UsageError(cause.message, "one value per line? use --lines");
  }
  return value;
}

/** The first byte that is not space, and the input from there on. */
async function peek(
  input: AsyncIterable<Uint8Array>,
): Promise<{ readonly first: number | undefined; readonly pieces: AsyncIterable<Uint8Array> }> {
  const iterator = input[Symbol.asyncIterator]();
  for (;;) {
    const step = await iterator.next();
    if (step.done === true) return { first: undefined, pieces: input };
    const at = step.value.findIndex((byte) => byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09);
    if (at !== -1) return { first: step.value[at], pieces: resume(step.value.subarray(at), iterator) };
  }
}

async function* resume(piece: Uint8Array, rest: AsyncIterator<Uint8Array>): AsyncGenerator<Uint8Array, void> {
  yield piece;
  for (let step = await rest.next(); step.done !== true; step = await rest.next()) yield step.value;
}
