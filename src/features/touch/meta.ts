/**
 * `touch/meta`: where touch of a stream stands. Fields of mechanisms that this design does not have keep their place with the
 * value that is true of it; docs/live-queries.md has the table.
 */

import { formatCursor } from "./requests.ts";
import type { TouchStream } from "./touch-stream.ts";

export function describeStream(stream: TouchStream) {
  const { interests, journal, settings, templates } = stream;
  const totals = stream.meter.totals();
  const hot = stream.hotTemplates(stream.around().nowMs);
  const { fine, coarse, broad } = interests.counts();
  const lag = stream.position.tail - stream.position.derived;
  return {
    mode: "memory",
    cursor: formatCursor(stream.id, stream.position.tail),
    epoch: String(stream.id),
    generation: stream.position.tail,
    settled: lag === 0,
    lagSourceOffsets: lag,
    touchMode: stream.position.lagging
      ? "coarseOnly"
      : interests.size > 0 || hot.active + hot.grace > 0
        ? "fine"
        : "idle",
    walScannedThrough: String(stream.position.derived - 1),
    bucketMaxSourceOffsetSeq: String(stream.position.derived - 1),
    lastFlushAtMs: stream.position.derivedMs,
    activeTemplates: templates.size,
    hotTemplates: hot.active + hot.grace,
    hotTemplatesActive: hot.active,
    hotTemplatesGrace: hot.grace,
    activeWaiters: interests.size,
    fineWaitersActive: fine,
    coarseWaitersActive: coarse,
    broadFineWaitersActive: broad,
    hotFineKeys: journal.size,
    hotFineKeysActive: interests.entries,
    hotFineKeysGrace: journal.size,
    pendingKeys: 0,
    overflowBuckets: journal.overflows,
    coarseIntervalMs: settings.coarseIntervalMs,
    touchCoalesceWindowMs: settings.touchCoalesceWindowMs,
    bucketMs: 0,
    coalesceMs: 0,
    filterSize: 0,
    k: 0,
    flushIntervalMsMaxLast10s: 0,
    flushIntervalMsP95Last10s: 0,
    hotKeyFilteringEnabled: false,
    hotTemplateFilteringEnabled: true,
    scanRows: totals.records,
    scanBatches: stream.position.runs,
    scannedButEmitted0Batches: totals.emptyBatches,
    processedThroughDelta: totals.records,
    touchesEmitted: totals.tableTouches + totals.fineTouches,
    touchesTable: totals.tableTouches,
    touchesTemplate: totals.fineTouches,
    coarseChanges: totals.coarseChanges,
    replays: totals.replays,
    fineTouchesDroppedDueToBudget: totals.wideKeys,
    fineTouchesSkippedColdTemplate: totals.coldTemplates,
    fineTouchesSkippedColdKey: 0,
    fineTouchesSkippedTemplateBucket: 0,
    waitTouched: totals.touched,
    waitTimeout: totals.timeouts,
    waitStale: totals.stale,
    journalFlushes: stream.position.runs,
    journalNotifyWakeups: totals.wakes,
    journalNotifyWakeMsTotal: totals.wakeMs,
    journalNotifyWakeMsMax: totals.wakeMsMax,
    journalTimeoutsFired: totals.timeoutsFired,
    journalTimeoutSweepMsTotal: 0,
  };
}
