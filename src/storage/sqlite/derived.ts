/**
 * What can be made again from the log, kept so that a start need not read all of it: rows of states, by stream. Never synced: it survives
 * the process, not a power cut. It is thrown away and begun again when it was left open by another boot of the machine, when it is
 * of another release, and when SQLite finds it damaged. The rows of one stream are thrown away when they are not those that were saved:
 * a sum over their checksums tells, so that neither a changed nor a lost nor an outdated one is served.
 */

import { Database } from "bun:sqlite";
import { rmSync } from "node:fs";
import { utf8 } from "../../kit/bytes.ts";
import { crc32 } from "../../kit/crc32.ts";
import { attributeCrc } from "./row-crc.ts";

/** Of the tables below: another one is made again, not converted. */
const VERSION = 2;
const SCHEMA = `
  CREATE TABLE rows (
    stream INTEGER NOT NULL, id TEXT NOT NULL, text TEXT NOT NULL, crc INTEGER NOT NULL, PRIMARY KEY (stream, id)
  ) WITHOUT ROWID;
  -- seq: all changes before it are saved; null before the first checkpoint. sum: of the crc of all rows, modulo 2^32. crc: of these three.
  CREATE TABLE checkpoints (stream INTEGER PRIMARY KEY, seq INTEGER, sum INTEGER NOT NULL, crc INTEGER NOT NULL);
  CREATE TABLE opened (boot TEXT NOT NULL);
  PRAGMA user_version = ${VERSION};
`;

export interface KeptRow {
  readonly id: string;
  readonly text: string;
}

interface State {
  readonly seq: number | null;
  readonly sum: number;
}

/** Every method throws what SQLite throws. */
export class DerivedStates {
  readonly #db: Database;
  /** Sums of the pages that were read of a stream so far. */
  readonly #reading = new Map<number, number>();

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
    return this.#stateOf(stream)?.seq ?? null;
  }

  /** The next rows behind `after` in the order of their ids. The last page throws when the rows are not those that were saved. */
  page(stream: number, after: string, limit: number): KeptRow[] {
    const query = this.#db.query<KeptRow & { readonly crc: number }, [number, string, number]>(
      "SELECT id, text, crc FROM rows WHERE stream = ? AND id > ? ORDER BY id LIMIT ?",
    );
    const rows = query.all(stream, after, limit);
    let sum = after === "" ? 0 : (this.#reading.get(stream) ?? 0);
    for (const { id, text, crc } of rows) {
      if (rowCrc(stream, id, text) !== crc) this.#startOver(stream);
      sum = plus(sum, crc);
    }
    this.#reading.set(stream, sum);
    if (rows.length < limit) {
      this.#reading.delete(stream);
      if ((this.#stateOf(stream)?.sum ?? 0) !== sum) this.#startOver(stream);
    }
    return rows;
  }

  /** Rows as they are now; null = gone. In one transaction. */
  save(stream: number, rows: readonly (readonly [id: string, text: string | null])[]): void {
    const known = this.#db.query<{ crc: number }, [number, string]>("SELECT crc FROM rows WHERE stream = ? AND id = ?");
    const put = this.#db.query<never, [number, string, string, number]>(
      "INSERT INTO rows (stream, id, text, crc) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET text = excluded.text, crc = excluded.crc",
    );
    const remove = this.#db.query<never, [number, string]>("DELETE FROM rows WHERE stream = ? AND id = ?");
    this.#db.transaction(() => {
      const { seq, sum: before } = this.#stateOf(stream) ?? { seq: null, sum: 0 };
      let sum = before;
      for (const [id, text] of rows) {
        sum = plus(sum, -(known.get(stream, id)?.crc ?? 0));
        if (text === null) {
          remove.run(stream, id);
          continue;
        }
        const crc = rowCrc(stream, id, text);
        put.run(stream, id, text, crc);
        sum = plus(sum, crc);
      }
      this.#putState(stream, { seq, sum });
    })();
  }

  /** All changes before record `seq` have been saved. */
  checkpoint(stream: number, seq: number): void {
    this.#putState(stream, { seq, sum: this.#stateOf(stream)?.sum ?? 0 });
  }

  /** Removes up to `limit` rows of a stream; true when nothing is kept of it any more. */
  forget(stream: number, limit: number): boolean {
    const remove = this.#db.query<never, [number, number, number]>(
      "DELETE FROM rows WHERE stream = ? AND id IN (SELECT id FROM rows WHERE stream = ? LIMIT ?)",
    );
    const state = this.#db.query<never, [number]>("DELETE FROM checkpoints WHERE stream = ?");
    return this.#db.transaction(() => {
      state.run(stream);
      return remove.run(stream, stream, limit).changes < limit;
    })();
  }

  #stateOf(stream: number): State | null {
    const query = this.#db.query<State & { readonly crc: number }, [number]>(
      "SELECT seq, sum, crc FROM checkpoints WHERE stream = ?",
    );
    const row = query.get(stream);
    if (row === null) return null;
    if (stateCrc(stream, row) !== row.crc) this.#startOver(stream);
    return row;
  }

  #putState(stream: number, state: State): void {
    const put = this.#db.query<never, [number, number | null, number, number]>(
      "INSERT OR REPLACE INTO checkpoints (stream, seq, sum, crc) VALUES (?, ?, ?, ?)",
    );
    put.run(stream, state.seq, state.sum, stateCrc(stream, state));
  }

  /** What is kept of this stream is not to be used; whoever begins again forgets the rows, a few at a time. */
  #startOver(stream: number): never {
    this.#putState(stream, { seq: null, sum: 0 });
    throw new NotUsable(`what is kept of stream ${stream} is damaged; it is made again from the log`);
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

function rowCrc(stream: number, id: string, text: string): number {
  return attributeCrc({ stream, key: id, value: text });
}

function stateCrc(stream: number, { seq, sum }: State): number {
  return crc32(utf8(`${stream} ${seq} ${sum}`));
}

/** Modulo 2^32. */
function plus(sum: number, crc: number): number {
  return (sum + crc) >>> 0;
}

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
