/**
 * Looking at a data directory that no server runs on, without changing a byte of it. Owns the shared lock that keeps a server from starting
 * meanwhile, and read-only connections that leave no file behind. `-shm` files are no content: SQLite makes them anew at each
 * opening; one that was not there before is removed again.
 */

import { constants, Database } from "bun:sqlite";
import { existsSync, rmSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { SCHEMA_VERSION } from "./schema.ts";

/** The directory is not what the command needs. The message is for the operator; nothing was done. */
export class DirectoryRefused extends Error {
  override readonly name = "DirectoryRefused";
}

/** What is stored is damaged, or cannot be read. The message is for the operator, and says what was left as it was. */
export class DirectoryUnsound extends Error {
  override readonly name = "DirectoryUnsound";
}

export interface Untouched {
  readonly db: Database;
  close(): void;
}

export interface Held {
  release(): void;
}

/** Throws `DirectoryRefused` unless there is a log of this release's format in the directory; looks at names only. */
export function assertDataDirectory(directory: string): void {
  const path = resolve(directory);
  if (!existsSync(path)) throw new DirectoryRefused(`there is no directory ${path}`);
  if (!statSync(path).isDirectory()) throw new DirectoryRefused(`${path} is not a directory`);
  if (!existsSync(join(path, "log.db"))) throw new DirectoryRefused(`${path} is no data directory: it has no log.db`);
}

/** Keeps servers, backups and restores out until it is released. Throws `DirectoryRefused` when one is at work. */
export function holdStill(directory: string): Held {
  const file = join(directory, "lock.db");
  // Nobody has ever worked on it, so nobody does now.
  if (!existsSync(file)) return { release: () => undefined };
  const lock = new Database(file, { readonly: true, strict: true });
  try {
    lock.run("PRAGMA busy_timeout = 0");
    lock.run("BEGIN");
    // The shared lock that goes with a read keeps others from taking the exclusive one.
    lock.query("SELECT count(*) FROM sqlite_schema").get();
  } catch (cause) {
    lock.close();
    throw new DirectoryRefused(
      `the data directory ${resolve(directory)} is in use by a server, a backup or a restore; stop it first`,
      { cause },
    );
  }
  return { release: () => lock.close() };
}

/** Opens a database to read it as it is, its write-ahead log included. */
export function openUntouched(file: string): Untouched {
  const url = pathToFileURL(resolve(file)).href;
  const scratch = `${file}-shm`;
  const hadScratch = existsSync(scratch);
  // Without a log the file is all there is, and `immutable` keeps SQLite from making one.
  const mode = existsSync(`${file}-wal`) ? "mode=ro" : "immutable=1";
  const db = new Database(`${url}?${mode}`, constants.SQLITE_OPEN_READONLY | constants.SQLITE_OPEN_URI);
  return {
    db,
    close: () => {
      db.close();
      if (!hadScratch) rmSync(scratch, { force: true });
    },
  };
}

/** Throws `DirectoryRefused` unless the database, or the one attached as `schema`, has the tables of this release. */
export function assertSchema(db: Database, directory: string, schema: "main" | "src" = "main"): void {
  const version = versionOf(db, directory, schema);
  if (version === SCHEMA_VERSION) return;
  const path = resolve(directory);
  throw new DirectoryRefused(
    version > SCHEMA_VERSION
      ? `${path} was written by a newer release (schema ${version}, this release knows ${SCHEMA_VERSION}); use that release`
      : `${path} was written by an older release (schema ${version}, this release has ${SCHEMA_VERSION}); ` +
          "start this release's server on it once, or use the older release",
  );
}

function versionOf(db: Database, directory: string, schema: "main" | "src"): number {
  try {
    return db.query<{ user_version: number }, []>(`PRAGMA ${schema}.user_version`).get()?.user_version ?? 0;
  } catch (cause) {
    throw new DirectoryRefused(`log.db in ${resolve(directory)} cannot be opened as a database`, { cause });
  }
}
