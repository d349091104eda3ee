/** What a closed window says, as it is told: to callers, in window records, in answers. */

import type { EventType, Series } from "./event.ts";
import type { Pattern } from "./pattern-watch.ts";
import type { PartialWindow, Span } from "./window-set.ts";
import type { WindowStats } from "./window-stats.ts";

/** Estimates where events were sampled: the errors are half the width of a 95 % interval, 0 when nothing was. */
export interface Estimates {
  readonly count: number;
  readonly countError: number;
  /** Events that were really seen. */
  readonly observed: number;
  readonly sum: number;
  readonly sumError: number;
  readonly avg: number;
  readonly avgError: number;
  readonly min: number;
  readonly max: number;
  readonly stdDev: number;
  readonly median: number;
  /** By percentile: `{"50": 12.5, "99": 80}`. */
  readonly percentiles: Readonly<Record<string, number>>;
}

export interface AggregationResult extends Estimates {
  readonly windowId: string;
  readonly eventType: EventType;
  readonly eventKey: string;
  readonly startTime: number;
  readonly endTime: number;
  readonly patterns: readonly Pattern[];
  readonly metadata: {
    /** The dimensions of the metric. */
    readonly context?: unknown;
    /** Closed before its time: more of the same window may follow, to be merged. */
    readonly partial?: true;
  };
}

export function estimatesOf(stats: WindowStats, percentiles: readonly number[]): Estimates {
  const { count, countError, observed, sum, sumError, mean, meanError, min, max, stdDev } = stats;
  const told = percentiles.map((percentile) => [String(percentile), stats.quantile(percentile / 100)] as const);
  return {
    count,
    countError,
    observed,
    sum,
    sumError,
    avg: mean,
    avgError: meanError,
    min,
    max,
    stdDev,
    median: stats.median,
    percentiles: Object.fromEntries(told),
  };
}

export function resultOf(
  { series, stats, ...span }: PartialWindow,
  percentiles: readonly number[],
  patterns: readonly Pattern[],
  isPartial: boolean,
): AggregationResult {
  return {
    windowId: windowIdOf(span, series),
    eventType: series.type,
    eventKey: series.name,
    startTime: span.startMs,
    endTime: span.endMs,
    ...estimatesOf(stats, percentiles),
    patterns,
    metadata: {
      ...(series.context !== "" && { context: JSON.parse(series.context) as unknown }),
      ...(isPartial && { partial: true as const }),
    },
  };
}

/** The same for every part of a window, wherever it was measured. */
function windowIdOf({ startMs, endMs }: Span, { type, name, context }: Series): string {
  return `${startMs}-${endMs}/${type}.${name}${context}`;
}
