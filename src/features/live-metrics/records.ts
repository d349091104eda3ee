/** The records of `live.metrics`, from what was counted. Pure. Numbers stay within 2^53 - 1; what must not be negative is not. */

import type { Lag } from "../../kit/event-loop-lag.ts";
import type { TemplateEvent, TemplateSnapshot, TouchReport } from "../touch/index.ts";

/** Stands in every record. */
export interface Identity {
  readonly instanceId: string;
  readonly region: string;
}

/** What the records of one moment have in common. */
export interface Stamp extends Identity {
  readonly ts: string;
  readonly atMs: number;
}

export function stampOf({ instanceId, region }: Identity, atMs: number): Stamp {
  return { ts: new Date(atMs).toISOString(), atMs, instanceId, region };
}

const SYSTEM_VERSION = "v2";

/** What begins every record. */
function envelope(type: string, stream: string, { ts, instanceId, region }: Stamp) {
  return { type, ts, stream, liveSystemVersion: SYSTEM_VERSION, instanceId, region };
}

export function tickRecord({ id, stream, activity, now }: TouchReport, lag: Lag, stamp: Stamp) {
  const { next, derived, unsealed } = now;
  const touches = activity.tableTouches + activity.fineTouches;
  const sealedThrough = (unsealed?.from ?? next) - 1;
  const keysPerWait = activity.waits === 0 ? 0 : activity.keysWatched / activity.waits;
  return {
    type: "live.tick",
    ts: stamp.ts,
    stream,
    liveSystemVersion: SYSTEM_VERSION,
    instanceId: stamp.instanceId,
    region: stamp.region,
    touch: {
      coarseIntervalMs: now.coarseIntervalMs,
      coalesceWindowMs: now.touchCoalesceWindowMs,
      mode: activity.mode,
      hotFineKeys: activity.hotKeys,
      hotTemplates: activity.hotTemplates,
      hotFineKeysActive: activity.hotKeysActive,
      hotFineKeysGrace: activity.hotKeysGrace,
      hotTemplatesActive: activity.hotTemplatesActive,
      hotTemplatesGrace: activity.hotTemplatesGrace,
      fineWaitersActive: activity.fineWaiters,
      coarseWaitersActive: activity.coarseWaiters,
      broadFineWaitersActive: activity.broadWaiters,
      touchesEmitted: touches,
      uniqueKeysTouched: touches,
      tableTouchesEmitted: activity.tableTouches,
      templateTouchesEmitted: activity.fineTouches,
      staleResponses: activity.stale,
      fineTouchesDroppedDueToBudget: activity.wideKeys,
      fineTouchesSkippedColdTemplate: activity.coldTemplates,
      fineTouchesSkippedColdKey: 0,
      fineTouchesSkippedTemplateBucket: 0,
      fineTouchesSuppressedBatchesDueToLag: activity.lagBatches,
      fineTouchesSuppressedSecondsDueToLag: rounded(activity.lagMs / 1000),
      fineTouchesSuppressedBatchesDueToBudget: activity.wideChanges,
      cursor: `${id}:${next}`,
      epoch: String(id),
      generation: next,
      pendingKeys: next - derived,
      overflowBuckets: now.overflows,
    },
    templates: {
      active: now.activeTemplates,
      activated: activity.activated,
      retired: activity.retired,
      evicted: activity.evicted,
      activationDenied: activity.denied,
    },
    wait: {
      calls: activity.waits,
      keysWatchedTotal: activity.keysWatched,
      avgKeysPerCall: rounded(keysPerWait),
      touched: activity.touched,
      timeout: activity.timeouts,
      stale: activity.stale,
      avgLatencyMs: rounded(activity.waitMs.mean),
      p95LatencyMs: activity.waitMs.quantile(0.95),
      activeWaiters: now.activeWaiters,
      timeoutsFired: activity.timeoutsFired,
      timeoutSweeps: 0,
      timeoutSweepMsSum: 0,
      timeoutSweepMsMax: 0,
      notifyWakeups: activity.wakes,
      notifyFlushes: activity.wakeBatches,
      notifyWakeMsSum: rounded(activity.wakeMs),
      notifyWakeMsMax: rounded(activity.wakeMsMax),
      timeoutHeapSize: now.activeWaiters,
    },
    processor: {
      eventsIn: activity.records,
      changesOut: activity.changes,
      errors: activity.unreadable,
      lagSourceOffsets: activity.lagRecords,
      scannedBatches: activity.batches,
      scannedButEmitted0Batches: activity.emptyBatches,
      noInterestFastForwardBatches: activity.unaskedBatches,
      processedThroughDelta: activity.processed,
      touchesEmittedDelta: touches,
      commitLagMsAvg: rounded(activity.commitLagMs.mean),
      commitLagMsP50: activity.commitLagMs.quantile(0.5),
      commitLagMsP95: activity.commitLagMs.quantile(0.95),
      commitLagMsP99: activity.commitLagMs.quantile(0.99),
    },
    base: {
      tailOffset: next - 1,
      nextOffset: next,
      sealedThrough,
      uploadedThrough: sealedThrough,
      processedThrough: derived - 1,
      gcThrough: Math.min(derived - 1, sealedThrough),
      walOldestOffset: unsealed?.from ?? null,
      walRetainedRows: unsealed === null ? 0 : next - unsealed.from,
      walRetainedBytes: unsealed?.bytes ?? 0,
      gc: {
        calls: activity.trims,
        deletedRows: activity.trimmedRecords,
        deletedBytes: activity.trimmedBytes,
        msSum: rounded(activity.trimMs),
        msMax: rounded(activity.trimMsMax),
      },
      backlogSourceOffsets: Math.max(0, next - derived),
    },
    process: {
      eventLoopLagMsMax: rounded(lag.maxMs),
      eventLoopLagMsAvg: rounded(lag.samples === 0 ? 0 : lag.sumMs / lag.samples),
    },
  };
}

export function eventRecord(stream: string, event: TemplateEvent, stamp: Stamp) {
  const { type, ...facts } = event;
  return { ...envelope(type, stream, stamp), ...facts };
}

/** What another feature counted for a stream since the last tick. */
export interface FeatureTick {
  readonly type: string;
  readonly stream: string;
  readonly counts: Readonly<Record<string, number>>;
}

export function featureRecord({ type, stream, counts }: FeatureTick, stamp: Stamp) {
  return { ...envelope(type, stream, stamp), ...counts };
}

/** The parts of one stream's snapshot in order, at most `chunkSize` templates each. */
export function* snapshotRecords(
  {
    stream,
    id,
    templates,
  }: { readonly stream: string; readonly id: number; readonly templates: readonly TemplateSnapshot[] },
  chunkSize: number,
  stamp: Stamp,
) {
  const snapshotId = `s-${stream}-${stamp.atMs}`;
  const part = (name: "start" | "chunk" | "end") => envelope(`live.templates_snapshot_${name}`, stream, stamp);
  yield { ...part("start"), snapshotId, epoch: String(id), activeTemplates: templates.length, chunkSize };
  for (let at = 0, chunkIndex = 0; at < templates.length; at += chunkSize, chunkIndex++) {
    yield { ...part("chunk"), snapshotId, chunkIndex, templates: templates.slice(at, at + chunkSize) };
  }
  yield { ...part("end"), snapshotId };
}

/** To microseconds: a tick is text, and digits that nobody measures would fill the disk. */
function rounded(value: number): number {
  return Math.round(value * 1000) / 1000;
}
