/**
 * What was touched last, so that the gap between a wake and the next wait is covered: key → last seq, for the templates that are
 * hot. `coveredFrom` says since when a template's keys are all here. Overflow forgets everything and wakes nobody: waits with
 * older cursors read the log again, or hear that they are stale.
 */

import { KeyTable } from "./key-table.ts";

/** Keys of all streams of a server together. */
export interface JournalBudget {
  readonly maxEntries: number;
  entries: number;
}

/** What the journal keeps of one template. */
export interface TemplateTrace {
  /** Every fine key that a change at or after this seq touched is in the table. */
  coveredFrom: number;
  /** Last change whose fine keys could not be told; -1 = none. */
  lastCoarse: number;
}

export class Journal {
  readonly #table = new KeyTable();
  readonly #budget: JournalBudget;
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
    return this.#table.size;
  }

  get overflows(): number {
    return this.#overflows;
  }

  get tablesFrom(): number {
    return this.#tablesFrom;
  }

  /** Notes that the record `seq` touched `key`. */
  touchKey(key: bigint, seq: number): void {
    if (this.#table.raise(key, seq)) this.#budget.entries++;
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

  /** False when the server's journals hold more than they may: then `forget`. */
  get withinBudget(): boolean {
    return this.#budget.entries <= this.#budget.maxEntries;
  }

  /** Forgets every key; `traces` and tables are covered from `from` on. */
  forget(traces: Iterable<TemplateTrace>, from: number): void {
    this.#overflows++;
    this.clear();
    for (const trace of traces) trace.coveredFrom = Math.max(trace.coveredFrom, from);
    this.#tablesFrom = Math.max(this.#tablesFrom, from);
  }

  /** Gives the entries back to the budget. */
  clear(): void {
    this.#budget.entries -= this.#table.size;
    this.#table.clear();
  }

  /** After a replay from `from`: tables and changes are known from there on. */
  coverTables(from: number): void {
    this.#tablesFrom = Math.min(this.#tablesFrom, from);
  }

  keyTouchedSince(key: bigint, seq: number): boolean {
    return this.#table.seqOf(key) >= seq;
  }

  keyIdTouchedSince(keyId: number, seq: number): boolean {
    return this.#table.seqOfId(keyId) >= seq;
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
