/** The rows that a view shows, in its order, from rows that may be in it. In short turns: a view may have to look at all of a state. */

import TinyQueue from "tinyqueue";
import type { Clock } from "../../kit/clock.ts";
import { nextTurn } from "../../kit/turn.ts";
import { BACKGROUND_TURN_MS } from "../../protocol/limits.ts";
import type { SentRows } from "./sent-rows.ts";
import { compareRows } from "../../protocol/view-order.ts";
import { isInView, type ViewDefinition, type ViewRow } from "./view-definition.ts";

/** A state at one moment, as a view that comes back needs it. */
export interface Moment {
  /** What the view shows. */
  readonly rows: readonly ViewRow[];
  readonly all: readonly ViewRow[];
  /** Ids of rows that were deleted since the client left. */
  readonly deleted: readonly string[];
}

/**
 * What a client that was last told of position `since` has of a view: the rows that have not changed since then, and at most those that
 * have. Null when it cannot be told: so many rows that the view's limit may have hidden some.
 */
export async function rowsKnownAt(
  since: string,
  { limit }: ViewDefinition,
  { rows, all, deleted }: Moment,
  clock: Clock,
): Promise<SentRows | null> {
  // As many as it may show: some may be hidden now that were shown then, without having changed.
  if (rows.length >= limit) return null;
  const shown = new Set(rows.map(({ id }) => id));
  /** Deleted or changed since then, and not shown: it may have been. With what content does not matter any more. */
  const left = new Map(deleted.map((id) => [id, 0n]));
  let endMs = clock.monotonicMs() + BACKGROUND_TURN_MS;
  let looked = 0;
  for (const row of all) {
    if (++looked % ROWS_PER_LOOK === 0 && clock.monotonicMs() >= endMs) {
      await nextTurn();
      endMs = clock.monotonicMs() + BACKGROUND_TURN_MS;
    }
    if (row.offset > since && !shown.has(row.id)) left.set(row.id, row.hash);
    // More than the view shows at a time: something may have been hidden then, and is shown now without having changed.
    if (rows.length + left.size > limit) return null;
  }
  for (const row of rows) if (row.offset <= since) left.set(row.id, row.hash);
  return left;
}

/** Rows that are copied in about 0.3 ms. */
const ROWS_PER_TURN = 20_000;
/** Rows between two looks at the clock: about 100 µs. */
const ROWS_PER_LOOK = 128;

/** `candidates` must not change meanwhile: the answer is of one moment. */
export async function evaluateView(
  definition: ViewDefinition,
  candidates: readonly ViewRow[],
  clock: Clock,
): Promise<readonly ViewRow[]> {
  const inOrder = compareRows(definition.order);
  /** The first `limit` so far, the last of them on top. */
  const shown = new TinyQueue<ViewRow>([], (left, right) => -inOrder(left, right));
  // Copying so many was a turn's work.
  if (candidates.length > ROWS_PER_TURN) await nextTurn();
  let endMs = clock.monotonicMs() + BACKGROUND_TURN_MS;
  let looked = 0;
  for (const row of candidates) {
    if (++looked % ROWS_PER_LOOK === 0 && clock.monotonicMs() >= endMs) {
      await nextTurn();
      endMs = clock.monotonicMs() + BACKGROUND_TURN_MS;
    }
    if (!isInView(definition, row)) continue;
    const last = shown.peek();
    if (shown.length < definition.limit) shown.push(row);
    else if (last !== undefined && inOrder(row, last) < 0) {
      shown.pop();
      shown.push(row);
    }
  }
  if (looked > ROWS_PER_LOOK) await nextTurn();
  return shown.data.sort(inOrder);
}
