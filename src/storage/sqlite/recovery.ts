/**
 * Start-up: from tables and commit rows to heads and window.
 *
 * 1. Every unsealed commit is read in order: numbers dense, checksums right, each holding its predecessor's.
 * 2. Its changes are applied to heads that are older than it, and its bytes join the window.
 * 3. The last number is compared with the high-water mark: less means that an acknowledged tail is missing. Nothing has been
 *    written so far, so a refused start leaves the directory as it was.
 * 4. No stream may have an id that was never given out: it would be given out again.
 * 5. Batches that no finished sealing pass owns are removed; commit rows that one owns are too.
 */

import type { Database } from "bun:sqlite";
import { present } from "../../kit/assert.ts";
import { DamagedDatabase } from "../../protocol/faults.ts";
import { TOUCH_PERSIST_MS } from "../../protocol/limits.ts";
import { applyChange, newHead, type StreamChange, type StreamHead } from "../../protocol/stream.ts";
import type { Batches } from "./batches.ts";
import { commitCrc, decodeCommit, type DecodedCommit } from "./commit-codec.ts";
import type { Heads } from "./heads.ts";
import { readMeta } from "./meta.ts";
import type { Window } from "./window.ts";

interface CommitRow {
  readonly no: number;
  readonly crc: number;
  readonly hdr: Uint8Array;
  readonly data: Uint8Array;
}

interface Parts {
  readonly heads: Heads;
  readonly window: Window;
  readonly batches: Batches;
}

export interface Recovered {
  readonly lastNo: number;
  readonly lastCrc: number;
  readonly lastMs: number;
  readonly nextId: number;
  /** What unsealed commits deleted and trimmed: its rows wait to be freed. */
  readonly freed: readonly Pick<StreamChange, "id" | "deletion" | "retainedFrom">[];
}

/** After an accepted loss the id counter jumps, so that no id of a lost stream is given out again. */
const ID_GAP_AFTER_LOSS = 1_000_000;

/** Commits are missing or damaged. The message is for the operator. */
export class LostTail extends Error {
  override readonly name = "LostTail";

  constructor(recoveredNo: number, highwaterNo: number, reason: string) {
    super(
      `commits ${recoveredNo + 1} to ${Math.max(highwaterNo, recoveredNo + 1)} were acknowledged but cannot be read (${reason}). ` +
        "Restore the data directory from a backup, or start with --accept-loss to go on without them.",
    );
  }
}

export function recover(db: Database, parts: Parts, highwaterNo: number, acceptLoss: boolean): Recovered {
  const meta = readMeta(db);
  const sealedNo = meta.sealed_no;
  parts.window.startAfter(sealedNo);
  let last = { no: sealedNo, crc: meta.sealed_crc, atMs: 0 };
  let nextId = meta.next_id;
  let damage: string | null = null;
  const freed: StreamChange[] = [];
  for (const row of db
    .query<CommitRow, [number]>("SELECT no, crc, hdr, data FROM commits WHERE no > ? ORDER BY no")
    .iterate(sealedNo)) {
    damage = damageOf(row, last);
    const commit = damage === null ? decodeCommit(row.hdr, row.data, row.crc) : null;
    if (commit !== null && commit.prevCrc !== last.crc) damage = `commit ${row.no} does not follow commit ${last.no}`;
    if (commit === null || damage !== null) break;
    replay(commit, parts.heads);
    parts.window.push(commit);
    for (const change of commit.changes) {
      if (change.created !== undefined) nextId = Math.max(nextId, change.id + 1);
      if (change.deletion === "hard" || change.retainedFrom !== undefined) freed.push(change);
    }
    last = { no: commit.no, crc: commit.crc, atMs: commit.atMs };
  }
  if (damage !== null || last.no < highwaterNo) {
    if (!acceptLoss) throw new LostTail(last.no, highwaterNo, damage ?? "the write-ahead log ends too early");
    db.query("DELETE FROM commits WHERE no > ?").run(last.no);
    nextId += ID_GAP_AFTER_LOSS;
    // Before heads look for the end of their records: batches of an unfinished pass do not count.
    parts.batches.freeInvisible(meta.sealed_batch);
    rollBackHeads(db, parts, last.no);
  }
  const lastId = parts.heads.lastId();
  if (lastId >= nextId)
    throw new DamagedDatabase(`it has a stream with the id ${lastId}, and none was given out from ${nextId} on`);
  parts.batches.freeInvisible(meta.sealed_batch);
  db.query("DELETE FROM commits WHERE no <= ?").run(sealedNo);
  return { lastNo: last.no, lastCrc: last.crc, lastMs: last.atMs, nextId, freed };
}

/** After an accepted loss: heads that were folded later than the last readable commit end where their records end. */
function rollBackHeads(db: Database, { heads, window, batches }: Parts, lastNo: number): void {
  const folded = db.query<{ id: number }, [number]>(
    "SELECT id FROM streams WHERE json_extract(head, '$.lastCommit') > ?",
  );
  for (const { id } of folded.all(lastNo)) {
    const head = present(heads.byId(id), `no head of stream ${id}`);
    head.next = window.endOf(id) ?? batches.endOf(id) ?? head.config.from;
    head.lastCommit = lastNo;
    heads.markChanged(head, {});
  }
}

function damageOf(row: CommitRow, last: { no: number }): string | null {
  if (row.no !== last.no + 1) return `commit ${last.no + 1} is missing`;
  if (commitCrc(row.hdr, row.data) !== row.crc) return `commit ${row.no} has a wrong checksum`;
  return null;
}

function replay(commit: DecodedCommit, heads: Heads): void {
  for (const change of commit.changes) {
    let head: StreamHead | undefined = heads.byId(change.id);
    if (head === undefined)
      head = newHead(change.id, present(change.created, `commit ${commit.no} changes an unknown stream ${change.id}`));
    if (head.lastCommit >= commit.no) continue;
    applyChange(head, change, commit.no, commit.atMs);
    if (head.config.expiry.kind === "ttl") head.accessedMs = Math.max(head.accessedMs, commit.atMs + TOUCH_PERSIST_MS);
    heads.markChanged(head, change);
  }
}
