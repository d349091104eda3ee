/**
 * What was measured in a span of time: the windows that lie in it, merged. Whole weeks, days and hours come from rollups, the rest from
 * windows; what a stage has not written yet is taken from its memory. So each value is counted exactly once: it is either in a
 * window that some stage has yet to write, or in what the stage above it was told.
 * Bound: groups; values of those that are met past it go to the group `(other)`.
 */

import type { Engine } from "../../engine/engine.ts";
import { Pace } from "../../kit/turn.ts";
import { isJsonObject } from "../../kit/json-object.ts";
import { BACKGROUND_TURN_MS } from "../../protocol/limits.ts";
import { type AnalyticsStream, LEVELS } from "./analytics-stream.ts";
import { storedRecords } from "./derived-stream.ts";
import type { EventType } from "./event.ts";
import { MAX_GROUPS } from "./limits.ts";
import { decodeWindow } from "./window-record.ts";
import { OTHER, type PartialWindow, spanAt } from "./window-set.ts";
import { keyOf } from "./window-stage.ts";
import { WindowStats } from "./window-stats.ts";

export interface Wanted {
  readonly type: EventType;
  readonly name: string;
  readonly fromMs: number;
  /** Exclusive. */
  readonly toMs: number;
  /** A dimension of the context to tell apart by; null = all together. */
  readonly groupBy: string | null;
}

export interface Merged {
  /** By the value of the dimension as JSON; all together under the empty string. */
  readonly groups: ReadonlyMap<string, WindowStats>;
  /** Windows and rollups that were merged. */
  readonly windows: number;
}

/** Part of the span that one level answers for. */
interface Piece {
  readonly level: number;
  readonly fromMs: number;
  readonly toMs: number;
}

const NO_DIMENSION = "null";
const OTHER_GROUP = JSON.stringify(OTHER);

export async function aggregate(
  engine: Engine,
  stream: AnalyticsStream,
  wanted: Wanted,
  signal: AbortSignal,
): Promise<Merged> {
  const groups = new Map<string, WindowStats>();
  let windows = 0;
  const add = ({ series, stats }: PartialWindow): void => {
    const own = wanted.groupBy === null ? "" : dimensionOf(series.context, wanted.groupBy);
    const group = groups.has(own) || groups.size < MAX_GROUPS ? own : OTHER_GROUP;
    let merged = groups.get(group);
    if (merged === undefined) groups.set(group, (merged = new WindowStats()));
    merged.merge(stats);
    windows++;
  };
  // In one turn: what is written later is in what was open now.
  const unwritten = stream.stages.map((stage) => stage.unwritten());
  const pieces = piecesOf(wanted.fromMs, wanted.toMs, LEVELS.length - 1);
  for (const piece of pieces) {
    for (const { windows: open } of unwritten.slice(0, piece.level + 1)) {
      for (const part of open) if (isIn(part, piece) && isOf(part, wanted)) add(part);
    }
  }
  for (const piece of pieces) {
    const writtenTo = unwritten[piece.level]?.writtenTo ?? 0;
    for await (const part of written(engine, stream, piece, { ...wanted, writtenTo })) {
      if (signal.aborted) return { groups, windows };
      if (isIn(part, piece) && isOf(part, wanted)) add(part);
    }
  }
  return { groups, windows };
}

async function* written(
  engine: Engine,
  stream: AnalyticsStream,
  { level, fromMs, toMs }: Piece,
  { type, name, writtenTo }: Wanted & { readonly writtenTo: number },
): AsyncGenerator<PartialWindow> {
  const found = await stream.stages[level]?.target.find();
  if (found === null || found === undefined) return;
  const { head, from } = found;
  const pace = new Pace(engine.clock, BACKGROUND_TURN_MS);
  // A window is written after it has ended, so not before it began.
  const start = { kind: "time", atMs: fromMs } as const;
  for await (const { texts } of storedRecords(engine, head, start, writtenTo, { from, key: keyOf(type, name) })) {
    for (const text of texts) {
      const record = decodeWindow(JSON.parse(text));
      if (pace.isOver) await pace.next();
      if (record === null) continue;
      yield record.part;
      if (record.watermarkMs >= toMs) return;
    }
  }
}

/** Whole spans of the highest level, and what is left at both ends from the levels below. */
function piecesOf(fromMs: number, toMs: number, level: number): Piece[] {
  if (fromMs >= toMs) return [];
  const { sizeMs = null, offsetMs = 0 } = LEVELS[level] ?? {};
  if (sizeMs === null) return [{ level, fromMs, toMs }];
  const firstMs = spanAt(fromMs + sizeMs - 1, sizeMs, offsetMs).startMs;
  const lastMs = spanAt(toMs, sizeMs, offsetMs).startMs;
  if (firstMs >= lastMs) return piecesOf(fromMs, toMs, level - 1);
  return [
    ...piecesOf(fromMs, firstMs, level - 1),
    { level, fromMs: firstMs, toMs: lastMs },
    ...piecesOf(lastMs, toMs, level - 1),
  ];
}

/** Windows of another size than now may reach beyond an end of the span; no window reaches beyond its hour. */
function isIn({ startMs, endMs }: PartialWindow, { fromMs, toMs }: Piece): boolean {
  return startMs < toMs && endMs > fromMs;
}

function isOf({ series }: PartialWindow, { type, name }: Wanted): boolean {
  return series.type === type && series.name === name;
}

function dimensionOf(context: string, name: string): string {
  const dimensions: unknown = context === "" ? null : JSON.parse(context);
  const value = isJsonObject(dimensions) && Object.hasOwn(dimensions, name) ? dimensions[name] : null;
  return value === null ? NO_DIMENSION : JSON.stringify(value);
}
