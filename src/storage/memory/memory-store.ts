/**
 * The store in memory: the same rules and port as the SQLite store with the simplest possible storage, one entry per record.
 * It is the model of the property tests and the `--memory` mode for experiments. Durable until the process ends; bounded
 * only by the streams' own retention.
 */

import { assert, present } from "../../kit/assert.ts";
import { joinBytes } from "../../kit/bytes.ts";
import type { Clock } from "../../kit/clock.ts";
import { isJson } from "../../protocol/content-type.ts";
import { expiryDeadlineMs } from "../../protocol/expiry.ts";
import { decideGroup } from "../../protocol/group.ts";
import type { Decided, Intent } from "../../protocol/intents.ts";
import { keepsAll } from "../../protocol/retention.ts";
import { applyChange, type Commit, type Run, type StreamHead } from "../../protocol/stream.ts";
import type {
  Chunk,
  ListQuery,
  ReadRequest,
  StoreStatus,
  StreamCatalog,
  StreamLog,
  StreamStore,
  TrimBounds,
  TrimPoint,
} from "../port.ts";

const COMMA = 0x2c;

interface StoredRecord {
  readonly bytes: Uint8Array;
  readonly key: string | null;
  readonly atMs: number;
  /** Exclusive end of the append that this record came with. */
  readonly appendEnd: number;
}

interface StoredStream {
  readonly head: StreamHead;
  /** From `base` on: what was trimmed is not kept. */
  readonly records: StoredRecord[];
  base: number;
  readonly attributes: Map<string, string>;
}

