/**
 * Payload that is too large for SQLite, which writes every byte twice: one file per commit that holds any, in `large/`, named by the
 * commit's number and never changed. A commit row refers to a file only after the disk has it and its name; a file goes only
 * after the disk has the transaction that deleted its last reference. What a crash leaves between is removed at the next start.
 */

import {
  closeSync,
  existsSync,
  fstatSync,
  fsync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmSync,
  statSync,
} from "node:fs";
import { open } from "node:fs/promises";
import { dirname, join } from "node:path";
import { promisify } from "node:util";
import { assert } from "../../kit/assert.ts";
import { ByteReader, ByteWriter } from "../../kit/bytes.ts";
import { crc32 } from "../../kit/crc32.ts";
import { nextTurn } from "../../kit/turn.ts";
import { syncPath } from "./directory-files.ts";
import { isNoFile, isUnreadable } from "./system-errors.ts";

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
/** What an accepted loss left. */
const LOST = ".lost";
const COUNTED_PER_TURN = 64;
const fsyncOf = promisify(fsync);

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
  /** Written and not synced: a server that promises less than the disk. */
  readonly #unsynced = new Set<number>();
  readonly read: ReadPart;

  constructor(dataDirectory: string) {
    this.#directory = join(dataDirectory, LARGE_DIRECTORY);
    this.read = partReader(dataDirectory);
  }

  /** Of all files; a lower bound until those that were found have been counted. */
  get bytes(): number {
    return this.#bytes;
  }

  async readOffLoop(part: FilePart): Promise<Uint8Array | null> {
    try {
      const bytes = await Bun.file(this.#path(part.file))
        .slice(part.at, part.at + part.length)
        .bytes();
      return bytes.length === part.length && crc32(bytes) === part.crc ? bytes : null;
    } catch (cause) {
      if (isNoFile(cause) || isUnreadable(cause)) return null;
      throw cause;
    }
  }

  /** Resolves when the disk has the bytes and the name; `sync` false: when the system has them. Throws what the disk throws, and leaves nothing. */
  async write(file: number, bytes: Uint8Array, sync: boolean): Promise<void> {
    this.#fd ??= openDirectory(this.#directory);
    const path = this.#path(file);
    const handle = await open(path, "w", 0o600);
    try {
      try {
        for (let at = 0; at < bytes.length;) at += (await handle.write(bytes, at, bytes.length - at)).bytesWritten;
        if (sync) await handle.datasync();
      } finally {
        await handle.close();
      }
      if (sync) await this.syncNames();
      else this.#unsynced.add(file);
    } catch (cause) {
      rmSync(path, { force: true });
      throw cause;
    }
    this.#bytes += bytes.length;
  }

  /** For a file that nothing durable refers to. */
  remove(file: number): void {
    const path = this.#path(file);
    this.#unsynced.delete(file);
    this.#bytes = Math.max(0, this.#bytes - (statSync(path, { throwIfNoEntry: false })?.size ?? 0));
    rmSync(path, { force: true });
  }

  /** Clears files of commits that are not there: their numbers come after the last one. `keep`: under another name. */
  clearAfter(lastNo: number, keep: boolean): void {
    for (const file of largeFiles(dirname(this.#directory))) {
      if (file <= lastNo) continue;
      if (keep) renameSync(this.#path(file), `${this.#path(file)}${LOST}`);
      else rmSync(this.#path(file));
    }
  }

  /** Files of unsealed commits, which a process before may not have synced. */
  syncFound(files: readonly number[]): void {
    for (const file of files) syncPath(this.#path(file));
    if (files.length > 0) syncPath(this.#directory);
  }

  /** What was written without a sync, before anything else is the only reference to it. */
  async syncWritten(): Promise<void> {
    for (const file of this.#unsynced) {
      syncPath(this.#path(file));
      this.#unsynced.delete(file);
      await nextTurn();
    }
    await this.syncNames();
  }

  /** Resolves when the disk knows which files there are. */
  async syncNames(): Promise<void> {
    if (this.#fd !== null) await fsyncOf(this.#fd);
  }

  /** Counts what was there before this process. */
  async countFiles(): Promise<void> {
    for (const [index, file] of largeFiles(dirname(this.#directory)).entries()) {
      this.#bytes += statSync(this.#path(file), { throwIfNoEntry: false })?.size ?? 0;
      if (index % COUNTED_PER_TURN === COUNTED_PER_TURN - 1) await nextTurn();
    }
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
  if (!existsSync(path)) mkdirSync(path, { mode: 0o700 });
  // Also when it is there: who made it may have failed here.
  syncPath(dirname(path));
}
