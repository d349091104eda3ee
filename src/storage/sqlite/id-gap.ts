/**
 * Where the id counter goes on after ids were lost that clients may hold in offsets: after an accepted loss, and in a restored backup.
 * Taken from the time, so that the same backup restored twice, or a loss accepted twice, never gives the same ids out again.
 */

/** 2025-01-01: no id was given out before. */
const EPOCH_MS = Date.UTC(2025, 0, 1);
/** Streams that may be made in a millisecond, on average, before ids repeat. Below 2^53 for 28,000 years. */
const IDS_PER_MS = 10;
const MIN_GAP = 1_000_000;

/** `nextId`: above every id that is known to have been given out. */
export function idAfterLoss(nextId: number, nowMs: number): number {
  return Math.max(nextId + MIN_GAP, Math.floor(nowMs - EPOCH_MS) * IDS_PER_MS);
}
