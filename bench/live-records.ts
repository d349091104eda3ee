/**
 * The records of the live workloads: JSON of a fixed size that begins with a mark of fixed length, its sequence number and
 * the time it was due. A receiver finds marks by a search for bytes and parses no JSON, so that it can keep up with many
 * subscribers. Pure: no sockets, no clock but the one that all processes of this machine share.
 */

import { hexNoise } from "./workloads.ts";

export interface LiveRecord {
  readonly sequence: number;
  /** As `sharedNowMs` told it. */
  readonly dueMs: number;
}

const SEQUENCE_DIGITS = 10;
/** Microseconds since 1970. */
const TIME_DIGITS = 16;
const HEAD = '{"live":"';
const HEAD_BYTES = Buffer.from(HEAD);
const MARK_BYTES = HEAD.length + SEQUENCE_DIGITS + 1 + TIME_DIGITS;
const BRACE = 0x7b;
const NOTHING: Buffer = Buffer.alloc(0);

/** Milliseconds since 1970 in fractions: comes out the same in every process of a machine, within some 0.02 ms. */
export function sharedNowMs(): number {
  return performance.timeOrigin + performance.now();
}

/** Exactly `bytes` long. */
export function liveRecord({ sequence, dueMs }: LiveRecord, bytes: number): string {
  const digits = String(sequence).padStart(SEQUENCE_DIGITS, "0");
  const time = String(Math.round(dueMs * 1000)).padStart(TIME_DIGITS, "0");
  const start = `${HEAD}${digits}.${time}","noise":"`;
  return `${start}${hexNoise(bytes - start.length - 2)}"}`;
}

/** Finds the marks in one subscriber's payload, also where the pieces cut a mark in two. */
export class MarkScanner {
  readonly #onRecord: (sequence: number, dueMs: number) => void;
  #held: Buffer = NOTHING;

  constructor(onRecord: (sequence: number, dueMs: number) => void) {
    this.#onRecord = onRecord;
  }

  receive(piece: Buffer): void {
    const seen = this.#held.length === 0 ? piece : Buffer.concat([this.#held, piece]);
    let next = 0;
    for (let at = seen.indexOf(HEAD_BYTES); at !== -1; at = seen.indexOf(HEAD_BYTES, next)) {
      const end = at + MARK_BYTES;
      if (end > seen.length) break;
      const sequenceAt = at + HEAD.length;
      const timeAt = sequenceAt + SEQUENCE_DIGITS + 1;
      this.#onRecord(numberIn(seen, sequenceAt, timeAt - 1), numberIn(seen, timeAt, end) / 1000);
      next = end;
    }
    // What may be the beginning of a mark; copied, because the socket reuses its buffer.
    const brace = seen.indexOf(BRACE, Math.max(next, seen.length - MARK_BYTES + 1));
    this.#held = brace === -1 ? NOTHING : Buffer.from(seen.subarray(brace));
  }
}

function numberIn(bytes: Uint8Array, from: number, to: number): number {
  let value = 0;
  for (let at = from; at < to; at++) value = value * 10 + ((bytes[at] ?? 0x30) - 0x30);
  return value;
}
