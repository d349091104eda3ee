/**
 * Looking at a data directory that no server runs on, without changing a byte of it. Owns the shared lock that keeps a server from starting
 * meanwhile, and read-only connections that leave no file behind. `-shm` files are no content: SQLite makes them anew at each
 * opening; one that was not there before is removed again. An empty `lock.db` is made where there is none.
 */

import { constants, Database, SQLiteError } from "bun:sqlite";
import { closeSync, existsSync, openSync, rmSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import { reasonOf } from "./finding.ts";
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
  if (!makeLock(file)) return { release: () => undefined };
  let lock: Database | null = null;
  try {
    lock = new Database(file, { readonly: true, strict: true });
    lock.run("PRAGMA busy_timeout = 0");
    lock.run("BEGIN");
    // The shared lock that goes with a read keeps others from taking the exclusive one.
    lock.query("SELECT count(*) FROM sqlite_schema").get();
  } catch (cause) {
    lock?.close();
    throw cannotHold(resolve(directory), cause);
  }
  const held = lock;
  return { release: () => held.close() };
}

/** Makes an empty lock where nobody has worked yet; false where no file can be made: no server could start there either. */
function makeLock(file: string): boolean {
  if (existsSync(file)) return true;
  try {
    closeSync(openSync(file, "a", 0o600));
    return true;
  } catch (cause) {
    const code = cause instanceof Error && "code" in cause ? cause.code : null;
    if (code === "EROFS" || code === "EACCES" || code === "EPERM") return false;
    throw new DirectoryRefused(`cannot make the lock ${resolve(file)} (${reasonOf(cause)})`, { cause });
  }
}

function cannotHold(path: string, cause: unknown): DirectoryRefused {
  const isBusy = cause instanceof SQLiteError && cause.code === "SQLITE_BUSY";
  return new DirectoryRefused(
    isBusy
      ? `the data directory ${path} is in use by a server, a backup or a restore; stop it first`
      : `cannot take the lock of ${path}, lock.db (${reasonOf(cause)})`,
    { cause },
  );
}

/** Opens a database to read it as it is, its write-ahead log included. */
export function openUntouched(file: string): Untouched {
  const url = pathToFileURL(resolve(file)).href;
  const scratch = `${file}-shm`;
  const hadScratch = existsSync(scratch);
  // Without a log the file is all there is, and `immutable` keeps SQLite from making one.
  const mode = existsSync(`${file}-wal`) ? "mode=ro" : "immutable=1";
  const db = openReading(`${url}?${mode}`, file);
  return {
    db,
    close: () => {
      db.close();
      if (!hadScratch) rmSync(scratch, { force: true });
    },
  };
}

function openReading(url: string, file: string): Database {
  try {
    return new Database(url, constants.SQLITE_OPEN_READONLY | constants.SQLITE_OPEN_URI);
  } catch (cause) {
    throw new DirectoryRefused(`${resolve(file)} cannot be opened (${reasonOf(cause)})`, { cause });
  }
}

/** Throws `DirectoryRefused` unless the database, or the one attached as `schema`, has the tables of this release; `DirectoryUnsound` when nobody can tell. */
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
    throw new DirectoryUnsound(`log.db in ${resolve(directory)} cannot be read as a database (${reasonOf(cause)})`, {
      cause,
    });
  }
}
