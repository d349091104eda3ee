/**
 * Stream heads: memory in front of their tables (head-tables.ts). A head that changed since its last fold is pinned;
 * idle ones are a bounded LRU. Folding writes heads to the tables in slices; a row remembers the commit it reflects, so
 * a start replays newer commits only.
 */

import type { Database } from "bun:sqlite";
import { LRUCache } from "lru-cache";
import { present } from "../../kit/assert.ts";
import { largest } from "../../kit/largest.ts";
import { nextTurn } from "../../kit/turn.ts";
import { Damage, DamagedStream } from "../../protocol/faults.ts";
import { keepsAll } from "../../protocol/retention.ts";
import type { ProducerState, StreamChange, StreamHead } from "../../protocol/stream.ts";
import type { ListQuery } from "../port.ts";
import { HeadTables } from "./head-tables.ts";
import type { StreamRow } from "./row-crc.ts";
import { decodeHead, encodeHead } from "./stored-head.ts";

/** Producers of a stream that are counted when its head is read; more would take too long. */
const MAX_COUNTED_PRODUCERS = 1_000;

/** Rows of a list that are looked at in one turn. */
const LIST_ROWS = 256;

type HeadRow = Pick<StreamRow, "id" | "name" | "deletion" | "head">;

export class Heads {
  readonly #changed = new Map<number, StreamHead>();
  readonly #changedProducers = new Map<number, Set<string>>();
  /** Attributes that the table does not have yet; null = removed. */
  readonly #changedAttributes = new Map<number, Map<string, string | null>>();
  /** Streams that were given a retention policy since their last fold: the table may not say so yet. */
  readonly #newlyRetained = new Set<number>();
  readonly #idle: LRUCache<number, StreamHead>;
  readonly #byName = new Map<string, StreamHead>();
  /** Streams that a start could not make out, and the names that are known of them: never in memory, and not what the table says. */
  readonly #parked = new Map<number, Damage>();
  readonly #parkedNames = new Map<string, Damage>();
  readonly #tables: HeadTables;
  readonly #accessFloorMs: number;

  /** `accessFloorMs`: streams with a TTL count as accessed then, if not later (access-mark.ts). */
  constructor(db: Database, maxIdle: number, accessFloorMs = 0) {
    this.#tables = new HeadTables(db);
    this.#accessFloorMs = accessFloorMs;
    this.#idle = new LRUCache<number, StreamHead>({
      // By size, not by count: that would take the room for all of them at once, at every start.
      maxSize: maxIdle,
      sizeCalculation: () => 1,
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

  /** Throws a `Damage` for a damaged or parked stream, like all that answers for one stream. */
  byName(name: string): StreamHead | undefined {
    const damage = this.#parkedNames.get(name);
    if (damage !== undefined) throw damage;
    const known = this.#byName.get(name);
    if (known !== undefined) return known.deletion === "hard" ? undefined : (this.byId(known.id) ?? known);
    const row = this.#tables.byName(name);
    return row === null ? undefined : this.#load(row);
  }

  byId(id: number): StreamHead | undefined {
    const known = this.#changed.get(id) ?? this.#idle.get(id);
    if (known !== undefined) return known;
    this.#expectNotParked(id);
    const row = this.#tables.byId(id);
    return row === null ? undefined : this.#load(row);
  }

  /** `byId` for the server's own work: null when the stream is damaged, and to be left as it is. */
  soundById(id: number): StreamHead | undefined | null {
    try {
      return this.byId(id);
    } catch (cause) {
      if (cause instanceof Damage) return null;
      throw cause;
    }
  }

  /** From now on whoever asks for this stream hears `damage`. `name`: what is known of it besides memory. */
  park(id: number, name: string | null, damage: Damage): void {
    const known = this.#changed.get(id) ?? this.#idle.get(id);
    const parkedName = known?.config.name ?? name;
    this.#parked.set(id, damage);
    if (parkedName !== null) this.#parkedNames.set(parkedName, damage);
    if (known !== undefined) this.#forgetName(known);
    this.#unpin(id);
    this.#idle.delete(id);
  }

  isParked(id: number): boolean {
    return this.#parked.has(id);
  }

  #expectNotParked(id: number): void {
    const damage = this.#parked.get(id);
    if (damage !== undefined) throw damage;
  }

  producer(head: StreamHead, producer: string): ProducerState | undefined {
    const known = head.producers.get(producer);
    if (known !== undefined || head.producerCount === head.producers.size) return known;
    const row = this.#tables.producer(head.id, producer);
    // Not kept: repeats change no head, and an idle one would grow with every producer that sends some.
    return row === null ? undefined : { epoch: row.epoch, lastSeq: row.last_seq };
  }

