/**
 * An online backup of a data directory into another one, from a process of its own: the server may run. Batches are copied first, in short
 * reads, and lie invisible in the target; then one read transaction at the source fixes the point in time, and one transaction in
 * the target makes it agree. Whenever this process ends, the target holds the former backup or the new one, whole.
 * Only what the source's disk has is copied, so that a power cut there cannot take back what the backup holds.
 */

import { constants, Database } from "bun:sqlite";
import { closeSync, existsSync, fdatasyncSync, openSync, realpathSync, statSync } from "node:fs";
import { join, resolve } from "node:path";
import { pathToFileURL } from "node:url";
import type { Clock } from "../../kit/clock.ts";
import { assertContinues, missingBatches, surplusBatches } from "./backup-lineage.ts";
import { type BackupMark, readBackupMark, writeBackupMark } from "./backup-mark.ts";
import { type CommitRow, linkProblem, prevCrcOf } from "./commit-chain.ts";
import { DataDirectory } from "./data-directory.ts";
import { holdsFiles, makeDirectory, moveWal, syncPath, writeHighwater } from "./directory-files.ts";
import { copyLargeFiles, removeOtherFiles } from "./backup-files.ts";
import { Findings, reasonOf } from "./finding.ts";
import { Highwater } from "./highwater.ts";
import { inspect, type Inspection, type InspectionListener } from "./inspection.ts";
import { metaCrc, type MetaValues } from "./row-crc.ts";
import { assertDataDirectory, assertSchema, DirectoryRefused, DirectoryUnsound, openUntouched } from "./untouched.ts";

export interface BackupOptions {
  readonly source: string;
  readonly target: string;
  readonly clock: Clock;
  readonly listener: InspectionListener;
}

export interface BackupResult {
  /** Copied by this run, and their bytes. */
  readonly batches: number;
  readonly bytes: number;
  /** In the former backup, and gone since. */
  readonly removedBatches: number;
  readonly lastCommit: number;
  /** Went on where a run before was interrupted. */
  readonly resumed: boolean;
  /** How long one read held the source's write-ahead log, at most. */
  readonly heldMs: number;
  readonly inspection: Inspection;
}

const SLICE_BYTES = 4 * 1024 * 1024;
const SLICE_ROWS = 256;
const FIX_ATTEMPTS = 3;
const FILE_ROUNDS = 10;
const CHECKPOINT_BYTES = 16 * 1024 * 1024;
const CACHE_BYTES = 16 * 1024 * 1024;
/** A reader meets a lock only while somebody opens the source or starts its log anew. */
const PATIENCE_MS = 10_000;

/** Throws `DirectoryRefused` before anything is written, and `DirectoryUnsound` when the source cannot be read. */
export async function backUp({ source, target, clock, listener }: BackupOptions): Promise<BackupResult> {
  assertDataDirectory(source);
  assertTarget(source, target);
  const directory = openTarget(target);
  try {
    const findings = new Findings((finding) => listener.finding(finding));
    const copy = new Copy(source, directory, clock, listener, findings);
    const copied = copy.run();
    await finish(directory.path, copied.lastCommit);
    // Nothing is written any more: it looks at the header of log.db, which ends the locks that our connection has on the file.
    const inspection = inspect(directory.path, listener);
    const errors = inspection.errors + findings.errors;
    return { ...copied, inspection: { ...inspection, errors, warnings: inspection.warnings + findings.warnings } };
  } finally {
    directory.close();
  }
}

/** In use, of a newer release, damaged: nothing was copied so far. */
function openTarget(target: string): DataDirectory {
  try {
    makeDirectory(target);
    return DataDirectory.open(target, CACHE_BYTES);
  } catch (cause) {
    throw new DirectoryRefused(`the target cannot be used: ${reasonOf(cause)}`, { cause });
  }
}

async function finish(path: string, lastCommit: number): Promise<void> {
  try {
    await writeHighwater(path, lastCommit);
    syncPath(path);
  } catch (cause) {
    const state = "the target holds the new backup, but may not know its end; run the backup again";
    throw new DirectoryUnsound(`the backup stopped (${reasonOf(cause)}): ${state}`, { cause });
  }
}

