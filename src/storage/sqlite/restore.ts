/**
 * Makes a data directory out of a backup. It is built beside its place and moved there when it is whole and durable, so that an interrupted
 * restore never looks like a data directory; it starts over. An empty directory in its place is moved aside first and filled
 * there: it keeps its owner and mode, and one that cannot be moved (a mount point) is noticed before anything is copied.
 * The id counter jumps: streams that were made after the backup are lost, and their ids, which clients hold in offsets, must not
 * mean other streams.
 */

import type { Database } from "bun:sqlite";
import {
  constants,
  copyFileSync,
  existsSync,
  lstatSync,
  readdirSync,
  realpathSync,
  renameSync,
  rmdirSync,
  rmSync,
  type Stats,
} from "node:fs";
import { dirname, join, resolve } from "node:path";
import type { Clock } from "../../kit/clock.ts";
import { Damage } from "../../protocol/faults.ts";
import { readBackupMark, removeBackupMark } from "./backup-mark.ts";
import { asDamage } from "./corruption.ts";
import { removeOtherFiles } from "./backup-files.ts";
import { DataDirectory } from "./data-directory.ts";
import { makeDirectory, moveWal, syncPath } from "./directory-files.ts";
import { reasonOf } from "./finding.ts";
import { idAfterLoss } from "./id-gap.ts";
import { inspect, type Inspection, type InspectionListener } from "./inspection.ts";
import { LARGE_DIRECTORY, largeFiles, makeLargeDirectory } from "./large-files.ts";
import { readMeta, writeMeta } from "./meta.ts";
import { assertDataDirectory, DirectoryRefused, DirectoryUnsound, holdStill, openUntouched } from "./untouched.ts";

export interface RestoreOptions {
  readonly backup: string;
  readonly target: string;
  /** Go on although the backup is damaged. */
  readonly acceptDamage: boolean;
  readonly clock: Clock;
  readonly listener: InspectionListener;
}

/** What a backup holds; its lock and what can be made again stay behind. */
const FILES = ["log.db", "log.db-wal", "highwater"];
const STAGED = [...FILES, LARGE_DIRECTORY, "log.db-shm", "lock.db", "lock.db-journal"];
const CACHE_BYTES = 4 * 1024 * 1024;

/** Throws `DirectoryRefused` before anything is written, and `DirectoryUnsound` when the backup is damaged. */
export function restore({ backup, target, acceptDamage, clock, listener }: RestoreOptions): Inspection {
  assertDataDirectory(backup);
  const path = resolve(target);
  assertEmpty(path);
  const held = holdStill(backup);
  try {
    assertFinished(backup);
    const inspection = inspect(backup, listener);
    if (inspection.errors > 0 && !acceptDamage) {
      throw new DirectoryUnsound(
        `the backup is damaged (${inspection.errors} errors): nothing was restored. Use another backup, or --accept-damage to restore what is left`,
      );
    }
    const { nextStreamId } = inspection;
    if (nextStreamId === null) throw unusable("the counters of its meta table cannot be read");
    build(backup, path, (staging) => become(staging, nextStreamId, clock.nowMs()), listener);
    return inspection;
  } finally {
    held.release();
  }
}

function assertEmpty(path: string): void {
  const found = lookAt(path);
  if (found === undefined) return;
  if (found.isSymbolicLink()) {
    const place = existsSync(path) ? `use --to ${realpathSync(path)}` : "it leads nowhere";
    throw new DirectoryRefused(`${path} is a symbolic link; ${place}`);
  }
  if (found.isDirectory() && readdirSync(path).length === 0) return;
  throw new DirectoryRefused(`${path} is not empty; a restore needs a new directory`);
}

function lookAt(path: string): Stats | undefined {
  try {
    return lstatSync(path, { throwIfNoEntry: false });
  } catch (cause) {
    throw new DirectoryRefused(`there can be no directory ${path} (${reasonOf(cause)})`, { cause });
  }
}

function assertFinished(backup: string): void {
  const log = openUntouched(join(backup, "log.db"));
  try {
    const mark = readBackupMark(log.db);
    if (mark === null) throw new DirectoryRefused(`${resolve(backup)} is the data directory of a server, not a backup`);
    if (mark.atMs === 0)
      throw new DirectoryRefused(`${resolve(backup)} is a backup that was never finished; run it again`);
  } catch (cause) {
    if (cause instanceof DirectoryRefused) throw cause;
    throw unusable(reasonOf(cause), cause);
  } finally {
    log.close();
  }
}

