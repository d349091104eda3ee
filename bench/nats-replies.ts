/**
 * Finds the replies of a NATS server in bytes cut anywhere: every message to the connection's inbox is one, and so is the
 * PONG that answers our PING. Nothing is copied or collected. Knows as much of the protocol as the benchmarks meet.
 */

import type { Replies } from "./reply-connection.ts";

/** A piece of a message's payload. */
export type PayloadPiece = (bytes: Buffer, from: number, to: number) => void;

const NEWLINE = 0x0a;
const LINE_END_BYTES = 2;
const SPACE = 0x20;
const ZERO = 0x30;
const NINE = 0x39;
const MESSAGE = 0x4d;
const ERROR = 0x2d;
const P = 0x50;
const I = 0x49;
/** An append that was taken is answered `{"stream":…`, another one `{"error":…`: the third byte tells. */
const TELLING_BYTE = 2;
const E = 0x65;

export class NatsReplies implements Replies {
  readonly #onPing: () => void;
  readonly #onPayload: PayloadPiece | null;
  #left = 0;
  /** Bytes of the payload under way, its line end included, and how many of them were seen. */
  #payloadLeft = 0;
  #payloadAt = 0;
  /** Of the line under way: its first two bytes, its length, and the number that stands last in it. */
  #first = 0;
  #second = 0;
  #lineBytes = 0;
  #number = 0;
  isRefused = false;

  /** `onPing`: the server asks for a PONG, or it will end the connection. */
  constructor(onPing: () => void, onPayload: PayloadPiece | null) {
    this.#onPing = onPing;
    this.#onPayload = onPayload;
  }

  expect(replies: number): void {
    this.#left = replies;
    this.isRefused = false;
  }

  take(bytes: Buffer): boolean {
    let at = 0;
    while (at < bytes.length) at = this.#payloadLeft > 0 ? this.#takePayload(bytes, at) : this.#takeLine(bytes, at);
    return this.#left === 0;
  }

  #takePayload(bytes: Buffer, from: number): number {
    const taken = Math.min(this.#payloadLeft, bytes.length - from);
    const telling = TELLING_BYTE - this.#payloadAt;
    if (telling >= 0 && telling < taken && bytes[from + telling] === E) this.isRefused = true;
    const ofPayload = Math.min(taken, this.#payloadLeft - LINE_END_BYTES);
    if (ofPayload > 0) this.#onPayload?.(bytes, from, from + ofPayload);
    this.#payloadLeft -= taken;
    this.#payloadAt += taken;
    if (this.#payloadLeft === 0) this.#left--;
    return from + taken;
  }

  #takeLine(bytes: Buffer, from: number): number {
    for (let at = from; at < bytes.length; at++) {
      const byte = bytes[at] ?? 0;
      if (byte === NEWLINE) {
        this.#lineBytes = 0;
        this.#endLine();
        return at + 1;
      }
      if (this.#lineBytes === 0) this.#first = byte;
      else if (this.#lineBytes === 1) this.#second = byte;
      this.#lineBytes++;
      if (byte === SPACE) this.#number = 0;
      else if (byte >= ZERO && byte <= NINE) this.#number = this.#number * 10 + byte - ZERO;
    }
    return bytes.length;
  }

  #endLine(): void {
    if (this.#first === MESSAGE) {
      this.#payloadLeft = this.#number + LINE_END_BYTES;
      this.#payloadAt = 0;
    } else if (this.#first === P && this.#second === I) this.#onPing();
    else if (this.#first === P) this.#left--;
    else if (this.#first === ERROR) {
      // The server ends the connection after it.
      this.isRefused = true;
      this.#left = 0;
    }
  }
}
