/**
 * What a client has to be told so that it shows what a view shows now: nothing, some changes, or the whole set once more when more
 * than half of it differs. Pure.
 */

import type { SentRows } from "./sent-rows.ts";
import { type RowName, rowName, type ViewRow } from "./view-definition.ts";

export type ViewChange =
  | { readonly operation: "insert" | "update"; readonly row: ViewRow }
  | { readonly operation: "delete"; readonly row: RowName };

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
    else if (known !== row.hash) changes.push({ operation: "update", row });
  }
  for (const id of sent.keys()) if (!present.has(id)) changes.push({ operation: "delete", row: rowName(id) });
  if (changes.length === 0) return null;
  if (changes.length * 2 > Math.max(sent.size, rows.length)) return { kind: "full", rows };
  return { kind: "changes", changes };
}
