/** The order of a live view's rows: one rule for the server, which says what rows come and go, and for clients, which say where. Pure. */

import { fieldAt, type FilterPath } from "./filter.ts";

export interface OrderTerm {
  readonly path: FilterPath;
  readonly descending: boolean;
}

/** What of a row gives it its place. */
export interface OrderedRow {
  readonly type: string;
  readonly key: string;
  readonly value: unknown;
}

export type CompareRows = (left: OrderedRow, right: OrderedRow) => number;

/** Numbers before text before all else; what has no such field comes last, both ways. Rows that are alike go by key and type. */
export function compareRows(order: readonly OrderTerm[]): CompareRows {
  return (left, right) => {
    for (const { path, descending } of order) {
      const by = compareFields(fieldAt(left.value, path), fieldAt(right.value, path), descending);
      if (by !== 0) return by;
    }
    return compare(left.key, right.key) || compare(left.type, right.type);
  };
}

function compareFields(left: unknown, right: unknown, descending: boolean): number {
  const [leftRank, rightRank] = [rankOf(left), rankOf(right)];
  if (leftRank !== rightRank) return leftRank - rightRank;
  if (leftRank === LAST) return 0;
  // Both are numbers, or both are texts.
  const by = compare(left as string, right as string);
  return descending ? -by : by;
}

const LAST = 2;

function rankOf(value: unknown): number {
  if (typeof value === "number") return 0;
  return typeof value === "string" ? 1 : LAST;
}

function compare(left: string, right: string): number {
  if (left === right) return 0;
  return left < right ? -1 : 1;
}
