/**
 * Brings a state's rows into a store beside the log, and back at the next start, so that only the tail has to be read again. Saves a while
 * after the first change, a few rows a turn. A save is fuzzy: rows may be newer than its checkpoint, and reading on from there
 * makes them what they should be. A state whose rows the store fails to take or to give goes on without it; others do not notice.
 */

import { nextTurn } from "../../kit/turn.ts";
import type { Clock } from "../../kit/clock.ts";
import { BACKGROUND_TURN_MS } from "../../protocol/limits.ts";
import { rowId, type ViewRow } from "./view-definition.ts";

export interface KeptRow {
  readonly id: string;
  readonly text: string;
}

/** Where rows are kept (storage/sqlite/derived.ts). Every method may throw. */
export interface RowStore {
  streams(): readonly number[];
  checkpointOf(stream: number): number | null;
  page(stream: number, after: string, limit: number): readonly KeptRow[];
  save(stream: number, rows: readonly (readonly [id: string, text: string | null])[]): void;
  checkpoint(stream: number, seq: number): void;
  forget(stream: number, limit: number): boolean;
  close(): void;
}

/** Rows of one transaction: about 1 ms. */
const ROWS_PER_TURN = 100;

type OnFault = (operation: string, cause: unknown) => void;

/** The rows of all streams. */
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

  /** Those of one stream. At most one state at a time may save and load them. */
  of(stream: number): KeptState {
    return new KeptState(stream, () => this.#store, this.#clock, this.#onFault);
  }

  /** Forgets streams that `isThere` does not know. */
  async prune(isThere: (stream: number) => Promise<boolean>): Promise<void> {
    for (const stream of this.#store?.streams() ?? []) {
      if (!(await isThere(stream))) await this.of(stream).forget();
      await nextTurn();
    }
  }

  close(): void {
    const store = this.#store;
    this.#store = null;
    try {
      store?.close();
    } catch (cause) {
      this.#onFault("closing what is kept", cause);
    }
  }
}

/** The rows of one stream, for as long as one state lives. When the store fails it is told once, and from then on nothing is kept. */
export class KeptState {
  readonly #stream: number;
  readonly #clock: Clock;
  readonly #onFault: OnFault;
  #store: () => RowStore | null;

  constructor(stream: number, store: () => RowStore | null, clock: Clock, onFault: OnFault) {
    this.#stream = stream;
    this.#store = store;
    this.#clock = clock;
    this.#onFault = onFault;
  }

  /** How many records of the stream the kept rows stand for; null when it has to be read from the start. */
  checkpoint(): number | null {
    return this.#try("reading what is kept", (store) => store.checkpointOf(this.#stream));
  }

  /** Gives the kept rows to `take`, some a turn. False when they could not be read, or were not all taken. */
  async load(take: (rows: readonly KeptRow[]) => boolean): Promise<boolean> {
    for (let after = "", endMs = this.#endMs(); ;) {
      const rows = this.#try("reading what is kept", (store) => store.page(this.#stream, after, ROWS_PER_TURN));
      if (rows === null || !take(rows)) return false;
      const last = rows.at(-1);
      if (last === undefined || rows.length < ROWS_PER_TURN) return true;
      after = last.id;
      if (this.#clock.monotonicMs() < endMs) continue;
      await nextTurn();
      endMs = this.#endMs();
    }
  }

  /** Saves the rows of `ids` as they are when their turn comes, then that all before record `seq` is saved. */
  async save(seq: number, ids: Iterable<string>, rowOf: (id: string) => ViewRow | null): Promise<void> {
    let rows: [string, string | null][] = [];
    const flush = async (): Promise<void> => {
      const batch = rows;
      rows = [];
      this.#try("keeping rows", (store) => store.save(this.#stream, batch));
      await nextTurn();
    };
    for (const id of ids) {
      const row = rowOf(id);
      rows.push([id, row === null ? null : textOf(row)]);
      if (rows.length === ROWS_PER_TURN) await flush();
    }
    if (rows.length > 0) await flush();
    this.#try("keeping rows", (store) => store.checkpoint(this.#stream, seq));
  }

  /** Removes what is kept, in short turns. */
  async forget(): Promise<void> {
    const step = (): boolean | null =>
      this.#try("forgetting rows", (store) => store.forget(this.#stream, ROWS_PER_TURN));
    while (step() === false) await nextTurn();
  }

  #endMs(): number {
    return this.#clock.monotonicMs() + BACKGROUND_TURN_MS;
  }

  /** Null when there is no store, or none any more. */
  #try<T>(operation: string, work: (store: RowStore) => T): T | null {
    const store = this.#store();
    if (store === null) return null;
    try {
      return work(store);
    } catch (cause) {
      this.#store = () => null;
      this.#onFault(operation, cause);
      return null;
    }
  }
}

function textOf({ type, key, value, offset }: ViewRow): string {
  return JSON.stringify({ type, key, value, offset });
}

/** What a kept text stands for: our own text, from a store that SQLite could read. Null when it lies where another release put it. */
export function rowIn(id: string, text: string): Pick<ViewRow, "type" | "key" | "value" | "offset"> | null {
  const row = JSON.parse(text) as Pick<ViewRow, "type" | "key" | "value" | "offset">;
  return rowId(row.type, row.key) === id ? row : null;
}
