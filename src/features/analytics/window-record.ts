/** A closed window as one record: what it says, what it is made of (so that windows merge), and where its stage stands. */

import { isJsonObject } from "../../kit/json-object.ts";
import type { AggregationResult } from "./aggregation-result.ts";
import type { EventType } from "./event.ts";
import type { Pattern, SeenPattern } from "./pattern-watch.ts";
import { type PartialWindow, readPartial, type Span } from "./window-set.ts";
import type { WindowStats } from "./window-stats.ts";

export const WINDOW_TYPE = "analytics.window";

/** What of its source a stage had worked off when it closed windows: a restart goes on from here, exactly. */
export interface Checkpoint {
  /** Which append of its stage it is, from 1. */
  readonly number: number;
  /** Id of the source stream. */
  readonly source: number;
  /** Source positions below this are in these windows, in earlier ones, or in windows that are still open. */
  readonly through: number;
  /** Where to read the source again for the windows that were open. */
  readonly resume: number;
  /** Spans closed after `resume`: what they hold of the source is told already. */
  readonly closed: readonly (Span & { readonly through: number })[];
  /** What was seen in these windows: records for the stream of patterns. */
  readonly patterns: readonly PatternRecord[];
}

export interface PatternRecord extends Pattern {
  readonly eventType: EventType;
  readonly eventKey: string;
  /** The dimensions of the metric; none = over all of them. */
  readonly context?: unknown;
  readonly value: number;
}

export function patternRecord({
  series,
  type,
  confidence,
  description,
  start,
  end,
  value,
}: SeenPattern): PatternRecord {
  const context = series.context === "" ? {} : { context: JSON.parse(series.context) as unknown };
  return {
    eventType: series.type,
    eventKey: series.name,
    ...context,
    type,
    confidence,
    description,
    start,
    end,
    value,
  };
}

export interface WindowRecord {
  readonly window: AggregationResult;
  readonly stats: WindowStats;
  /** No later record has a window that begins before this. */
  readonly watermarkMs: number;
  /** In the last record of an append. */
  readonly checkpoint: Checkpoint | null;
}

export function encodeWindow({ window, stats, watermarkMs, checkpoint }: WindowRecord): string {
  const record = { type: WINDOW_TYPE, ...window, stats, watermark: watermarkMs };
  return JSON.stringify(checkpoint === null ? record : { ...record, checkpoint });
}

export interface ReadWindow {
  readonly part: PartialWindow;
  readonly watermarkMs: number;
  readonly checkpoint: Checkpoint | null;
}

/** Null for a record that is no window. */
export function decodeWindow(record: unknown): ReadWindow | null {
  if (!isJsonObject(record) || record["type"] !== WINDOW_TYPE) return null;
  const { eventType, eventKey, startTime, endTime, metadata, stats, watermark, checkpoint } = record;
  const context = isJsonObject(metadata) ? metadata["context"] : undefined;
  const part = readPartial({ type: eventType, name: eventKey, start: startTime, end: endTime, context, stats });
  if (part === null || typeof watermark !== "number") return null;
  // Only the server writes these streams: what is there was encoded above.
  return { part, watermarkMs: watermark, checkpoint: isJsonObject(checkpoint) ? (checkpoint as never) : null };
}
