/**
 * What a client has to be told so that it shows what a view shows now: nothing, some changes, or the whole set once more when more
 * than half of it differs. Pure.
 */

import type { ViewRow } from "./view-definition.ts";

/** What a client was sent: row by identity, and the hash of its content. */
export type SentRows = ReadonlyMap<string, bigint>;

export type ViewChange =
  | { readonly operation: "insert" | "update"; readonly row: ViewRow }
  | { readonly operation: "delete"; readonly type: string; readonly key: string };

export type ViewDiff =
  /** Forget what was shown; these are the rows. */
  | { readonly kind: "full"; readonly rows: readonly ViewRow[] }
  | { readonly kind: "changes"; readonly changes: readonly ViewChange[] };

/** From what was sent (null = nothing yet) to `rows`; null when there is nothing to tell. */
export function diffView(sent: SentRows | null, rows: readonly ViewRow[]): ViewDiff | null {
  if (sent === null) return { kind: "full", rows };
  const changes: ViewChange[] = [];
  const present = new Set<string>();
  for (const row of rows) {
    const id = rowId(row.type, row.key);
    present.add(id);
    const hash = sent.get(id);
    if (hash === undefined) changes.push({ operation: "insert", row });
    else if (hash !== row.hash) changes.push({ operation: "update", row });
  }
  for (const id of sent.keys()) {
    if (!present.has(id)) changes.push({ operation: "delete", ...typeAndKey(id) });
  }
  if (changes.length === 0) return null;
  if (changes.length * 2 > Math.max(sent.size, rows.length)) return { kind: "full", rows };
  return { kind: "changes", changes };
}

/** What a client has been sent once it was told `rows`. */
export function sentRows(rows: readonly ViewRow[]): SentRows {
  return new Map(rows.map((row) => [rowId(row.type, row.key), row.hash]));
}

/** One text for a type and a key; no two pairs have the same. */
export function rowId(type: string, key: string): string {
  return `${type.length}:${type}${key}`;
}

function typeAndKey(id: string): { readonly type: string; readonly key: string } {
  const colon = id.indexOf(":");
  const end = colon + 1 + Number(id.slice(0, colon));
  return { type: id.slice(colon + 1, end), key: id.slice(end) };
}