/** The target is new, empty, or a backup: anything else is never written to. */
function assertTarget(source: string, target: string): void {
  const path = resolve(target);
  if (!existsSync(path)) return;
  if (!statSync(path).isDirectory()) throw new DirectoryRefused(`${path} is not a directory`);
  if (realpathSync(path) === realpathSync(source)) throw new DirectoryRefused("a backup needs a directory of its own");
  if (!holdsFiles(path)) return;
  assertDataDirectory(path);
  const log = openUntouched(join(path, "log.db"));
  try {
    if (isEmpty(log.db) || readBackupMark(log.db) !== null) return;
    throw new DirectoryRefused(`${path} is the data directory of a server, not a backup; use another --to`);
  } catch (cause) {
    if (cause instanceof DirectoryRefused) throw cause;
    throw new DirectoryRefused(`the backup ${path} cannot be read (${reasonOf(cause)}); use another --to`, { cause });
  } finally {
    log.close();
  }
}

/** Whether a directory was begun and then left before anything was written. */
function isEmpty(db: Database): boolean {
  if (db.query<{ n: number }, []>("SELECT count(*) AS n FROM sqlite_schema").get()?.n === 0) return true;
  const next = db.query<{ value: number }, []>("SELECT value FROM meta WHERE key = 'next_id'").get();
  return next?.value === 1 && db.query("SELECT 1 FROM commits LIMIT 1").get() === null;
}

class Copy {
  readonly #db: Database;
  readonly #source: string;
  readonly #target: string;
  readonly #clock: Clock;
  readonly #listener: InspectionListener;
  readonly #findings: Findings;
  #batches = 0;
  #bytes = 0;
  #unsyncedBytes = 0;

  constructor(source: string, target: DataDirectory, clock: Clock, listener: InspectionListener, findings: Findings) {
    this.#source = source;
    this.#target = target.path;
    this.#findings = findings;
    this.#clock = clock;
    this.#listener = listener;
    // A second connection, because the source is attached by a URL that makes it read-only.
    const flags = constants.SQLITE_OPEN_READWRITE | constants.SQLITE_OPEN_URI;
    this.#db = new Database(target.file("log.db"), flags);
    this.#db.run(`PRAGMA busy_timeout = ${PATIENCE_MS}`);
    this.#db.run("PRAGMA wal_autocheckpoint = 0");
    this.#db.run("PRAGMA synchronous = NORMAL");
  }

  run(): Omit<BackupResult, "inspection"> {
    try {
      return this.#run();
    } catch (cause) {
      if (cause instanceof DirectoryRefused || cause instanceof DirectoryUnsound) throw cause;
      const state = "what the target held is as it was; run the backup again to go on";
      throw new DirectoryUnsound(`the backup stopped (${reasonOf(cause)}): ${state}`, { cause });
    } finally {
      this.#db.close();
    }
  }

