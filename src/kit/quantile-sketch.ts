/**
 * Quantiles of any number of values within a relative error (DDSketch, Masson et al., VLDB 2019): weights in bins whose
 * bounds grow by the factor (1 + alpha) / (1 - alpha). Merging adds bins, so it is exact, in any order and grouping (but
 * for the rounding of sums of fractional weights).
 * Magnitudes below 2^-1022 count as zero. Each sign has at most 4,096 bins, 32 kB: at 1 % a range of 35 powers of ten.
 * When values span more, the smallest magnitudes share the lowest bin, and only their quantiles lose the bound.
 */

import { assert } from "./assert.ts";

const MAX_BINS = 4096;
const MIN_BINS = 16;
/** Smaller ones are denormal: they have no relative precision to keep. */
const TINY = 2 ** -1022;
const [MIN_ALPHA, MAX_ALPHA] = [0.001, 0.5];

/** A key, then the weights of its bin and the bins after it; a negative number skips so many empty ones. */
type BinsJson = number[];

/** The weights by key: a row of bins that grows around the keys in use, and keeps the highest keys when they are too many. */
class BinRow {
  #bins = new Float64Array(0);
  /** The key of the first bin. */
  #first = 0;

  add(key: number, weight: number): void {
    const at = key - this.#first;
    if (at >= 0 && at < this.#bins.length) this.#bins[at] = (this.#bins[at] ?? 0) + weight;
    else {
      this.#cover(key, key);
      this.add(Math.max(this.#first, key), weight);
    }
  }

  merge(other: BinRow): void {
    const [low, high] = other.#range();
    this.#cover(low, high);
    for (const [key, weight] of other.entries()) this.add(Math.max(this.#first, key), weight);
  }

  get weight(): number {
    return this.#bins.reduce((sum, weight) => sum + weight, 0);
  }

  /** Key and weight of the bins in use, by ascending key. */
  *entries(): Generator<readonly [key: number, weight: number]> {
    const [bins, first] = [this.#bins, this.#first];
    for (let at = 0; at < bins.length; at++) {
      const weight = bins[at] ?? 0;
      if (weight > 0) yield [first + at, weight];
    }
  }

  /** The lowest and the highest key in use; Infinity and -Infinity when there is none. */
  #range(): [low: number, high: number] {
    const isUsed = (weight: number): boolean => weight > 0;
    const low = this.#bins.findIndex(isUsed);
    return low === -1 ? [Infinity, -Infinity] : [this.#first + low, this.#first + this.#bins.findLastIndex(isUsed)];
  }

  /** Makes bins for these keys too: for all of them, or for the highest. */
  #cover(fromKey: number, toKey: number): void {
    const { length } = this.#bins;
    // A full row is common in data that span too much: what is below it must not cost a copy each time.
    const isFull = (this.#bins[MAX_BINS - 1] ?? 0) > 0;
    if ((fromKey >= this.#first || isFull) && toKey < this.#first + length) return;
    const [low, high] = this.#range();
    const last = Math.max(high, toKey);
    const span = Math.min(MAX_BINS, last - Math.min(low, fromKey) + 1);
    const bins = new Float64Array(Math.min(MAX_BINS, Math.max(MIN_BINS, Math.ceil(span * 1.5))));
    const first = last - span + 1 - Math.floor((bins.length - span) / 2);
    for (const [key, weight] of this.entries()) {
      const at = Math.max(0, key - first);
      bins[at] = (bins[at] ?? 0) + weight;
    }
    this.#bins = bins;
    this.#first = first;
  }

  toJSON(): BinsJson {
    const json: BinsJson = [];
    let next = 0;
    for (const [key, weight] of this.entries()) {
      if (json.length === 0) json.push(key);
      else if (key > next) json.push(next - key);
      json.push(weight);
      next = key + 1;
    }
    return json;
  }

  /** Null unless all keys are in the bounds and fit one row; reads no further than that. */
  static parse(json: unknown, minKey: number, maxKey: number): BinRow | null {
    if (!Array.isArray(json)) return null;
    const row = new BinRow();
    const [first = minKey, ...entries] = json.slice(0, MAX_BINS + 2) as unknown[];
    if (!Number.isInteger(first)) return null;
    let key = Number(first);
    const end = Math.min(maxKey + 1, key + MAX_BINS);
    for (const entry of entries) {
      if (typeof entry !== "number" || !Number.isFinite(entry) || key < minKey || key >= end) return null;
      if (entry > 0) row.add(key++, entry);
      else if (entry < 0 && Number.isInteger(entry)) key -= entry;
      else return null;
    }
    return row;
  }
}

export class QuantileSketch {
  /** Bound of the relative error. */
  readonly alpha: number;
  /** Bins per factor e. */
  readonly #density: number;
  readonly #logOfMiddle: number;
  #positives = new BinRow();
  /** By magnitude. */
  #negatives = new BinRow();
  #zeros = 0;
  #added = 0;

  constructor(alpha = 0.01) {
    assert(alpha >= MIN_ALPHA && alpha <= MAX_ALPHA, "a relative error of 0.1 % to 50 %");
    this.alpha = alpha;
    this.#density = 1 / (Math.log1p(alpha) - Math.log1p(-alpha));
    this.#logOfMiddle = Math.log1p(-alpha);
  }

  /** How many values were added, whatever their weights. */
  get added(): number {
    return this.#added;
  }

  /** Sum of the weights. O(bins). */
  get weight(): number {
    return this.#negatives.weight + this.#zeros + this.#positives.weight;
  }

  /** Any finite value, with any finite weight above zero. */
  add(value: number, weight = 1): void {
    assert(Number.isFinite(value), "a sketch takes finite values");
    assert(weight > 0 && weight < Infinity, "a sketch takes finite weights above zero");
    this.#added++;
    if (value >= TINY) this.#positives.add(this.#keyOf(value), weight);
    else if (value <= -TINY) this.#negatives.add(this.#keyOf(-value), weight);
    else this.#zeros += weight;
  }

  /** Adds what `other`, of the same alpha, has been given. */
  merge(other: QuantileSketch): void {
    assert(other.alpha === this.alpha, "sketches of the same relative error");
    this.#positives.merge(other.#positives);
    this.#negatives.merge(other.#negatives);
    this.#zeros += other.#zeros;
    this.#added += other.#added;
  }

  /**
   * The value of rank q (0 to 1), within alpha; between two ranks it is the lower one. NaN when empty. O(bins).
   * It may lie outside of what was added, by as much: who knows the least and the largest value clamps it.
   */
  quantile(q: number): number {
    assert(q >= 0 && q <= 1, "a quantile from 0 to 1");
    const { weight } = this;
    const rank = q * (weight - weight / this.#added);
    let quantile = NaN;
    let seen = 0;
    for (const [value, binWeight] of this.bins()) {
      quantile = value;
      seen += binWeight;
      if (seen > rank) break;
    }
    return quantile;
  }

  /** Values, each within alpha of those it stands for, and their weights, ascending. */
  *bins(): Generator<readonly [value: number, weight: number]> {
    for (const [key, weight] of [...this.#negatives.entries()].reverse()) yield [-this.#valueOf(key), weight];
    if (this.#zeros > 0) yield [0, this.#zeros];
    for (const [key, weight] of this.#positives.entries()) yield [this.#valueOf(key), weight];
  }

  toJSON(): { alpha: number; added: number; zeros: number; positives: BinsJson; negatives: BinsJson } {
    return {
      alpha: this.alpha,
      added: this.#added,
      zeros: this.#zeros,
      positives: this.#positives.toJSON(),
      negatives: this.#negatives.toJSON(),
    };
  }

  /** What `toJSON` wrote; null for anything else. */
  static parse(json: unknown): QuantileSketch | null {
    if (typeof json !== "object" || json === null) return null;
    const { alpha, added, zeros, positives, negatives } = json as Record<string, unknown>;
    if (typeof alpha !== "number" || !(alpha >= MIN_ALPHA && alpha <= MAX_ALPHA)) return null;
    if (typeof added !== "number" || !Number.isSafeInteger(added)) return null;
    if (typeof zeros !== "number" || !(zeros >= 0)) return null;
    const sketch = new QuantileSketch(alpha);
    const [minKey, maxKey] = [sketch.#keyOf(TINY), sketch.#keyOf(Number.MAX_VALUE)];
    const [above, below] = [BinRow.parse(positives, minKey, maxKey), BinRow.parse(negatives, minKey, maxKey)];
    if (above === null || below === null) return null;
    sketch.#positives = above;
    sketch.#negatives = below;
    sketch.#zeros = zeros;
    sketch.#added = added;
    const bins = [...sketch.bins()].length;
    return Number.isFinite(sketch.weight) && added >= bins && (added === 0) === (bins === 0) ? sketch : null;
  }

  /** A bin of key k takes the magnitudes above e^((k - 1) / density), up to e^(k / density). */
  #keyOf(magnitude: number): number {
    return Math.ceil(Math.log(magnitude) * this.#density);
  }

  /** As far, relatively, from one end of the bin as from the other. */
  #valueOf(key: number): number {
    return Math.min(Number.MAX_VALUE, Math.exp(key / this.#density + this.#logOfMiddle));
  }
}