function unusable(reason: string, cause?: unknown): DirectoryUnsound {
  const advice = "nothing was restored. --accept-damage is for damaged records and streams; use another backup";
  return new DirectoryUnsound(`no server could start on what this backup holds (${reason}): ${advice}`, { cause });
}

/** Leaves the place as it was when it throws. */
function build(backup: string, path: string, turn: (staging: string) => void, listener: InspectionListener): void {
  const staging = `${path}.restoring`;
  const wasThere = takePlace(path, staging);
  try {
    stage(backup, staging, listener);
    turn(staging);
    renameSync(staging, path);
    syncPath(dirname(path));
  } catch (cause) {
    if (existsSync(staging)) givePlaceBack(path, staging, wasThere);
    if (cause instanceof DirectoryUnsound) throw cause;
    throw new DirectoryUnsound(`the restore stopped (${reasonOf(cause)}): nothing was restored`, { cause });
  }
}

function takePlace(path: string, staging: string): boolean {
  try {
    return makeStaging(path, staging);
  } catch (cause) {
    if (cause instanceof DirectoryRefused) throw cause;
    throw new DirectoryRefused(`${path} cannot be made (${reasonOf(cause)})`, { cause });
  }
}

function givePlaceBack(path: string, staging: string, wasThere: boolean): void {
  empty(staging);
  if (wasThere) renameSync(staging, path);
  else rmdirSync(staging);
}

/** An empty directory beside the place; returns whether it is the one that was in the place. */
function makeStaging(path: string, staging: string): boolean {
  if (existsSync(staging)) {
    const foreign = readdirSync(staging).filter((name) => !STAGED.includes(name));
    if (foreign.length > 0) throw new DirectoryRefused(`${staging} holds files that no restore made; move it away`);
    empty(staging);
    // Of an interrupted restore, which had moved the directory that was in the place.
    if (!existsSync(path)) return true;
    rmdirSync(staging);
  }
  if (!existsSync(path)) {
    makeDirectory(staging);
    return false;
  }
  try {
    renameSync(path, staging);
    return true;
  } catch (cause) {
    throw new DirectoryRefused(
      `${path} cannot be moved (${reasonOf(cause)}): if it is a mount point, restore into a directory inside it`,
      { cause },
    );
  }
}

function empty(directory: string): void {
  for (const name of readdirSync(directory)) rmSync(join(directory, name), { recursive: true });
}

/** Copies the files; nobody writes to them meanwhile. */
function stage(backup: string, staging: string, listener: InspectionListener): void {
  for (const [index, name] of FILES.entries()) {
    listener.progress("copying files", index, FILES.length);
    const file = join(backup, name);
    if (existsSync(file)) copyFileSync(file, join(staging, name), constants.COPYFILE_FICLONE);
  }
  const files = largeFiles(backup).map((file) => join(LARGE_DIRECTORY, String(file)));
  if (files.length > 0) makeLargeDirectory(join(staging, LARGE_DIRECTORY));
  for (const [index, name] of files.entries()) {
    listener.progress("copying large files", index, files.length);
    copyFileSync(join(backup, name), join(staging, name), constants.COPYFILE_FICLONE);
    syncPath(join(staging, name));
  }
}

/** Turns the copy of a backup into a data directory, and makes it durable. Throws where a server would not start either. */
function become(staging: string, givenOut: number, nowMs: number): void {
  try {
    const directory = DataDirectory.open(staging, CACHE_BYTES);
    try {
      changeMeta(directory.db, givenOut, nowMs);
      removeOtherFiles(directory.db, staging);
      moveWal(directory.db);
    } finally {
      directory.close();
    }
  } catch (cause) {
    const damage = asDamage(cause);
    throw damage instanceof Damage ? unusable(damage.message, cause) : cause;
  }
  for (const name of readdirSync(staging)) syncPath(join(staging, name));
  syncPath(staging);
}

function changeMeta(db: Database, givenOut: number, nowMs: number): void {
  db.run("PRAGMA synchronous = FULL");
  const lastId = db.query<{ id: number | null }, []>("SELECT max(id) AS id FROM streams");
  db.transaction(() => {
    removeBackupMark(db);
    const meta = readMeta(db);
    // Batches that a later backup began to copy.
    db.query<never, [number]>("DELETE FROM batches WHERE id > ?").run(meta.sealed_batch);
    const next = Math.max(givenOut, (lastId.get()?.id ?? 0) + 1);
    writeMeta(db, { ...meta, next_id: idAfterLoss(next, nowMs) });
  })();
}
