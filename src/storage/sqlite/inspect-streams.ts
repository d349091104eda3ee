/**
 * Inspection of streams against everything that belongs to them: batches, unsealed records, producers, attributes, forks. The tables
 * are walked side by side in the order of stream ids, so that a million streams need no more memory than one.
 */

import type { Database } from "bun:sqlite";
import type { StreamHead } from "../../protocol/stream.ts";
import { type Check, type Findings, recordRange } from "./finding.ts";
import type { Tail } from "./inspect-commits.ts";
import { forkCounts, forkProblems } from "./inspect-forks.ts";
import { type CheckedStreamRow, rowProblems, streamRows } from "./inspect-heads.ts";
import { attributeCrc, type AttributeRow, producerCrc, type ProducerRow } from "./row-crc.ts";
import { RowCursor } from "./row-cursor.ts";
import { decodeHead, isCount } from "./stored-head.ts";

/** A batch as its index knows it. */
interface Sealed {
  readonly stream: number;
  readonly first_seq: number;
  readonly count: number;
}

type Checked<Row> = Row & { readonly crc: number };

/** One stream: its row in the table, if there is one, and its head after the last commit. */
interface Subject {
  readonly id: number;
  readonly row: CheckedStreamRow | null;
  readonly folded: StreamHead | null;
  readonly head: StreamHead | null;
}

export interface StreamTotals {
  readonly streams: number;
  readonly bytes: number;
}

export function inspectStreams(
  db: Database,
  sealedBatch: number,
  tail: Tail,
  findings: Findings,
  progress: (done: number) => void,
): StreamTotals {
  const walk = new StreamWalk(db, sealedBatch, tail, findings);
  findings.guard("head", "the streams", () => walk.run(progress));
  return { streams: walk.streams, bytes: walk.bytes };
}

// From the index alone: the frames were looked at before.
const BATCHES =
  "SELECT stream, first_seq, count FROM batches INDEXED BY batches_by_stream WHERE id <= ? ORDER BY stream, first_seq";
const PRODUCERS = "SELECT stream, producer, epoch, last_seq, crc FROM producers ORDER BY stream, producer";
const ATTRIBUTES = "SELECT stream, key, value, crc FROM attributes ORDER BY stream, key";

/** Prepared when the first row is asked for: that can fail as well. */
function* rowsOf<Row>(db: Database, sql: string, ...parameters: number[]): Generator<Row> {
  yield* db.query<Row, number[]>(sql).iterate(...parameters);
}

class StreamWalk {
  readonly #db: Database;
  readonly #tail: Tail;
  readonly #findings: Findings;
  readonly #table: RowCursor<CheckedStreamRow>;
  readonly #batches: RowCursor<Sealed>;
  readonly #producers: RowCursor<Checked<ProducerRow>>;
  readonly #attributes: RowCursor<Checked<AttributeRow>>;
  readonly #forks: RowCursor<{ readonly stream: number; readonly forks: number }>;
  streams = 0;
  bytes = 0;

  constructor(db: Database, sealedBatch: number, tail: Tail, findings: Findings) {
    this.#db = db;
    this.#tail = tail;
    this.#findings = findings;
    const walk = <Row>(check: Check, what: string, rows: Iterable<Row>): RowCursor<Row> =>
      new RowCursor(rows, (cause) => findings.unreadable(check, what, cause));
    this.#table = walk("head", "the streams", streamRows(db));
    this.#batches = walk("sequence", "the places of the batches", rowsOf<Sealed>(db, BATCHES, sealedBatch));
    this.#producers = walk("producer", "the producers", rowsOf<Checked<ProducerRow>>(db, PRODUCERS));
    this.#attributes = walk("attribute", "the attributes", rowsOf<Checked<AttributeRow>>(db, ATTRIBUTES));
    this.#forks = walk("fork", "the forks", forkCounts(db, tail));
  }

  run(progress: (done: number) => void): void {
    for (const subject of this.#subjects()) {
      this.#skipOrphans(subject.id);
      this.#checkHead(subject);
      this.#checkRecords(subject);
      this.#checkProducers(subject);
      this.#checkAttributes(subject);
      this.#checkForks(subject);
      progress(++this.streams);
    }
    // Behind the end of a table that cannot be read, everything would look like an orphan.
    if (!this.#table.hasFailed) this.#skipOrphans(Infinity);
  }

  /** All streams in the order of their ids: those of the table, and those that only the unsealed commits know. */
  *#subjects(): Generator<Subject> {
    const { heads } = this.#tail;
    const table = this.#table;
    const changed = [...heads.values()].sort((left, right) => left.id - right.id).values();
    let next = changed.next().value;
    while (!table.hasFailed) {
      const id = Math.min(table.current?.id ?? Infinity, next?.id ?? Infinity);
      if (id === Infinity) return;
      const row = table.current?.id === id ? table.current : null;
      const folded = row === null ? null : decodeHead(row);
      yield { id, row, folded, head: heads.get(id) ?? folded };
      if (row !== null) table.advance();
      if (next?.id === id) next = changed.next().value;
    }
  }

  #checkHead({ id, row, folded, head }: Subject): void {
    if (row === null) return;
    this.bytes += row.head.length;
    const problems = rowProblems(row, folded, this.#tail.nextId);
    if (folded !== null && folded.lastCommit > this.#tail.lastNo) {
      problems.push(`it was last changed by commit ${folded.lastCommit}, which cannot be read`);
    }
    const place = { stream: head?.config.name ?? row.name, streamId: id };
    for (const problem of problems) this.#findings.error("head", `stream ${id} (${row.name}): ${problem}`, place);
  }

