/**
 * The rows that a live view shows, as the client has them, and what one message of the server changes of them. Messages say which
 * rows come and go, not where: the order is made here by the server's rule (docs/live-views.md).
 * Invariants: a message changes all or nothing; a row that is told again as it was stays the same object.
 */

import { isJsonObject } from "../kit/json-object.ts";
import type { FilterPath } from "../protocol/filter.ts";
import { compareRows, type CompareRows, type OrderTerm } from "../protocol/view-order.ts";

/** One row of a view. Never changed: a change of the row is another one. */
export interface LiveRow<T = unknown> {
  readonly type: string;
  readonly key: string;
  readonly value: T;
  /** Position in the stream behind the change that made it. */
  readonly offset: string;
}

/** What became of a row: as it was and as it is, null where it was or is not shown. */
export interface RowChange<T = unknown> {
  readonly before: LiveRow<T> | null;
  readonly after: LiveRow<T> | null;
}

type Step<T> =
  | { readonly kind: "reset" }
  | { readonly kind: "mark" }
  | { readonly kind: "set" | "remove"; readonly id: string; readonly row: LiveRow<T> };

/** At most as many rows as the view's limit, which the server keeps. */
export class ViewRows<T> {
  readonly #rows = new Map<string, LiveRow<T>>();
  #compare: CompareRows;
  /** The rows in their order; null = to be sorted when somebody asks. */
  #sorted: readonly LiveRow<T>[] | null = [];

  constructor(order: string | undefined) {
    this.#compare = orderBy(order);
  }

  get size(): number {
    return this.#rows.size;
  }

  get(type: string, key: string): LiveRow<T> | undefined {
    return this.#rows.get(idOf(type, key));
  }

  /** The same array until something changes. */
  inOrder(): readonly LiveRow<T>[] {
    this.#sorted ??= [...this.#rows.values()].sort(this.#compare);
    return this.#sorted;
  }

  reorder(order: string | undefined): void {
    this.#compare = orderBy(order);
    this.#sorted = null;
  }

  /** What the State Protocol records of one message change; null when they are none. */
  apply(records: unknown): readonly RowChange<T>[] | null {
    const steps = Array.isArray(records) ? records.map((record) => readStep<T>(record)) : [null];
    /** Rows as they were before the message. */
    const before = new Map<string, LiveRow<T> | null>();
    const note = (id: string): void => {
      if (!before.has(id)) before.set(id, this.#rows.get(id) ?? null);
    };
    if (steps.includes(null)) return null;
    for (const step of steps) {
      if (step === null || step.kind === "mark") continue;
      if (step.kind === "reset") {
        for (const id of this.#rows.keys()) note(id);
        this.#rows.clear();
        continue;
      }
      note(step.id);
      if (step.kind === "set") this.#rows.set(step.id, step.row);
      else this.#rows.delete(step.id);
    }
    const changes = [...before].flatMap(([id, row]) => this.#changeOf(id, row) ?? []);
    if (changes.length > 0) this.#sorted = null;
    return changes;
  }

  /** Null when the row is what it was: the same change of the stream made it. */
  #changeOf(id: string, before: LiveRow<T> | null): RowChange<T> | null {
    const after = this.#rows.get(id) ?? null;
    if (before?.offset !== after?.offset) return { before, after };
    if (before !== null) this.#rows.set(id, before);
    return null;
  }
}

/** No two pairs have the same. */
function idOf(type: string, key: string): string {
  return `${type.length}:${type}${key}`;
}

function readStep<T>(record: unknown): Step<T> | null {
  if (!isJsonObject(record) || !isJsonObject(record["headers"])) return null;
  const { type, key, value, headers } = record;
  const { operation, control, offset = "" } = headers;
  if (typeof control === "string") return { kind: control === "reset" ? "reset" : "mark" };
  if (typeof type !== "string" || typeof key !== "string" || typeof offset !== "string") return null;
  const row = { type, key, value: value as T, offset };
  const id = idOf(type, key);
  if (operation === "delete") return { kind: "remove", id, row };
  return operation === "insert" || operation === "update" ? { kind: "set", id, row } : null;
}

/** By an order as a definition has it. One that is none is refused by the server, and may be anything here. */
export function orderBy(order = ""): CompareRows {
  const terms = order
    .split(",")
    .map((term): OrderTerm => ({ path: pathIn(term), descending: /^\s*-/.test(term) }))
    .filter(({ path }) => path.length > 0);
  return compareRows(terms);
}

/** The parts of a path: `"a quoted name"`, `[0]`, or a word. */
const PART = /"(?:[^"\\\p{Cc}]|\\(?:["\\/bfnrt]|u[\da-fA-F]{4}))*"|\[[^\]]*\]|[\p{L}_$][\p{L}\p{N}_$]*/gu;

/** Of a path that is one. The parser of filters would tell what is none, and is 2 kB that every page would load. */
function pathIn(text: string): FilterPath {
  return (text.match(PART) ?? []).map((part) => {
    if (part.startsWith("[")) return Number(part.slice(1, -1));
    return part.startsWith('"') ? (JSON.parse(part) as string) : part;
  });
}
