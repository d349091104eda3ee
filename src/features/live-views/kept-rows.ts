/**
 * Brings a state's rows into a store beside the log, and back at the next start, so that only the tail has to be read again. Saves a while
 * after the first change, a few rows a turn. A save is fuzzy: rows may be newer than its checkpoint, and reading on from there
 * makes them what they should be. A store that fails is given up: states then come from the log.
 */

import { nextTurn } from "../../kit/turn.ts";
import type { Clock } from "../../kit/clock.ts";
import { BACKGROUND_TURN_MS } from "../../protocol/limits.ts";
import type { ViewRow } from "./view-definition.ts";

/** Where rows are kept (storage/sqlite/derived.ts). Every method may throw. */
export interface RowStore {
  streams(): readonly number[];
  checkpointOf(stream: number): number | null;
  page(stream: number, after: string, limit: number): readonly { readonly id: string; readonly text: string }[];
  save(stream: number, rows: readonly (readonly [id: string, text: string | null])[]): void;
  checkpoint(stream: number, seq: number): void;
  forget(stream: number, limit: number): boolean;
  close(): void;
}

/** Rows of one transaction: about 1 ms. */
const ROWS_PER_TURN = 100;

type OnFault = (operation: string, cause: unknown) => void;

export class KeptRows {
  readonly #onFault: OnFault;
  readonly #clock: Clock;
  #store: RowStore | null;

  /** `store` null: nothing is kept. */
  constructor(store: RowStore | null, clock: Clock, onFault: OnFault) {
    this.#store = store;
    this.#clock = clock;
    this.#onFault = onFault;
  }

  /** How many records of a stream the kept rows stand for; null when it has to be read from the start. */
  checkpointOf(stream: number): number | null {
    return this.#try("reading what is kept", (store) => store.checkpointOf(stream)) ?? null;
  }

  /** Gives every kept row of a stream to `take`, in short turns. False when they could not be read. */
  async load(stream: number, take: (text: string) => void): Promise<boolean> {
    for (let after = "", endMs = this.#endMs(); ;) {
      const rows = this.#try("reading what is kept", (store) => store.page(stream, after, ROWS_PER_TURN));
      if (rows === null) return false;
      for (const { text } of rows) take(text);
      const last = rows.at(-1);
      if (last === undefined || rows.length < ROWS_PER_TURN) return true;
      after = last.id;
      if (this.#clock.monotonicMs() < endMs) continue;
      await nextTurn();
      endMs = this.#endMs();
    }
  }

  /** Saves the rows of `ids` as they are when their turn comes, then that all before record `seq` is saved. */
  async save(stream: number, seq: number, ids: Iterable<string>, rowOf: (id: string) => ViewRow | null): Promise<void> {
    let rows: [string, string | null][] = [];
    const flush = async (): Promise<void> => {
      const batch = rows;
      rows = [];
      this.#try("keeping rows", (store) => store.save(stream, batch));
      await nextTurn();
    };
    for (const id of ids) {
      const row = rowOf(id);
      rows.push([id, row === null ? null : textOf(row)]);
      if (rows.length === ROWS_PER_TURN) await flush();
    }
    if (rows.length > 0) await flush();
    this.#try("keeping rows", (store) => store.checkpoint(stream, seq));
  }

  /** Removes what is kept of a stream, in short turns. */
  async forget(stream: number): Promise<void> {
    while (this.#try("forgetting rows", (store) => store.forget(stream, ROWS_PER_TURN)) === false) await nextTurn();
  }

  /** Forgets streams that `isThere` does not know. */
  async prune(isThere: (stream: number) => Promise<boolean>): Promise<void> {
    for (const stream of this.#try("reading what is kept", (store) => store.streams()) ?? []) {
      if (!(await isThere(stream))) await this.forget(stream);
      await nextTurn();
    }
  }

  close(): void {
    this.#try("closing what is kept", (store) => store.close());
    this.#store = null;
  }

  #endMs(): number {
    return this.#clock.monotonicMs() + BACKGROUND_TURN_MS;
  }

  /** Null when there is no store, or none any more. */
  #try<T>(operation: string, work: (store: RowStore) => T): T | null {
    if (this.#store === null) return null;
    try {
      return work(this.#store);
    } catch (cause) {
      this.#store = null;
      this.#onFault(operation, cause);
      return null;
    }
  }
}

function textOf({ type, key, value, offset }: ViewRow): string {
  return JSON.stringify({ type, key, value, offset });
}

/** What a kept text stands for. It is our own text, from a store that SQLite could read. */
export function rowIn(text: string): Pick<ViewRow, "type" | "key" | "value" | "offset"> {
  return JSON.parse(text) as Pick<ViewRow, "type" | "key" | "value" | "offset">;
}