export class MemoryStore implements StreamStore, StreamLog, StreamCatalog {
  readonly #clock: Clock;
  readonly #streams = new Map<number, StoredStream>();
  readonly #names = new Map<string, StreamHead>();
  readonly #followers: ((commit: Commit) => void)[] = [];
  #lastNo = 0;
  #lastMs = 0;
  #nextId = 1;
  #bytes = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  get log(): StreamLog {
    return this;
  }

  get catalog(): StreamCatalog {
    return this;
  }

  async commit(intents: readonly Intent[]): Promise<readonly Decided[]> {
    const nowMs = this.#clock.nowMs();
    const atMs = Math.max(nowMs, this.#lastMs);
    const source = {
      byName: (name: string) => this.#names.get(name),
      byId: (id: number) => this.#streams.get(id)?.head,
      producer: (head: StreamHead, id: string) => head.producers.get(id),
    };
    const decision = decideGroup(source, intents, { atMs, nowMs }, this.#nextId);
    if (decision.changes.length === 0) return decision.outcomes;
    this.#nextId = decision.nextId;
    this.#lastMs = atMs;
    const commit: Commit = { no: ++this.#lastNo, atMs, changes: decision.changes };
    for (const head of decision.created) {
      this.#streams.set(head.id, { head, records: [], base: head.config.from, attributes: new Map() });
    }
    for (const change of commit.changes) {
      const stream = present(this.#streams.get(change.id), `no stream ${change.id}`);
      if (change.created !== undefined) this.#names.set(change.created.name, stream.head);
      applyChange(stream.head, change, commit.no, atMs);
      for (const [key, value] of change.attributes ?? []) {
        if (value === null) stream.attributes.delete(key);
        else stream.attributes.set(key, value);
      }
      if (change.run !== undefined) this.#store(stream, change.run, atMs);
      if (change.retainedFrom !== undefined) this.#drop(stream, change.retainedFrom);
      if (change.deletion === "hard") this.#forget(stream);
    }
    for (const follower of this.#followers) follower(commit);
    return decision.outcomes;
  }

  #store({ head, records, base }: StoredStream, run: Run, atMs: number): void {
    const gap = isJson(head.config.contentType) ? 1 : 0;
    const payload = joinBytes(run.parts, gap === 0 ? null : COMMA);
    let record = 0;
    let at = 0;
    for (const append of run.appends) {
      const appendEnd = run.firstSeq + record + append.count;
      for (let count = 0; count < append.count; count++, record++) {
        const length = present(run.lengths[record], "a length per record");
        records.push({ bytes: payload.slice(at, at + length), key: append.key, atMs, appendEnd });
        this.#bytes += length;
        at += length + gap;
      }
    }
    assert(base + records.length === head.next, "the records end at the tail");
  }

  #drop(stream: StoredStream, retainedFrom: number): void {
    const dropped = stream.records.splice(0, Math.max(0, retainedFrom - stream.base));
    stream.base += dropped.length;
    for (const { bytes } of dropped) this.#bytes -= bytes.length;
  }

  #forget(stream: StoredStream): void {
    const { head } = stream;
    this.#drop(stream, head.next);
    this.#streams.delete(head.id);
    if (this.#names.get(head.config.name) === head) this.#names.delete(head.config.name);
  }

  async read({ id, from, to, maxBytes, key }: ReadRequest): Promise<Chunk> {
    const stream = this.#streams.get(id);
    const parts: Uint8Array[] = [];
    if (stream === undefined || from < stream.base) return { parts, next: from };
    let budget = maxBytes;
    let next = from;
    for (; next < to; next++) {
      const record = present(stream.records[next - stream.base], `no record ${next}`);
      if (key !== null && record.key !== key) continue;
      if (record.bytes.length > budget && parts.length > 0) break;
      parts.push(record.bytes);
      budget -= record.bytes.length;
    }
    return { parts, next };
  }

  /** Nothing is stored as frames here. */
  async readFrames(): Promise<null> {
    return null;
  }

  async appendEnd(id: number, seq: number): Promise<number> {
    const stream = this.#streams.get(id);
    return stream?.records[seq - stream.base]?.appendEnd ?? seq;
  }

  async seekTime(id: number, atMs: number): Promise<number> {
    const { head, records, base } = present(this.#streams.get(id), `no stream ${id}`);
    const index = records.findIndex((record) => record.atMs >= atMs);
    return index < 0 ? head.next : base + index;
  }

  async largestUnsealed(limit: number): Promise<{ id: number; bytes: number }[]> {
    const sizes = Array.from(this.#streams, ([id, { head }]) => ({ id, bytes: head.bytes - head.trimmedBytes }));
    return sizes.toSorted((left, right) => right.bytes - left.bytes).slice(0, limit);
  }

  /** Nothing is ever sealed here. */
  unsealed(id: number): { readonly from: number; readonly bytes: number } | null {
    const head = this.#streams.get(id)?.head;
    if (head === undefined) return null;
    return { from: Math.max(head.retainedFrom, head.config.from), bytes: head.bytes - head.trimmedBytes };
  }

  async trimPoint(id: number, bounds: TrimBounds): Promise<TrimPoint> {
    const { head, records, base } = present(this.#streams.get(id), `no stream ${id}`);
    let retainedFrom = base;
    let trimmedBytes = head.trimmedBytes;
    for (const record of records) {
      const old = bounds.beforeMs !== null && record.atMs < bounds.beforeMs;
      const large = bounds.maxBytes !== null && head.bytes - trimmedBytes > bounds.maxBytes;
      if (!old && !large) break;
      retainedFrom++;
      trimmedBytes += record.bytes.length;
    }
    return { retainedFrom, trimmedBytes, more: false };
  }

  follow(listener: (commit: Commit) => void): void {
    this.#followers.push(listener);
  }

  async byName(name: string): Promise<StreamHead | undefined> {
    return this.#names.get(name);
  }

  async byId(id: number): Promise<StreamHead | undefined> {
    return this.#streams.get(id)?.head;
  }

  peek(name: string): StreamHead | undefined {
    return this.#names.get(name);
  }

  async attributes(id: number): Promise<ReadonlyMap<string, string>> {
    return new Map(this.#streams.get(id)?.attributes);
  }

  async list({ prefix, after, limit }: ListQuery): Promise<readonly StreamHead[]> {
    const listed = [...this.#names.values()].filter(
      ({ config: { name }, deletion }) => deletion === "none" && name.startsWith(prefix) && name > after,
    );
    return listed.sort((left, right) => (left.config.name < right.config.name ? -1 : 1)).slice(0, limit);
  }

  async pastDeadline(nowMs: number, limit: number): Promise<readonly number[]> {
    return this.#select(
      limit,
      (head) => expiryDeadlineMs(head.config.expiry, head.accessedMs) <= nowMs && head.deletion === "none",
    );
  }

  async annotated(key: string, after: number, limit: number): Promise<readonly number[]> {
    return this.#select(limit, ({ id }) => id > after && this.#streams.get(id)?.attributes.has(key) === true);
  }

  async withRetention(after: number, limit: number): Promise<readonly number[]> {
    return this.#select(limit, (head) => head.id > after && !keepsAll(head.retention));
  }

  #select(limit: number, wanted: (head: StreamHead) => boolean): number[] {
    const ids: number[] = [];
    for (const { head } of this.#streams.values()) if (wanted(head) && ids.length < limit) ids.push(head.id);
    return ids;
  }

  status(): StoreStatus {
    return {
      durableCommit: this.#lastNo,
      unsealedBytes: this.#bytes,
      unsealedRanges: 0,
      walBytes: 0,
      storedBytes: this.#bytes,
      streamsInMemory: this.#streams.size,
      freeDiskBytes: null,
      refusal: null,
    };
  }

  async close(): Promise<void> {
    this.#streams.clear();
    this.#names.clear();
  }
}
