/**
 * The text of many JSON records as one append, in a buffer that is used again: 2 MB of fresh memory each second would be faulted
 * in page by page. What `take` returned is valid until the next `add`.
 */

import type { SplitRecords } from "../../protocol/json-records.ts";

const FIRST_BYTES = 64 * 1024;
const COMMA = 0x2c;
const encoder = new TextEncoder();

export class RecordText {
  #buffer = new Uint8Array(FIRST_BYTES);
  #length = 0;
  #lengths: number[] = [];

  get bytes(): number {
    return this.#length;
  }

  add(json: string): void {
    // UTF-8 has at most three bytes per UTF-16 unit.
    this.#reserve(json.length * 3 + 1);
    if (this.#length > 0) this.#buffer[this.#length++] = COMMA;
    const { written } = encoder.encodeInto(json, this.#buffer.subarray(this.#length));
    this.#length += written;
    this.#lengths.push(written);
  }

  take(): SplitRecords {
    const records = { payload: this.#buffer.subarray(0, this.#length), lengths: this.#lengths };
    this.#length = 0;
    this.#lengths = [];
    return records;
  }

  #reserve(bytes: number): void {
    if (this.#buffer.length - this.#length >= bytes) return;
    const larger = new Uint8Array(Math.max(this.#buffer.length * 2, this.#length + bytes));
    larger.set(this.#buffer.subarray(0, this.#length));
    this.#buffer = larger;
  }
}
