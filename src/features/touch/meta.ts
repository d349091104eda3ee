/**
 * `touch/meta`: where touch of a stream stands. Fields of mechanisms that this design does not have keep their place with the
 * value that is true of it; docs/live-queries.md has the table.
 */

import { formatCursor } from "./requests.ts";
import type { TouchStream } from "./touch-stream.ts";

export function describeStream(stream: TouchStream) {
  const { counters, interests, journal, settings, templates } = stream;
  const nowMs = stream.around().nowMs;
  let hotTemplates = 0;
  let waitedFor = 0;
  for (const active of templates.all()) {
    if (interests.isNamed(active.template.id)) waitedFor++;
    else if (active.hotUntilMs > nowMs) hotTemplates++;
  }
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
      : interests.size > 0 || waitedFor + hotTemplates > 0
        ? "fine"
        : "idle",
    walScannedThrough: String(stream.position.derived - 1),
    bucketMaxSourceOffsetSeq: String(stream.position.derived - 1),
    lastFlushAtMs: stream.position.derivedMs,
    activeTemplates: templates.size,
    hotTemplates: waitedFor + hotTemplates,
    hotTemplatesActive: waitedFor,
    hotTemplatesGrace: hotTemplates,
    activeWaiters: interests.size,
    ...interests.counts(),
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
    scanRows: counters.records,
    scanBatches: stream.position.runs,
    scannedButEmitted0Batches: 0,
    processedThroughDelta: counters.records,
    touchesEmitted: counters.tableTouches + counters.fineTouches,
    touchesTable: counters.tableTouches,
    touchesTemplate: counters.fineTouches,
    coarseChanges: counters.coarseChanges,
    replays: counters.replays,
    fineTouchesDroppedDueToBudget: 0,
    fineTouchesSkippedColdTemplate: counters.coldTemplates,
    fineTouchesSkippedColdKey: 0,
    fineTouchesSkippedTemplateBucket: 0,
    waitTouched: counters.touched,
    waitTimeout: counters.timeouts,
    waitStale: counters.stale,
    journalFlushes: stream.position.runs,
    journalNotifyWakeups: counters.touched,
    journalNotifyWakeMsTotal: 0,
    journalNotifyWakeMsMax: 0,
    journalTimeoutsFired: counters.timeouts,
    journalTimeoutSweepMsTotal: 0,
  };
}
