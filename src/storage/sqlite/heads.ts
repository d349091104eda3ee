/**
 * Stream heads: memory in front of their tables (head-tables.ts). A head that changed since its last fold is pinned;
 * idle ones are a bounded LRU. Folding writes heads to the tables in slices; a row remembers the commit it reflects, so
 * a start replays newer commits only.
 */

import type { Database } from "bun:sqlite";
import { LRUCache } from "lru-cache";
import { present } from "../../kit/assert.ts";
import { expiryDeadlineMs } from "../../protocol/expiry.ts";
import { TOUCH_PERSIST_MS } from "../../protocol/limits.ts";
import { keepsAll } from "../../protocol/retention.ts";
import type { Deletion, ProducerState, StreamChange, StreamHead } from "../../protocol/stream.ts";
import type { ListQuery } from "../port.ts";
import { HeadTables } from "./head-tables.ts";
import type { StreamRow } from "./row-crc.ts";

const DELETIONS: readonly Deletion[] = ["none", "soft", "hard"];
/** Producers kept in an idle head; more are read from the table again. */
const MAX_IDLE_PRODUCERS = 1_000;

type HeadRow = Pick<StreamRow, "id" | "deletion" | "head">;
type StoredHead = Omit<StreamHead, "id" | "producers" | "deletion">;

export class Heads {
  readonly #changed = new Map<number, StreamHead>();
  readonly #changedProducers = new Map<number, Set<string>>();
  /** Attributes that the table does not have yet; null = removed. */
  readonly #changedAttributes = new Map<number, Map<string, string | null>>();
  /** Changed heads with a retention policy: the sweep must see them in the table. */
  readonly #changedRetained = new Set<number>();
  readonly #idle: LRUCache<number, StreamHead>;
  readonly #byName = new Map<string, StreamHead>();
  readonly #tables: HeadTables;

