/**
 * What can be made again from the log, kept so that a start need not read all of it: rows of states, by stream. Never synced: it survives
 * the process, not a power cut. It is thrown away and begun again when it was left open by another boot of the machine, when it is
 * of another release, and when SQLite finds it damaged.
 */

import { Database } from "bun:sqlite";
import { rmSync } from "node:fs";

/** Of the tables below: another one is made again, not converted. */
const VERSION = 1;
const SCHEMA = `
  CREATE TABLE rows (stream INTEGER NOT NULL, id TEXT NOT NULL, text TEXT NOT NULL, PRIMARY KEY (stream, id)) WITHOUT ROWID;
  CREATE TABLE checkpoints (stream INTEGER PRIMARY KEY, seq INTEGER NOT NULL);
  CREATE TABLE opened (boot TEXT NOT NULL);
  PRAGMA user_version = ${VERSION};
`;

export interface KeptRow {
  readonly id: string;
  readonly text: string;
}

/** Every method throws what SQLite throws. */
export class DerivedStates {
  readonly #db: Database;

  private constructor(db: Database) {
    this.#db = db;
  }

  /** `bootId`: changes with every start of the machine; null where that cannot be told. */
  static open(file: string, bootId: string | null): DerivedStates {
    try {
      return new DerivedStates(openAsItIs(file, bootId));
    } catch {
      // Whatever is wrong with it, all of it can be made again.
      DerivedStates.remove(file);
      return new DerivedStates(openAsItIs(file, bootId));
    }
  }

  static remove(file: string): void {
    for (const suffix of ["", "-wal", "-shm"]) rmSync(file + suffix, { force: true });
  }

  /** Streams of which anything is kept. */
  streams(): number[] {
    const query = this.#db.query<{ stream: number }, []>("SELECT stream FROM checkpoints ORDER BY stream");
    return query.all().map(({ stream }) => stream);
  }

  /** The rows kept are those after this many records, or newer; null when they cannot be used. */
  checkpointOf(stream: number): number | null {
    const query = this.#db.query<{ seq: number }, [number]>("SELECT seq FROM checkpoints WHERE stream = ?");
    return query.get(stream)?.seq ?? null;
  }

  /** The next rows behind `after` in the order of their ids. */
  page(stream: number, after: string, limit: number): KeptRow[] {
    const query = this.#db.query<KeptRow, [number, string, number]>(
      "SELECT id, text FROM rows WHERE stream = ? AND id > ? ORDER BY id LIMIT ?",
    );
    return query.all(stream, after, limit);
  }

  /** Rows as they are now; null = gone. In one transaction. */
  save(stream: number, rows: readonly (readonly [id: string, text: string | null])[]): void {
    const put = this.#db.query<never, [number, string, string]>(
      "INSERT INTO rows (stream, id, text) VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET text = excluded.text",
    );
    const remove = this.#db.query<never, [number, string]>("DELETE FROM rows WHERE stream = ? AND id = ?");
    this.#db.transaction(() => {
      for (const [id, text] of rows) {
        if (text === null) remove.run(stream, id);
        else put.run(stream, id, text);
      }
    })();
  }

  /** All changes before record `seq` have been saved. */
  checkpoint(stream: number, seq: number): void {
    const put = this.#db.query<never, [number, number]>(
      "INSERT INTO checkpoints (stream, seq) VALUES (?, ?) ON CONFLICT DO UPDATE SET seq = excluded.seq",
    );
    put.run(stream, seq);
  }

  /** Removes up to `limit` rows of a stream; true when nothing is kept of it any more. */
  forget(stream: number, limit: number): boolean {
    this.#db.query<never, [number]>("DELETE FROM checkpoints WHERE stream = ?").run(stream);
    const remove = this.#db.query<never, [number, number, number]>(
      "DELETE FROM rows WHERE stream = ? AND id IN (SELECT id FROM rows WHERE stream = ? LIMIT ?)",
    );
    return remove.run(stream, stream, limit).changes < limit;
  }

  close(): void {
    // Left in order: the next start may be that of another boot.
    this.#db.run("PRAGMA synchronous = FULL");
    this.#db.run("DELETE FROM opened");
    this.#db.run("PRAGMA wal_checkpoint(TRUNCATE)");
    this.#db.close();
  }
}

class NotUsable extends Error {}

function openAsItIs(file: string, bootId: string | null): Database {
  const db = new Database(file, { create: true, strict: true });
  try {
    db.run("PRAGMA journal_mode = WAL");
    db.run("PRAGMA synchronous = OFF");
    const version = db.query<{ user_version: number }, []>("PRAGMA user_version").get()?.user_version;
    if (version === 0) db.run(SCHEMA);
    else if (version !== VERSION) throw new NotUsable(`version ${version}`);
    const left = db.query<{ boot: string }, []>("SELECT boot FROM opened").get();
    if (left !== null && left.boot !== bootId) throw new NotUsable("left open by another boot");
    db.run("DELETE FROM opened");
    db.run("INSERT INTO opened (boot) VALUES (?)", [bootId ?? "unknown"]);
    return db;
  } catch (cause) {
    db.close();
    throw cause;
  }
}
