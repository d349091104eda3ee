/**
 * Finds the replies of RESP2, the protocol of Redis, in bytes cut anywhere: counts values, keeps the last number, hands on
 * the pieces of strings. Nothing is copied or collected. Knows as much of RESP2 as the benchmarks meet.
 */

import type { Replies } from "./reply-connection.ts";

/** A piece of the `index`th string since the request; pieces of one string come in order. */
export type StringPiece = (bytes: Buffer, from: number, to: number, index: number) => void;

const NEWLINE = 0x0a;
const LINE_END_BYTES = 2;
const MINUS = 0x2d;
const ZERO = 0x30;
const NINE = 0x39;
const ERROR = 0x2d;
const STRING = 0x24;
const ARRAY = 0x2a;

export class RespReplies implements Replies {
  readonly #onString: StringPiece | null;
  /** Values that the replies still lack. */
  #left = 0;
  /** Bytes of the string under way, its line end included. */
  #stringLeft = 0;
  #strings = 0;
  /** The first byte of the line under way; 0 before it. */
  #kind = 0;
  #isNegative = false;
  number = 0;
  isRefused = false;

  constructor(onString: StringPiece | null = null) {
    this.#onString = onString;
  }

  expect(replies: number): void {
    this.#left = replies;
    this.#strings = 0;
    this.isRefused = false;
  }

  take(bytes: Buffer): boolean {
    let at = 0;
    while (at < bytes.length) at = this.#stringLeft > 0 ? this.#takeString(bytes, at) : this.#takeLine(bytes, at);
    return this.#left === 0;
  }

  #takeString(bytes: Buffer, from: number): number {
    const taken = Math.min(this.#stringLeft, bytes.length - from);
    const ofText = Math.min(taken, this.#stringLeft - LINE_END_BYTES);
    if (ofText > 0) this.#onString?.(bytes, from, from + ofText, this.#strings);
    this.#stringLeft -= taken;
    if (this.#stringLeft === 0) {
      this.#strings++;
      this.#left--;
    }
    return from + taken;
  }

  #takeLine(bytes: Buffer, from: number): number {
    let at = from;
    if (this.#kind === 0) {
      this.#kind = bytes[at++] ?? 0;
      this.#isNegative = false;
      this.number = 0;
    }
    for (; at < bytes.length; at++) {
      const byte = bytes[at] ?? 0;
      if (byte >= ZERO && byte <= NINE) this.number = this.number * 10 + byte - ZERO;
      else if (byte === MINUS) this.#isNegative = true;
      else if (byte === NEWLINE) {
        this.#endLine(this.#kind);
        this.#kind = 0;
        return at + 1;
      }
    }
    return at;
  }

  #endLine(kind: number): void {
    // A string or a list of negative length is one missing value.
    if (kind === STRING && !this.#isNegative) this.#stringLeft = this.number + LINE_END_BYTES;
    else if (kind === ARRAY && !this.#isNegative) this.#left += this.number - 1;
    else {
      this.#left--;
      if (kind === ERROR) this.isRefused = true;
    }
  }
}
