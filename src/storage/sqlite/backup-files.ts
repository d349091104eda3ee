/**
 * The files of `large/` in a backup. A file is never changed, so one that is there is the same; it is copied under another name and
 * renamed when it is whole and durable. The source may be attached as `src`, read in the same transaction or in none.
 */

import type { Database } from "bun:sqlite";
import { constants, copyFileSync, existsSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { join } from "node:path";
import { isNoFile } from "./system-errors.ts";
import { syncPath } from "./directory-files.ts";
import { LARGE_DIRECTORY, makeLargeDirectory } from "./large-files.ts";

export interface FileCopy {
  readonly bytes: number;
  /** Referred to, and not there. */
  readonly missing: number;
}

const PART = ".part";

/** Copies what the source refers to now and the target has not; durable when it returns. */
export function copyLargeFiles(db: Database, source: string, target: string): FileCopy {
  const files = [...referredFiles(db, "src")];
  const total = { bytes: 0, missing: 0 };
  if (files.length === 0) return total;
  makeLargeDirectory(join(target, LARGE_DIRECTORY));
  for (const file of files) {
    const to = join(target, LARGE_DIRECTORY, String(file));
    if (existsSync(to)) continue;
    if (copyDurably(join(source, LARGE_DIRECTORY, String(file)), to)) total.bytes += statSync(to).size;
    else total.missing++;
  }
  syncPath(join(target, LARGE_DIRECTORY));
  return total;
}

/** False when there is no such file. */
function copyDurably(from: string, to: string): boolean {
  try {
    copyFileSync(from, `${to}${PART}`, constants.COPYFILE_FICLONE);
  } catch (cause) {
    if (isNoFile(cause)) return false;
    throw cause;
  }
  syncPath(`${to}${PART}`);
  renameSync(`${to}${PART}`, to);
  return true;
}

/** Removes what the target does not refer to: of records that are gone, and of copies that were interrupted. */
export function removeOtherFiles(db: Database, target: string): void {
  const referred = new Set([...referredFiles(db, "main")].map(String));
  const directory = join(target, LARGE_DIRECTORY);
  if (!existsSync(directory)) return;
  for (const name of readdirSync(directory)) if (!referred.has(name)) rmSync(join(directory, name));
}

function referredFiles(db: Database, schema: "main" | "src"): Iterable<number> {
  const rows = db
    .query<{ file: number }, []>(
      `SELECT DISTINCT file FROM ${schema}.batches WHERE file IS NOT NULL
        UNION SELECT no FROM ${schema}.commits WHERE substr(hdr, 1, 1) = x'02'`,
    )
    .all();
  return rows.map(({ file }) => file);
}
