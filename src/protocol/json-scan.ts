/**
 * One pass over a JSON text (RFC 8259) that checks it and finds the commas of its outermost array. It makes no values: a body
 * is stored as the bytes it came in, so building it only to throw it away was a seventh of an append's cost (measured).
 * Invariant: accepts exactly what `JSON.parse` accepts of the decoded text, down to MAX_JSON_DEPTH; no recursion.
 */

import { MAX_JSON_DEPTH, MAX_RECORDS_PER_APPEND } from "./limits.ts";

export type JsonProblem =
  | { readonly kind: "json-invalid"; readonly reason: string }
  | { readonly kind: "json-too-deep" }
  | { readonly kind: "too-many-records" };

/** Why a body cannot be stored: not JSON, or records that break the rules of the stream's profile. */
export type BodyProblem =
  | JsonProblem
  | { readonly kind: "record-invalid"; readonly index: number; readonly reason: string };

export interface JsonScan {
  /** The text without the space around it. */
  readonly first: number;
  readonly last: number;
  /** Positions of the commas between the elements of the outermost array; empty when there is no array. */
  readonly commas: readonly number[];
}

const decoder = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });

/** Stands for the end of the text: no byte has it. */
const END = 0x100;
const QUOTE = 0x22;
const COMMA = 0x2c;
const MINUS = 0x2d;
const POINT = 0x2e;
const COLON = 0x3a;
const OPEN_ARRAY = 0x5b;
const BACKSLASH = 0x5c;
const CLOSE_ARRAY = 0x5d;
const LETTER_U = 0x75;
const OPEN_OBJECT = 0x7b;
const CLOSE_OBJECT = 0x7d;

/** Bytes inside a string that need a look: controls, the quote, the backslash and everything outside ASCII. */
const SPECIAL = Uint8Array.from({ length: 256 }, (_, byte) =>
  byte < 0x20 || byte === QUOTE || byte === BACKSLASH || byte >= 0x80 ? 1 : 0,
);
const ESCAPES = new Set(Array.from('"\\/bfnrt', (char) => char.charCodeAt(0)));
const WORDS = ["true", "false", "null"].map((word) => Array.from(word, (char) => char.charCodeAt(0)));

/** Cost: about 1 ns a byte. */
export function scanJson(body: Uint8Array): JsonScan | JsonProblem {
  return new Scanner(body).scan();
}

class Scanner {
  readonly #body: Uint8Array;
  readonly #commas: number[] = [];
  /** The closing bracket that each open one waits for. */
  readonly #closers: number[] = [];
  #at = 0;
  #ascii = true;

  constructor(body: Uint8Array) {
    this.#body = body;
  }

