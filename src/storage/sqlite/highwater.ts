/**
 * The `highwater` file: the number of the last commit known durable, written after syncs at most every 10 ms and never
 * waited for. A start that recovers less than it says has lost a tail and refuses. It is advice about loss, not data:
 * its own loss costs only that check, and on a full disk it lags. 12 bytes, one pwrite: number and checksum.
 */

import { closeSync, existsSync, openSync, readFileSync, write, writeSync } from "node:fs";
import { crc32 } from "../../kit/crc32.ts";

const INTERVAL_MS = 10;
/** After the disk was full. */
const RETRY_MS = 1_000;

/** Writes the mark over the one in the file. */
export type WriteMark = (fd: number, mark: Uint8Array, done: (error: Error | null) => void) => void;

const overwrite: WriteMark = (fd, mark, done) => write(fd, mark, 0, mark.length, 0, done);

export class Highwater {
  readonly #fd: number;
  #written = 0;
  #wanted = 0;
  /** The write under way: its descriptor must not be closed under it. */
  #writing: Promise<void> | null = null;
  #timer: ReturnType<typeof setTimeout> | null = null;
  readonly #onError: (cause: unknown) => void;
  readonly #writeMark: WriteMark;

  /** `onError` is not told of a full disk. */
  constructor(path: string, onError: (cause: unknown) => void, writeMark = overwrite) {
    this.#fd = openSync(path, existsSync(path) ? "r+" : "w+");
    this.#onError = onError;
    this.#writeMark = writeMark;
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
    if (this.#timer === null && this.#writing === null) this.#writeAfter(INTERVAL_MS);
  }

  /** Writes `no` at once, also a lower one: at start, after a loss was accepted. When the disk is full, later. */
  set(no: number): void {
    this.#wanted = no;
    try {
      writeSync(this.#fd, encode(no), 0, 12, 0);
      this.#written = no;
    } catch (cause) {
      if (!isOutOfSpace(cause)) throw cause;
      if (this.#timer === null) this.#writeAfter(RETRY_MS);
    }
  }

  async close(): Promise<void> {
    if (this.#timer !== null) clearTimeout(this.#timer);
    await this.#writing;
    if (this.#wanted !== this.#written) this.set(this.#wanted);
    if (this.#timer !== null) clearTimeout(this.#timer);
    closeSync(this.#fd);
  }

  #writeAfter(delayMs: number): void {
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.#write();
    }, delayMs);
  }

  #write(): void {
    const no = this.#wanted;
    this.#writing = new Promise((resolve) => {
      this.#writeMark(this.#fd, encode(no), (error) => {
        this.#writing = null;
        if (error === null) this.#written = no;
        if (isOutOfSpace(error)) this.#writeAfter(RETRY_MS);
        else if (error !== null) this.#onError(error);
        else if (this.#wanted !== no) this.#writeAfter(INTERVAL_MS);
        resolve();
      });
    });
  }
}

/** A failed write of advice is no reason to stop, as long as it says nothing about the disk but that it is full. */
function isOutOfSpace(cause: unknown): boolean {
  return cause instanceof Error && "code" in cause && (cause.code === "ENOSPC" || cause.code === "EDQUOT");
}

function encode(no: number): Uint8Array {
  const bytes = new Uint8Array(12);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(no));
  view.setUint32(8, crc32(bytes.subarray(0, 8)));
  return bytes;
}
