/** Making the plain files of a data directory, and their names, durable; what of them a backup or a restore makes. */

import type { Database } from "bun:sqlite";
import { closeSync, fsyncSync, mkdirSync, openSync, readdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { Highwater } from "./highwater.ts";

/** What may be in a directory that was begun and then left before anything was written. */
const LOCK_FILES = ["lock.db", "lock.db-journal"];

/** Whether there is anything in a directory besides its lock. */
export function holdsFiles(path: string): boolean {
  return readdirSync(path).some((name) => !LOCK_FILES.includes(name));
}

/** Waits until the disk has a file, or the names in a directory. */
export function syncPath(path: string): void {
  const fd = openSync(path, "r");
  try {
    fsyncSync(fd);
  } finally {
    closeSync(fd);
  }
}

/** Makes a directory that nobody else may read, and what is missing above it; returns when the disk has all their names. */
export function makeDirectory(path: string): void {
  const first = mkdirSync(path, { recursive: true, mode: 0o700 });
  if (first === undefined) return;
  const above = dirname(resolve(first));
  for (let parent = dirname(resolve(path)); parent.length >= above.length; parent = dirname(parent)) {
    syncPath(parent);
    if (parent === above) return;
  }
}

export async function writeHighwater(directory: string, no: number): Promise<void> {
  const file = join(directory, "highwater");
  const highwater = new Highwater(file, (cause) => {
    throw cause;
  });
  highwater.set(no);
  await highwater.close();
  syncPath(file);
}

/** Moves the write-ahead log of `main` into the database; false when a reader kept some of it back. Durable is it either way. */
export function moveWal(db: Database): boolean {
  return db.query<{ busy: number }, []>("PRAGMA main.wal_checkpoint(TRUNCATE)").get()?.busy === 0;
}
