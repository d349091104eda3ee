/**
 * Watches closed windows for patterns: a detector per series, and one per metric over all its contexts, so that what happens across
 * them is seen too. Each window is seen once, in the order of time. Bound: 2,000 detectors, least recently used ones go.
 */

import { LRUCache } from "lru-cache";
import { type Series, seriesOf } from "./event.ts";
import { type Detection, type PatternType, SeriesDetector } from "./series-detector.ts";
import type { PartialWindow, Span } from "./window-set.ts";
import { WindowStats } from "./window-stats.ts";

export interface Pattern {
  readonly type: PatternType;
  readonly confidence: number;
  readonly description: string;
  readonly start: number;
  readonly end: number;
}

/** A pattern with what it was seen in; without context: over all contexts of the metric. */
export interface SeenPattern extends Pattern {
  readonly series: Series;
  readonly value: number;
}

export interface WatchConfig {
  readonly enablePatternDetection: boolean;
  readonly patternThreshold: number;
}

const MAX_DETECTORS = 2_000;
const HISTORY_WINDOWS = 10;
const MIN_WINDOWS = 3;
/** The documented rule about a window's own values: further than 3 σ; too few values say nothing. */
const OUTLIER_SIGMAS = 3;
const MIN_OUTLIER_VALUES = 10;
const OUTLIER_CONFIDENCE = 10;

export class PatternWatch {
  #config: WatchConfig;
  readonly #detectors = new LRUCache<string, SeriesDetector>({ max: MAX_DETECTORS });

  constructor(config: WatchConfig) {
    this.#config = config;
  }

  get size(): number {
    return this.#detectors.size;
  }

  /** Detectors begin anew when the threshold changes. */
  configure(config: WatchConfig): void {
    if (config.patternThreshold !== this.#config.patternThreshold || !config.enablePatternDetection) this.clear();
    this.#config = config;
  }

  /** The windows of one span, all of them; what is seen in them, by series and then over contexts. */
  observe(windows: readonly PartialWindow[]): SeenPattern[] {
    if (!this.#config.enablePatternDetection) return [];
    const seen: SeenPattern[] = [];
    for (const window of windows) {
      this.#see(window.series.id, window, seen);
      const outliers = this.#outliers(window.stats);
      if (outliers !== null) seen.push(patternOf(window, outliers));
    }
    // Not the detector of the series without context, which the metric may have besides.
    for (const whole of acrossContexts(windows)) this.#see(`*${whole.series.id}`, whole, seen);
    return seen;
  }

  clear(): void {
    this.#detectors.clear();
  }

  #see(key: string, window: PartialWindow, seen: SeenPattern[]): void {
    let detector = this.#detectors.get(key);
    if (detector === undefined) {
      const threshold = this.#config.patternThreshold;
      detector = new SeriesDetector({ threshold, history: HISTORY_WINDOWS, minimum: MIN_WINDOWS });
      this.#detectors.set(key, detector);
    }
    for (const detection of detector.observe(window.stats.mean)) seen.push(patternOf(window, detection));
  }

  #outliers(stats: WindowStats): Detection | null {
    if (stats.observed <= MIN_OUTLIER_VALUES) return null;
    const share = stats.exceeding(OUTLIER_SIGMAS);
    const confidence = Math.min(1, OUTLIER_CONFIDENCE * share);
    if (share === 0 || confidence < this.#config.patternThreshold) return null;
    const percent = Math.round(1000 * share) / 10;
    return { type: "anomaly", confidence, description: `${percent} % of the values lie over 3 σ from their mean` };
  }
}

/** Of one window, as a result tells them. */
export function patternsOf(seen: readonly SeenPattern[], { series, startMs, endMs }: PartialWindow): Pattern[] {
  return seen
    .filter(({ series: { id }, start, end }) => id === series.id && start === startMs && end === endMs)
    .map(({ type, confidence, description, start, end }) => ({ type, confidence, description, start, end }));
}

function patternOf({ series, stats, startMs, endMs }: PartialWindow, detection: Detection): SeenPattern {
  return { ...detection, start: startMs, end: endMs, series, value: stats.mean };
}

/** One window per metric that has several contexts: all of them merged. */
function acrossContexts(windows: readonly PartialWindow[]): PartialWindow[] {
  const byMetric = new Map<string, PartialWindow[]>();
  for (const window of windows) {
    const { type, name } = window.series;
    const key = seriesOf(type, name, "").id;
    const known = byMetric.get(key);
    if (known === undefined) byMetric.set(key, [window]);
    else known.push(window);
  }
  return [...byMetric.values()].filter((parts) => parts.length > 1).map(merged);
}

function merged(parts: readonly PartialWindow[]): PartialWindow {
  const stats = new WindowStats();
  for (const part of parts) stats.merge(part.stats);
  const { type, name } = (parts[0] as PartialWindow).series;
  return { ...spanOf(parts), series: seriesOf(type, name, ""), stats };
}

function spanOf([first]: readonly PartialWindow[]): Span {
  const { startMs, endMs } = first as PartialWindow;
  return { startMs, endMs };
}
