/**
 * Whether a source continues the history that a backup was taken of. What the backup has and the source does not is never given up: a
 * source that was restored from an older backup, that lost its end, or that is another server is refused. Also the difference
 * between the batches of both, from their indexes alone.
 */

import type { Database } from "bun:sqlite";
import type { BackupMark } from "./backup-mark.ts";
import { DirectoryRefused } from "./untouched.ts";

/** Where a batch is and what is in it, as far as the index knows. */
const PLACE = "stream, first_seq, count, bytes, last_ms, id";
const OURS = `SELECT ${PLACE} FROM main.batches INDEXED BY batches_by_stream`;
const THEIRS = `SELECT ${PLACE} FROM src.batches INDEXED BY batches_by_stream WHERE id <= ?`;

export interface Difference {
  readonly ids: readonly number[];
  /** Entries of an index that say otherwise than the batch itself: damage, and no reason to copy or to remove anything. */
  readonly wrongEntries: number;
}

/** Batches that the source shows up to this id, and the target does not have. */
export function missingBatches(db: Database, to: number): Difference {
  return difference(db, `${THEIRS} EXCEPT ${OURS}`, to, ({ ours, theirs }) => theirs !== null && theirs !== ours);
}

/** Batches that the target has and the source does not, or not with what is in them. */
export function surplusBatches(db: Database, to: number): Difference {
  return difference(db, `${OURS} EXCEPT ${THEIRS}`, to, ({ ours, theirs }) => ours !== null && theirs !== ours);
}

/** The checksums of both batches of an id, which cover their places. */
interface Pair {
  readonly ours: number | null;
  readonly theirs: number | null;
}

/** The indexes say where to look, the batches what is so. */
function difference(db: Database, sql: string, to: number, isReal: (pair: Pair) => boolean): Difference {
  const pair = db.query<Pair, [number, number, number]>(
    `SELECT (SELECT crc FROM main.batches WHERE id = ?) AS ours, (SELECT crc FROM src.batches WHERE id = ? AND id <= ?) AS theirs`,
  );
  const ids = new Set<number>();
  let wrongEntries = 0;
  for (const { id } of db.query<{ id: number }, [number]>(`SELECT id FROM (${sql})`).all(to)) {
    const found = pair.get(id, id, to);
    if (found !== null && isReal(found)) ids.add(id);
    else wrongEntries++;
  }
  return { ids: [...ids].sort((left, right) => left - right), wrongEntries };
}

/**
 * Throws `DirectoryRefused` unless the source continues what the backup (attached as `main`) holds. Removes what an interrupted
 * run copied of batches that the source no longer has; returns whether there is anything left of such a run. Several short reads: what
 * it looks at is never taken back by a server.
 */
export function assertContinues(db: Database, mark: BackupMark): boolean {
  assertUntouched(db, mark);
  const isProved = db.transaction(() => assertSameChain(db, mark)).deferred();
  const [sealed, last] = [sealedBatch(db), maxBatch(db)];
  const firstUnknown = missingBatches(db, last).ids[0] ?? Infinity;
  if (firstUnknown <= sealed) refuse(`batch ${firstUnknown} is another one`);
  if (!isProved) assertSameStreams(db);
  if (firstUnknown !== Infinity) db.query<never, [number]>("DELETE FROM main.batches WHERE id >= ?").run(firstUnknown);
  return maxBatch(db) > sealed;
}

function assertUntouched(db: Database, mark: BackupMark): void {
  const ours = lastCommit(db, "main");
  if (ours.no !== mark.no || ours.crc !== mark.crc) {
    throw new DirectoryRefused("a server was started on the backup and has written to it; use another --to");
  }
  if (mark.sealedNo !== null && mark.sealedNo !== metaValue(db, "main", "sealed_no")) {
    throw new DirectoryRefused(
      "a server was started on the backup and has moved its records to other batches; use another --to",
    );
  }
}

/** Whether the source still has the commit that the backup ends with: its checksum covers all that came before. */
function assertSameChain(db: Database, mark: BackupMark): boolean {
  const theirs = lastCommit(db, "src");
  if (theirs.no < mark.no) refuse(`it ends at commit ${theirs.no}, the backup at ${mark.no}`);
  const common = commitCrc(db, mark.no);
  if (common !== null && common !== mark.crc) refuse(`commit ${mark.no} is another one`);
  return common !== null && mark.no > 0;
}

function refuse(reason: string): never {
  throw new DirectoryRefused(
    `the source does not continue the history that the backup was taken of (${reason}): it is another server, or was restored from ` +
      "an older backup, or has lost its end. Keep this backup, and use another --to",
  );
}

interface CommitEnd {
  readonly no: number;
  readonly crc: number;
}

function lastCommit(db: Database, schema: "main" | "src"): CommitEnd {
  const last = db.query<CommitEnd, []>(`SELECT no, crc FROM ${schema}.commits ORDER BY no DESC LIMIT 1`).get();
  if (last !== null) return last;
  return { no: metaValue(db, schema, "sealed_no"), crc: metaValue(db, schema, "sealed_crc") };
}

/** The checksum of a commit as the source has it; null when it was sealed long ago. */
function commitCrc(db: Database, no: number): number | null {
  if (metaValue(db, "src", "sealed_no") === no) return metaValue(db, "src", "sealed_crc");
  return db.query<{ crc: number }, [number]>("SELECT crc FROM src.commits WHERE no = ?").get(no)?.crc ?? null;
}

function metaValue(db: Database, schema: "main" | "src", key: string): number {
  return db.query<{ value: number }, [string]>(`SELECT value FROM ${schema}.meta WHERE key = ?`).get(key)?.value ?? 0;
}

function sealedBatch(db: Database): number {
  return metaValue(db, "main", "sealed_batch");
}

function maxBatch(db: Database): number {
  return db.query<{ id: number | null }, []>("SELECT max(id) AS id FROM main.batches").get()?.id ?? 0;
}

/** As many of the oldest and of the newest streams are compared: few enough that a million take no longer. */
const SAMPLE = 1_000;

/** Ids are never given out twice: a stream of another name or time under the same id is of another history. */
function assertSameStreams(db: Database): void {
  const sample = (order: string): string =>
    `SELECT * FROM (SELECT id, name, head FROM main.streams ORDER BY id ${order} LIMIT ${SAMPLE})`;
  const others = db.query<{ n: number }, []>(
    `SELECT count(*) AS n FROM (${sample("ASC")} UNION ${sample("DESC")}) AS ours JOIN src.streams AS theirs ON theirs.id = ours.id
      WHERE json_valid(ours.head) AND json_valid(theirs.head) AND (theirs.name <> ours.name
        OR json_extract(theirs.head, '$.config.createdMs') <> json_extract(ours.head, '$.config.createdMs'))`,
  );
  const count = others.get()?.n ?? 0;
  if (count > 0) refuse(`${count} streams of the same id are others`);
}
