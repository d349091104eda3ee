/** The plain files of a data directory that a backup or a restore makes, and making them durable. */

import { closeSync, fsyncSync, openSync, readdirSync } from "node:fs";
import { join } from "node:path";
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

export async function writeHighwater(directory: string, no: number): Promise<void> {
  const file = join(directory, "highwater");
  const highwater = new Highwater(file, (cause) => {
    throw cause;
  });
  highwater.set(no);
  await highwater.close();
  syncPath(file);
}
