/** The rows that a view shows, in its order, from rows that may be in it. In short turns: a view may have to look at all of a state. */

import TinyQueue from "tinyqueue";
import type { Clock } from "../../kit/clock.ts";
import { nextTurn } from "../../kit/turn.ts";
import { BACKGROUND_TURN_MS } from "../../protocol/limits.ts";
import { compareRows, isInView, type ViewDefinition, type ViewRow } from "./view-definition.ts";

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
  return shown.data.sort(inOrder);
}
