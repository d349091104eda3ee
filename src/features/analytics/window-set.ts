/**
 * Open windows: what was measured of each series, by the time span it belongs to. A partial window is a part of one as it
 * travels: in a batch record, in a window record, in a rollup. Merging partials of one span and series is exact, in any order.
 * Bound: series per span; what comes past it goes to the series `(other)` of its type.
 */

import { isJsonObject } from "../../kit/json-object.ts";
import { canonicalContext, EVENT_TYPES, type EventType, type Series, seriesOf } from "./event.ts";
import { MAX_SERIES_PER_WINDOW } from "./limits.ts";
import { WindowStats } from "./window-stats.ts";

export interface Span {
  readonly startMs: number;
  /** Exclusive. */
  readonly endMs: number;
}

export interface PartialWindow extends Span {
  readonly series: Series;
  readonly stats: WindowStats;
}

/** An open span. */
export interface OpenSpan extends Span {
  readonly windows: ReadonlyMap<string, PartialWindow>;
  /** When its first value came, and where it stood: the smallest source position of what it holds. */
  readonly openedMs: number;
  readonly firstSource: number;
}

interface GrowingSpan extends OpenSpan {
  readonly windows: Map<string, PartialWindow>;
  /** Windows that the budget was asked for. */
  charged: number;
}

/** What all sets together may hold. */
export interface SeriesBudget {
  take(series: number): boolean;
  give(series: number): void;
}

/** For one that shares with nobody. */
export const UNBOUNDED = { take: () => true, give: () => undefined };

/** When a span is to be closed: so long after its end, or after its first value if that came later. */
export function dueMsOf({ endMs, openedMs }: Pick<OpenSpan, "endMs" | "openedMs">, delayMs: number): number {
  return Math.max(endMs, openedMs) + delayMs;
}

/** What stands for all that is too many to be held apart. */
export const OTHER = "(other)";

export class WindowSet {
  readonly #budget: SeriesBudget;
  readonly #spans = new Map<string, GrowingSpan>();
  #maxValues: number;
  #size = 0;
  /** The span of the value before: most often that of the next one, too. */
  #last: GrowingSpan | null = null;

  constructor(budget: SeriesBudget, maxValues: number) {
    this.#budget = budget;
    this.#maxValues = maxValues;
  }

  /** Open windows. */
  get size(): number {
    return this.#size;
  }

  get spans(): Iterable<OpenSpan> {
    return this.#spans.values();
  }

  /** Holds for windows that are opened from now on. */
  configure(maxValues: number): void {
    this.#maxValues = maxValues;
  }

  add(span: Span, series: Series, value: number, weight: number, nowMs: number): void {
    this.#window(span, series, nowMs, 0).stats.add(value, weight);
  }

  /** `source`: where in its source the partial stands. */
  merge({ series, stats, ...span }: PartialWindow, nowMs: number, source: number): void {
    this.#window(span, series, nowMs, source).stats.merge(stats);
  }

  /** Takes the spans for which `isDue`, earliest first; they are open no more. */
  take(isDue: (span: OpenSpan) => boolean): OpenSpan[] {
    const taken: OpenSpan[] = [];
    for (const [key, span] of this.#spans) {
      if (!isDue(span)) continue;
      this.#spans.delete(key);
      taken.push(span);
      this.#size -= span.windows.size;
      this.#budget.give(span.charged);
    }
    this.#last = null;
    return taken.sort((left, right) => left.startMs - right.startMs);
  }

  /** When the next span is to be closed; Infinity when none is open. */
  dueMs(delayMs: number): number {
    let dueMs = Infinity;
    for (const span of this.#spans.values()) dueMs = Math.min(dueMs, dueMsOf(span, delayMs));
    return dueMs;
  }

  /** The smallest source position of what is open; null when nothing is. */
  firstSource(): number | null {
    let first = Infinity;
    for (const span of this.#spans.values()) first = Math.min(first, span.firstSource);
    return first === Infinity ? null : first;
  }

  clear(): void {
    this.take(() => true);
  }

  #window(span: Span, series: Series, nowMs: number, source: number): PartialWindow {
    const open = this.#span(span, nowMs, source);
    const known = open.windows.get(series.id);
    if (known !== undefined) return known;
    // Of the others there are five per span at most: they must fit.
    if (series.name !== OTHER) {
      if (open.windows.size >= MAX_SERIES_PER_WINDOW || !this.#budget.take(1))
        return this.#window(span, seriesOf(series.type, OTHER, ""), nowMs, source);
      open.charged++;
    }
    const { startMs, endMs } = open;
    const window: PartialWindow = { startMs, endMs, series, stats: new WindowStats(this.#maxValues) };
    open.windows.set(series.id, window);
    this.#size++;
    return window;
  }

  #span({ startMs, endMs }: Span, openedMs: number, firstSource: number): GrowingSpan {
    if (this.#last !== null && this.#last.startMs === startMs && this.#last.endMs === endMs) return this.#last;
    const key = `${startMs}-${endMs}`;
    let span = this.#spans.get(key);
    if (span === undefined) {
      span = { startMs, endMs, windows: new Map(), openedMs, firstSource, charged: 0 };
      this.#spans.set(key, span);
    }
    return (this.#last = span);
  }
}

/** The span of `sizeMs` that holds a time; spans begin at whole multiples after `offsetMs`. */
export function spanAt(timeMs: number, sizeMs: number, offsetMs = 0): Span {
  const startMs = Math.floor((timeMs - offsetMs) / sizeMs) * sizeMs + offsetMs;
  return { startMs, endMs: startMs + sizeMs };
}

export interface PartialJson {
  readonly start: number;
  readonly end: number;
  readonly type: EventType;
  readonly name: string;
  readonly context?: unknown;
  readonly stats: WindowStats;
}

/** A partial window as it is written. */
export function partialJson({ startMs, endMs, series: { type, name, context }, stats }: PartialWindow): PartialJson {
  const where = { start: startMs, end: endMs, type, name };
  return context === "" ? { ...where, stats } : { ...where, context: JSON.parse(context) as unknown, stats };
}

/** Null for what is none. */
export function readPartial(value: unknown): PartialWindow | null {
  if (!isJsonObject(value)) return null;
  const { start, end, type, name, context } = value;
  const eventType = EVENT_TYPES.find((known) => known === type);
  const dimensions = canonicalContext(context);
  if (eventType === undefined || typeof name !== "string" || dimensions === null) return null;
  if (!Number.isSafeInteger(start) || !Number.isSafeInteger(end)) return null;
  const stats = WindowStats.parse(value["stats"]);
  if (stats === null) return null;
  return { startMs: start as number, endMs: end as number, series: seriesOf(eventType, name, dimensions), stats };
}
