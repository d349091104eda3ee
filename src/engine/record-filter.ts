/**
 * The records of a chunk that a filter wants, as they were written. Works in short turns: a read that wants little of much must
 * not keep others waiting. Neighbours stay together, so a filter that wants everything copies nothing.
 */

import { present } from "../kit/assert.ts";
import { joinBytes, utf8 } from "../kit/bytes.ts";
import type { Clock } from "../kit/clock.ts";
import { nextTurn } from "../kit/turn.ts";
import type { Filter } from "../protocol/filter.ts";
import { splitJsonRecords } from "../protocol/json-records.ts";
import { BACKGROUND_TURN_MS } from "../protocol/limits.ts";

const OPEN = utf8("[");
const CLOSE = utf8("]");
/** Records between two looks at the clock: about 50 µs. */
const RECORDS_PER_LOOK = 32;
const decoder = new TextDecoder();

/** `parts` are comma-joined JSON records; so is the answer. */
export async function filterRecords(
  parts: readonly Uint8Array[],
  filter: Filter,
  clock: Clock,
): Promise<readonly Uint8Array[]> {
  const wanted: Uint8Array[] = [];
  let endMs = clock.monotonicMs() + BACKGROUND_TURN_MS;
  let looked = 0;
  for (const part of parts) {
    const split = splitJsonRecords(joinBytes([OPEN, part, CLOSE]));
    // Checked when it was appended, and by the checksum of what it was read from.
    const { payload, lengths } = present(split.ok ? split : undefined, "stored records are JSON");
    let at = 0;
    /** Where a run of wanted records began; -1 = none. */
    let runAt = -1;
    for (const length of lengths) {
      const isWanted = filter.matches(JSON.parse(decoder.decode(payload.subarray(at, at + length))));
      if (isWanted && runAt < 0) runAt = at;
      if (!isWanted && runAt >= 0) {
        wanted.push(payload.subarray(runAt, at - 1));
        runAt = -1;
      }
      at += length + 1;
      if (++looked % RECORDS_PER_LOOK > 0 || clock.monotonicMs() < endMs) continue;
      await nextTurn();
      endMs = clock.monotonicMs() + BACKGROUND_TURN_MS;
    }
    if (runAt >= 0) wanted.push(payload.subarray(runAt, payload.length));
  }
  return wanted;
}
