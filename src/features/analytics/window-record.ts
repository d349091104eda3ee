/** A closed window as one record: what it says, and what it is made of, so that windows merge. And where its stage stands. */

import { isJsonObject } from "../../kit/json-object.ts";
import type { AggregationResult } from "./aggregation-result.ts";
import type { EventType } from "./event.ts";
import type { Pattern, SeenPattern } from "./pattern-watch.ts";
import { type PartialWindow, readPartial, type Span } from "./window-set.ts";
import type { WindowStats } from "./window-stats.ts";

const WINDOW_TYPE = "analytics.window";

/**
 * What of its source a stage had worked off when it wrote windows; an attribute of the analytics stream that changes in the same commit. A
 * restart goes on from it, exactly.
 */
export interface Checkpoint {
  /** How many times its stage has written. */
  readonly number: number;
  /** Id of the source stream. */
  readonly source: number;
  /** Source positions below this are in windows that were told, or that were open. */
  readonly through: number;
  /** Where to read the source again for the windows that were open. */
  readonly resume: number;
  /** Spans told after `resume`: what they hold of the source is told already. */
  readonly told: readonly (Span & { readonly through: number })[];
  readonly watermarkMs: number;
  /** What was seen in these windows: records for the stream of patterns. */
  readonly patterns: readonly PatternRecord[];
}

export function encodeCheckpoint(checkpoint: Checkpoint): string {
  return JSON.stringify(checkpoint);
}

/** Null when there is none. */
export function decodeCheckpoint(attribute: string | undefined): Checkpoint | null {
  // The server alone writes attributes.
  return attribute === undefined ? null : (JSON.parse(attribute) as Checkpoint);
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

export interface ReadWindow {
  readonly part: PartialWindow;
  readonly watermarkMs: number;
}

/** `watermarkMs`: no later record has a window that begins before it. */
export function encodeWindow(window: AggregationResult, stats: WindowStats, watermarkMs: number): string {
  return JSON.stringify({ type: WINDOW_TYPE, ...window, stats, watermark: watermarkMs });
}

/** Null for a record that is no window. */
export function decodeWindow(record: unknown): ReadWindow | null {
  if (!isJsonObject(record) || record["type"] !== WINDOW_TYPE) return null;
  const { eventType, eventKey, startTime, endTime, metadata, stats, watermark } = record;
  const context = isJsonObject(metadata) ? metadata["context"] : undefined;
  const part = readPartial({ type: eventType, name: eventKey, start: startTime, end: endTime, context, stats });
  return part === null || typeof watermark !== "number" ? null : { part, watermarkMs: watermark };
}
