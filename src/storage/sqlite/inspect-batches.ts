/**
 * Inspection of sealed batches, one by one in the order in which they were written: checksum, and that each unpacks to what its row
 * says. Whether they follow each other is the matter of `inspect-streams.ts`.
 */

import type { Database } from "bun:sqlite";
import type { StreamHead } from "../../protocol/stream.ts";
import { DamagedRange } from "../../protocol/faults.ts";
import { type BatchRow, batchCrc, COLUMNS, decodeBatchShape, fileOf, payloadOf } from "./batches.ts";
import { type Findings, reasonOf, recordRange } from "./finding.ts";
import type { Tail } from "./inspect-commits.ts";
import { headById } from "./inspect-heads.ts";
import { LARGE_DIRECTORY, type ReadPart } from "./large-files.ts";

export interface BatchTotals {
  readonly batches: number;
  readonly records: number;
  readonly bytes: number;
}

export function inspectBatches(
  db: Database,
  sealedBatch: number,
  tail: Tail,
  readFile: ReadPart,
  findings: Findings,
  progress: (done: number) => void,
): BatchTotals {
  const totals = { batches: 0, records: 0, bytes: 0 };
  findings.guard("batch", "the batches", () => {
    const select = db.query<BatchRow, [number]>(`SELECT ${COLUMNS} FROM batches WHERE id <= ? ORDER BY id`);
    for (const row of select.iterate(sealedBatch)) {
      totals.batches++;
      totals.records += row.count;
      totals.bytes += row.shape.length + row.frame.length + (row.file === null ? 0 : row.raw);
      const problem = batchProblem(row, readFile);
      if (problem !== null) report(db, row, problem, tail, findings);
      progress(totals.batches);
    }
  });
  findings.guard("batch", "the batches that are not visible", () => {
    const invisible = db.query<{ n: number }, [number]>("SELECT count(*) AS n FROM batches WHERE id > ?");
    const unfinished = invisible.get(sealedBatch)?.n ?? 0;
    if (unfinished === 0) return;
    const what = `${unfinished} batches belong to a sealing pass or a backup that did not finish`;
    findings.warning("leftover", `${what}; the next one removes them`);
  });
  return totals;
}

/** What is wrong with a batch by itself, or null. */
export function batchProblem(row: BatchRow, readFile: ReadPart): string | null {
  try {
    if (batchCrc(row, row.shape, row.frame) !== row.crc || fileOf(row) !== row.file) return "wrong checksum";
    return contentProblem(row, readFile);
  } catch (cause) {
    if (cause instanceof DamagedRange) return `its file ${LARGE_DIRECTORY}/${row.file} is missing or damaged`;
    return `cannot be unpacked (${reasonOf(cause)})`;
  }
}

/** For a row whose checksum is right: only a bug of ours could have written what this finds. */
function contentProblem(row: BatchRow, readFile: ReadPart): string | null {
  const { blocks } = decodeBatchShape(row);
  let records = 0;
  let appended = 0;
  let bytes = 0;
  for (const block of blocks) {
    records += block.lengths.length;
    for (const length of block.lengths) bytes += length;
    for (const append of block.appends) appended += append.count;
  }
  if (records !== row.count || appended !== row.count) return `a shape of ${records} records in ${appended} marks`;
  if (bytes !== row.bytes) return `a shape of ${bytes} bytes instead of ${row.bytes}`;
  const joined = bytes + (blocks[0]?.separated === true ? records - 1 : 0);
  const unpacked = payloadOf(row, readFile).length;
  if (joined !== row.raw || unpacked !== row.raw) return `unpacked ${unpacked} bytes instead of ${row.raw}`;
  return null;
}

function report(db: Database, row: BatchRow, problem: string, tail: Tail, findings: Findings): void {
  const stored = (): StreamHead | null => headById(db, row.stream);
  const head = tail.heads.get(row.stream) ?? findings.attempt("head", `stream ${row.stream}`, stored, null);
  const to = row.first_seq + row.count;
  const name = head?.config.name ?? null;
  const place = { stream: name, streamId: row.stream, from: row.first_seq, to };
  const what = `${recordRange(row.first_seq, to)} of stream ${row.stream} (${name ?? "its name cannot be read"}): ${problem}`;
  const isGivenUp = head !== null && (head.deletion === "hard" || to <= head.retainedFrom);
  if (isGivenUp) findings.warning("batch", `${what}; deleted or trimmed before`, place);
  else findings.error("batch", what, place);
}
