/**
 * Start-up: from tables and commit rows to heads and window.
 *
 * 1. Every unsealed commit is read in order: numbers dense, checksums right, each holding its predecessor's.
 * 2. Its changes are applied to heads that are older than it, and its bytes join the window. A stream whose head is damaged, or
 *    which its commits do not continue, is parked: requests on it hear so, and all others go on.
 * 3. The last number is compared with the high-water mark: less means that an acknowledged tail is missing. Nothing has been
 *    written so far, so a refused start leaves the directory as it was. An accepted loss is written in one transaction, and the caller
 *    makes it durable before the mark is lowered: no later start sees half of it.
 * 4. No stream may have an id that was never given out: it would be given out again.
 * 5. Batches that no finished sealing pass owns are removed; commit rows that one owns are too. Then what sweeps go by is mended,
 *    files of commits that were never made are removed, and those of unsealed commits synced.
 */

import type { Database } from "bun:sqlite";
import { Damage, DamagedDatabase, DamagedStream } from "../../protocol/faults.ts";
import { applyChange, newHead, type StreamChange, type StreamHead } from "../../protocol/stream.ts";
import { readBackupMark } from "./backup-mark.ts";
import type { Batches } from "./batches.ts";
import type { DecodedCommit } from "./commit-codec.ts";
import { type ChainEnd, commitRowsAfter, follow, LostTail } from "./commit-chain.ts";
import type { Heads } from "./heads.ts";
import { idAfterLoss } from "./id-gap.ts";
import type { LargeFiles } from "./large-files.ts";
import { readMeta, writeMeta } from "./meta.ts";
import type { MetaValues } from "./row-crc.ts";
import { mendSweepIndexes } from "./sweep-indexes.ts";
import type { Window } from "./window.ts";

interface Parts {
  readonly heads: Heads;
  readonly window: Window;
  readonly batches: Batches;
  readonly large: LargeFiles;
}

export interface StartTerms {
  /** The last commit known durable. */
  readonly highwaterNo: number;
  /** Go on although commits are missing. */
  readonly acceptLoss: boolean;
  readonly nowMs: number;
}

export interface Recovered {
  readonly lastNo: number;
  readonly lastCrc: number;
  readonly lastMs: number;
  readonly nextId: number;
  /** What unsealed commits deleted and trimmed: its rows wait to be freed. */
  readonly freed: readonly Pick<StreamChange, "id" | "deletion" | "retainedFrom">[];
}

export function recover(db: Database, parts: Parts, { highwaterNo, acceptLoss, nowMs }: StartTerms): Recovered {
  if (readBackupMark(db)?.atMs === 0) {
    throw new Error(
      "this is a backup that was never finished: it does not hold all streams. Run the backup again, or use another --data-dir",
    );
  }
  const meta = readMeta(db);
  const { last, freed, damage, nextId: givenOut } = readCommits(db, parts, meta);
  let nextId = givenOut;
  if (damage !== null || last.no < highwaterNo) {
    if (!acceptLoss) throw new LostTail(last.no, highwaterNo, damage ?? "the write-ahead log ends too early");
    nextId = idAfterLoss(Math.max(givenOut, parts.heads.lastId() + 1), nowMs);
    giveUpAfter(db, parts, last.no, { ...meta, next_id: nextId });
  }
  const lastId = parts.heads.lastId();
  if (lastId >= nextId)
    throw new DamagedDatabase(`it has a stream with the id ${lastId}, and none was given out from ${nextId} on`);
  parts.batches.freeInvisible(meta.sealed_batch);
  db.query("DELETE FROM commits WHERE no <= ?").run(meta.sealed_no);
  mendSweepIndexes(db);
  // Of an accepted loss somebody may still want to see what there was.
  parts.large.clearAfter(last.no, damage !== null || last.no < highwaterNo);
  parts.large.syncFound(parts.window.filedCommits());
  return { lastNo: last.no, lastCrc: last.crc, lastMs: last.atMs, nextId, freed };
}