  /** From the retained start to the tail, every record is in exactly one place. */
  #checkRecords({ id, head }: Subject): void {
    const rows = this.#batches.while(({ stream }) => stream === id);
    if (head === null || head.deletion === "hard" || this.#tail.broken.has(id)) {
      for (const row of rows) void row;
      return;
    }
    const unsealed = this.#tail.unsealed.get(id);
    const sealedTo = unsealed?.from ?? head.next;
    let next = Math.max(head.retainedFrom, head.config.from);
    let end = head.config.from;
    for (const { first_seq, count } of rows) {
      if (first_seq < end) this.#sequence(head, first_seq, Math.min(end, first_seq + count), "there twice");
      // What lies below the retained start waits to be freed, and may be gone in part.
      if (first_seq > next) this.#sequence(head, next, first_seq, "missing");
      end = Math.max(end, first_seq + count);
      next = Math.max(next, end);
    }
    if (this.#batches.hasFailed) return;
    if (next < sealedTo) this.#sequence(head, next, sealedTo, "missing");
    if (unsealed === undefined && end > head.next) this.#sequence(head, head.next, end, "behind the stream's end");
    if (unsealed !== undefined && end > sealedTo) this.#sequence(head, sealedTo, end, "both sealed and unsealed");
    if (unsealed !== undefined && unsealed.to !== head.next) {
      const [from, to] = [Math.min(unsealed.to, head.next), Math.max(unsealed.to, head.next)];
      this.#sequence(head, from, to, unsealed.to > head.next ? "behind the stream's end" : "missing");
    }
  }

  #sequence(head: StreamHead, from: number, to: number, problem: string): void {
    const { name } = head.config;
    this.#findings.error("sequence", `${recordRange(from, to)} of stream ${head.id} (${name}): ${problem}`, {
      stream: name,
      streamId: head.id,
      from,
      to,
    });
  }

  #checkProducers({ id, folded, head }: Subject): void {
    const name = head?.config.name ?? null;
    const place = { stream: name, streamId: id };
    let count = 0;
    for (const row of this.#producers.while(({ stream }) => stream === id)) {
      count++;
      const { producer, epoch, last_seq } = row;
      const who = `producer '${producer}' of stream ${id} (${name ?? "?"})`;
      if (producerCrc(row) !== row.crc) this.#findings.error("producer", `${who}: its row has a wrong checksum`, place);
      if (!isCount(epoch) || !isCount(last_seq)) {
        this.#findings.error("producer", `${who} stands at epoch ${epoch}, seq ${last_seq}`, place);
      }
    }
    if (head === null || head.deletion === "hard" || this.#producers.hasFailed) return;
    const known = folded?.producerCount ?? 0;
    if (count === known) return;
    const problem = `${count} producers are known, and its head says ${known}: repeats may be taken for new records`;
    this.#findings.error("producer", `stream ${id} (${name ?? "?"}): ${problem}`, place);
  }

  #checkAttributes({ id, head }: Subject): void {
    const name = head?.config.name ?? null;
    for (const row of this.#attributes.while(({ stream }) => stream === id)) {
      if (attributeCrc(row) === row.crc) continue;
      const what = `attribute '${row.key}' of stream ${id} (${name ?? "?"}): its row has a wrong checksum`;
      this.#findings.error("attribute", what, { stream: name, streamId: id });
    }
  }

  #checkForks({ id, head }: Subject): void {
    let forks = 0;
    for (const row of this.#forks.while(({ stream }) => stream === id)) forks += row.forks;
    if (head === null || this.#tail.broken.has(id)) return;
    const { name } = head.config;
    const place = { stream: name, streamId: id };
    this.#findings.guard("fork", `the source of stream ${id} (${name})`, () => {
      for (const problem of forkProblems(this.#db, head, this.#tail)) {
        this.#findings.error("fork", `stream ${id} (${name}): ${problem}`, place);
      }
    });
    if (this.#forks.hasFailed || head.forks === forks) return;
    this.#findings.error("fork", `stream ${id} (${name}) has ${forks} forks, and its head says ${head.forks}`, place);
  }

  /** Rows of streams below `id` that are in no table: whatever was written for them cannot be reached. */
  #skipOrphans(id: number): void {
    const isBelow = ({ stream }: { readonly stream: number }): boolean => stream < id;
    this.#orphans("batch", this.#batches.while(isBelow));
    this.#orphans("producer", this.#producers.while(isBelow));
    this.#orphans("attribute", this.#attributes.while(isBelow));
    for (const { stream } of this.#forks.while(isBelow)) {
      this.#findings.error("fork", `stream ${stream} has forks and does not exist`, { stream: null, streamId: stream });
    }
  }

  /** One finding for each stream and kind. */
  #orphans(kind: string, rows: Iterable<{ readonly stream: number }>): void {
    let streamId = -1;
    let count = 0;
    const report = (): void => {
      if (count === 0) return;
      const what = `${count} ${count === 1 ? "row" : "rows"} of kind '${kind}'`;
      this.#findings.error("orphan", `${what} belong to stream ${streamId}, which does not exist`, {
        stream: null,
        streamId,
      });
    };
    for (const { stream } of rows) {
      if (stream !== streamId) {
        report();
        [streamId, count] = [stream, 0];
      }
      count++;
    }
    report();
  }
}
