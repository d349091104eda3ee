/** Whether a few values rise or fall gradually: Theil and Sen's slope, Mann and Kendall's test, and a ramp told from a step. */

import { mean, median } from "./robust-baseline.ts";

export interface Trend {
  /** Median of the slopes between all pairs, per window. */
  readonly slope: number;
  /** That values without a trend look like this: two-sided, by the normal approximation. */
  readonly probability: number;
}

/** Of a standard normal (Abramowitz and Stegun 26.2.17, within 1e-7). */
function upperTail(z: number): number {
  const t = 1 / (1 + 0.2316419 * z);
  const sum = t * (0.31938153 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))));
  return (sum * Math.exp((-z * z) / 2)) / Math.sqrt(2 * Math.PI);
}

/** Null when chance explains it with at least the probability `limit`. O(n²) for n values: for ten or so. */
export function trendOf(values: readonly number[], limit: number): Trend | null {
  const n = values.length;
  let balance = 0;
  for (let at = 1; at < n; at++) {
    for (let before = 0; before < at; before++) balance += Math.sign((values[at] ?? 0) - (values[before] ?? 0));
  }
  const z = Math.max(0, Math.abs(balance) - 1) / Math.sqrt((n * (n - 1) * (2 * n + 5)) / 18);
  const probability = 2 * upperTail(z);
  return probability < limit ? { slope: slopeOf(values), probability } : null;
}

function slopeOf(values: readonly number[]): number {
  return median(
    values.flatMap((value, at) => values.slice(0, at).map((earlier, before) => (value - earlier) / (at - before))),
  );
}

function squares(values: readonly number[], predict: (at: number) => number): number {
  return values.reduce((sum, value, at) => sum + (value - predict(at)) ** 2, 0);
}

/** A step has one more parameter than a line to come near to the values with. */
const STEP_FREEDOM = 1.2;

/** The values lie about as near to a line of this slope as to any step from one level to another. */
export function isGradual(values: readonly number[], slope: number): boolean {
  const start = mean(values.map((value, at) => value - slope * at));
  const offLine = squares(values, (at) => start + slope * at);
  for (let split = 1; split < values.length; split++) {
    const before = mean(values.slice(0, split));
    const after = mean(values.slice(split));
    if (squares(values, (at) => (at < split ? before : after)) * STEP_FREEDOM <= offLine) return false;
  }
  return true;
}
