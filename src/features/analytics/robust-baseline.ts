/** Level and noise of a few values, of which one or two may be odd. */

export interface Baseline {
  readonly level: number;
  /** Standard deviation of the noise, were it normal. */
  readonly scale: number;
}

/** The share of the values, the farthest from the median, that does not count. */
const TRIMMED = 0.1;
/** Mean of |u| of a standard normal without its farthest tenth. */
const TRIMMED_MEAN = 0.6573;

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((a, b) => a - b);
  const middle = sorted.length >> 1;
  const upper = sorted[middle] ?? 0;
  return sorted.length % 2 === 1 ? upper : ((sorted[middle - 1] ?? 0) + upper) / 2;
}

export function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

/** Of two values or more. The trimmed mean deviation is steadier than the median one, and not 0 for most discrete values. */
export function robustBaseline(values: readonly number[]): Baseline {
  const level = median(values);
  const deviations = values.map((value) => Math.abs(value - level)).sort((a, b) => a - b);
  return { level, scale: mean(deviations.slice(0, -Math.ceil(deviations.length * TRIMMED))) / TRIMMED_MEAN };
}
