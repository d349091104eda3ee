/**
 * The sealer: turns the oldest commits into batches ordered by stream, folds the changed heads into their tables, then moves
 * `sealed_no` in one small transaction; commit rows below it are deleted afterwards. Until that transaction nothing
 * of a pass is visible, so a crash at any point leaves either the commits or the batches, never neither and never both.
 * It also frees what retention and deletion gave up. One pass at a time; a failure is fatal.
 */

import type { Database } from "bun:sqlite";
import { assert, present } from "../../kit/assert.ts";
import { nextTurn } from "../../kit/turn.ts";
import { DiskFull } from "../../protocol/faults.ts";
import { LATENCY_SECONDS, type Metrics } from "../../kit/metrics.ts";
import type { MemoryBudget } from "../../protocol/budget.ts";
import { SEAL_AFTER_MS } from "../../protocol/limits.ts";
import type { StreamChange } from "../../protocol/stream.ts";
import type { Background } from "./background.ts";
import type { Batches, BatchRow } from "./batches.ts";
import { failStop } from "./fatal.ts";
import type { Heads } from "./heads.ts";
import type { LargeFiles } from "./large-files.ts";
import { readMeta, writeMeta } from "./meta.ts";
import type { StorageThread } from "./storage-thread.ts";
import type { Window } from "./window.ts";
import { BATCH_COLUMNS, type PrepareReply } from "./worker-messages.ts";

const DELETE_COMMITS_BYTES = 512 * 1024;
const DROP_ROWS = 10_000;
const FREE_ROWS = 64;
const FREE_FILES = 64;
/** Steps in which deleted streams are freed although the next pass is due; while none is, all of them go. */
const FREE_STEPS = 1_000;
/** While the disk is full, or descriptors are, only the once-a-second poke comes: about three seconds. */
const PAUSED_POLLS = 3;
/** Bytes a folded head adds to the WAL, roughly. */
const HEAD_BYTES = 400;

export interface SealerParts {
  readonly db: Database;
  readonly background: Background;
  readonly batches: Batches;
  readonly heads: Heads;
  readonly window: Window;
  readonly thread: StorageThread;
  readonly budget: MemoryBudget;
  readonly metrics: Metrics;
  readonly large: LargeFiles;
  /** Resolves when every transaction committed before is durable. Failing is fatal. */
  readonly syncWal: () => Promise<void>;
}

export class Sealer {
  readonly #parts: SealerParts;
  readonly #deleteCommits;
  readonly #oldestCommit;
  readonly #seconds;
  readonly #batches;
  readonly #bytes;
  #sealedNo: number;
  #nextId: () => number;
  #running: Promise<void> | null = null;
  /** Pokes to let pass after the disk was full. */
  #pausedPolls = 0;
  /** Whether rows may wait to be freed: at a start nobody knows. Which streams are deleted, their table says. */
  #mayFree = true;
  /** Trimmed streams with their new start. */
  readonly #trimming = new Map<number, number>();
  #isStopping = false;