  constructor(db: Database, maxIdle: number) {
    this.#tables = new HeadTables(db);
    this.#idle = new LRUCache<number, StreamHead>({
      max: maxIdle,
      dispose: (head, _id, reason) => {
        if (reason === "evict" && this.#byName.get(head.config.name) === head) this.#byName.delete(head.config.name);
      },
    });
  }

  get inMemory(): number {
    return this.#changed.size + this.#idle.size;
  }

  get changed(): number {
    return this.#changed.size;
  }

  /** `byName` of what is in memory; does not count as a use. */
  peek(name: string): StreamHead | undefined {
    const known = this.#byName.get(name);
    return known === undefined || known.deletion === "hard" ? undefined : known;
  }

  byName(name: string): StreamHead | undefined {
    const known = this.#byName.get(name);
    if (known !== undefined) return known.deletion === "hard" ? undefined : (this.byId(known.id) ?? known);
    const row = this.#tables.byName(name);
    return row === null ? undefined : this.#load(row);
  }

  byId(id: number): StreamHead | undefined {
    const known = this.#changed.get(id) ?? this.#idle.get(id);
    if (known !== undefined) return known;
    const row = this.#tables.byId(id);
    return row === null ? undefined : this.#load(row);
  }

  producer(head: StreamHead, producer: string): ProducerState | undefined {
    const known = head.producers.get(producer);
    if (known !== undefined || head.producerCount === head.producers.size) return known;
    const row = this.#tables.producer(head.id, producer);
    if (row === null) return undefined;
    const state = { epoch: row.epoch, lastSeq: row.last_seq };
    head.producers.set(producer, state);
    return state;
  }

  attributes(id: number): Map<string, string> {
    const found = new Map<string, string>();
    for (const { key, value } of this.#tables.attributes(id)) found.set(key, value);
    for (const [key, value] of this.#changedAttributes.get(id) ?? []) {
      if (value === null) found.delete(key);
      else found.set(key, value);
    }
    return found;
  }

  /** Ids of streams with an attribute; the table must be fresh (fold `changedAttributeIds` first). */
  annotated(key: string, after: number, limit: number): number[] {
    return this.#tables.annotated(key, after, limit);
  }

  /** Streams whose attributes the table does not have yet. */
  changedAttributeIds(): number[] {
    return [...this.#changedAttributes.keys()];
  }

  /** Pins a head that a commit has just changed. */
  markChanged(head: StreamHead, change: Pick<StreamChange, "producers" | "attributes">): void {
    if (!this.#changed.has(head.id)) {
      this.#idle.delete(head.id);
      this.#changed.set(head.id, head);
      const named = this.#byName.get(head.config.name);
      if (named === undefined || named.id <= head.id) this.#byName.set(head.config.name, head);
    }
    if (!keepsAll(head.retention)) this.#changedRetained.add(head.id);
    if (change.producers !== undefined) {
      const noted = entryOf(this.#changedProducers, head.id, () => new Set<string>());
      for (const producer of change.producers.keys()) noted.add(producer);
    }
    if (change.attributes !== undefined) {
      const noted = entryOf(this.#changedAttributes, head.id, () => new Map<string, string | null>());
      for (const [key, value] of change.attributes) noted.set(key, value);
    }
  }

  /** Ids that have to be folded now, in the order of the table's key. */
  changedIds(): number[] {
    return [...this.#changed.keys()].sort((left, right) => left - right);
  }

  changedRetainedIds(): number[] {
    return [...this.#changedRetained];
  }

  /** Writes one head as it is. Call inside a transaction, and `markFolded` once it is committed. */
  fold(id: number): void {
    const head = this.#changed.get(id);
    if (head === undefined) return;
    const { id: _id, producers: _producers, deletion, ...stored } = head;
    const deadline = expiryDeadlineMs(head.config.expiry, head.accessedMs);
    this.#tables.put({
      id,
      name: head.config.name,
      deletion: DELETIONS.indexOf(deletion),
      deadline_ms: Number.isFinite(deadline) ? deadline : null,
      retained: keepsAll(head.retention) ? 0 : 1,
      head: JSON.stringify(stored satisfies StoredHead),
    });
    for (const producer of this.#changedProducers.get(id) ?? []) {
      const { epoch, lastSeq } = present(head.producers.get(producer), "a changed producer is in its head");
      this.#tables.putProducer({ stream: id, producer, epoch, last_seq: lastSeq });
    }
    for (const [key, value] of this.#changedAttributes.get(id) ?? []) {
      if (value === null) this.#tables.removeAttribute(id, key);
      else this.#tables.putAttribute({ stream: id, key, value });
    }
  }

  /** The transaction that folded this head is committed. */
  markFolded(id: number): void {
    const head = this.#changed.get(id);
    if (head === undefined) return;
    this.#changedProducers.delete(id);
    this.#changedAttributes.delete(id);
    this.#changed.delete(id);
    this.#changedRetained.delete(id);
    if (head.producers.size > MAX_IDLE_PRODUCERS) head.producers.clear();
    if (head.deletion === "hard") this.#forgetName(head);
    else this.#idle.set(id, head);
  }

  /** Heads in name order; the table must be fresh (fold first). */
  list(query: ListQuery): StreamHead[] {
    // Names hold no NUL, so this is the smallest string after the last name of the page before.
    const lower = query.after === "" ? query.prefix : `${query.after}\u0000`;
    const rows = this.#tables.list(lower, query.prefix, query.limit);
    return rows.map((row) => this.#changed.get(row.id) ?? this.#idle.peek(row.id) ?? decodeHead(row));
  }

  /** The largest id that the table has. */
  lastId(): number {
    return this.#tables.lastId();
  }

  pastDeadline(nowMs: number, limit: number): number[] {
    return this.#tables.pastDeadline(nowMs, limit);
  }

  withRetention(after: number, limit: number): number[] {
    return this.#tables.withRetention(after, limit);
  }

  /** Streams whose rows wait to be freed. */
  deletedIds(limit: number): number[] {
    return this.#tables.deletedIds(limit);
  }

  /** Removes the last rows of a deleted stream; at most `limit` of each table. True when nothing is left. */
  free(id: number, limit: number): boolean {
    if (!this.#tables.free(id, limit)) return false;
    this.#idle.delete(id);
    return true;
  }

  #load(row: HeadRow): StreamHead {
    const known = this.#changed.get(row.id) ?? this.#idle.get(row.id);
    if (known !== undefined) return known;
    const head = decodeHead(row);
    // Of a stream that is gone for good some may be freed already.
    if (head.producerCount > 0 && head.deletion !== "hard") {
      this.#tables.verifyProducerCount(head.id, head.producerCount);
    }
    this.#idle.set(row.id, head);
    if (head.deletion !== "hard" && !this.#byName.has(head.config.name)) this.#byName.set(head.config.name, head);
    return head;
  }

  #forgetName(head: StreamHead): void {
    if (this.#byName.get(head.config.name) === head) this.#byName.delete(head.config.name);
  }
}

function entryOf<V>(map: Map<number, V>, id: number, make: () => V): V {
  let entry = map.get(id);
  if (entry === undefined) map.set(id, (entry = make()));
  return entry;
}

function decodeHead(row: HeadRow): StreamHead {
  // Written before there were profiles, a head has none.
  const stored = JSON.parse(row.head) as Omit<StoredHead, "profile"> & Partial<Pick<StoredHead, "profile">>;
  // Accesses of the last few seconds may not have been written: a TTL may end late, never early.
  const accessedMs = stored.accessedMs + (stored.config.expiry.kind === "ttl" ? TOUCH_PERSIST_MS : 0);
  return {
    profile: null,
    ...stored,
    accessedMs,
    id: row.id,
    deletion: DELETIONS[row.deletion] ?? "none",
    producers: new Map(),
  };
}