  #run(): Omit<BackupResult, "inspection"> {
    const db = this.#db;
    const url = pathToFileURL(resolve(this.#source, "log.db")).href;
    db.query<never, [string]>("ATTACH ? AS src").run(`${url}?mode=ro`);
    assertSchema(db, this.#source, "src");
    const mark = readBackupMark(db) ?? { no: 0, crc: 0, sealedNo: 0, atMs: 0 };
    writeBackupMark(db, mark);
    const startMs = this.#clock.monotonicMs();
    const resumed = assertContinues(db, mark);
    const comparedMs = this.#clock.monotonicMs() - startMs;
    // A number that the source has lost may be another commit's by now.
    removeOtherFiles(db, this.#target);
    this.#copyBatches();
    this.#copyFiles();
    const fixed = this.#fixPointInTime();
    removeOtherFiles(db, this.#target);
    const heldMs = Math.max(comparedMs, fixed.heldMs);
    return { resumed, ...fixed, heldMs, batches: this.#batches, bytes: this.#bytes };
  }

  /** Copies what is visible at the source in short reads, until next to nothing is left. */
  #copyBatches(): void {
    let last = maxBatch(this.#db);
    const first = last;
    const sealedBatch = this.#db.query<{ value: number }, []>("SELECT value FROM src.meta WHERE key = 'sealed_batch'");
    const sizes = this.#db.query<BatchSize, [number, number, number]>(
      "SELECT id, length(shape) + length(frame) AS bytes FROM src.batches WHERE id > ? AND id <= ? ORDER BY id LIMIT ?",
    );
    for (;;) {
      const visible = sealedBatch.get()?.value ?? 0;
      const slice = sliceOf(sizes.all(last, visible, SLICE_ROWS));
      if (slice.rows === 0) break;
      this.#copyRange(last, slice);
      last = slice.lastId;
      this.#listener.progress("copying batches", last - first, Math.max(visible, last) - first);
    }
    this.#checkpoint();
  }

  #copyRange(after: number, slice: Slice): void {
    const copy = this.#db.query<never, [number, number]>(
      "INSERT INTO main.batches SELECT * FROM src.batches WHERE id > ? AND id <= ?",
    );
    this.#batches += copy.run(after, slice.lastId).changes;
    this.#bytes += slice.bytes;
    this.#unsyncedBytes += slice.bytes;
    if (this.#unsyncedBytes >= CHECKPOINT_BYTES) this.#checkpoint();
  }

  /** The less is left to copy, the shorter the source's log is held. */
  #copyFiles(): void {
    for (let round = 0; round < FILE_ROUNDS; round++) {
      const files = copyLargeFiles(this.#db, this.#source, this.#target);
      this.#bytes += files.bytes;
      if (files.bytes < CHECKPOINT_BYTES) return;
    }
  }

  /** Makes the target equal to one moment of the source. A file that the server removes in this moment makes it another one. */
  #fixPointInTime(): Fixed {
    for (let attempt = 1; ; attempt++) {
      try {
        return this.#fixOnce(attempt === FIX_ATTEMPTS);
      } catch (cause) {
        if (!(cause instanceof FilesGone)) throw cause;
      }
    }
  }

  /** `acceptMissing`: a file that is still missing is damage of the source, and is copied as such. */
  #fixOnce(acceptMissing: boolean): Fixed {
    const db = this.#db;
    // Read before: what is durable then must be in what is read afterwards.
    const highwaterNo = Highwater.read(join(this.#source, "highwater"));
    const startMs = this.#clock.monotonicMs();
    // What replaces the former backup is on the disk when the transaction ends.
    db.run("PRAGMA main.synchronous = FULL");
    const fix = db.transaction(() => {
      const counters = countersOf(db);
      const last = assertChain(db, counters, highwaterNo);
      const removedBatches = this.#alignBatches(counters.sealed_batch);
      this.#listener.progress("copying streams", 0, null);
      for (const table of TABLES) {
        db.run(`DELETE FROM main.${table}`);
        db.run(`INSERT INTO main.${table} SELECT * FROM src.${table}`);
      }
      db.run("DELETE FROM main.commits");
      db.query<never, [number]>("INSERT INTO main.commits SELECT * FROM src.commits WHERE no > ?").run(
        counters.sealed_no,
      );
      db.run("DELETE FROM main.meta");
      db.run("INSERT INTO main.meta SELECT * FROM src.meta WHERE key NOT LIKE 'backup_%'");
      const mark: BackupMark = { ...last, sealedNo: counters.sealed_no, atMs: this.#clock.nowMs() };
      writeBackupMark(db, mark);
      const files = copyLargeFiles(db, this.#source, this.#target);
      if (files.missing > 0 && !acceptMissing) throw new FilesGone();
      this.#bytes += files.bytes;
      syncWal(this.#source);
      return { removedBatches, lastCommit: last.no };
    });
    const fixed = fix.immediate();
    const heldMs = this.#clock.monotonicMs() - startMs;
    if (!moveWal(db)) {
      const what = "somebody reads the target: its write-ahead log stays as large as it is until the next run";
      this.#findings.warning("leftover", what);
    }
    return { ...fixed, heldMs };
  }

  /** Copies the last batches, and removes those that the source has freed; returns how many. */
  #alignBatches(sealedBatch: number): number {
    const remove = this.#db.query<never, [number]>("DELETE FROM main.batches WHERE id = ?");
    const surplus = surplusBatches(this.#db, sealedBatch);
    for (const id of surplus.ids) remove.run(id);
    const copy = this.#db.query<never, [number]>("INSERT INTO main.batches SELECT * FROM src.batches WHERE id = ?");
    const size = this.#db.query<{ bytes: number }, [number]>(
      "SELECT length(shape) + length(frame) AS bytes FROM src.batches WHERE id = ?",
    );
    const missing = missingBatches(this.#db, sealedBatch);
    for (const id of missing.ids) {
      this.#batches += copy.run(id).changes;
      this.#bytes += size.get(id)?.bytes ?? 0;
    }
    const wrong = Math.max(surplus.wrongEntries, missing.wrongEntries);
    if (wrong > 0) {
      const what = `${wrong} entries of the index of the batches, at the source or in the target, say otherwise than the batches`;
      this.#findings.error("sqlite", `${what}; doctor says where. The batches themselves are copied`);
    }
    return surplus.ids.length;
  }

  #checkpoint(): void {
    this.#unsyncedBytes = 0;
    // What a reader keeps back goes with a later one.
    moveWal(this.#db);
  }
}

class FilesGone extends Error {}

type Fixed = Pick<BackupResult, "removedBatches" | "lastCommit" | "heldMs">;

interface BatchSize {
  readonly id: number;
  readonly bytes: number;
}

interface Slice {
  readonly rows: number;
  readonly lastId: number;
  readonly bytes: number;
}

/** As many rows as one short read may copy; one at least. */
function sliceOf(sizes: readonly BatchSize[]): Slice {
  let slice: Slice = { rows: 0, lastId: 0, bytes: 0 };
  for (const { id, bytes } of sizes) {
    if (slice.rows > 0 && slice.bytes + bytes > SLICE_BYTES) break;
    slice = { rows: slice.rows + 1, lastId: id, bytes: slice.bytes + bytes };
  }
  return slice;
}

function maxBatch(db: Database): number {
  return db.query<{ id: number | null }, []>("SELECT max(id) AS id FROM main.batches").get()?.id ?? 0;
}

/** The source's counters. They say what the backup may drop, so a wrong one must not be believed. */
function countersOf(db: Database): MetaValues {
  const select = db.query<{ value: number }, [string]>("SELECT value FROM src.meta WHERE key = ?");
  const value = (key: string): number => select.get(key)?.value ?? Number.NaN;
  const counters = {
    sealed_no: value("sealed_no"),
    sealed_crc: value("sealed_crc"),
    sealed_batch: value("sealed_batch"),
    next_id: value("next_id"),
  };
  if (metaCrc(counters) === value("crc")) return counters;
  throw new DirectoryUnsound("the source's counters are damaged: nothing was replaced in the target; doctor says more");
}

/** The last commit of the source. Throws where a server would refuse to start: such a source replaces no backup. */
function assertChain(db: Database, counters: MetaValues, highwaterNo: number): Pick<BackupMark, "no" | "crc"> {
  let last = { no: counters.sealed_no, crc: counters.sealed_crc };
  let problem: string | null = null;
  const rows = db.query<CommitRow, [number]>("SELECT no, crc, hdr, data FROM src.commits WHERE no > ? ORDER BY no");
  for (const row of rows.iterate(counters.sealed_no)) {
    problem ??= linkProblem(row, last);
    if (problem === null && prevCrcOf(row) !== last.crc) problem = `commit ${row.no} does not follow commit ${last.no}`;
    last = { no: row.no, crc: row.crc };
  }
  if (problem === null && last.no < highwaterNo) problem = `commits ${last.no + 1} to ${highwaterNo} are missing`;
  if (problem === null) return last;
  throw new DirectoryUnsound(
    `the source has lost acknowledged commits (${problem}): nothing was replaced in the target`,
  );
}

/** Tables that are small next to the batches, and change anywhere: copied whole. Comparing them row by row takes ten times as long. */
const TABLES = ["streams", "producers", "attributes"] as const;

/** A commit that the source could still lose in a power cut must not be in the backup. */
function syncWal(source: string): void {
  const file = join(source, "log.db-wal");
  if (!existsSync(file)) return;
  const fd = openSync(file, "r");
  try {
    fdatasyncSync(fd);
  } finally {
    closeSync(fd);
  }
}