  constructor(parts: SealerParts, nextId: () => number) {
    this.#parts = parts;
    this.#nextId = nextId;
    const { metrics } = parts;
    this.#seconds = metrics.histogram("streams_seal_seconds", "Whole passes of the sealer.", LATENCY_SECONDS);
    this.#batches = metrics.counter("streams_sealed_batches_total", "Batches written by the sealer.");
    this.#bytes = metrics.counter("streams_sealed_bytes_total", "Compressed bytes of these batches.");
    this.#sealedNo = readMeta(parts.db).sealed_no;
    this.#deleteCommits = parts.db.query<never, [number]>("DELETE FROM commits WHERE no = ?");
    this.#oldestCommit = parts.db.query<{ no: number; size: number }, [number]>(
      "SELECT no, length(hdr) + length(data) AS size FROM commits WHERE no <= ? ORDER BY no LIMIT 1",
    );
  }

  /** Remembers rows to free with the next pass: of a stream that is gone for good, or below its retained start. */
  noteFreed({ id, deletion, retainedFrom }: Pick<StreamChange, "id" | "deletion" | "retainedFrom">): void {
    if (retainedFrom !== undefined) this.#trimming.set(id, retainedFrom);
    if (deletion === "hard" || retainedFrom !== undefined) this.#mayFree = true;
  }

  /**
   * Starts a pass when the window has reached a mark, or when room is short and there may be some to free: then also when there is
   * nothing to seal, as nothing else would come while no payload is taken. Cheap; called after every commit and once a second.
   */
  poke(nowMs: number, isShort = false): void {
    if (this.#running !== null || this.#pausedPolls-- > 0) return;
    this.#pausedPolls = 0;
    const { commits, oldestMs } = this.#parts.window;
    const aged = oldestMs !== null && nowMs - oldestMs >= SEAL_AFTER_MS;
    if (!this.#isDue() && !aged && !(isShort && this.#mayFree)) return;
    this.#start(() => (commits > 0 ? this.#pass() : this.#free()));
  }

  /** Whether the window has reached a mark. */
  #isDue(): boolean {
    const { window, budget } = this.#parts;
    return window.bytes >= budget.sealAtBytes || window.ranges >= budget.sealAtRanges;
  }

  /** Seals everything there is, now. */
  async sealAll(): Promise<void> {
    await this.#running;
    while (this.#parts.window.commits > 0) {
      this.#start(() => this.#pass());
      await this.#running;
    }
  }

  /** Makes the tables agree with the heads in memory (all, or those named), for lists and sweeps. */
  async foldHeads(ids: readonly number[] = this.#parts.heads.changedIds()): Promise<void> {
    if (ids.length === 0) return;
    let index = 0;
    let written: number[] = [];
    await this.#parts.background.run(
      () => {
        const id = ids[index++];
        if (id === undefined) return null;
        this.#parts.heads.fold(id);
        written.push(id);
        return HEAD_BYTES;
      },
      () => {
        for (const id of written) this.#parts.heads.markFolded(id);
        written = [];
      },
    );
  }

  /** Goes on with what a process before had begun: what it trimmed, retention finds again. */
  resume(): void {
    this.#start(async () => {
      await this.#parts.large.countFiles();
      await this.#freeDeleted();
      await this.#removeFiles();
    });
  }

  /** What waits to be freed is left to the next start. */
  async stop(): Promise<void> {
    this.#isStopping = true;
    await this.#running;
  }

  #start(work: () => Promise<void>): void {
    this.#running = work()
      .catch((cause: unknown) => {
        if (!(cause instanceof DiskFull)) {
          failStop("sealing", cause, "Look for disk errors and free space, then start the server again.");
        }
        this.#pause();
      })
      .finally(() => (this.#running = null));
  }

  /** Nothing of the pass is visible, or it has not freed all: the next one starts over. */
  #pause(): void {
    this.#pausedPolls = PAUSED_POLLS;
    this.#mayFree = true;
  }

  async #pass(): Promise<void> {
    const { window, thread, background, db, budget, batches, large } = this.#parts;
    const startMs = performance.now();
    const to = window.lastNoWithin(budget.sealPassBytes);
    const crc = window.crcOf(to);
    // What a pass left behind that ran into a full disk.
    const visible = readMeta(db).sealed_batch;
    await background.once(() => batches.freeInvisible(visible));
    const prepared = await thread.prepare(this.#sealedNo + 1, to);
    if (prepared === null) return this.#pause();
    const unused = new Set<number>();
    const lastBatch = await this.#insert(prepared, unused);
    await this.foldHeads();
    await large.syncWritten();
    await background.once(() => {
      for (const file of unused) batches.noteFreedFile(file);
      const next_id = this.#nextId();
      writeMeta(db, { sealed_no: to, sealed_crc: crc, sealed_batch: lastBatch ?? visible, next_id });
    });
    this.#sealedNo = to;
    while (!window.dropThrough(to, DROP_ROWS)) await nextTurn();
    await this.#forgetCommits(to);
    await this.#free();
    this.#seconds.observe((performance.now() - startMs) / 1000);
  }

  /** `unused`: takes the files of rows that were left out. */
  async #insert(prepared: PrepareReply, unused: Set<number>): Promise<number | null> {
    const { background, batches, heads } = this.#parts;
    const rows = readBatches(prepared);
    let last: number | null = null;
    await background.run(() => {
      const { value: row } = rows.next();
      if (row === undefined) return null;
      // A stream that is gone for good needs no batches; its rows are freed below.
      if (heads.soundById(row.stream)?.deletion === "hard") {
        if (row.file !== null) unused.add(row.file);
        return 0;
      }
      last = batches.insert(row);
      this.#batches.add();
      this.#bytes.add(row.shape.length + row.frame.length);
      return row.shape.length + row.frame.length;
    });
    return last;
  }

  async #forgetCommits(to: number): Promise<void> {
    await this.#parts.background.run(() => {
      let bytes = 0;
      while (bytes < DELETE_COMMITS_BYTES) {
        const oldest = this.#oldestCommit.get(to);
        if (oldest === null) return null;
        this.#deleteCommits.run(oldest.no);
        bytes += oldest.size;
      }
      return 0;
    });
  }

  /** Frees the rows of trimmed ranges and of deleted streams whose every commit is sealed. */
  async #free(): Promise<void> {
    const { background, batches } = this.#parts;
    this.#mayFree = false;
    for (const [id, before] of this.#trimming) {
      await background.run(() => (batches.freeBelow(id, before, FREE_ROWS) ? null : FREE_ROWS * PAGE_BYTES));
      if (this.#trimming.get(id) === before) this.#trimming.delete(id);
    }
    await this.#freeDeleted();
    await this.#removeFiles();
  }

  /** Removes files that nothing refers to any more: only once the disk knows that. */
  async #removeFiles(): Promise<void> {
    const { background, batches, large, syncWal } = this.#parts;
    for (;;) {
      const freed = batches.freedFiles(FREE_FILES);
      if (freed.length === 0) return;
      await syncWal();
      for (const { file, isReferred } of freed) {
        // What is not sealed is referred to by its commit.
        if (!isReferred && file <= this.#sealedNo) large.remove(file);
        await nextTurn();
      }
      await large.syncNames();
      await background.once(() => {
        for (const { file } of freed) batches.forgetFreedFile(file);
      });
    }
  }

  /** Many streams in one slice. */
  async #freeDeleted(): Promise<void> {
    const steps = this.#freeSteps();
    let taken = 0;
    await this.#parts.background.run(() => {
      if (this.#isStopping || (taken++ >= FREE_STEPS && this.#isDue())) {
        this.#mayFree = true;
        return null;
      }
      return steps.next().value ?? null;
    });
  }

  /** Yields the bytes that each step wrote. */
  *#freeSteps(): Generator<number, undefined> {
    const { batches, heads } = this.#parts;
    for (const id of heads.deletedIds()) {
      const head = heads.soundById(id);
      if (head?.deletion !== "hard") continue;
      if (head.lastCommit > this.#sealedNo) {
        this.#mayFree = true;
      } else {
        while (!batches.freeBelow(id, Number.MAX_SAFE_INTEGER, FREE_ROWS)) yield FREE_ROWS * PAGE_BYTES;
        while (!heads.free(id, FREE_ROWS)) yield FREE_ROWS * HEAD_BYTES;
      }
      yield HEAD_BYTES;
    }
    return undefined;
  }
}

const PAGE_BYTES = 4096;

function* readBatches({ table, bytes }: PrepareReply): Generator<BatchRow, undefined> {
  const width = BATCH_COLUMNS.length;
  assert(table.length % width === 0, "a batch table of whole rows");
  let at = 0;
  for (let row = 0; row < table.length; row += width) {
    const value = (column: (typeof BATCH_COLUMNS)[number]): number =>
      present(table[row + BATCH_COLUMNS.indexOf(column)], column);
    const shapeLength = value("shape");
    const frameAt = at + shapeLength;
    const end = frameAt + value("frame");
    yield {
      stream: value("stream"),
      first_seq: value("first_seq"),
      count: value("count"),
      bytes: value("bytes"),
      first_ms: value("first_ms"),
      last_ms: value("last_ms"),
      raw: value("raw"),
      codec: value("codec"),
      crc: value("crc"),
      shape: bytes.subarray(at, frameAt),
      frame: bytes.subarray(frameAt, end),
      file: value("file") === 0 ? null : value("file"),
    };
    at = end;
  }
  return undefined;
}
