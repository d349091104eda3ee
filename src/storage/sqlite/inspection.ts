/**
 * The whole of a data directory looked at, offline and without a change: every checksum, every sequence, every reference
 * (docs/operations.md). The caller holds the directory still (`untouched.ts`). Memory is bounded by what the unsealed commits change.
 */

import type { Database } from "bun:sqlite";
import { existsSync, readFileSync, rmSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { Damage } from "../../protocol/faults.ts";
import { readBackupMark } from "./backup-mark.ts";
import { type Finding, Findings, reasonOf } from "./finding.ts";
import { Highwater } from "./highwater.ts";
import { inspectBatches } from "./inspect-batches.ts";
import { inspectCommits, inspectMeta, type Tail } from "./inspect-commits.ts";
import { inspectNames } from "./inspect-forks.ts";
import { inspectStreams } from "./inspect-streams.ts";
import { LARGE_DIRECTORY, largeFiles, partReader } from "./large-files.ts";
import { checkDatabase } from "./start-checks.ts";
import { assertDataDirectory, assertSchema, DirectoryRefused, openUntouched } from "./untouched.ts";

/** Of hundreds of problems in one file, the first ones tell it all. */
const MAX_SQLITE_PROBLEMS = 100;

export interface Inspection {
  readonly errors: number;
  readonly warnings: number;
  readonly streams: number;
  readonly records: number;
  readonly batches: number;
  readonly commits: number;
  /** Stored bytes that were checked. */
  readonly bytes: number;
  readonly lastCommit: number;
  /** Above every stream id that was given out; null when the counters cannot be read. */
  readonly nextStreamId: number | null;
}

export interface InspectionListener {
  finding(finding: Finding): void;
  /** `total` is null while it cannot be told. */
  progress(step: string, done: number, total: number | null): void;
}

/** Throws `DirectoryRefused` when it is no data directory of this release. Damage of any kind is a finding. */
export function inspect(directory: string, listener: InspectionListener): Inspection {
  assertDataDirectory(directory);
  assertBegun(directory);
  const findings = new Findings((finding) => listener.finding(finding));
  inspectAsStart(join(directory, "log.db"), findings);
  const log = openUntouched(join(directory, "log.db"));
  try {
    const totals = isReadable(log.db, directory, findings)
      ? inspectLog(log.db, directory, findings, listener)
      : NOTHING;
    inspectDerived(join(directory, "derived.db"), findings);
    if (existsSync(join(directory, "log.db-wal.refused"))) {
      findings.warning(
        "leftover",
        "log.db-wal.refused was kept by a start that was refused; remove it when it is no longer needed",
      );
    }
    return { ...totals, errors: findings.errors, warnings: findings.warnings };
  } finally {
    log.close();
  }
}

/** Only the very first start leaves a rollback journal; undoing it would be a change, and there is nothing to check. */
function assertBegun(directory: string): void {
  const journal = join(directory, "log.db-journal");
  if (!existsSync(journal) || statSync(journal).size === 0) return;
  throw new DirectoryRefused(
    `the first start of a server was interrupted in ${resolve(directory)} (there is a log.db-journal), and nothing was stored; start the server once`,
  );
}

type Totals = Omit<Inspection, "errors" | "warnings">;

const NOTHING: Totals = { streams: 0, records: 0, batches: 0, commits: 0, bytes: 0, lastCommit: 0, nextStreamId: null };

/** What a start looks at before anything else, and refuses. */
function inspectAsStart(file: string, findings: Findings): void {
  const scratch = ["-shm", "-wal"].map((suffix) => `${file}${suffix}`).filter((path) => !existsSync(path));
  try {
    checkDatabase(file);
  } catch (cause) {
    const what = `a server would not start: ${reasonOf(cause)}`;
    if (cause instanceof Damage) findings.error("sqlite", what);
    // A disk that cannot be written to, as a backup may lie on: the other checks read it all the same.
    else findings.warning("sqlite", what);
  } finally {
    for (const path of scratch) rmSync(path, { force: true });
  }
}

/** Throws `DirectoryRefused` for another release. */
function isReadable(db: Database, directory: string, findings: Findings): boolean {
  try {
    assertSchema(db, directory);
    return true;
  } catch (cause) {
    if (cause instanceof DirectoryRefused) throw cause;
    findings.error("sqlite", reasonOf(cause));
    return false;
  }
}

function inspectLog(db: Database, directory: string, findings: Findings, listener: InspectionListener): Totals {
  listener.progress("database", 0, null);
  inspectSqlite(db, findings);
  const meta = inspectMeta(db, findings);
  if (meta === null) return NOTHING;
  const mark = findings.attempt("backup", "the mark of a backup", () => readBackupMark(db), null);
  if (mark?.atMs === 0) findings.error("backup", "this is a backup that was never finished; run it again");
  const readFile = partReader(directory);
  const tail = inspectCommits(db, meta, readFile, findings);
  inspectHighwater(join(directory, "highwater"), tail, findings);
  const [batchRows, streamRows] = [rowCount(db, "batches"), rowCount(db, "streams")];
  const batches = inspectBatches(db, meta.sealed_batch, tail, readFile, findings, (done) =>
    listener.progress("batches", done, batchRows),
  );
  inspectFiles(db, directory, tail, findings);
  const streams = inspectStreams(db, meta.sealed_batch, tail, findings, (done) =>
    listener.progress("streams", done, streamRows),
  );
  inspectNames(db, tail, findings);
  return {
    streams: streams.streams,
    records: batches.records + tail.records,
    batches: batches.batches,
    commits: tail.commits,
    bytes: batches.bytes + streams.bytes + tail.bytes,
    lastCommit: tail.lastNo,
    nextStreamId: tail.nextId,
  };
}

/** Files of `large/` that nothing refers to. Those that are referred to were read with what refers to them. */
function inspectFiles(db: Database, directory: string, tail: Tail, findings: Findings): void {
  findings.guard("leftover", "the files of large/", () => {
    const known = db.query<{ found: number }, [number, number, number]>(
      `SELECT EXISTS (SELECT 1 FROM batches WHERE file = ?) OR EXISTS (SELECT 1 FROM commits WHERE no = ?)
        OR EXISTS (SELECT 1 FROM freed_files WHERE file = ?) AS found`,
    );
    for (const file of largeFiles(directory)) {
      if (known.get(file, file, file)?.found === 1) continue;
      const fate = file > tail.lastNo ? "the next start removes it" : "it may be removed";
      findings.warning("leftover", `${LARGE_DIRECTORY}/${file} belongs to no record; ${fate}`);
    }
  });
}

/** Pages, b-trees, and that every index agrees with its table. */
function inspectSqlite(db: Database, findings: Findings): void {
  findings.guard("sqlite", "log.db", () => {
    const rows = db.query<{ integrity_check: string }, []>(`PRAGMA integrity_check(${MAX_SQLITE_PROBLEMS})`).all();
    for (const { integrity_check: problem } of rows) {
      if (problem !== "ok") findings.error("sqlite", `log.db: ${problem.replaceAll("\n", "; ")}`);
    }
  });
}

function rowCount(db: Database, table: "batches" | "streams"): number | null {
  try {
    return db.query<{ n: number }, []>(`SELECT count(*) AS n FROM ${table}`).get()?.n ?? null;
  } catch {
    // Only for the progress; the check of the table itself reports what is wrong with it.
    return null;
  }
}

function inspectHighwater(file: string, tail: Tail, findings: Findings): void {
  if (!existsSync(file)) {
    findings.warning(
      "highwater",
      "there is no highwater file: a lost end of the log would go unnoticed; the next start writes one",
    );
    return;
  }
  const highwaterNo = Highwater.read(file);
  if (highwaterNo === 0 && new Uint8Array(readFileSync(file)).subarray(0, 8).some((byte) => byte !== 0)) {
    findings.warning("highwater", "the highwater file cannot be read; the next start writes it anew");
  }
  if (highwaterNo <= tail.lastNo) return;
  const range = `commits ${tail.lastNo + 1} to ${highwaterNo}`;
  findings.error(
    "highwater",
    `${range} were acknowledged and cannot be read; the server starts only with --accept-loss`,
  );
}

/** A cache: whatever is wrong with it costs a read of the log. */
function inspectDerived(file: string, findings: Findings): void {
  if (!existsSync(file)) return;
  const problem = derivedProblem(file);
  if (problem !== null)
    findings.warning("derived", `derived.db cannot be used (${problem}); it is made again from the log`);
}

function derivedProblem(file: string): string | null {
  try {
    const derived = openUntouched(file);
    try {
      const row = derived.db.query<{ integrity_check: string }, []>("PRAGMA integrity_check(1)").get();
      return row?.integrity_check === "ok" ? null : (row?.integrity_check ?? "no answer");
    } finally {
      derived.close();
    }
  } catch (cause) {
    return reasonOf(cause);
  }
}
