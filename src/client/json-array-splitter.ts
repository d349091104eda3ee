/**
 * Cuts a JSON array that arrives in pieces into the raw bytes of its values, without parsing them: numbers, spelling and
 * spacing inside a value survive, and memory holds one value at a time. It follows strings and brackets only, so it
 * notices a broken outline (cut off, something after the array), not every mistake inside a value.
 */

import { joinBytes } from "../kit/bytes.ts";

const COMMA = 0x2c;
const QUOTE = 0x22;
const BACKSLASH = 0x5c;
const OPEN_ARRAY = 0x5b;
const CLOSE_ARRAY = 0x5d;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;

/** The text is not one JSON array; `atByte` counts from its first byte. */
export class JsonArrayError extends Error {
  readonly atByte: number;

  constructor(reason: string, atByte: number) {
    super(`${reason} (at byte ${atByte})`);
    this.name = "JsonArrayError";
    this.atByte = atByte;
  }
}

type Phase = "before" | "first-value" | "value" | "after";

/** Feed it with `push`, then call `end` once. Values come out in order, without the space around them. */
export class JsonArraySplitter {
  readonly #maxValueBytes: number;
  #phase: Phase = "before";
  /** Brackets open inside the current value. */
  #depth = 0;
  #inString = false;
  #escaped = false;
  /** The current value's bytes from earlier pieces. */
  #carried: Uint8Array[] = [];
  #carriedBytes = 0;
  /** Bytes of all earlier pieces, for error positions. */
  #seenBytes = 0;

  constructor(maxValueBytes: number) {
    this.#maxValueBytes = maxValueBytes;
  }

  /** The values that end in this piece. They share its memory where they lie in it whole. */
  push(piece: Uint8Array): Uint8Array[] {
    const values: Uint8Array[] = [];
    let start = 0;
    for (let at = 0; at < piece.length; at++) {
      const byte = piece[at];
      if (this.#inString) {
        if (this.#escaped) this.#escaped = false;
        else if (byte === BACKSLASH) this.#escaped = true;
        else if (byte === QUOTE) this.#inString = false;
        continue;
      }
      switch (this.#phase) {
        case "before":
          if (isSpace(byte)) continue;
          if (byte !== OPEN_ARRAY) throw this.#error("expected a JSON array, which starts with [", at);
          this.#phase = "first-value";
          start = at + 1;
          continue;
        case "after":
          if (isSpace(byte)) continue;
          throw this.#error("expected nothing after the JSON array", at);
        case "first-value":
        case "value":
          break;
      }
      if (byte === QUOTE) this.#inString = true;
      else if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) this.#depth++;
      else if (this.#depth > 0) {
        if (byte === CLOSE_OBJECT || byte === CLOSE_ARRAY) this.#depth--;
      } else if (byte === COMMA) {
        values.push(this.#cut(piece, start, at));
        this.#phase = "value";
        start = at + 1;
      } else if (byte === CLOSE_ARRAY) {
        if (this.#phase === "value" || !this.#isBlank(piece, start, at)) values.push(this.#cut(piece, start, at));
        this.#phase = "after";
      } else if (byte === CLOSE_OBJECT) throw this.#error("a } that closes nothing", at);
    }
    if (this.#phase === "first-value" || this.#phase === "value") this.#carry(piece.subarray(start));
    this.#seenBytes += piece.length;
    return values;
  }

  /** Call after the last piece: throws when the array was not complete. */
  end(): void {
    if (this.#phase === "before") throw this.#error("expected a JSON array, found nothing", 0);
    if (this.#phase !== "after") throw this.#error("the JSON array ends too early", 0);
  }

  #carry(rest: Uint8Array): void {
    if (rest.length === 0) return;
    this.#carriedBytes += rest.length;
    if (this.#carriedBytes > this.#maxValueBytes) {
      throw this.#error(`one value is longer than ${this.#maxValueBytes} bytes`, 0);
    }
    // A copy, so that a short rest does not keep a whole piece in memory.
    this.#carried.push(rest.slice());
  }

  #cut(piece: Uint8Array, start: number, end: number): Uint8Array {
    const tail = piece.subarray(start, end);
    const value = trimSpace(this.#carried.length === 0 ? tail : joinBytes([...this.#carried, tail]));
    this.#carried = [];
    this.#carriedBytes = 0;
    if (value.length === 0) throw this.#error("a value is missing", end);
    if (value.length > this.#maxValueBytes) {
      throw this.#error(`one value is longer than ${this.#maxValueBytes} bytes`, end);
    }
    return value;
  }

  #isBlank(piece: Uint8Array, start: number, end: number): boolean {
    const blank = [...this.#carried, piece.subarray(start, end)].every((part) => trimSpace(part).length === 0);
    if (blank) this.#carried = [];
    return blank;
  }

  #error(reason: string, at: number): JsonArrayError {
    return new JsonArrayError(reason, this.#seenBytes + at);
  }
}

/** The values of a JSON array that arrives as a stream of pieces, in groups as they complete. */
export async function* jsonValues(
  pieces: AsyncIterable<Uint8Array>,
  maxValueBytes: number,
): AsyncGenerator<Uint8Array[], void> {
  const splitter = new JsonArraySplitter(maxValueBytes);
  for await (const piece of pieces) {
    const values = splitter.push(piece);
    if (values.length > 0) yield values;
  }
  splitter.end();
}

function isSpace(byte: number | undefined): boolean {
  return byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09;
}

function trimSpace(bytes: Uint8Array): Uint8Array {
  let from = 0;
  let to = bytes.length;
  while (from < to && isSpace(bytes[from])) from++;
  while (to > from && isSpace(bytes[to - 1])) to--;
  return bytes.subarray(from, to);
}
