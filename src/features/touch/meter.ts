/**
 * Counts what touch of one stream does: the interval since the last take, and all of it. Owns the clock readings of waits and lag.
 * The stream says what happened; nothing here decides anything.
 */

import type { Clock } from "../../kit/clock.ts";
import { TouchActivity } from "./activity.ts";

/** What the stream holds at the end of a batch or an interval. */
export interface Holding {
  readonly hotKeysActive: number;
  readonly hotKeysGrace: number;
  readonly waiters: { readonly fine: number; readonly coarse: number; readonly broad: number };
}

export class Meter {
  readonly #clock: Clock;
  /** All before the current interval. */
  readonly #before = new TouchActivity();
  #activity = new TouchActivity();
  #derivedAtTake: number;
  #lagSinceMs: number | null = null;
  /** As they were when the batch in work began. */
  #batch = { changes: 0, touches: 0, fine: 0, cold: 0, woke: false };

  constructor(clock: Clock, derived: number) {
    this.#clock = clock;
    this.#derivedAtTake = derived;
  }

  /** The interval as it runs: add to it. */
  get now(): TouchActivity {
    return this.#activity;
  }

  /** All that was ever counted. */
  totals(): TouchActivity {
    const totals = new TouchActivity();
    totals.add(this.#before);
    totals.add(this.#activity);
    return totals;
  }

  woke(): void {
    this.#activity.wakes++;
    this.#batch.woke = true;
  }

  /** A woken wait that had to stand in the queue. */
  queuedFor(ms: number): void {
    this.#activity.wakeMs += ms;
    this.#activity.wakeMsMax = Math.max(this.#activity.wakeMsMax, ms);
  }

  waitEnded(end: "touched" | "timeout" | "stale" | "aborted", keys: number, ms: number): void {
    const activity = this.#activity;
    activity.waits++;
    activity.keysWatched += keys;
    activity.waitMs.observe(ms);
    if (end === "touched") activity.touched++;
    else if (end === "timeout") activity.timeouts++;
    else if (end === "stale") activity.stale++;
  }

  /** One commit's records are worked off. */
  batchEnded(atMs: number, lagging: boolean, holding: Holding): void {
    const activity = this.#activity;
    const { changes, touches, fine, cold, woke } = this.#batch;
    const emitted = activity.tableTouches + activity.fineTouches;
    const madeFine = activity.fineTouches > fine;
    activity.batches++;
    if (emitted === touches) activity.emptyBatches++;
    if (activity.changes > changes && !madeFine && activity.coldTemplates > cold) activity.unaskedBatches++;
    if (lagging) activity.lagBatches++;
    if (woke) activity.wakeBatches++;
    activity.mode = lagging
      ? "coarseOnly"
      : madeFine || holding.waiters.fine + holding.waiters.coarse > 0
        ? "fine"
        : "idle";
    activity.commitLagMs.observe(Math.max(0, this.#clock.nowMs() - atMs));
    this.#mark(holding);
    this.#beginBatch();
  }

  /** A turn of derivation is over and so many records wait for the next. */
  turnEnded(lagRecords: number, lagging: boolean): void {
    this.#activity.lagRecords = Math.max(this.#activity.lagRecords, lagRecords);
    if (lagging) this.#lagSinceMs ??= this.#clock.monotonicMs();
    else this.#settleLag(null);
  }

  trimmed({ records, bytes, ms }: { readonly records: number; readonly bytes: number; readonly ms: number }): void {
    const activity = this.#activity;
    activity.trims++;
    activity.trimmedRecords += records;
    activity.trimmedBytes += bytes;
    activity.trimMs += ms;
    activity.trimMsMax = Math.max(activity.trimMsMax, ms);
  }

  /** Waiters came or went. */
  waitersChanged({ fine, coarse, broad }: Holding["waiters"]): void {
    this.#activity.fineWaiters = Math.max(this.#activity.fineWaiters, fine);
    this.#activity.coarseWaiters = Math.max(this.#activity.coarseWaiters, coarse);
    this.#activity.broadWaiters = Math.max(this.#activity.broadWaiters, broad);
  }

  /** The interval, which ends here; null when nothing was counted and nobody waits. */
  take(
    derived: number,
    holding: Holding,
    hotTemplates: () => { readonly active: number; readonly grace: number },
  ): TouchActivity | null {
    const activity = this.#activity;
    activity.processed += derived - this.#derivedAtTake;
    this.#derivedAtTake = derived;
    if (this.#lagSinceMs !== null) this.#settleLag(this.#clock.monotonicMs());
    const { fine, coarse } = holding.waiters;
    if (activity.isQuiet && fine + coarse === 0) return null;
    this.#mark(holding);
    const { active, grace } = hotTemplates();
    activity.hotTemplates = Math.max(activity.hotTemplates, active + grace);
    activity.hotTemplatesActive = Math.max(activity.hotTemplatesActive, active);
    activity.hotTemplatesGrace = Math.max(activity.hotTemplatesGrace, grace);
    this.#before.add(activity);
    this.#activity = new TouchActivity();
    this.waitersChanged(holding.waiters);
    this.#beginBatch();
    return activity;
  }

  #mark({ hotKeysActive, hotKeysGrace, waiters }: Holding): void {
    const activity = this.#activity;
    activity.hotKeys = Math.max(activity.hotKeys, hotKeysActive + hotKeysGrace);
    activity.hotKeysActive = Math.max(activity.hotKeysActive, hotKeysActive);
    activity.hotKeysGrace = Math.max(activity.hotKeysGrace, hotKeysGrace);
    this.waitersChanged(waiters);
  }

  #settleLag(sinceMs: number | null): void {
    if (this.#lagSinceMs !== null) this.#activity.lagMs += this.#clock.monotonicMs() - this.#lagSinceMs;
    this.#lagSinceMs = sinceMs;
  }

  #beginBatch(): void {
    const { changes, tableTouches, fineTouches, coldTemplates } = this.#activity;
    this.#batch = { changes, touches: tableTouches + fineTouches, fine: fineTouches, cold: coldTemplates, woke: false };
  }
}
