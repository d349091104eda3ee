/**
 * What touch of one stream did since somebody last took it: counts that add up, marks that keep their maximum, two histograms.
 * Counting is adding to a field; two of them merge exactly, so an interval whose record could not be written is told with
 * the next one. The names of the fields in records and metrics are in `live-metrics/fields.ts`.
 */

import { Histogram } from "../../kit/histogram.ts";

/** Upper bounds in milliseconds. */
export const ACTIVITY_BOUNDS_MS: readonly number[] = [
  1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 120_000,
];

/** What the last batch was derived for: nobody, fine keys, or, far behind, coarse ones only. */
export type TouchMode = "idle" | "fine" | "coarseOnly";

const COUNTS = [
  // Derivation. A batch is what one commit brought to the stream.
  "records",
  "changes",
  "unreadable",
  "batches",
  "emptyBatches",
  "unaskedBatches",
  "processed",
  "tableTouches",
  "fineTouches",
  "coarseChanges",
  "coldTemplates",
  "lagBatches",
  "lagMs",
  "wideChanges",
  "wideKeys",
  // Waits.
  "waits",
  "keysWatched",
  "touched",
  "timeouts",
  "stale",
  "timeoutsFired",
  "wakes",
  "wakeBatches",
  "wakeMs",
  "replays",
  // Templates.
  "activated",
  "retired",
  "evicted",
  "denied",
  // Retention of the stream.
  "trims",
  "trimmedRecords",
  "trimmedBytes",
  "trimMs",
] as const;

const MARKS = [
  "hotKeys",
  "hotKeysActive",
  "hotKeysGrace",
  "hotTemplates",
  "hotTemplatesActive",
  "hotTemplatesGrace",
  "fineWaiters",
  "coarseWaiters",
  "broadWaiters",
  "lagRecords",
  "wakeMsMax",
  "trimMsMax",
] as const;

export type Count = (typeof COUNTS)[number];
export type Mark = (typeof MARKS)[number];

export interface TouchActivity extends Record<Count | Mark, number> {
  mode: TouchMode;
  readonly waitMs: Histogram;
  readonly commitLagMs: Histogram;
}

export function newActivity(): TouchActivity {
  const numbers = Object.fromEntries([...COUNTS, ...MARKS].map((name) => [name, 0])) as Record<Count | Mark, number>;
  return {
    ...numbers,
    mode: "idle",
    waitMs: new Histogram(ACTIVITY_BOUNDS_MS),
    commitLagMs: new Histogram(ACTIVITY_BOUNDS_MS),
  };
}

/** Whether nothing was counted. */
export function isQuiet(activity: TouchActivity): boolean {
  return COUNTS.every((name) => activity[name] === 0);
}

/** Adds the later `from` to `into`. */
export function mergeActivity(into: TouchActivity, from: TouchActivity): void {
  for (const name of COUNTS) into[name] += from[name];
  for (const name of MARKS) into[name] = Math.max(into[name], from[name]);
  if (from.batches > 0) into.mode = from.mode;
  into.waitMs.merge(from.waitMs);
  into.commitLagMs.merge(from.commitLagMs);
}

export function raise(activity: TouchActivity, mark: Mark, value: number): void {
  if (value > activity[mark]) activity[mark] = value;
}
