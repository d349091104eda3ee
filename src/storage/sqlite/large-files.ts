/**
 * Payload that is too large for SQLite, which writes every byte twice: one file per commit that holds any, in `large/`, named by the
 * commit's number and never changed. A commit row refers to a file only after the disk has it and its name; a file goes only
 * after the disk has the transaction that deleted its last reference. What a crash leaves between is removed at the next start.
 */

import {
  close,
  closeSync,
  existsSync,
  fdatasync,
  fstatSync,
  fsync,
  fsyncSync,
  mkdirSync,
  open,
  openSync,
  readdirSync,
  readSync,
  rmSync,
  statSync,
  write,
} from "node:fs";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { assert } from "../../kit/assert.ts";
import { ByteReader, ByteWriter } from "../../kit/bytes.ts";
import { crc32 } from "../../kit/crc32.ts";
import { isNoFile } from "./disk-full.ts";

/** Bytes of a file, and what they must be. */
export interface FilePart {
  readonly file: number;
  readonly at: number;
  readonly length: number;
  readonly crc: number;
}

/** Null when they are not what they must be. */
export type ReadPart = (part: FilePart) => Uint8Array | null;

export interface PartSource {
  readonly read: ReadPart;
  /** The same off the event loop. */
  readOffLoop(part: FilePart): Promise<Uint8Array | null>;
}

export const LARGE_DIRECTORY = "large";

const calls = {
  open: promisify(open),
  write: promisify<number, Uint8Array, number, number, number>(
    (fd, bytes, at, length, done) => void write(fd, bytes, at, length, null, done),
  ),
  fdatasync: promisify(fdatasync),
  fsync: promisify(fsync),
  close: promisify(close),
};

const writer = new ByteWriter(32);

export function encodePart({ file, at, length, crc }: FilePart): Uint8Array {
  writer.reset();
  for (const value of [file, at, length, crc]) writer.varint(value);
  return writer.take();
}

export function decodePart(bytes: Uint8Array): FilePart {
  const reader = new ByteReader(bytes);
  return { file: reader.varint(), at: reader.varint(), length: reader.varint(), crc: reader.varint() };
}

/** Reads in the calling thread, for a data directory that need not be ours. Throws when the disk does. */
export function partReader(dataDirectory: string): ReadPart {
  const directory = join(dataDirectory, LARGE_DIRECTORY);
  return (part) => {
    const bytes = readStretch(join(directory, String(part.file)), part.at, part.length);
    return bytes !== null && crc32(bytes) === part.crc ? bytes : null;
  };
}

/** Null when the file is not there, or ends before. */
function readStretch(path: string, at: number, length: number): Uint8Array | null {
  let fd: number;
  try {
    fd = openSync(path, "r");
  } catch (cause) {
    if (isNoFile(cause)) return null;
    throw cause;
  }
  try {
    if (fstatSync(fd).size < at + length) return null;
    const bytes = new Uint8Array(length);
    for (let read = 0; read < length;) {
      const count = readSync(fd, bytes, read, length - read, at + read);
      if (count === 0) return null;
      read += count;
    }
    return bytes;
  } finally {
    closeSync(fd);
  }
}

/** The numbers of the files in a data directory. */
export function largeFiles(dataDirectory: string): readonly number[] {
  const directory = join(dataDirectory, LARGE_DIRECTORY);
  return existsSync(directory) ? readdirSync(directory).map(Number).filter(Number.isSafeInteger) : [];
}

export class LargeFiles implements PartSource {
  readonly #directory: string;
  /** Of the directory, once there is one. */
  #fd: number | null = null;
  #bytes = 0;
  readonly read: ReadPart;

  constructor(dataDirectory: string) {
    this.#directory = join(dataDirectory, LARGE_DIRECTORY);
    this.read = partReader(dataDirectory);
  }

  /** Of all files that are referred to. */
  get bytes(): number {
    return this.#bytes;
  }

  /** Once, at the start: how much there is. */
  count(bytes: number): void {
    this.#bytes = bytes;
  }

  async readOffLoop(part: FilePart): Promise<Uint8Array | null> {
    try {
      const bytes = await Bun.file(this.#path(part.file))
        .slice(part.at, part.at + part.length)
        .bytes();
      return bytes.length === part.length && crc32(bytes) === part.crc ? bytes : null;
    } catch (cause) {
      if (isNoFile(cause)) return null;
      throw cause;
    }
  }

  /** Resolves when the disk has the bytes and the name; `sync` false: when the system has them. Throws what the disk throws. */
  async write(file: number, bytes: Uint8Array, sync: boolean): Promise<void> {
    this.#fd ??= openDirectory(this.#directory);
    const fd = await calls.open(this.#path(file), "w", 0o600);
    try {
      for (let at = 0; at < bytes.length;) at += await calls.write(fd, bytes, at, bytes.length - at);
      if (sync) await calls.fdatasync(fd);
    } finally {
      await calls.close(fd);
    }
    if (sync) await calls.fsync(this.#fd);
    this.#bytes += bytes.length;
  }

  /** For a file that nothing durable refers to. */
  remove(file: number): void {
    const path = this.#path(file);
    this.#bytes = Math.max(0, this.#bytes - (statSync(path, { throwIfNoEntry: false })?.size ?? 0));
    rmSync(path, { force: true });
  }

  /** Removes files of commits that were never made: their numbers come after the last one. */
  removeAfter(lastNo: number): void {
    for (const file of largeFiles(dirname(this.#directory))) if (file > lastNo) rmSync(this.#path(file));
  }

  close(): void {
    if (this.#fd !== null) closeSync(this.#fd);
  }

  #path(file: number): string {
    assert(Number.isSafeInteger(file) && file > 0, `${file} is no number of a commit`);
    return join(this.#directory, String(file));
  }
}

/** Makes it, durably, when it is the first file. */
function openDirectory(path: string): number {
  makeLargeDirectory(path);
  return openSync(path, "r");
}

export function makeLargeDirectory(path: string): void {
  if (existsSync(path)) return;
  mkdirSync(path, { mode: 0o700 });
  const above = openSync(dirname(path), "r");
  try {
    fsyncSync(above);
  } finally {
    closeSync(above);
  }
}
