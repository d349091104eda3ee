/**
 * The rows of `streams`, `producers` and `attributes`, read so that damage is an error: each has a checksum over all of it, and what an
 * index says must be what its row says. That a row is not found is believed when the index of names and the rows agreed at start; where
 * they did not, only after a look at the rows beside it: a search for a key with a flipped bit ends next to it. What that cannot
 * see (whole pages that drop out of a tree) is checked at start, too (start-checks.ts). Owns these tables' SQL; no heads, no memory.
 */

import type { Database } from "bun:sqlite";
import { DamagedStream } from "../../protocol/faults.ts";
import { crc32 } from "../../kit/crc32.ts";
import { utf8 } from "../../kit/bytes.ts";
import { asDamage, select } from "./corruption.ts";
import {
  attributeCrc,
  type AttributeRow,
  producerCrc,
  type ProducerRow,
  streamCrc,
  type StreamRow,
} from "./row-crc.ts";

/** `deletion` of a row that waits to be freed. */
export const HARD = 2;
const DELETED_ROWS = 100;

type Sealed<R> = R & { readonly crc: number };

/** An entry of `streams_by_name`, with the row it points to: null in every column when there is none. */
interface NamedRow extends Sealed<StreamRow> {
  readonly at_name: string;
  readonly at_id: number;
}

/** Where a list goes on: after so many rows of this name. */
export interface ListPlace {
  name: string;
  skip: number;
  isEnd: boolean;
}

export class HeadTables {
  readonly #statements;
  /** Index and rows agreed at start: a miss is a miss. */
  readonly #agree: boolean;

  /** Compares the index of names with the rows: 0.15 s for 100,000 streams. */
  constructor(db: Database) {
    this.#statements = prepare(db);
    this.#agree = namesAgree(db);
  }

  /** The newest incarnation of a name; null when there is none that is not freed. */
  byName(name: string): StreamRow | null {
    const found = this.#statements.byName.get(name);
    if (found !== null) {
      verifyNamed(found);
      if (found.at_name !== name) throw new DamagedStream(`the index entry of stream ${JSON.stringify(name)}`);
      if (found.deletion !== HARD) return found;
    }
    this.#expectNoName(name);
    return null;
  }

  /** Throws unless the entries of the index beside where `name` would be are sound. */
  #expectNoName(name: string): void {
    if (this.#agree) return;
    const beside = this.#statements.besideName.get(name);
    if (beside?.before === 0 || beside?.after === 0) {
      throw new DamagedStream(`the index of names around ${JSON.stringify(name)}`);
    }
  }

