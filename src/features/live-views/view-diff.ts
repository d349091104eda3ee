/**
 * What a client has to be told so that it shows what a view shows now: nothing, some changes, or the whole set once more when more
 * than half of it differs. Pure.
 */

import type { ViewRow } from "./view-definition.ts";

/** What a client was sent, by the rows' ids. */
export type SentRows = ReadonlyMap<string, ViewRow>;

export type ViewChange =
  | { readonly operation: "insert" | "update"; readonly row: ViewRow }
  /** The row as the client has it. */
  | { readonly operation: "delete"; readonly row: ViewRow };

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
    present.add(row.id);
    const known = sent.get(row.id);
    if (known === undefined) changes.push({ operation: "insert", row });
    else if (known.hash !== row.hash) changes.push({ operation: "update", row });
  }
  for (const row of sent.values()) if (!present.has(row.id)) changes.push({ operation: "delete", row });
  if (changes.length === 0) return null;
  if (changes.length * 2 > Math.max(sent.size, rows.length)) return { kind: "full", rows };
  return { kind: "changes", changes };
}

/** What a client has been sent once it was told `rows`. */
export function sentRows(rows: readonly ViewRow[]): SentRows {
  return new Map(rows.map((row) => [row.id, row]));
}
