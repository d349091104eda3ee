/**
 * The store on SQLite: one writing connection, one row per commit, durable by our own `fdatasync` of the WAL off the event
 * loop (docs/architecture.md). Hot reads come from the window in memory, cold ones from sealed batches.
 * Invariant: one commit is in the making at a time, so heads in memory are always the durable face and the next group is
 * decided on them; a failed INSERT changes nothing, a failed sync ends the process.
 */

import type { Database } from "bun:sqlite";
import { statfs } from "node:fs/promises";
import { assert, present } from "../../kit/assert.ts";
import type { Clock } from "../../kit/clock.ts";
import { decideGroup } from "../../protocol/group.ts";
import { type Decided, type Intent, intentBytes, type Outcome } from "../../protocol/intents.ts";
import { LATENCY_SECONDS, Metrics } from "../../kit/metrics.ts";
import { type MemoryBudget, memoryBudget } from "../../protocol/budget.ts";
import { MIN_FREE_DISK_BYTES, MIN_FREE_DISK_SHARE } from "../../protocol/limits.ts";
import { applyChange, type Commit, type StreamHead } from "../../protocol/stream.ts";
import type { Rejection } from "../../protocol/verdicts.ts";
import type {
  Chunk,
  FrameChunk,
  FrameRequest,
  ListQuery,
  ReadRequest,
  StoreStatus,
  StreamCatalog,
  StreamLog,
  StreamStore,
  TrimBounds,
  TrimPoint,
} from "../port.ts";
import { largest } from "../../kit/largest.ts";
import { AccessMark } from "./access-mark.ts";
import { Background } from "./background.ts";
import { Batches } from "./batches.ts";
import { Checkpointer } from "./checkpointer.ts";
import { asDamage } from "./corruption.ts";
import { LostTail } from "./commit-chain.ts";
import { encodeCommit, type EncodedCommit } from "./commit-codec.ts";
import { DataDirectory } from "./data-directory.ts";
import { isDiskFull, isOutOfDescriptors } from "./system-errors.ts";
import { failStop } from "./fatal.ts";
import { Heads } from "./heads.ts";
import { Highwater } from "./highwater.ts";
import { Hold } from "./hold.ts";
import { recover, type Recovered } from "./recovery.ts";
import { Records } from "./records.ts";
import { Sealer } from "./sealer.ts";
import { StorageThread } from "./storage-thread.ts";
import { SyncPace } from "./sync-pace.ts";
import { Window } from "./window.ts";

export interface SqliteStoreOptions {
  readonly directory: string;
  /** `fsync`: acknowledged after the disk has it. `os`: after the commit; survives a process crash, not a power cut. */
  readonly durability: "fsync" | "os";
  /** Go on although acknowledged commits are missing or damaged. */
  readonly acceptLoss: boolean;
  /** Past so many bytes nothing more is taken; null (default) = as many as the disk has room for. */
  readonly maxStoredBytes?: number | null;
  readonly clock: Clock;
  readonly metrics?: Metrics;
  /** Default: that of a process without a memory limit. */
  readonly budget?: MemoryBudget;
}

const HOUSEKEEPING_MS = 1_000;
/** While nothing is written, others may still fill the disk: looked at every so many times. */
const IDLE_LOOKS = 10;
const SYNC_HINT =
  "Look for disk errors (dmesg), then start the server again: everything acknowledged before this is safe.";

export class SqliteStore implements StreamStore, StreamLog, StreamCatalog {
  readonly #directory: DataDirectory;
  readonly #db: Database;
  readonly #options: Required<SqliteStoreOptions>;
  readonly #window: Window;
  readonly #heads: Heads;
  readonly #records: Records;
  readonly #highwater: Highwater;
  readonly #accessMark: AccessMark;
  readonly #hold = new Hold();
  readonly #thread: StorageThread;
  readonly #checkpointer: Checkpointer;
  readonly #sealer: Sealer;
  readonly #insert;
  readonly #followers: ((commit: Commit) => void)[] = [];
  readonly #syncSeconds;
  readonly #syncPace = new SyncPace();
  readonly #housekeeping: ReturnType<typeof setInterval>;
  #lastNo: number;
  #lastCrc: number;
  #lastMs: number;
  #nextId: number;
  #committing: Promise<readonly Decided[]> | null = null;
  #free: { bytes: number; low: boolean } | null = null;
  #storedBytes = 0;
  #measuredNo = -1;
  #measuring: Promise<void> | null = null;
  #idleLooks = 0;

