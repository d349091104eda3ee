/**
 * What touch of one stream did since somebody last took it: counts that add up, marks that keep their maximum, two histograms.
 * Counting is adding to a field; two of them merge exactly, so an interval whose record could not be written is told with
 * the next one. `add` names every field by itself: a loop over names costs ten times as much, and a test of the records
 * holds that none is left out. What the fields are called in records is in `live-metrics/fields.ts`.
 */

import { Histogram } from "../../kit/histogram.ts";

/** Upper bounds in milliseconds. */
const BOUNDS_MS: readonly number[] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 120_000];

/** What the last batch was derived for: nobody, fine keys, or, far behind, coarse ones only. */
export type TouchMode = "idle" | "fine" | "coarseOnly";

export class TouchActivity {
  mode: TouchMode = "idle";
  // Derivation. A batch is what one commit brought to the stream.
  records = 0;
  changes = 0;
  unreadable = 0;
  batches = 0;
  emptyBatches = 0;
  unaskedBatches = 0;
  processed = 0;
  tableTouches = 0;
  fineTouches = 0;
  coarseChanges = 0;
  coldTemplates = 0;
  lagBatches = 0;
  lagMs = 0;
  wideChanges = 0;
  wideKeys = 0;
  readonly commitLagMs = new Histogram(BOUNDS_MS);
  // Waits.
  waits = 0;
  keysWatched = 0;
  touched = 0;
  timeouts = 0;
  stale = 0;
  timeoutsFired = 0;
  wakes = 0;
  wakeBatches = 0;
  wakeMs = 0;
  replays = 0;
  readonly waitMs = new Histogram(BOUNDS_MS);
  // Templates.
  activated = 0;
  retired = 0;
  evicted = 0;
  denied = 0;
  // Retention of the stream.
  trims = 0;
  trimmedRecords = 0;
  trimmedBytes = 0;
  trimMs = 0;
  // Maxima.
  hotKeys = 0;
  hotKeysActive = 0;
  hotKeysGrace = 0;
  hotTemplates = 0;
  hotTemplatesActive = 0;
  hotTemplatesGrace = 0;
  fineWaiters = 0;
  coarseWaiters = 0;
  broadWaiters = 0;
  lagRecords = 0;
  wakeMsMax = 0;
  trimMsMax = 0;

  /** Whether nothing happened: every other count comes with one of these. */
  get isQuiet(): boolean {
    const { records, processed, waits, denied, activated, retired, evicted, trims } = this;
    return records + processed + waits + denied + activated + retired + evicted + trims === 0;
  }

  /** Adds what happened later. */
  add(later: TouchActivity): void {
    if (later.batches > 0) this.mode = later.mode;
    this.records += later.records;
    this.changes += later.changes;
    this.unreadable += later.unreadable;
    this.batches += later.batches;
    this.emptyBatches += later.emptyBatches;
    this.unaskedBatches += later.unaskedBatches;
    this.processed += later.processed;
    this.tableTouches += later.tableTouches;
    this.fineTouches += later.fineTouches;
    this.coarseChanges += later.coarseChanges;
    this.coldTemplates += later.coldTemplates;
    this.lagBatches += later.lagBatches;
    this.lagMs += later.lagMs;
    this.wideChanges += later.wideChanges;
    this.wideKeys += later.wideKeys;
    this.commitLagMs.merge(later.commitLagMs);
    this.waits += later.waits;
    this.keysWatched += later.keysWatched;
    this.touched += later.touched;
    this.timeouts += later.timeouts;
    this.stale += later.stale;
    this.timeoutsFired += later.timeoutsFired;
    this.wakes += later.wakes;
    this.wakeBatches += later.wakeBatches;
    this.wakeMs += later.wakeMs;
    this.replays += later.replays;
    this.waitMs.merge(later.waitMs);
    this.activated += later.activated;
    this.retired += later.retired;
    this.evicted += later.evicted;
    this.denied += later.denied;
    this.trims += later.trims;
    this.trimmedRecords += later.trimmedRecords;
    this.trimmedBytes += later.trimmedBytes;
    this.trimMs += later.trimMs;
    this.hotKeys = Math.max(this.hotKeys, later.hotKeys);
    this.hotKeysActive = Math.max(this.hotKeysActive, later.hotKeysActive);
    this.hotKeysGrace = Math.max(this.hotKeysGrace, later.hotKeysGrace);
    this.hotTemplates = Math.max(this.hotTemplates, later.hotTemplates);
    this.hotTemplatesActive = Math.max(this.hotTemplatesActive, later.hotTemplatesActive);
    this.hotTemplatesGrace = Math.max(this.hotTemplatesGrace, later.hotTemplatesGrace);
    this.fineWaiters = Math.max(this.fineWaiters, later.fineWaiters);
    this.coarseWaiters = Math.max(this.coarseWaiters, later.coarseWaiters);
    this.broadWaiters = Math.max(this.broadWaiters, later.broadWaiters);
    this.lagRecords = Math.max(this.lagRecords, later.lagRecords);
    this.wakeMsMax = Math.max(this.wakeMsMax, later.wakeMsMax);
    this.trimMsMax = Math.max(this.trimMsMax, later.trimMsMax);
  }
}