  scan(): JsonScan | JsonProblem {
    this.#skipSpace();
    const first = this.#at;
    const problem = this.#value();
    if (problem !== null) return problem;
    const last = this.#at;
    this.#skipSpace();
    if (this.#at < this.#body.length) return this.#unexpected();
    if (!this.#ascii) {
      try {
        decoder.decode(this.#body);
      } catch (cause) {
        if (cause instanceof TypeError) return { kind: "json-invalid", reason: "it is not valid UTF-8" };
        throw cause;
      }
    }
    return { first, last, commas: this.#commas };
  }

  /** One value with all that it holds. */
  #value(): JsonProblem | null {
    const body = this.#body;
    const closers = this.#closers;
    for (;;) {
      const byte = body[this.#at];
      if (byte === OPEN_OBJECT || byte === OPEN_ARRAY) {
        if (closers.length === MAX_JSON_DEPTH) return { kind: "json-too-deep" };
        closers.push(byte === OPEN_OBJECT ? CLOSE_OBJECT : CLOSE_ARRAY);
        this.#at++;
        this.#skipSpace();
        if (body[this.#at] !== closers[closers.length - 1]) {
          if (byte === OPEN_OBJECT && !this.#name()) return this.#unexpected();
          continue;
        }
        closers.pop();
        this.#at++;
      } else if (!(byte === QUOTE ? this.#string() : this.#scalar(byte))) {
        return this.#unexpected();
      }
      // After a value: close what ends here, then go on to the next one.
      for (;;) {
        const closer = closers[closers.length - 1];
        if (closer === undefined) return null;
        this.#skipSpace();
        const next = body[this.#at];
        if (next !== closer && next !== COMMA) return this.#unexpected();
        if (next === COMMA) {
          if (closers.length === 1 && closer === CLOSE_ARRAY) {
            this.#commas.push(this.#at);
            if (this.#commas.length >= MAX_RECORDS_PER_APPEND) return { kind: "too-many-records" };
          }
          this.#at++;
          this.#skipSpace();
          if (closer === CLOSE_OBJECT && !this.#name()) return this.#unexpected();
          break;
        }
        closers.pop();
        this.#at++;
      }
    }
  }

  /** A member's name with its colon and the space after it. */
  #name(): boolean {
    if (this.#body[this.#at] !== QUOTE || !this.#string()) return false;
    this.#skipSpace();
    if (this.#body[this.#at] !== COLON) return false;
    this.#at++;
    this.#skipSpace();
    return true;
  }

  #string(): boolean {
    const body = this.#body;
    const end = body.length;
    for (let at = this.#at + 1; at < end; at++) {
      const byte = body[at] ?? 0;
      if (SPECIAL[byte] === 0) continue;
      if (byte === QUOTE) {
        this.#at = at + 1;
        return true;
      }
      if (byte >= 0x80) {
        this.#ascii = false;
        continue;
      }
      at = byte === BACKSLASH ? this.#escape(at) : -at;
      if (at > 0) continue;
      this.#at = -at;
      return false;
    }
    this.#at = end;
    return false;
  }

  /** The last byte of the escape whose backslash is at `at`; negative where it goes wrong. */
  #escape(at: number): number {
    const body = this.#body;
    const kind = body[at + 1];
    if (kind !== LETTER_U) return ESCAPES.has(kind ?? 0) ? at + 1 : -(at + 1);
    for (let digit = at + 2; digit < at + 6; digit++) if (!isHex(body[digit])) return -digit;
    return at + 5;
  }

  #scalar(first: number | undefined): boolean {
    return first === MINUS || isDigit(first) ? this.#number() : this.#word();
  }

  #number(): boolean {
    const body = this.#body;
    if (body[this.#at] === MINUS) this.#at++;
    if (body[this.#at] === 0x30) this.#at++;
    else if (!this.#digits()) return false;
    if (body[this.#at] === POINT) {
      this.#at++;
      if (!this.#digits()) return false;
    }
    const exponent = body[this.#at];
    if (exponent !== 0x65 && exponent !== 0x45) return true;
    this.#at++;
    const sign = body[this.#at];
    if (sign === MINUS || sign === 0x2b) this.#at++;
    return this.#digits();
  }

  #digits(): boolean {
    const from = this.#at;
    while (isDigit(this.#body[this.#at])) this.#at++;
    return this.#at > from;
  }

  #word(): boolean {
    const word = WORDS.find((letters) => letters.every((letter, index) => this.#body[this.#at + index] === letter));
    if (word !== undefined) this.#at += word.length;
    return word !== undefined;
  }

  #skipSpace(): void {
    const body = this.#body;
    // Most encoders write none: one look and on.
    if ((body[this.#at] ?? END) > 0x20) return;
    let at = this.#at;
    for (let byte = body[at]; byte === 0x20 || byte === 0x0a || byte === 0x0d || byte === 0x09; byte = body[++at]);
    this.#at = at;
  }

  #unexpected(): JsonProblem {
    const ended = this.#at >= this.#body.length;
    return { kind: "json-invalid", reason: ended ? "it ends too early" : `unexpected byte at position ${this.#at}` };
  }
}

function isDigit(byte: number | undefined): boolean {
  return byte !== undefined && byte >= 0x30 && byte <= 0x39;
}

function isHex(byte: number | undefined): boolean {
  return isDigit(byte) || (byte !== undefined && (byte | 0x20) >= 0x61 && (byte | 0x20) <= 0x66);
}