  attributes(id: number): Map<string, string> {
    this.#expectNotParked(id);
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
  markChanged(head: StreamHead, change: Pick<StreamChange, "producers" | "attributes" | "retention">): void {
    if (!this.#changed.has(head.id)) {
      this.#idle.delete(head.id);
      this.#changed.set(head.id, head);
      const named = this.#byName.get(head.config.name);
      if (named === undefined || named.id <= head.id) this.#byName.set(head.config.name, head);
    }
    if (change.retention !== undefined && !keepsAll(change.retention)) this.#newlyRetained.add(head.id);
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

  /** Writes one head as it is. Call inside a transaction, and `markFolded` once it is committed. */
  fold(id: number): void {
    const head = this.#changed.get(id);
    if (head === undefined) return;
    this.#tables.put(encodeHead(head));
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
    this.#unpin(id);
    // The table has them. Idle heads are counted, not weighed, so they hold nothing that grows.
    head.producers.clear();
    if (head.deletion === "hard") this.#forgetName(head);
    else this.#idle.set(id, head);
  }

  /** Heads in name order; the table must be fresh (fold first). Gives way to others: so many deleted rows may lie between. */
  async list({ prefix, after, limit }: ListQuery): Promise<StreamHead[]> {
    // Names hold no NUL, so this is the smallest string after the last name of the page before.
    const place = { name: after === "" ? prefix : `${after}\u0000`, skip: 0, isEnd: false };
    const heads: StreamHead[] = [];
    for (;;) {
      // One more than wanted: the row that ends the list has to be a sound one, too.
      for (const row of this.#tables.page(place, prefix, Math.min(limit + 1, LIST_ROWS))) {
        if (heads.length === limit) return heads;
        const head = row.deletion === 0 ? this.#listed(row) : undefined;
        if (head?.deletion === "none") heads.push(head);
      }
      if (place.isEnd) return heads;
      await nextTurn();
    }
  }

  /** Not a use: a list must not drive out what is in use. */
  #listed(row: HeadRow): StreamHead {
    this.#expectNotParked(row.id);
    return this.#changed.get(row.id) ?? this.#idle.peek(row.id) ?? this.#headOf(row);
  }

  /** The largest id that the table has. */
  lastId(): number {
    return this.#tables.lastId();
  }

  pastDeadline(nowMs: number, limit: number): number[] {
    return this.#tables.pastDeadline(nowMs, limit);
  }

  /** Nothing has to be folded first. Memory before the table: a fold between the two looks is seen by the second. */
  async withRetention(after: number, limit: number): Promise<number[]> {
    const lowest = (id: number): number => (id > after ? Number.MAX_SAFE_INTEGER - id : 0);
    const ids = new Set(await largest(this.#newlyRetained, limit, lowest));
    for (const id of this.#tables.withRetention(after, limit)) ids.add(id);
    return [...ids].sort((left, right) => left - right).slice(0, limit);
  }

  /** Streams whose rows wait to be freed, as of their last fold. May go on in a later turn. */
  deletedIds(): Generator<number, undefined> {
    return this.#tables.deletedIds();
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
    this.#expectNotParked(row.id);
    const head = this.#headOf(row);
    // Of a stream that is gone for good some may be freed already.
    const isCounted = head.producerCount > 0 && head.producerCount <= MAX_COUNTED_PRODUCERS;
    if (isCounted && head.deletion !== "hard") {
      this.#tables.verifyProducerCount(head.id, head.producerCount);
    }
    this.#idle.set(row.id, head);
    if (head.deletion !== "hard" && !this.#byName.has(head.config.name)) this.#byName.set(head.config.name, head);
    return head;
  }

  #headOf(row: HeadRow): StreamHead {
    const head = decodeHead(row);
    if (head === null) throw new DamagedStream(`the head of stream ${JSON.stringify(row.name)} (id ${row.id})`);
    this.grant(head);
    return head;
  }

  /** Of what a process that was killed knew of accesses the last seconds are lost: a TTL may end late, never early. */
  grant(head: StreamHead): void {
    if (head.config.expiry.kind === "ttl") head.accessedMs = Math.max(head.accessedMs, this.#accessFloorMs);
  }

  #unpin(id: number): void {
    this.#changedProducers.delete(id);
    this.#changedAttributes.delete(id);
    this.#changed.delete(id);
    this.#newlyRetained.delete(id);
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
