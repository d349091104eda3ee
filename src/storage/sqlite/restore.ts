/**
 * Makes a data directory out of a backup. It is built beside its place and moved there when it is whole and durable, so that an interrupted
 * restore never looks like a data directory; it starts over. The id counter jumps: streams that were made after the backup
 * are lost, and their ids, which clients hold in offsets, must not mean other streams.
 */

import { constants, copyFileSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { readBackupMark, removeBackupMark } from "./backup-mark.ts";
import { DataDirectory } from "./data-directory.ts";
import { syncPath } from "./directory-files.ts";
import { inspect, type Inspection, type InspectionListener } from "./inspection.ts";
import { readMeta, writeMeta } from "./meta.ts";
import { assertDataDirectory, DirectoryRefused, DirectoryUnsound, holdStill, openUntouched } from "./untouched.ts";

export interface RestoreOptions {
  readonly backup: string;
  readonly target: string;
  /** Go on although the backup is damaged. */
  readonly acceptDamage: boolean;
  readonly listener: InspectionListener;
}

/** What a backup holds; its lock and what can be made again stay behind. */
const FILES = ["log.db", "log.db-wal", "highwater"];
const STAGED = [...FILES, "log.db-shm", "lock.db", "lock.db-journal"];
const ID_GAP = 1_000_000;
const CACHE_BYTES = 4 * 1024 * 1024;

/** Throws `DirectoryRefused` before anything is written, and `DirectoryUnsound` when the backup is damaged. */
export function restore({ backup, target, acceptDamage, listener }: RestoreOptions): Inspection {
  assertDataDirectory(backup);
  const path = resolve(target);
  if (existsSync(path) && (!statSync(path).isDirectory() || readdirSync(path).length > 0)) {
    throw new DirectoryRefused(`${path} is not empty; a restore needs a new directory`);
  }
  const held = holdStill(backup);
  try {
    assertFinished(backup);
    const inspection = inspect(backup, listener);
    if (inspection.errors > 0 && !acceptDamage) {
      throw new DirectoryUnsound(
        `the backup is damaged (${inspection.errors} errors): nothing was restored. Use another backup, or --accept-damage to restore what is left`,
      );
    }
    const staging = `${path}.restoring`;
    stage(backup, staging, listener);
    become(staging, inspection.nextStreamId);
    renameSync(staging, path);
    syncPath(dirname(path));
    return inspection;
  } finally {
    held.release();
  }
}

function assertFinished(backup: string): void {
  const log = openUntouched(join(backup, "log.db"));
  try {
    const mark = readBackupMark(log.db);
    if (mark === null) throw new DirectoryRefused(`${resolve(backup)} is the data directory of a server, not a backup`);
    if (mark.atMs === 0)
      throw new DirectoryRefused(`${resolve(backup)} is a backup that was never finished; run it again`);
  } finally {
    log.close();
  }
}

/** Copies the files; nobody writes to them meanwhile. */
function stage(backup: string, staging: string, listener: InspectionListener): void {
  if (existsSync(staging)) {
    const foreign = readdirSync(staging).filter((name) => !STAGED.includes(name));
    if (foreign.length > 0) throw new DirectoryRefused(`${staging} holds files that no restore made; move it away`);
    rmSync(staging, { recursive: true });
  }
  mkdirSync(staging, { recursive: true, mode: 0o700 });
  for (const [index, name] of FILES.entries()) {
    listener.progress("copying files", index, FILES.length);
    const file = join(backup, name);
    if (existsSync(file)) copyFileSync(file, join(staging, name), constants.COPYFILE_FICLONE);
  }
}

/** Turns the copy of a backup into a data directory, and makes it durable. */
function become(staging: string, nextStreamId: number): void {
  const directory = DataDirectory.open(staging, CACHE_BYTES);
  try {
    const { db } = directory;
    db.run("PRAGMA synchronous = FULL");
    db.transaction(() => {
      removeBackupMark(db);
      const meta = readMeta(db);
      // Batches that a later backup began to copy.
      db.query<never, [number]>("DELETE FROM batches WHERE id > ?").run(meta.sealed_batch);
      writeMeta(db, { ...meta, next_id: nextStreamId + ID_GAP });
    })();
    db.run("PRAGMA wal_checkpoint(TRUNCATE)");
  } finally {
    directory.close();
  }
  for (const name of readdirSync(staging)) syncPath(join(staging, name));
  syncPath(staging);
}
