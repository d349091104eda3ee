/**
 * Counts of values in fixed buckets, with sum and count: what latencies are kept in. O(buckets) memory, whatever is observed.
 * Two with the same bounds merge exactly.
 */

import { assert } from "./assert.ts";

/** A copy of a row of zeros is much cheaper than making one; ticks make thousands a second. */
const ZEROS: readonly number[] = Array.from({ length: 64 }, () => 0);

export class Histogram {
  /** Upper bounds (inclusive), ascending; one more bucket takes what is above the last. */
  readonly bounds: readonly number[];
  /** Values per bucket, not cumulative. */
  readonly counts: number[];
  count = 0;
  sum = 0;

  constructor(bounds: readonly number[]) {
    this.bounds = bounds;
    assert(bounds.length < ZEROS.length, "a histogram has less than 64 bounds");
    this.counts = ZEROS.slice(0, bounds.length + 1);
  }

  observe(value: number): void {
    const { bounds, counts } = this;
    let bucket = 0;
    while (bucket < bounds.length && value > (bounds[bucket] ?? 0)) bucket++;
    counts[bucket] = (counts[bucket] ?? 0) + 1;
    this.count++;
    this.sum += value;
  }

  /** Upper bound of the bucket that holds the quantile `q` (0 to 1): 0 when empty, the last bound for what is above it. */
  quantile(q: number): number {
    if (this.count === 0) return 0;
    const rank = Math.max(1, Math.ceil(q * this.count));
    let seen = 0;
    for (let bucket = 0; bucket < this.bounds.length; bucket++) {
      seen += this.counts[bucket] ?? 0;
      if (seen >= rank) return this.bounds[bucket] ?? 0;
    }
    return this.bounds[this.bounds.length - 1] ?? 0;
  }

  get mean(): number {
    return this.count === 0 ? 0 : this.sum / this.count;
  }

  /** Adds what `other` has counted. */
  merge(other: Histogram): void {
    assert(other.bounds.length === this.bounds.length, "histograms of the same bounds");
    if (other.count === 0) return;
    this.count += other.count;
    this.sum += other.sum;
    for (let bucket = 0; bucket < this.counts.length; bucket++) {
      this.counts[bucket] = (this.counts[bucket] ?? 0) + (other.counts[bucket] ?? 0);
    }
  }
}
