/**
 * What was touched, so that the gap between a wake and the next wait is covered: the fine keys of the templates that are hot.
 * Writing is appending to typed arrays; an index is built only when somebody asks about more than can be looked through.
 * `coveredFrom` says since when a template's keys are all here. Overflow forgets everything and wakes nobody: waits with
 * older cursors read the log again, or hear that they are stale.
 */

import { assert } from "../../kit/assert.ts";
import { KeyTable } from "./key-table.ts";

/** The entries of all journals of a server together. Over it the largest one is forgotten, whoever filled it last. */
export class JournalBudget {
  readonly #maxEntries: number;
  readonly #forget = new Map<Journal, () => void>();
  entries = 0;

  constructor(maxEntries: number) {
    this.#maxEntries = maxEntries;
  }

  /** `forget` empties the journal and says so to whoever relies on it. */
  add(journal: Journal, forget: () => void): void {
    this.#forget.set(journal, forget);
  }

  delete(journal: Journal): void {
    this.#forget.delete(journal);
  }

  /** Call once per record, after its keys. */
  enforce(): void {
    while (this.entries > this.#maxEntries) {
      let largest: { size: number; forget: () => void } | null = null;
      for (const [{ size }, forget] of this.#forget) if (size > (largest?.size ?? 0)) largest = { size, forget };
      assert(largest !== null, "journal entries belong to a journal");
      largest.forget();
    }
  }
}

/** What the journal keeps of one template. */
export interface TemplateTrace {
  /** Every fine key that a change at or after this seq touched is in the table. */
  coveredFrom: number;
  /** Last change whose fine keys could not be told; -1 = none. */
  lastCoarse: number;
  /** Last change that it saw at all; -1 = none. */
  lastSeen: number;
}

const FIRST_CAPACITY = 1024;
/** Entries times keys looked through for one answer, about 20 µs; more and they are indexed first. */
const MAX_LOOKS = 16_384;

/** Entries indexed in one turn: at most about 1.5 ms. */
const MAX_INDEXED_PER_TURN = 8_192;

const scratch = new BigUint64Array(1);
const halves = new Uint32Array(scratch.buffer);

export class Journal {
  readonly #budget: JournalBudget;
  /** The entries as they came, key and seq; the keys as halves too. Those before `#indexed` are in the table as well. */
  #keys = new BigUint64Array(0);
  #halves = new Uint32Array(0);
  #seqs = new Float64Array(0);
  #length = 0;
  #indexed = 0;
  readonly #table = new KeyTable();
  /** Table keys, coarse changes and any change are all known since then. */
  #tablesFrom: number;
  #lastCoarse = -1;
  #lastChange = -1;
  #lastReset = -1;
  #overflows = 0;

  constructor(budget: JournalBudget, from: number) {
    this.#budget = budget;
    this.#tablesFrom = from;
  }

  get size(): number {
    return this.#length;
  }

  /** What its entries and their index take up. */
  get bytes(): number {
    return this.#keys.byteLength + this.#seqs.byteLength + this.#table.bytes;
  }

  get overflows(): number {
    return this.#overflows;
  }

  get tablesFrom(): number {
    return this.#tablesFrom;
  }

  /** Notes that the record `seq` touched `key`; returns its low half. */
  touchKey(key: bigint, seq: number): number {
    const at = this.#length++;
    if (at === this.#seqs.length) this.#reserve(Math.max(FIRST_CAPACITY, at * 2));
    this.#keys[at] = key;
    this.#seqs[at] = seq;
    this.#budget.entries++;
    return this.#halves[2 * at] ?? 0;
  }

  touchTemplate(trace: TemplateTrace, seq: number): void {
    trace.lastCoarse = Math.max(trace.lastCoarse, seq);
    this.#lastCoarse = Math.max(this.#lastCoarse, seq);
  }

  touchAny(seq: number): void {
    this.#lastChange = Math.max(this.#lastChange, seq);
  }

  touchAll(seq: number): void {
    this.#lastReset = Math.max(this.#lastReset, seq);
  }

  /** Forgets every key; `traces` and tables are covered from `from` on. */
  forget(traces: Iterable<TemplateTrace>, from: number): void {
    this.#overflows++;
    this.clear();
    for (const trace of traces) trace.coveredFrom = Math.max(trace.coveredFrom, from);
    this.#tablesFrom = Math.max(this.#tablesFrom, from);
  }

  /** Gives everything back, its memory too: else each of many forgotten journals would hold what the budget lets all have. */
  clear(): void {
    this.#budget.entries -= this.#length;
    this.#length = this.#indexed = 0;
    this.#table.clear();
    this.#reserve(0);
  }

  /** After a replay from `from`: tables and changes are known from there on. */
  coverTables(from: number): void {
    this.#tablesFrom = Math.min(this.#tablesFrom, from);
  }

  /** Whether one of these keys, or a key with one of these ids, was touched at or after `seq`. */
  touchedSince(keys: readonly bigint[], keyIds: readonly number[], seq: number): boolean {
    const wanted = keys.length + keyIds.length;
    if (wanted * (this.#length - this.#indexed) > MAX_LOOKS) this.index(Infinity);
    for (const key of keys) {
      scratch[0] = key;
      if (this.#halvesTouched(halves[0] ?? 0, halves[1] ?? 0, seq)) return true;
    }
    for (const id of keyIds) if (this.#halvesTouched(id, null, seq)) return true;
    return false;
  }

  #halvesTouched(low: number, high: number | null, since: number): boolean {
    if (this.#table.seqOf(low, high) >= since) return true;
    for (let at = this.#indexed; at < this.#length; at++) {
      if (this.#halves[2 * at] !== low || (high !== null && this.#halves[2 * at + 1] !== high)) continue;
      if ((this.#seqs[at] ?? 0) >= since) return true;
    }
    return false;
  }

  /** More entries than may be indexed in one turn: ask only after `index` said true. */
  get isLong(): boolean {
    return this.#length - this.#indexed > MAX_INDEXED_PER_TURN;
  }

  /** Indexes at most so many entries; true when none is left. */
  index(limit = MAX_INDEXED_PER_TURN): boolean {
    const end = Math.min(this.#length, this.#indexed + limit);
    for (; this.#indexed < end; this.#indexed++) {
      const at = this.#indexed;
      this.#table.raise(this.#halves[2 * at] ?? 0, this.#halves[2 * at + 1] ?? 0, this.#seqs[at] ?? 0);
    }
    return this.#indexed === this.#length;
  }

  /** Room for so many entries; what was written stays. */
  #reserve(capacity: number): void {
    const [keys, seqs] = [new BigUint64Array(capacity), new Float64Array(capacity)];
    keys.set(this.#keys.subarray(0, this.#length));
    seqs.set(this.#seqs.subarray(0, this.#length));
    [this.#keys, this.#halves, this.#seqs] = [keys, new Uint32Array(keys.buffer), seqs];
  }

  coarseSince(seq: number): boolean {
    return this.#lastCoarse >= seq;
  }

  changedSince(seq: number): boolean {
    return this.#lastChange >= seq;
  }

  resetSince(seq: number): boolean {
    return this.#lastReset >= seq;
  }
}
