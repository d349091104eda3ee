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
const OURS = "SELECT stream, first_seq, count, bytes, last_ms, id FROM main.batches INDEXED BY batches_by_stream";
const THEIRS =
  "SELECT stream, first_seq, count, bytes, last_ms, id FROM src.batches INDEXED BY batches_by_stream WHERE id <= ?";

/** Batches that the source shows up to this id, and the target does not have. */
export function missingBatches(db: Database, to: number): number[] {
  return idsOf(db, `${THEIRS} EXCEPT ${OURS} ORDER BY ${PLACE}`, to).sort((left, right) => left - right);
}

/** Batches that the target has and the source does not, or not with what is in them. */
export function surplusBatches(db: Database, to: number): number[] {
  return idsOf(db, `${OURS} EXCEPT ${THEIRS} ORDER BY ${PLACE}`, to);
}

function idsOf(db: Database, sql: string, to: number): number[] {
  const ids: number[] = [];
  for (const { id } of db.query<{ id: number }, [number]>(sql).iterate(to)) ids.push(id);
  return ids;
}

/**
 * Throws `DirectoryRefused` unless the source continues what the backup (attached as `main`) holds. Removes what an interrupted
 * run copied of batches that the source no longer has; returns whether there is anything left of such a run.
 */
export function assertContinues(db: Database, mark: BackupMark): boolean {
  const ours = lastCommit(db, "main");
  if (ours.no !== mark.no || ours.crc !== mark.crc) {
    throw new DirectoryRefused("a server was started on the backup and has written to it; use another --to");
  }
  const theirs = lastCommit(db, "src");
  if (theirs.no < mark.no) refuse(`it ends at commit ${theirs.no}, the backup at ${mark.no}`);
  const common = commitCrc(db, mark.no);
  if (common !== null && common !== mark.crc) refuse(`commit ${mark.no} is another one`);
  const [sealed, last] = [sealedBatch(db), maxBatch(db)];
  const firstUnknown = missingBatches(db, last)[0] ?? Infinity;
  if (firstUnknown <= sealed) refuse(`batch ${firstUnknown} is another one`);
  assertSameStreams(db);
  if (firstUnknown !== Infinity) db.query<never, [number]>("DELETE FROM main.batches WHERE id >= ?").run(firstUnknown);
  return maxBatch(db) > sealed;
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

/** Ids are never given out twice: a stream of another name or time under the same id is of another history. */
function assertSameStreams(db: Database): void {
  const others = db.query<{ n: number }, []>(
    `SELECT count(*) AS n FROM main.streams AS ours JOIN src.streams AS theirs ON theirs.id = ours.id
      WHERE json_valid(ours.head) AND json_valid(theirs.head) AND (theirs.name <> ours.name
        OR json_extract(theirs.head, '$.config.createdMs') <> json_extract(ours.head, '$.config.createdMs'))`,
  );
  const count = others.get()?.n ?? 0;
  if (count > 0) refuse(`${count} streams of the same id are others`);
}