  private constructor(
    options: Required<SqliteStoreOptions>,
    directory: DataDirectory,
    heads: Heads,
    batches: Batches,
    window: Window,
    recovered: Recovered,
    accessMark: AccessMark,
  ) {
    this.#options = options;
    this.#directory = directory;
    this.#db = directory.db;
    this.#heads = heads;
    this.#accessMark = accessMark;
    this.#records = new Records(heads, window, batches);
    this.#window = window;
    this.#lastNo = recovered.lastNo;
    this.#lastCrc = recovered.lastCrc;
    this.#lastMs = recovered.lastMs;
    this.#nextId = recovered.nextId;
    this.#highwater = new Highwater(directory.file("highwater"), (cause) =>
      failStop("writing the high-water mark", cause, SYNC_HINT),
    );
    this.#highwater.set(recovered.lastNo);
    this.#insert = this.#db.query<never, [number, number, Uint8Array, Uint8Array]>(
      "INSERT INTO commits (no, crc, hdr, data) VALUES (?, ?, ?, ?)",
    );
    this.#thread = new StorageThread(directory.file("log.db"));
    this.#checkpointer = new Checkpointer(
      this.#thread,
      this.#hold,
      async () => {
        await this.#committing;
      },
      options.metrics,
    );
    const background = new Background(this.#db, this.#hold, (bytes) => this.#checkpointer.wrote(bytes));
    this.#sealer = new Sealer(
      {
        db: this.#db,
        background,
        batches,
        heads,
        window: this.#window,
        thread: this.#thread,
        budget: options.budget,
        metrics: options.metrics,
        large: directory.large,
        syncWal: () => this.#syncWal(),
      },
      () => this.#nextId,
    );
    for (const change of recovered.freed) this.#sealer.noteFreed(change);
    this.#syncSeconds = options.metrics.histogram(
      "streams_sync_seconds",
      "How long the disk took to make commits durable.",
      LATENCY_SECONDS,
    );
    options.metrics.gauge(
      "streams_sqlite_cache_limit_bytes",
      "What SQLite may keep of the database in memory; how much it does keep, it does not tell us.",
      () => options.budget.pageCacheBytes,
    );
    options.metrics.gauge("streams_database_bytes", "Size of the database file.", () => directory.databaseBytes);
    this.#housekeeping = setInterval(() => this.#keepHouse(), HOUSEKEEPING_MS);
  }

  /** Opens the directory and recovers. Throws with a message for the operator when it must not go on. */
  static async open(given: SqliteStoreOptions): Promise<SqliteStore> {
    const options = { metrics: new Metrics(), budget: memoryBudget(null), maxStoredBytes: null, ...given };
    const directory = DataDirectory.open(options.directory, options.budget.pageCacheBytes, options.acceptLoss);
    try {
      const { large } = directory;
      const batches = new Batches(directory.db, large);
      const window = new Window();
      const terms = {
        highwaterNo: Highwater.read(directory.file("highwater")),
        acceptLoss: options.acceptLoss,
        nowMs: options.clock.nowMs(),
      };
      const mark = new AccessMark(directory.file("accesses"), terms);
      const heads = new Heads(directory.db, options.budget.idleHeads, mark.floorMs);
      const recovered = recover(directory.db, { heads, window, batches, large }, terms);
      mark.remove();
      // Before the high-water mark is lowered, which the store does first.
      directory.syncAtStart();
      const store = new SqliteStore(options, directory, heads, batches, window, recovered, mark);
      store.#sealer.resume();
      await store.#measureDisk();
      return store;
    } catch (cause) {
      if (cause instanceof LostTail)
        cause.message += ` The write-ahead log as found is kept in ${directory.keepWal()}.`;
      directory.close();
      throw asDamage(cause);
    }
  }

  get log(): StreamLog {
    return this;
  }

  get catalog(): StreamCatalog {
    return this;
  }

  async commit(intents: readonly Intent[]): Promise<readonly Decided[]> {
    assert(this.#committing === null, "one commit at a time");
    try {
      return await this.#hold.whenFree(() => (this.#committing = this.#commit(intents)));
    } finally {
      this.#committing = null;
    }
  }

  async #commit(intents: readonly Intent[]): Promise<readonly Decided[]> {
    const refusal = this.#refusal();
    const admitted = refusal === null ? intents : intents.filter((intent) => intentBytes(intent) === 0);
    const nowMs = this.#options.clock.nowMs();
    const atMs = Math.max(nowMs, this.#lastMs);
    const decision = decideGroup(this.#heads, admitted, { atMs, nowMs }, this.#nextId);
    let outcomes = decision.outcomes;
    if (decision.changes.length > 0) {
      const created = new Map(decision.created.map((head) => [head.id, head]));
      const commit: Commit = { no: this.#lastNo + 1, atMs, changes: decision.changes };
      const headOf = (id: number): StreamHead =>
        present(created.get(id) ?? this.#heads.byId(id), `no head of stream ${id}`);
      const encoded = encodeCommit(commit, this.#lastCrc, headOf);
      const refused = (await this.#writeFile(encoded)) ?? this.#write(encoded);
      if (refused === null) {
        await this.#sync(intents.length === 1);
        try {
          this.#publish(commit, encoded, headOf, decision.nextId);
        } catch (cause) {
          // The disk has it and memory does not: only a restart makes them agree again.
          failStop(
            "publishing a commit",
            cause,
            "This is a bug in the server; please report it. Starting again is safe.",
          );
        }
      } else {
        outcomes = admitted.map(() => rejectedWith(refused));
      }
    }
    if (refusal === null) return outcomes;
    let next = 0;
    return intents.map((intent) =>
      intentBytes(intent) === 0 ? present(outcomes[next++], "an outcome per intent") : rejectedWith(refusal),
    );
  }

  /** Why no payload is taken now, or null. */
  #refusal(): Rejection | null {
    if (this.#free?.low === true) return { kind: "disk-full" };
    if (this.#storedBytes > (this.#options.maxStoredBytes ?? Infinity)) return { kind: "storage-full" };
    const { windowBytes, windowRanges } = this.#options.budget;
    if (this.#window.bytes > windowBytes || this.#window.ranges > windowRanges) {
      return { kind: "overloaded", reason: "sealing is behind" };
    }
    return null;
  }

  /** The large runs of a commit, before the row that refers to them. Returns why not, and then there is no file. */
  async #writeFile({ no, data, inlineBytes }: EncodedCommit): Promise<Rejection | null> {
    if (data.length === inlineBytes) return null;
    try {
      await this.#directory.large.write(no, data.subarray(inlineBytes), this.#options.durability === "fsync");
    } catch (cause) {
      if (isOutOfDescriptors(cause)) return { kind: "overloaded", reason: "no file descriptors are left" };
      if (!isDiskFull(cause)) failStop("writing a file of large records", cause, SYNC_HINT);
      return { kind: "disk-full" };
    }
    return null;
  }

  /** One INSERT, one transaction. When the disk is full SQLite has rolled it back. */
  #write({ no, crc, hdr, data, inlineBytes }: EncodedCommit): Rejection | null {
    const hasFile = inlineBytes < data.length;
    try {
      this.#insert.run(no, crc, hdr, hasFile ? data.subarray(0, inlineBytes) : data);
    } catch (cause) {
      if (!isDiskFull(cause)) failStop("writing a commit", cause, SYNC_HINT);
      if (hasFile) this.#directory.large.remove(no);
      return { kind: "disk-full" };
    }
    this.#checkpointer.wrote(hdr.length + inlineBytes);
    return null;
  }

  /** `alone`: nobody else waits for this commit. On a quick disk the loop then waits itself. */
  async #sync(alone: boolean): Promise<void> {
    if (this.#options.durability === "os") return;
    const startMs = performance.now();
    await this.#syncWal(alone && this.#syncPace.isQuick);
    const ms = performance.now() - startMs;
    this.#syncPace.note(ms);
    this.#syncSeconds.observe(ms / 1000);
  }

  async #syncWal(now = false): Promise<void> {
    try {
      if (now) this.#directory.syncWalNow();
      else await this.#directory.syncWal();
    } catch (cause) {
      failStop("syncing the write-ahead log", cause, SYNC_HINT);
    }
  }

  /** The commit is durable: heads, then followers; the acks go out in the same turn. */
  #publish(commit: Commit, encoded: EncodedCommit, headOf: (id: number) => StreamHead, nextId: number): void {
    this.#lastNo = commit.no;
    this.#lastCrc = encoded.crc;
    this.#lastMs = commit.atMs;
    this.#nextId = nextId;
    this.#highwater.raise(commit.no);
    for (const change of commit.changes) {
      const head = headOf(change.id);
      applyChange(head, change, commit.no, commit.atMs);
      this.#heads.markChanged(head, change);
      this.#sealer.noteFreed(change);
    }
    this.#window.push(encoded);
    for (const follower of this.#followers) follower(commit);
    this.#sealer.poke(commit.atMs);
  }

  follow(listener: (commit: Commit) => void): void {
    this.#followers.push(listener);
  }

  read(request: ReadRequest): Promise<Chunk> {
    return this.#records.read(request);
  }

  async readFrames(request: FrameRequest): Promise<FrameChunk | null> {
    return this.#records.readFrames(request);
  }

  async appendEnd(id: number, seq: number): Promise<number> {
    return this.#records.appendEnd(id, seq);
  }

  async seekTime(id: number, atMs: number): Promise<number> {
    return this.#records.seekTime(id, atMs);
  }

  unsealed(id: number): { readonly from: number; readonly bytes: number } | null {
    const from = this.#window.firstSeqOf(id);
    return from === undefined ? null : { from, bytes: this.#window.bytesOf(id) };
  }

  largestUnsealed(limit: number): Promise<readonly { readonly id: number; readonly bytes: number }[]> {
    return largest(this.#window.sizes(), limit, ({ bytes }) => bytes);
  }

  async trimPoint(id: number, bounds: TrimBounds): Promise<TrimPoint> {
    return this.#records.trimPoint(id, bounds, (from) => this.#sealer.noteFreed({ id, retainedFrom: from }));
  }

  async byName(name: string): Promise<StreamHead | undefined> {
    return this.#heads.byName(name);
  }

  async byId(id: number): Promise<StreamHead | undefined> {
    return this.#heads.byId(id);
  }

  peek(name: string): StreamHead | undefined {
    return this.#heads.peek(name);
  }

  async attributes(id: number): Promise<ReadonlyMap<string, string>> {
    return this.#heads.attributes(id);
  }

  async annotated(key: string, after: number, limit: number): Promise<readonly number[]> {
    await this.#sealer.foldHeads(this.#heads.changedAttributeIds());
    return this.#heads.annotated(key, after, limit);
  }

  async list(query: ListQuery): Promise<readonly StreamHead[]> {
    await this.#sealer.foldHeads();
    return this.#heads.list(query);
  }

  async pastDeadline(nowMs: number, limit: number): Promise<readonly number[]> {
    // What ended or was used since its last fold is past its deadline in the table only, and would be found for ever.
    await this.#sealer.foldHeads(this.#heads.pastDeadline(nowMs, limit));
    return this.#heads.pastDeadline(nowMs, limit);
  }

  async withRetention(after: number, limit: number): Promise<readonly number[]> {
    return this.#heads.withRetention(after, limit);
  }

  status(): StoreStatus {
    return {
      durableCommit: this.#lastNo,
      unsealedBytes: this.#window.bytes,
      unsealedRanges: this.#window.ranges,
      walBytes: this.#directory.walBytes,
      streamsInMemory: this.#heads.inMemory,
      storedBytes: this.#storedBytes,
      freeDiskBytes: this.#free?.bytes ?? null,
      refusal: this.#refusal(),
    };
  }

  /** Seals everything now. For tests and benchmarks: in service the sealer decides for itself. */
  async sealAll(): Promise<void> {
    await this.#sealer.sealAll();
  }

  async close(accessesKept = true): Promise<void> {
    clearInterval(this.#housekeeping);
    await this.#measuring;
    await this.#sealer.stop();
    await this.#checkpointer.finish();
    await this.#thread.close();
    await this.#highwater.close();
    if (accessesKept) this.#accessMark.write(this.#lastNo);
    this.#directory.close();
  }

  #keepHouse(): void {
    this.#sealer.poke(this.#options.clock.nowMs(), this.#refusal() !== null);
    const isIdle = this.#measuredNo === this.#lastNo && this.#refusal() === null;
    // A disk that does not even say how full it is is asked one question at a time.
    if (this.#measuring !== null || (isIdle && ++this.#idleLooks < IDLE_LOOKS)) return;
    this.#idleLooks = 0;
    this.#measuredNo = this.#lastNo;
    this.#measuring = this.#measureDisk()
      .catch((cause: unknown) => failStop("measuring the disk", cause, SYNC_HINT))
      .finally(() => (this.#measuring = null));
  }

  async #measureDisk(): Promise<void> {
    const { bavail, blocks, bsize } = await statfs(this.#directory.path);
    const bytes = bavail * bsize;
    const mark = Math.min(MIN_FREE_DISK_BYTES, blocks * bsize * MIN_FREE_DISK_SHARE);
    this.#free = { bytes, low: bytes < mark };
    this.#storedBytes = this.#directory.storedBytes + this.#directory.large.bytes;
  }
}

function rejectedWith(rejection: Rejection): Outcome {
  return { kind: "rejected", rejection };
}