interface Read {
  readonly last: ChainEnd & { readonly atMs: number };
  /** What ended the chain, or null. */
  readonly damage: string | null;
  readonly nextId: number;
  readonly freed: readonly StreamChange[];
}

/** Applies the unsealed commits, as far as they can be read. */
function readCommits(db: Database, { heads, window, large }: Parts, meta: MetaValues): Read {
  window.startAfter(meta.sealed_no);
  let last = { no: meta.sealed_no, crc: meta.sealed_crc, atMs: 0 };
  let nextId = meta.next_id;
  let freed: StreamChange[] = [];
  let damage: string | null = null;
  const foldedId = heads.lastId();
  for (const row of commitRowsAfter(db, meta.sealed_no)) {
    const next = follow(row, last, large.read);
    if ("problem" in next) {
      damage = next.problem;
      break;
    }
    const { commit } = next;
    replay(commit, heads, foldedId);
    window.push(commit);
    for (const change of commit.changes) {
      if (change.created !== undefined) nextId = Math.max(nextId, change.id + 1);
      if (change.deletion === "hard" || change.retainedFrom !== undefined) freed.push(change);
    }
    last = commit;
  }
  // What a damaged stream has is left as it is.
  freed = freed.filter(({ id }) => !heads.isParked(id));
  return { last, damage, nextId, freed };
}

/** `foldedId`: the last id in the tables. What a commit creates behind it is nowhere yet, and is not looked for. */
function replay(commit: DecodedCommit, heads: Heads, foldedId: number): void {
  for (const change of commit.changes) {
    if (heads.isParked(change.id)) continue;
    try {
      const isNew = change.created !== undefined && change.id > foldedId;
      const known = isNew ? undefined : heads.byId(change.id);
      replayChange(commit, change, known, heads);
    } catch (cause) {
      if (!(cause instanceof Damage)) throw cause;
      heads.park(change.id, change.created?.name ?? null, cause);
    }
  }
}

function replayChange(
  { no, atMs }: DecodedCommit,
  change: StreamChange,
  known: StreamHead | undefined,
  heads: Heads,
): void {
  const head = known ?? (change.created === undefined ? undefined : newHead(change.id, change.created));
  if (head === undefined) throw new DamagedStream(`the head of stream ${change.id}`);
  if (head.lastCommit >= no) return;
  if (change.run !== undefined && change.run.firstSeq !== head.next) {
    throw new DamagedStream(`the head of stream ${JSON.stringify(head.config.name)} (id ${head.id})`);
  }
  applyChange(head, change, no, atMs);
  heads.grant(head);
  heads.markChanged(head, change);
}

/** Makes the tables agree with a log that ends at `lastNo`, in one transaction. */
function giveUpAfter(db: Database, parts: Parts, lastNo: number, meta: MetaValues): void {
  db.transaction(() => {
    db.query("DELETE FROM commits WHERE no > ?").run(lastNo);
    // Before heads look for the end of their records: batches of an unfinished pass do not count.
    parts.batches.freeInvisible(meta.sealed_batch);
    rollBackHeads(db, parts, lastNo);
    writeMeta(db, meta);
  })();
}

/** Heads that were folded later than `lastNo` end where their records end, in memory and in the table. */
function rollBackHeads(db: Database, { heads, window, batches }: Parts, lastNo: number): void {
  const folded = db.query<{ id: number }, [number]>(
    "SELECT id FROM streams WHERE CASE WHEN json_valid(head) THEN json_extract(head, '$.lastCommit') > ? END",
  );
  for (const { id } of folded.all(lastNo)) {
    const head = heads.soundById(id);
    if (head === undefined || head === null) continue;
    const end = window.endOf(id) ?? batches.endOf(id) ?? 0;
    head.next = Math.max(end, head.config.from, head.retainedFrom);
    head.lastCommit = lastNo;
    heads.markChanged(head, {});
    heads.fold(id);
    heads.markFolded(id);
  }
}