  byId(id: number): StreamRow | null {
    const found = this.#statements.byId.get(id);
    if (found !== null) {
      verifyStream(found);
      return found;
    }
    if (this.#agree) return null;
    const before = this.#statements.idBefore.get(id);
    const after = this.#statements.idAfter.get(id);
    if (before !== null) verifyStream(before);
    if (after !== null) verifyStream(after);
    if ((before?.id ?? -1) >= id || (after?.id ?? Infinity) <= id) {
      throw new DamagedStream(`the table of streams around ${id}`);
    }
    return null;
  }

  producer(stream: number, producer: string): ProducerRow | null {
    const found = this.#statements.producer.get(stream, producer);
    if (found !== null) {
      verifyProducer(found);
      return found;
    }
    const before = this.#statements.producerBefore.get(stream, producer);
    const after = this.#statements.producerAfter.get(stream, producer);
    if (before !== null) verifyProducer(before);
    if (after !== null) verifyProducer(after);
    return null;
  }

  /** Throws unless a stream has as many producers as its head says: none of them is forgotten. */
  verifyProducerCount(stream: number, count: number): void {
    const found = this.#statements.producerCount.get(stream, stream)?.count ?? 0;
    if (found !== count) {
      throw new DamagedStream(`the table of producers of stream ${stream} (${found} rows, ${count} were written)`);
    }
  }

  attributes(stream: number): AttributeRow[] {
    const rows = this.#statements.attributes.all(stream);
    const before = this.#statements.attributeBefore.get(stream);
    const after = this.#statements.attributeAt.get(stream, rows.length);
    // The rows beside them belong to other streams: only their place is of interest.
    for (const row of rows) verifyAttribute(row);
    const ordered =
      rows.every((row) => row.stream === stream) &&
      (before?.stream ?? -1) < stream &&
      (after?.stream ?? Infinity) > stream;
    if (!ordered) throw new DamagedStream(`the table of attributes around stream ${stream}`);
    return rows;
  }

  /** Ids, above `after`, of streams with an attribute under `key`, as the index says, which is checked at start. */
  annotated(key: string, after: number, limit: number): number[] {
    return this.#statements.annotated.all(key, after, limit).map(({ stream }) => stream);
  }

  /** The next rows of a list, up to `limit` and in the order of their names, deleted ones too, while they begin with `prefix`. */
  *page(place: ListPlace, prefix: string, limit: number): Generator<StreamRow> {
    if (place.skip === 0) this.#expectNoName(place.name);
    // No upper bound: the entry that ends the list has to be a sound one, too.
    const rows = this.#statements.fromName.all(place.name, limit, place.skip);
    place.isEnd = rows.length < limit;
    for (const row of rows) {
      verifyNamed(row);
      if (!row.name.startsWith(prefix)) {
        place.isEnd = true;
        return;
      }
      place.skip = row.name === place.name ? place.skip + 1 : 1;
      place.name = row.name;
      yield row;
    }
  }

  /** Ids of streams whose stored deadline has passed. */
  pastDeadline(nowMs: number, limit: number): number[] {
    return this.#statements.pastDeadline.all(nowMs, limit).map((row) => row.id);
  }

  withRetention(after: number, limit: number): number[] {
    return this.#statements.withRetention.all(after, limit).map((row) => row.id);
  }

  /**
   * Streams whose rows wait to be freed, asked for page by page, so that rows may go meanwhile. A damaged row is none of them: what says that
   * it is deleted may be the damage. It stays, and `doctor` tells of it. Nor is one that only the index takes for deleted: SQLite gives 2
   * for its `deletion` without a look, and that is not what its checksum is of.
   */
  *deletedIds(): Generator<number, undefined> {
    for (let after = 0; ;) {
      const rows = this.#statements.deleted.all(after, DELETED_ROWS);
      for (const row of rows) {
        if (streamCrc(row) === row.crc) yield row.id;
        after = row.id;
      }
      if (rows.length < DELETED_ROWS) return undefined;
    }
  }

  /** The largest id in the table. */
  lastId(): number {
    return this.#statements.lastId.get()?.id ?? 0;
  }

  put(row: StreamRow): void {
    const { id, name, deletion, deadline_ms, retained, head } = row;
    this.#statements.put.run(id, name, deletion, deadline_ms, retained, head, streamCrc(row));
  }

  putProducer(row: ProducerRow): void {
    this.#statements.putProducer.run(row.stream, row.producer, row.epoch, row.last_seq, producerCrc(row));
  }

  putAttribute(row: AttributeRow): void {
    this.#statements.putAttribute.run(row.stream, row.key, row.value, attributeCrc(row));
  }

  removeAttribute(stream: number, key: string): void {
    this.#statements.removeAttribute.run(stream, key);
  }

  /** Removes the last rows of a deleted stream; at most `limit` of each table. True when nothing is left. */
  free(id: number, limit: number): boolean {
    const producers = this.#statements.freeProducers.run(id, limit);
    const attributes = this.#statements.freeAttributes.run(id, limit);
    if (producers.changes === limit || attributes.changes === limit) return false;
    this.#statements.free.run(id);
    return true;
  }
}

/** Whether the index of names is in order and holds exactly what the rows say; damage in either is a no. */
function namesAgree(db: Database): boolean {
  let last: { readonly id: number; readonly bytes: Uint8Array } = { id: 0, bytes: new Uint8Array() };
  let indexSum = 0;
  for (const { id, name } of named(db, "INDEXED BY streams_by_name ORDER BY name, id")) {
    const bytes = utf8(name);
    const order = Buffer.compare(last.bytes, bytes);
    if (order > 0 || (order === 0 && id <= last.id)) return false;
    last = { id, bytes };
    indexSum = plus(indexSum, crc32(bytes, id % 2 ** 32));
  }
  let rowSum = 0;
  for (const { id, name } of named(db, "NOT INDEXED")) rowSum = plus(rowSum, crc32(utf8(name), id % 2 ** 32));
  return indexSum === rowSum;
}

function* named(db: Database, how: string): Generator<Pick<StreamRow, "id" | "name">> {
  try {
    yield* db.query<Pick<StreamRow, "id" | "name">, []>(`SELECT id, name FROM streams ${how}`).iterate();
  } catch (cause) {
    throw asDamage(cause);
  }
}

/** Modulo 2^32. */
function plus(sum: number, crc: number): number {
  return (sum + crc) >>> 0;
}

function verifyStream(row: Sealed<StreamRow>): void {
  if (streamCrc(row) !== row.crc)
    throw new DamagedStream(`the head of stream ${JSON.stringify(row.name)} (id ${row.id})`);
}

/** The row of an index entry, which may point nowhere or to another stream's. */
function verifyNamed(row: NamedRow): void {
  const { at_name, at_id, name, id } = row;
  if (streamCrc(row) !== row.crc || name !== at_name || id !== at_id) {
    throw new DamagedStream(`the head of stream ${JSON.stringify(at_name)} (id ${at_id}), or its index entry,`);
  }
}

function verifyProducer(row: Sealed<ProducerRow>): void {
  if (producerCrc(row) !== row.crc) {
    throw new DamagedStream(`the state of producer ${JSON.stringify(row.producer)} of stream ${row.stream}`);
  }
}

function verifyAttribute(row: Sealed<AttributeRow>): void {
  if (attributeCrc(row) !== row.crc) {
    throw new DamagedStream(`the attribute ${JSON.stringify(row.key)} of stream ${row.stream}`);
  }
}

const STREAM = "id, name, deletion, deadline_ms, retained, head, crc";
const PRODUCER = "stream, producer, epoch, last_seq, crc";
const ATTRIBUTE = "stream, key, value, crc";
/** The index alone, then the row by its id: SQLite would take columns from either. */
const NAMED = `
  SELECT i.name AS at_name, i.id AS at_id, t.* FROM streams AS i INDEXED BY streams_by_name LEFT JOIN streams AS t ON t.id = i.id`;
/** 1 when the entry of the index that comes next is where it belongs and its row says the same, 0 when not; null when none comes. */
const BESIDE = (side: "<" | ">", order: string): string => `
  (SELECT i.name ${side} ?1 AND t.name IS i.name
   FROM streams AS i INDEXED BY streams_by_name LEFT JOIN streams AS t ON t.id = i.id
   WHERE i.name ${side} ?1 ORDER BY ${order} LIMIT 1)`;

function prepare(db: Database) {
  return {
    byName: select<NamedRow, [string]>(db, `${NAMED} WHERE i.name = ? ORDER BY i.id DESC LIMIT 1`),
    besideName: select<{ before: 0 | 1 | null; after: 0 | 1 | null }, [string]>(
      db,
      `SELECT ${BESIDE("<", "i.name DESC, i.id DESC")} AS before, ${BESIDE(">", "i.name, i.id")} AS after`,
    ),
    fromName: select<NamedRow, [string, number, number]>(
      db,
      `${NAMED} WHERE i.name >= ? ORDER BY i.name, i.id LIMIT ? OFFSET ?`,
    ),
    byId: select<Sealed<StreamRow>, [number]>(db, `SELECT ${STREAM} FROM streams WHERE id = ?`),
    idBefore: select<Sealed<StreamRow>, [number]>(
      db,
      `SELECT ${STREAM} FROM streams WHERE id < ? ORDER BY id DESC LIMIT 1`,
    ),
    idAfter: select<Sealed<StreamRow>, [number]>(db, `SELECT ${STREAM} FROM streams WHERE id > ? ORDER BY id LIMIT 1`),
    lastId: select<{ id: number | null }, []>(db, "SELECT max(id) AS id FROM streams"),
    producer: select<Sealed<ProducerRow>, [number, string]>(
      db,
      `SELECT ${PRODUCER} FROM producers WHERE stream = ? AND producer = ?`,
    ),
    producerBefore: select<Sealed<ProducerRow>, [number, string]>(
      db,
      `SELECT ${PRODUCER} FROM producers WHERE stream = ? AND producer < ? ORDER BY producer DESC LIMIT 1`,
    ),
    producerAfter: select<Sealed<ProducerRow>, [number, string]>(
      db,
      `SELECT ${PRODUCER} FROM producers WHERE stream = ? AND producer > ? ORDER BY producer LIMIT 1`,
    ),
    // Looks at each: a range of an index ends where a larger key comes, and a smaller one in it would be counted.
    producerCount: select<{ count: number }, [number, number]>(
      db,
      "SELECT total(stream = ?) AS count FROM producers WHERE stream = ?",
    ),
    attributes: select<Sealed<AttributeRow>, [number]>(db, `SELECT ${ATTRIBUTE} FROM attributes WHERE stream = ?`),
    attributeBefore: select<Sealed<AttributeRow>, [number]>(
      db,
      `SELECT ${ATTRIBUTE} FROM attributes WHERE stream < ? ORDER BY stream DESC, key DESC LIMIT 1`,
    ),
    /** So many rows after the first of a stream, in the table's own order. */
    attributeAt: select<Sealed<AttributeRow>, [number, number]>(
      db,
      `SELECT ${ATTRIBUTE} FROM attributes WHERE stream >= ? ORDER BY stream, key LIMIT 1 OFFSET ?`,
    ),
    annotated: select<{ readonly stream: number }, [string, number, number]>(
      db,
      "SELECT stream FROM attributes INDEXED BY attributes_by_key WHERE key = ? AND stream > ? ORDER BY stream LIMIT ?",
    ),
    pastDeadline: select<{ id: number }, [number, number]>(
      db,
      "SELECT id FROM streams WHERE deadline_ms IS NOT NULL AND deadline_ms <= ? AND deletion = 0 ORDER BY deadline_ms LIMIT ?",
    ),
    withRetention: select<{ id: number }, [number, number]>(
      db,
      "SELECT id FROM streams WHERE retained = 1 AND id > ? AND deletion < 2 ORDER BY id LIMIT ?",
    ),
    deleted: select<Sealed<StreamRow>, [number, number]>(
      db,
      `SELECT ${STREAM} FROM streams INDEXED BY streams_freed WHERE id > ? AND deletion = ${HARD} ORDER BY id LIMIT ?`,
    ),
    put: db.query<never, [number, string, number, number | null, number, string, number]>(
      `INSERT OR REPLACE INTO streams (${STREAM}) VALUES (?, ?, ?, ?, ?, ?, ?)`,
    ),
    putProducer: db.query<never, [number, string, number, number, number]>(
      `INSERT OR REPLACE INTO producers (${PRODUCER}) VALUES (?, ?, ?, ?, ?)`,
    ),
    putAttribute: db.query<never, [number, string, string, number]>(
      `INSERT OR REPLACE INTO attributes (${ATTRIBUTE}) VALUES (?, ?, ?, ?)`,
    ),
    removeAttribute: db.query<never, [number, string]>("DELETE FROM attributes WHERE stream = ? AND key = ?"),
    freeProducers: db.query<never, [number, number]>(
      "DELETE FROM producers WHERE (stream, producer) IN (SELECT stream, producer FROM producers WHERE stream = ? LIMIT ?)",
    ),
    freeAttributes: db.query<never, [number, number]>(
      "DELETE FROM attributes WHERE (stream, key) IN (SELECT stream, key FROM attributes WHERE stream = ? LIMIT ?)",
    ),
    free: db.query<never, [number]>("DELETE FROM streams WHERE id = ?"),
  };
}
