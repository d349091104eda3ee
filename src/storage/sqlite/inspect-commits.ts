/**
 * Inspection of the hot part: the counters of `meta`, and the commits that are not sealed yet. Gives the streams as they are after
 * the last readable commit (`Tail`), as a start would make them. Holds what those commits change, which the server bounds, and
 * nothing of other streams.
 */

import type { Database } from "bun:sqlite";
import { assert } from "../../kit/assert.ts";
import { applyChange, newHead, type StreamChange, type StreamHead } from "../../protocol/stream.ts";
import { type ChainEnd, type CommitRow, commitRowsAfter, follow } from "./commit-chain.ts";
import type { DecodedCommit } from "./commit-codec.ts";
import { type Findings, reasonOf, recordRange } from "./finding.ts";
import { headById } from "./inspect-heads.ts";
import type { ReadPart } from "./large-files.ts";
import { META_KEYS } from "./meta.ts";
import { metaCrc, type MetaValues } from "./row-crc.ts";
import { isCount } from "./stored-head.ts";

/** Records of one stream in the unsealed commits. */
export interface UnsealedRange {
  readonly from: number;
  readonly to: number;
}

/** What the unsealed commits say. */
export interface Tail {
  readonly lastNo: number;
  readonly lastCrc: number;
  /** Above every id that was given out. */
  readonly nextId: number;
  readonly commits: number;
  readonly records: number;
  readonly bytes: number;
  /** Heads that these commits change, as they are after the last one. */
  readonly heads: ReadonlyMap<number, StreamHead>;
  readonly unsealed: ReadonlyMap<number, UnsealedRange>;
  /** Streams whose head and commits contradict each other: reported, and not to be judged further. */
  readonly broken: ReadonlySet<number>;
}

/** The counters, or null when one is missing: then nothing else can be judged. */
export function inspectMeta(db: Database, findings: Findings): MetaValues | null {
  return findings.attempt("meta", "the counters", () => readCounters(db, findings), null);
}

function readCounters(db: Database, findings: Findings): MetaValues | null {
  const values = new Map<string, unknown>();
  const rows = db.query<{ key: string; value: unknown }, []>("SELECT key, value FROM meta");
  for (const { key, value } of rows.iterate()) values.set(key, value);
  const take = (key: string): number => {
    const value = values.get(key);
    if (isCount(value)) return value;
    findings.error("meta", `'${key}' is missing in the meta table, or is no whole number`);
    return Number.NaN;
  };
  const meta: MetaValues = {
    sealed_no: take("sealed_no"),
    sealed_crc: take("sealed_crc"),
    sealed_batch: take("sealed_batch"),
    next_id: take("next_id"),
  };
  if (META_KEYS.some((key) => Number.isNaN(meta[key]))) return null;
  if (values.get("crc") !== metaCrc(meta)) {
    findings.error("meta", `the counters of the meta table have a wrong checksum (${JSON.stringify(meta)})`);
  }
  return meta;
}

export function inspectCommits(db: Database, meta: MetaValues, readFile: ReadPart, findings: Findings): Tail {
  const replay = new Replay(db, meta.next_id, findings);
  let last = { no: meta.sealed_no, crc: meta.sealed_crc };
  let isBroken = false;
  findings.guard("commit", `the commits after ${last.no}`, () => {
    // Read to its end in any case: a statement that is left in the middle keeps its lock.
    for (const row of commitRowsAfter(db, meta.sealed_no)) {
      if (isBroken) continue;
      const next = follow(row, last, readFile);
      if ("problem" in next) {
        isBroken = true;
        findings.error("commit", `${next.problem}; it and all later commits cannot be used`);
        continue;
      }
      replay.take(next.commit, row);
      last = { no: row.no, crc: row.crc };
    }
  });
  findings.guard("commit", `the commits up to ${meta.sealed_no}`, () => {
    const stale = db.query<{ n: number }, [number]>("SELECT count(*) AS n FROM commits WHERE no <= ?");
    const staleRows = stale.get(meta.sealed_no)?.n ?? 0;
    if (staleRows === 0) return;
    findings.warning("leftover", `${staleRows} commits are sealed and not yet removed; the next start removes them`);
  });
  return replay.tail(last);
}

/** Commits applied to the heads they change, as recovery does it. */
class Replay {
  readonly #db: Database;
  readonly #findings: Findings;
  readonly #heads = new Map<number, StreamHead>();
  readonly #unsealed = new Map<number, UnsealedRange>();
  readonly #broken = new Set<number>();
  #nextId: number;
  #commits = 0;
  #records = 0;
  #bytes = 0;

  constructor(db: Database, nextId: number, findings: Findings) {
    this.#db = db;
    this.#nextId = nextId;
    this.#findings = findings;
  }

  take(commit: DecodedCommit, row: CommitRow): void {
    for (const change of commit.changes) this.#apply(change, commit);
    this.#commits++;
    this.#bytes += row.hdr.length + commit.data.length;
  }

  tail(last: ChainEnd): Tail {
    return {
      lastNo: last.no,
      lastCrc: last.crc,
      nextId: this.#nextId,
      commits: this.#commits,
      records: this.#records,
      bytes: this.#bytes,
      heads: this.#heads,
      unsealed: this.#unsealed,
      broken: this.#broken,
    };
  }

  #apply(change: StreamChange, commit: DecodedCommit): void {
    const { id } = change;
    if (change.created !== undefined) this.#nextId = Math.max(this.#nextId, id + 1);
    if (this.#broken.has(id)) return;
    try {
      if (change.run !== undefined) this.#note(id, change.run.firstSeq, change.run.lengths.length);
      const head = this.#headOf(change);
      if (head.lastCommit < commit.no) applyChange(head, change, commit.no, commit.atMs);
    } catch (cause) {
      this.#broken.add(id);
      const stream = this.#heads.get(id)?.config.name ?? null;
      const named = stream === null ? `stream ${id}` : `stream ${id} (${stream})`;
      this.#findings.error("head", `commit ${commit.no} does not fit ${named}: ${reasonOf(cause)}`, {
        stream,
        streamId: id,
      });
    }
  }

  #note(id: number, from: number, count: number): void {
    this.#records += count;
    const known = this.#unsealed.get(id);
    assert(
      known === undefined || known.to === from,
      `${recordRange(Math.min(known?.to ?? 0, from), Math.max(known?.to ?? 0, from))} are missing between commits`,
    );
    this.#unsealed.set(id, { from: known?.from ?? from, to: from + count });
  }

  #headOf({ id, created }: StreamChange): StreamHead {
    let head = this.#heads.get(id) ?? headById(this.#db, id);
    assert(head !== null || created !== undefined, "there is no such stream");
    head ??= created === undefined ? null : newHead(id, created);
    assert(head !== null, "there is no such stream");
    this.#heads.set(id, head);
    return head;
  }
}
