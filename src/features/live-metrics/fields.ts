/**
 * Every field of a `live.tick` record: how it accumulates between two ticks, and what it means here. The record is built in
 * `records.ts`; a test holds that both name the same fields, and that each follows its rule. The table in
 * docs/live-metrics.md is made from this one.
 */

/**
 * `sum`, `max`: over the interval, and over intervals told together. `last`: as it was at the end. `mean`, `p50`…: of what the
 * interval saw. `none`: a mechanism that this server does not have; always 0.
 */
export type Rule = "sum" | "max" | "last" | "mean" | "p50" | "p95" | "p99" | "none";

/** Kinds: a whole number, a number, a text, or a whole number that may be null. */
export type Kind = "whole" | "number" | "text" | "nullable";

export interface Field {
  readonly path: string;
  readonly rule: Rule;
  readonly kind: Kind;
  readonly about: string;
}

const table: readonly (readonly [path: string, rule: Rule, kind: Kind, about: string])[] = [
  ["touch.coarseIntervalMs", "last", "whole", "From the stream's profile. Keeps its place: waits are woken at once."],
  ["touch.coalesceWindowMs", "last", "whole", "From the stream's profile. Keeps its place: nothing is coalesced."],
  ["touch.mode", "last", "text", "`fine`, `coarseOnly` (too far behind) or `idle` (no batch, or nobody had asked)."],
  ["touch.hotFineKeys", "max", "whole", "Keys waited for, plus touches remembered for waits to come."],
  ["touch.hotTemplates", "max", "whole", "Templates whose fine keys are derived."],
  ["touch.hotFineKeysActive", "max", "whole", "Keys waited for."],
  ["touch.hotFineKeysGrace", "max", "whole", "Touches remembered for waits to come."],
  ["touch.hotTemplatesActive", "max", "whole", "Hot templates that a parked wait names."],
  ["touch.hotTemplatesGrace", "max", "whole", "Hot templates that a wait named up to 30 s ago."],
  ["touch.fineWaitersActive", "max", "whole", "Waits parked for keys."],
  [
    "touch.coarseWaitersActive",
    "max",
    "whole",
    "Waits parked for any change, because nothing known explains their keys.",
  ],
  ["touch.broadFineWaitersActive", "max", "whole", "Waits parked for keys that may belong to any template."],
  ["touch.touchesEmitted", "sum", "whole", "Table and fine keys touched."],
  [
    "touch.uniqueKeysTouched",
    "sum",
    "whole",
    "Distinct keys per change; changes are derived one by one, so the same as touchesEmitted.",
  ],
  ["touch.tableTouchesEmitted", "sum", "whole", "Table keys touched: one per change."],
  ["touch.templateTouchesEmitted", "sum", "whole", "Fine keys touched, of all templates."],
  ["touch.staleResponses", "sum", "whole", "Waits answered `stale`."],
  ["touch.fineTouchesDroppedDueToBudget", "sum", "whole", "Keys, at most, of changes too wide to be derived finely."],
  [
    "touch.fineTouchesSkippedColdTemplate",
    "sum",
    "whole",
    "Changes times templates that nobody had asked about: not derived.",
  ],
  ["touch.fineTouchesSkippedColdKey", "none", "whole", "There is no filter by key."],
  ["touch.fineTouchesSkippedTemplateBucket", "none", "whole", "There are no buckets."],
  [
    "touch.fineTouchesSuppressedBatchesDueToLag",
    "sum",
    "whole",
    "Commits derived coarsely because derivation was behind.",
  ],
  ["touch.fineTouchesSuppressedSecondsDueToLag", "sum", "number", "How long derivation was that far behind."],
  ["touch.fineTouchesSuppressedBatchesDueToBudget", "sum", "whole", "Changes too wide to be derived finely."],
  ["touch.cursor", "last", "text", "Where a wait from now on begins."],
  ["touch.epoch", "last", "text", "Incarnation of the stream; survives restarts."],
  ["touch.generation", "last", "whole", "Seq of the next record."],
  ["touch.pendingKeys", "last", "whole", "Records that wait to be derived."],
  ["touch.overflowBuckets", "last", "whole", "Times the memory of touches was full and forgotten, since it was made."],
  ["templates.active", "last", "whole", "Active templates."],
  ["templates.activated", "sum", "whole", "Templates activated."],
  ["templates.retired", "sum", "whole", "Templates retired because nobody used them."],
  ["templates.evicted", "sum", "whole", "Templates retired to make room."],
  ["templates.activationDenied", "sum", "whole", "Templates that were not activated."],
  ["wait.calls", "sum", "whole", "Waits that ended, whatever the answer; a client that went away counts."],
  ["wait.keysWatchedTotal", "sum", "whole", "Keys and key ids of these waits."],
  ["wait.avgKeysPerCall", "mean", "number", "Keys per wait."],
  ["wait.touched", "sum", "whole", "Waits answered by a touch."],
  ["wait.timeout", "sum", "whole", "Waits that ended without a touch."],
  ["wait.stale", "sum", "whole", "Waits answered `stale`."],
  ["wait.avgLatencyMs", "mean", "number", "From the arrival of a wait to its answer."],
  ["wait.p95LatencyMs", "p95", "whole", "The same, upper bound of its bucket."],
  ["wait.activeWaiters", "last", "whole", "Waits parked at the end of the interval."],
  ["wait.timeoutsFired", "sum", "whole", "Parked waits whose time was up."],
  ["wait.timeoutSweeps", "none", "whole", "There are no sweeps: each wait has its own deadline in one heap."],
  ["wait.timeoutSweepMsSum", "none", "whole", "There are no sweeps."],
  ["wait.timeoutSweepMsMax", "none", "whole", "There are no sweeps."],
  ["wait.notifyWakeups", "sum", "whole", "Parked waits woken."],
  ["wait.notifyFlushes", "sum", "whole", "Commits that woke a wait."],
  ["wait.notifyWakeMsSum", "sum", "number", "How long woken waits stood in the queue of answers."],
  ["wait.notifyWakeMsMax", "max", "number", "The longest of these."],
  ["wait.timeoutHeapSize", "last", "whole", "Deadlines of parked waits: one each."],
  ["processor.eventsIn", "sum", "whole", "Records looked at."],
  ["processor.changesOut", "sum", "whole", "Changes among them."],
  ["processor.errors", "sum", "whole", "Records that are no State Protocol records."],
  ["processor.lagSourceOffsets", "max", "whole", "Records that waited after a turn of derivation."],
  ["processor.scannedBatches", "sum", "whole", "Commits worked off."],
  ["processor.scannedButEmitted0Batches", "sum", "whole", "Commits that touched nothing, such as control records."],
  [
    "processor.noInterestFastForwardBatches",
    "sum",
    "whole",
    "Commits whose templates nobody had asked about: only their tables were touched.",
  ],
  ["processor.processedThroughDelta", "sum", "whole", "How far derivation has come."],
  ["processor.touchesEmittedDelta", "sum", "whole", "The same as touch.touchesEmitted."],
  [
    "processor.commitLagMsAvg",
    "mean",
    "number",
    "From the time of a commit to the end of its derivation; the sync to disk lies between.",
  ],
  ["processor.commitLagMsP50", "p50", "whole", "The same, upper bound of its bucket."],
  ["processor.commitLagMsP95", "p95", "whole", "The same."],
  ["processor.commitLagMsP99", "p99", "whole", "The same."],
  ["base.tailOffset", "last", "whole", "Seq of the last record; -1 before the first."],
  ["base.nextOffset", "last", "whole", "Seq of the next record."],
  ["base.sealedThrough", "last", "whole", "Last seq in sealed batches; -1 before the first."],
  ["base.uploadedThrough", "last", "whole", "Nothing is uploaded: the same as sealedThrough."],
  ["base.processedThrough", "last", "whole", "Last seq that is derived."],
  [
    "base.gcThrough",
    "last",
    "whole",
    "The smaller of processedThrough and uploadedThrough. Nothing waits for it: derivation reads no log.",
  ],
  ["base.walOldestOffset", "last", "nullable", "First seq that is not sealed; null when all is."],
  ["base.walRetainedRows", "last", "whole", "Records that are not sealed."],
  ["base.walRetainedBytes", "last", "whole", "Their bytes."],
  ["base.gc.calls", "sum", "whole", "Steps in which the stream's retention trimmed it."],
  ["base.gc.deletedRows", "sum", "whole", "Records given up."],
  ["base.gc.deletedBytes", "sum", "whole", "Their bytes."],
  ["base.gc.msSum", "sum", "number", "Time of these steps, until they were durable."],
  ["base.gc.msMax", "max", "number", "The longest."],
  ["base.backlogSourceOffsets", "last", "whole", "Records that are not derived."],
  [
    "process.eventLoopLagMsMax",
    "max",
    "number",
    "How late the event loop was, sampled every 100 ms; the same in all records of a tick.",
  ],
  ["process.eventLoopLagMsAvg", "mean", "number", "The mean of these."],
];

export const TICK_FIELDS: readonly Field[] = table.map(([path, rule, kind, about]) => ({ path, rule, kind, about }));

/** The table as Markdown, for the docs. */
export function fieldsTable(): string {
  const rows = TICK_FIELDS.map(({ path, rule, kind, about }) => `| \`${path}\` | ${rule} | ${kind} | ${about} |`);
  return ["| field | rule | type | meaning |", "|---|---|---|---|", ...rows].join("\n");
}
