/**
 * Stream heads: memory in front of the `streams` and `producers` tables. A head that changed since its last fold is pinned;
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

const DELETIONS: readonly Deletion[] = ["none", "soft", "hard"];
/** Producers kept in an idle head; more are read from the table again. */
const MAX_IDLE_PRODUCERS = 1_000;

interface HeadRow {
  readonly id: number;
  readonly deletion: number;
  readonly head: string;
}

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
  readonly #statements;

  constructor(db: Database, maxIdle: number) {
    this.#statements = prepare(db);
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
    const row = this.#statements.byName.get(name);
    return row === null ? undefined : this.#load(row);
  }

  byId(id: number): StreamHead | undefined {
    const known = this.#changed.get(id) ?? this.#idle.get(id);
    if (known !== undefined) return known;
    const row = this.#statements.byId.get(id);
    return row === null ? undefined : this.#load(row);
  }

  producer(head: StreamHead, producer: string): ProducerState | undefined {
    const known = head.producers.get(producer);
    if (known !== undefined || head.producerCount === head.producers.size) return known;
    const row = this.#statements.producer.get(head.id, producer);
    if (row === null) return undefined;
    const state = { epoch: row.epoch, lastSeq: row.last_seq };
    head.producers.set(producer, state);
    return state;
  }

  attributes(id: number): Map<string, string> {
    const found = new Map<string, string>();
    for (const { key, value } of this.#statements.attributes.all(id)) found.set(key, value);
    for (const [key, value] of this.#changedAttributes.get(id) ?? []) {
      if (value === null) found.delete(key);
      else found.set(key, value);
    }
    return found;
  }

  /** Ids of streams with an attribute; the table must be fresh (fold `changedAttributeIds` first). */
  annotated(key: string, after: number, limit: number): number[] {
    return this.#statements.annotated.all(key, after, limit).map((row) => row.stream);
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
    this.#statements.fold.run(
      id,
      head.config.name,
      DELETIONS.indexOf(deletion),
      Number.isFinite(deadline) ? deadline : null,
      keepsAll(head.retention) ? 0 : 1,
      JSON.stringify(stored satisfies StoredHead),
    );
    for (const producer of this.#changedProducers.get(id) ?? []) {
      const state = present(head.producers.get(producer), "a changed producer is in its head");
      this.#statements.foldProducer.run(id, producer, state.epoch, state.lastSeq);
    }
    for (const [key, value] of this.#changedAttributes.get(id) ?? []) {
      if (value === null) this.#statements.removeAttribute.run(id, key);
      else this.#statements.foldAttribute.run(id, key, value);
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
    const upper = `${query.prefix}\u{10ffff}`;
    // Names hold no NUL, so this is the smallest string after the last name of the page before.
    const lower = query.after === "" ? query.prefix : `${query.after}\u0000`;
    const rows = this.#statements.list.all(lower, upper, query.limit);
    return rows.map((row) => this.#changed.get(row.id) ?? this.#idle.peek(row.id) ?? decodeHead(row));
  }

  pastDeadline(nowMs: number, limit: number): number[] {
    return this.#statements.pastDeadline.all(nowMs, limit).map((row) => row.id);
  }

  withRetention(after: number, limit: number): number[] {
    return this.#statements.withRetention.all(after, limit).map((row) => row.id);
  }

  /** Streams whose rows wait to be freed. */
  deletedIds(limit: number): number[] {
    return this.#statements.deleted.all(limit).map((row) => row.id);
  }

  /** Removes the last rows of a deleted stream; at most `limit` of each table. True when nothing is left. */
  free(id: number, limit: number): boolean {
    const producers = this.#statements.freeProducers.run(id, limit);
    const attributes = this.#statements.freeAttributes.run(id, limit);
    if (producers.changes === limit || attributes.changes === limit) return false;
    this.#statements.free.run(id);
    this.#idle.delete(id);
    return true;
  }

  #load(row: HeadRow): StreamHead {
    const known = this.#changed.get(row.id) ?? this.#idle.get(row.id);
    if (known !== undefined) return known;
    const head = decodeHead(row);
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

function prepare(db: Database) {
  return {
    byName: db.query<HeadRow, [string]>(
      "SELECT id, deletion, head FROM streams WHERE name = ? AND deletion < 2 ORDER BY id DESC LIMIT 1",
    ),
    byId: db.query<HeadRow, [number]>("SELECT id, deletion, head FROM streams WHERE id = ?"),
    producer: db.query<{ epoch: number; last_seq: number }, [number, string]>(
      "SELECT epoch, last_seq FROM producers WHERE stream = ? AND producer = ?",
    ),
    fold: db.query<never, [number, string, number, number | null, number, string]>(
      "INSERT OR REPLACE INTO streams (id, name, deletion, deadline_ms, retained, head) VALUES (?, ?, ?, ?, ?, ?)",
    ),
    foldProducer: db.query<never, [number, string, number, number]>(
      "INSERT OR REPLACE INTO producers (stream, producer, epoch, last_seq) VALUES (?, ?, ?, ?)",
    ),
    attributes: db.query<{ key: string; value: string }, [number]>(
      "SELECT key, value FROM attributes WHERE stream = ?",
    ),
    annotated: db.query<{ stream: number }, [string, number, number]>(
      "SELECT stream FROM attributes WHERE key = ? AND stream > ? ORDER BY stream LIMIT ?",
    ),
    foldAttribute: db.query<never, [number, string, string]>(
      "INSERT OR REPLACE INTO attributes (stream, key, value) VALUES (?, ?, ?)",
    ),
    removeAttribute: db.query<never, [number, string]>("DELETE FROM attributes WHERE stream = ? AND key = ?"),
    freeAttributes: db.query<never, [number, number]>(
      "DELETE FROM attributes WHERE (stream, key) IN (SELECT stream, key FROM attributes WHERE stream = ? LIMIT ?)",
    ),
    list: db.query<HeadRow, [string, string, number]>(
      "SELECT id, deletion, head FROM streams WHERE name >= ? AND name < ? AND deletion = 0 ORDER BY name LIMIT ?",
    ),
    pastDeadline: db.query<{ id: number }, [number, number]>(
      "SELECT id FROM streams WHERE deadline_ms IS NOT NULL AND deadline_ms <= ? AND deletion = 0 ORDER BY deadline_ms LIMIT ?",
    ),
    withRetention: db.query<{ id: number }, [number, number]>(
      "SELECT id FROM streams WHERE retained = 1 AND id > ? AND deletion < 2 ORDER BY id LIMIT ?",
    ),
    deleted: db.query<{ id: number }, [number]>("SELECT id FROM streams WHERE deletion = 2 LIMIT ?"),
    freeProducers: db.query<never, [number, number]>(
      "DELETE FROM producers WHERE (stream, producer) IN (SELECT stream, producer FROM producers WHERE stream = ? LIMIT ?)",
    ),
    free: db.query<never, [number]>("DELETE FROM streams WHERE id = ?"),
  };
}
