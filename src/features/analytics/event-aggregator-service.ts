/**
 * Aggregation in process: values fall into windows by their time; a window closes when it has expired, a while after its end, and then
 * says what it saw, and what patterns it is part of. Closed windows are kept for a day. What comes for a window that was closed
 * is told as one more part of it. Without a stream behind it: what is open is lost with the process.
 */

import { type Clock, systemClock } from "../../kit/clock.ts";
import { type Deadline, Deadlines } from "../../kit/deadlines.ts";
import { Ring } from "../../kit/ring.ts";
import { type AggregationResult, resultOf } from "./aggregation-result.ts";
import { type AnalyticsEvent, readEvent, seriesOf } from "./event.ts";
import { type AnalyticsSettings, completeSettings } from "./settings.ts";
import { patternsOf, PatternWatch, type SeenPattern } from "./pattern-watch.ts";
import {
  dueMsOf,
  type OpenSpan,
  type PartialWindow,
  type SeriesBudget,
  spanAt,
  UNBOUNDED,
  WindowSet,
} from "./window-set.ts";

export interface AggregatorConfig {
  readonly windowSizeMs?: number;
  /** Values held as they are, per window; past it a sketch of 1 %. */
  readonly maxValuesPerWindow?: number;
  readonly percentilesToCalculate?: readonly number[];
  readonly enablePatternDetection?: boolean;
  /** Patterns of less confidence are not told. */
  readonly patternThreshold?: number;
  /** How long a window stays open after its end. */
  readonly allowedLatenessMs?: number;
}

export interface AggregatorParts {
  readonly clock?: Clock;
  /** The timer that it shares with others; default: one of its own. */
  readonly deadlines?: Deadlines;
  readonly budget?: SeriesBudget;
  /** Told of each closed window. Must not throw. */
  readonly onClosed?: (result: AggregationResult) => void;
  /** Told of each pattern. Must not throw. */
  readonly onPattern?: (pattern: SeenPattern) => void;
}

/** Of all settings those that aggregation goes by. */
export function aggregatorConfigOf(settings: AnalyticsSettings): Required<AggregatorConfig> {
  const { aggregationWindowMs: windowSizeMs, maxValuesPerWindow, percentilesToCalculate } = settings;
  const { enablePatternDetection, patternThreshold, allowedLatenessMs } = settings;
  return {
    windowSizeMs,
    maxValuesPerWindow,
    percentilesToCalculate,
    enablePatternDetection,
    patternThreshold,
    allowedLatenessMs,
  };
}

const RESULTS_KEPT_MS = 24 * 3_600_000;
/** About 700 B each: 35 MB. The oldest go first. */
const MAX_RESULTS = 50_000;

export class EventAggregatorService {
  #config: Required<AggregatorConfig>;
  readonly #clock: Clock;
  readonly #deadlines: Deadlines;
  readonly #onClosed: (result: AggregationResult) => void;
  readonly #onPattern: (pattern: SeenPattern) => void;
  readonly #windows: WindowSet;
  readonly #watch: PatternWatch;
  readonly #results = new Ring<AggregationResult>();
  #timer: Deadline | null = null;
  #timerDueMs = Infinity;

  /** @throws RangeError when a number is not positive. */
  constructor(config: AggregatorConfig = {}, parts: AggregatorParts = {}) {
    this.#config = complete({ ...aggregatorConfigOf(completeSettings({})), ...config });
    const { clock = systemClock, deadlines = new Deadlines(clock), budget = UNBOUNDED } = parts;
    this.#clock = clock;
    this.#deadlines = deadlines;
    this.#onClosed = parts.onClosed ?? (() => undefined);
    this.#onPattern = parts.onPattern ?? (() => undefined);
    this.#windows = new WindowSet(budget, this.#config.maxValuesPerWindow);
    this.#watch = new PatternWatch(this.#config);
  }

  /** Changes settings; they hold at once, a window's size from its next window on. @throws RangeError as the constructor. */
  configure(config: AggregatorConfig): void {
    this.#config = complete({ ...this.#config, ...config });
    this.#windows.configure(this.#config.maxValuesPerWindow);
    this.#watch.configure(this.#config);
    this.#disarm();
    this.#arm();
  }

