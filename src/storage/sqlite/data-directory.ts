/**
 * The data directory and the files in it: `lock.db` (one process at a time), `log.db` and its WAL, `large/`, `highwater`.
 * Owns the lock, the writing connection and our own descriptor of the `-wal` file.
 * Rules that keep SQLite's promises: nothing else in this process ever opens `log.db` or `log.db-shm` (closing such a
 * descriptor drops SQLite's locks); the `-wal` inode lives as long as the process and is never truncated.
 */

import { constants, Database, SQLiteError } from "bun:sqlite";
import {
  closeSync,
  copyFileSync,
  existsSync,
  fdatasync,
  fdatasyncSync,
  fstatSync,
  openSync,
  statSync,
  writeSync,
} from "node:fs";
import { join, resolve } from "node:path";
import { assert } from "../../kit/assert.ts";
import { asDamage } from "./corruption.ts";
import { makeDirectory, syncPath } from "./directory-files.ts";
import { LargeFiles } from "./large-files.ts";
import { migrate } from "./schema.ts";
import { checkDatabase } from "./start-checks.ts";

/** The WAL is grown once and reused: a file that keeps growing costs 30 % of the append rate. */
const WAL_BYTES = 24 * 1024 * 1024;
/**
 * Nobody else writes, but a reader of another process (a backup) that meets a WAL index half written takes the write lock for
 * microseconds: then SQLite waits, instead of failing a commit.
 */
export const BUSY_TIMEOUT_MS = 2_000;
const PAGE_BYTES = 4096;
const ZERO_BLOCK = new Uint8Array(PAGE_BYTES);

export class DataDirectory {
  readonly path: string;
  readonly db: Database;
  readonly large: LargeFiles;
  readonly #lock: Database;
  readonly #walFd: number;

  private constructor(path: string, lock: Database, db: Database, walFd: number) {
    this.path = path;
    this.large = new LargeFiles(path);
    this.#lock = lock;
    this.db = db;
    this.#walFd = walFd;
  }

  /**
   * Creates or opens the directory. Throws with a message for the operator when it is in use, newer or unusable. `acceptLoss`: an older
   * schema is migrated although commits are missing.
   */
  static open(directory: string, pageCacheBytes: number, acceptLoss = false): DataDirectory {
    const path = resolve(directory);
    if (existsSync(path)) assertDirectory(path);
    else makeDirectory(path);
    const lock = takeLock(path);
    try {
      checkDatabase(join(path, "log.db"), acceptLoss);
      return new DataDirectory(path, lock, ...openLog(path, pageCacheBytes));
    } catch (cause) {
      lock.close();
      throw asDamage(cause);
    }
  }

  file(name: string): string {
    return join(this.path, name);
  }

  get databaseBytes(): number {
    return statSync(this.file("log.db")).size;
  }

  /** Pages in use: what was freed is used again before the file grows. */
  get storedBytes(): number {
    const read = (pragma: string): number =>
      this.db.query<Record<string, number>, []>(`PRAGMA ${pragma}`).get()?.[pragma] ?? 0;
    return (read("page_count") - read("freelist_count")) * PAGE_BYTES;
  }

  get walBytes(): number {
    return fstatSync(this.#walFd).size;
  }

  /** Makes every commit written before this call durable. */
  syncWal(): Promise<void> {
    return new Promise((resolveSync, rejectSync) => {
      fdatasync(this.#walFd, (error) => (error === null ? resolveSync() : rejectSync(error)));
    });
  }

  /** The same, while everything else waits. */
  syncWalNow(): void {
    fdatasyncSync(this.#walFd);
  }

  /** Before the first request: a commit found after a kill may never have been synced. */
  syncAtStart(): void {
    this.syncWalNow();
    syncPath(this.path);
  }

  /** Keeps a copy of the WAL as it was found: closing the database may checkpoint what is readable and drop the rest. */
  keepWal(): string {
    const copy = this.file("log.db-wal.refused");
    copyFileSync(this.file("log.db-wal"), copy);
    return copy;
  }

  close(): void {
    this.large.close();
    this.db.close();
    closeSync(this.#walFd);
    this.#lock.close();
  }
}

/** The writing connection, migrated, and our own descriptor of its WAL. */
function openLog(path: string, pageCacheBytes: number): [db: Database, walFd: number] {
  // Cached statements are finalized by close; one that is not would make SQLite delete the WAL when the process ends.
  Database.MAX_QUERY_CACHE_SIZE = 100;
  const db = new Database(join(path, "log.db"), { create: true, readwrite: true, strict: true });
  db.run(`PRAGMA page_size = ${PAGE_BYTES}`);
  db.run(`PRAGMA busy_timeout = ${BUSY_TIMEOUT_MS}`);
  db.run("PRAGMA journal_mode = WAL");
  db.run("PRAGMA wal_autocheckpoint = 0");
  db.run("PRAGMA journal_size_limit = -1");
  db.run(`PRAGMA cache_size = -${Math.floor(pageCacheBytes / 1024)}`);
  db.run("PRAGMA trusted_schema = 0");
  db.fileControl(constants.SQLITE_FCNTL_PERSIST_WAL, 1);
  migrate(db);
  db.run("PRAGMA synchronous = NORMAL");
  const wal = join(path, "log.db-wal");
  // Nothing is written before recovery has looked at what is there; only a database without a WAL gets one.
  if (!existsSync(wal)) db.run("UPDATE meta SET value = value WHERE key = 'sealed_no'");
  return [db, openWal(wal)];
}

function assertDirectory(path: string): void {
  if (!statSync(path).isDirectory()) throw new Error(`the data directory ${path} is not a directory`);
}

/** Held for the life of the process by an open transaction that never writes; the kernel frees it when we die. */
function takeLock(path: string): Database {
  const file = join(path, "lock.db");
  let lock: Database | null = null;
  try {
    lock = new Database(file, { create: true, readwrite: true, strict: true });
    lock.run("PRAGMA busy_timeout = 0");
    lock.run("BEGIN EXCLUSIVE");
    return lock;
  } catch (cause) {
    lock?.close();
    throw cannotLock(path, file, cause);
  }
}

/** Only a lock that somebody holds means another server. */
function cannotLock(path: string, file: string, cause: unknown): Error {
  const { code, message } = cause instanceof SQLiteError ? cause : { code: undefined, message: String(cause) };
  if (code === "SQLITE_BUSY") {
    const advice = "stop it first, or use another --data-dir";
    return new Error(`the data directory ${path} is in use by another server; ${advice}`, { cause });
  }
  const about = code === undefined ? message : `${message} (${code})`;
  return new Error(`cannot take the lock of the data directory, ${file}: ${about}`, { cause });
}

/** Opens our descriptor and pre-grows the file: zeros past its end are safe, recovery stops at the first bad frame. */
function openWal(path: string): number {
  const fd = openSync(path, "r+");
  assert(fstatSync(fd).ino === statSync(path).ino, "the -wal file changed while it was opened");
  let size = fstatSync(fd).size;
  if (size >= WAL_BYTES) return fd;
  // Blocks of 4 KiB: larger writes make page-cache folios that are written back whole on every small change.
  while (size < WAL_BYTES) size += writeSync(fd, ZERO_BLOCK, 0, Math.min(ZERO_BLOCK.length, WAL_BYTES - size), size);
  fdatasyncSync(fd);
  return fd;
}
