/**
 * The `highwater` file: the number of the last commit known durable, written after syncs at most every 10 ms and never
 * waited for. A start that recovers less than it says has lost a tail and refuses. It is advice about loss, not data:
 * its own loss costs only that check. 24 bytes, one pwrite: number and checksum.
 */

import { closeSync, existsSync, openSync, readFileSync, write, writeSync } from "node:fs";
import { crc32 } from "../../kit/crc32.ts";

const INTERVAL_MS = 10;

export class Highwater {
  readonly #fd: number;
  #written = 0;
  #wanted = 0;
  /** The write under way: its descriptor must not be closed under it. */
  #writing: Promise<void> | null = null;
  #timer: ReturnType<typeof setTimeout> | null = null;
  readonly #onError: (cause: unknown) => void;

  constructor(path: string, onError: (cause: unknown) => void) {
    this.#fd = openSync(path, existsSync(path) ? "r+" : "w+");
    this.#onError = onError;
  }

  /** What the file says; 0 when it is new, torn or damaged. */
  static read(path: string): number {
    if (!existsSync(path)) return 0;
    const bytes = new Uint8Array(readFileSync(path));
    if (bytes.length < 12) return 0;
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    return view.getUint32(8) === crc32(bytes.subarray(0, 8)) ? Number(view.getBigUint64(0)) : 0;
  }

  /** Notes that commits up to `no` are durable. */
  raise(no: number): void {
    this.#wanted = no;
    if (this.#timer !== null || this.#writing !== null) return;
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#write();
    }, INTERVAL_MS);
  }

  /** Writes `no` at once, also a lower one: at start, after a loss was accepted. */
  set(no: number): void {
    this.#wanted = no;
    writeSync(this.#fd, encode(no), 0, 12, 0);
    this.#written = no;
  }

  async close(): Promise<void> {
    if (this.#timer !== null) clearTimeout(this.#timer);
    await this.#writing;
    if (this.#timer !== null) clearTimeout(this.#timer);
    if (this.#wanted !== this.#written) this.set(this.#wanted);
    closeSync(this.#fd);
  }

  #write(): void {
    const no = this.#wanted;
    this.#writing = new Promise((resolve) => {
      write(this.#fd, encode(no), 0, 12, 0, (error) => {
        this.#writing = null;
        if (error !== null) return this.#onError(error);
        this.#written = no;
        if (this.#wanted !== no) this.raise(this.#wanted);
        resolve();
      });
    });
  }
}

function encode(no: number): Uint8Array {
  const bytes = new Uint8Array(12);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(no));
  view.setUint32(8, crc32(bytes.subarray(0, 8)));
  return bytes;
}