  /** False when the event holds no value to aggregate. @throws TypeError when it is no event. */
  addEvent(event: AnalyticsEvent): boolean {
    const read = readEvent(event);
    if (typeof read === "string") throw new TypeError(read);
    const { type, name, context, value, weight, timestampMs } = read;
    if (value === null) return false;
    const nowMs = this.#clock.nowMs();
    const span = spanAt(timestampMs ?? nowMs, this.#config.windowSizeMs);
    this.#windows.add(span, seriesOf(type, name, context), value, weight, nowMs);
    this.#armFor(dueMsOf({ ...span, openedMs: nowMs }, this.#config.allowedLatenessMs));
    return true;
  }

  /** Adds a part of a window that was measured elsewhere. */
  merge(part: PartialWindow): void {
    this.#windows.merge(part, this.#clock.nowMs(), 0);
    this.#arm();
  }

  /** Closed windows that lie in the span, oldest first; times in milliseconds, the end exclusive. */
  getAggregations(startTime: number, endTime: number, type?: AnalyticsEvent["type"]): AggregationResult[] {
    const found: AggregationResult[] = [];
    for (const result of this.#results.values()) {
      if (result.startTime < startTime || result.endTime > endTime) continue;
      if (type === undefined || result.eventType === type) found.push(result);
    }
    return found;
  }

  /** Closes the windows that have expired, or all of them: those that have not are marked as partial. */
  closeWindows(which: "expired" | "all" = "expired"): AggregationResult[] {
    const nowMs = this.#clock.nowMs();
    const closed = this.#windows
      .take((span) => which === "all" || dueMsOf(span, this.#config.allowedLatenessMs) <= nowMs)
      .flatMap((span) => this.#close(span, nowMs));
    for (const result of closed) {
      this.#results.push(result);
      this.#onClosed(result);
    }
    this.#forget(nowMs);
    this.#arm();
    return closed;
  }

  /** Windows that are open, results that are kept, series that are watched. */
  getStats(): { readonly activeWindows: number; readonly results: number; readonly patternCacheSize: number } {
    return { activeWindows: this.#windows.size, results: this.#results.length, patternCacheSize: this.#watch.size };
  }

  /** Forgets everything, and stops its timer. */
  clear(): void {
    this.#disarm();
    this.#windows.clear();
    this.#watch.clear();
    this.#results.clear();
  }

  #close({ windows, endMs }: OpenSpan, nowMs: number): AggregationResult[] {
    const parts = [...windows.values()];
    const isPartial = nowMs < endMs;
    const seen = isPartial ? [] : this.#watch.observe(parts);
    seen.forEach(this.#onPattern);
    const { percentilesToCalculate } = this.#config;
    return parts.map((part) => resultOf(part, percentilesToCalculate, patternsOf(seen, part), isPartial));
  }

  #forget(nowMs: number): void {
    for (let oldest = this.#results.peek(); oldest !== undefined; oldest = this.#results.peek()) {
      if (oldest.endTime >= nowMs - RESULTS_KEPT_MS && this.#results.length <= MAX_RESULTS) return;
      this.#results.shift();
    }
  }

  #disarm(): void {
    this.#timer?.cancel();
    this.#timer = null;
  }

  #arm(): void {
    this.#armFor(this.#windows.dueMs(this.#config.allowedLatenessMs));
  }

  /** One timer: for the window that expires first. */
  #armFor(dueMs: number): void {
    if (dueMs === Infinity || (this.#timer !== null && this.#timerDueMs <= dueMs)) return;
    this.#disarm();
    this.#timerDueMs = dueMs;
    this.#timer = this.#deadlines.after(Math.max(1, dueMs - this.#clock.nowMs()), () => {
      this.#timer = null;
      this.closeWindows();
    });
  }
}

function complete(config: Required<AggregatorConfig>): Required<AggregatorConfig> {
  for (const name of ["windowSizeMs", "maxValuesPerWindow"] as const) {
    if (!(config[name] > 0)) throw new RangeError(`${name} is a positive number, not ${config[name]}`);
  }
  return config;
}
