/**
 * Statistics of one series in one window, from sampled events: each counts for `weight` = 1 / its sampling rate
 * (Horvitz–Thompson), so count, sum and mean are estimates, with intervals. They are partials: merging any of them, in
 * any order and grouping, gives what adding all values to one would (but for rounding). Values are kept as they are up to
 * `maxValues`, and in a sketch of 1 % past it: held or sketched depends on how many there are, never on the order.
 */

import { z } from "zod";
import { assert } from "../../kit/assert.ts";
import { QuantileSketch } from "../../kit/quantile-sketch.ts";

/** Values and weights that may be added: their squares, and sums of as many as can ever be, are far from overflow. */
export const MAX_MAGNITUDE = 1e100;
const MAX_WEIGHT = 1e9;

const DEFAULT_MAX_VALUES = 1000;
const ALPHA = 0.01;
/** Standard errors in half an interval of 95 %. */
const Z95 = 1.96;

const valueJson = z.number().min(-MAX_MAGNITUDE).max(MAX_MAGNITUDE);
const weightJson = z.number().min(1).max(MAX_WEIGHT);
/** Adding never comes near these bounds, and merges of partials that claim them stay finite. */
const momentsJson = z.tuple([z.number().positive().max(1e40), valueJson, z.number().min(0).max(1e250)]);
const windowStatsJson = z.union([
  z.object({ observed: z.literal(0) }),
  z.object({
    observed: z.int().positive(),
    sum: z.number().min(-1e250).max(1e250),
    min: valueJson,
    max: valueJson,
    /** Sum of the weights, mean, sum of the squared deviations. */
    moments: momentsJson,
    /** The same under the weights w² − w; left out when nothing was sampled. */
    sampled: momentsJson.optional(),
    /** All values, and their weights: one number when they are equal. Else there is a sketch. */
    values: z.array(valueJson).optional(),
    weights: z.union([weightJson, z.array(weightJson)]).optional(),
    sketch: z.unknown().optional(),
  }),
]);
export type WindowStatsJson = z.input<typeof windowStatsJson>;

/** Weight, mean and sum of squared deviations. Both sums only ever grow: no variance gets below zero (Welford, Chan). */
class Moments {
  weight = 0;
  mean = 0;
  squares = 0;

  merge(weight: number, mean: number, squares: number): void {
    const total = this.weight + weight;
    const share = weight / total;
    const delta = mean - this.mean;
    this.squares += squares + delta * delta * this.weight * share;
    this.mean += delta * share;
    this.weight = total;
  }

  /** The weighted sum of (x − centre)². */
  squaresAround(centre: number): number {
    return this.squares + this.weight * (this.mean - centre) ** 2;
  }

  toJSON(): [weight: number, mean: number, squares: number] {
    return [this.weight, this.mean, this.squares];
  }
}

export class WindowStats {
  /** Events that were really seen. */
  observed = 0;
  /** Estimate: the sum of all, seen or not. */
  sum = 0;
  /** Infinity when empty. */
  min = Infinity;
  /** -Infinity when empty. */
  max = -Infinity;
  readonly #maxValues: number;
  readonly #moments = new Moments();
  /** Under the weights w² − w: what the variances of the estimates are made of. */
  readonly #sampled = new Moments();
  #values: number[] = [];
  /** Of each value; a number while all are equal. */
  #weights: number | number[] = 1;
  #isSorted = false;
  /** Takes all values once they are more than `maxValues`. */
  #sketch: QuantileSketch | null = null;

  constructor(maxValues = DEFAULT_MAX_VALUES) {
    this.#maxValues = maxValues;
  }

  /** A value of at most `MAX_MAGNITUDE`, seen with the probability 1 / weight; 1 <= weight <= `MAX_WEIGHT`. */
  add(value: number, weight: number): void {
    assert(Math.abs(value) <= MAX_MAGNITUDE, "a window takes values of a bounded magnitude");
    assert(weight >= 1 && weight <= MAX_WEIGHT, "a window takes weights of 1 and more");
    this.observed++;
    this.sum += weight * value;
    if (value < this.min) this.min = value;
    if (value > this.max) this.max = value;
    this.#moments.merge(weight, value, 0);
    if (weight > 1) this.#sampled.merge(weight * weight - weight, value, 0);
    this.#keep(value, weight);
  }

  /** Adds what `other` has been given. */
  merge(other: WindowStats): void {
    if (other.observed === 0) return;
    this.observed += other.observed;
    this.sum += other.sum;
    this.min = Math.min(this.min, other.min);
    this.max = Math.max(this.max, other.max);
    this.#moments.merge(...other.#moments.toJSON());
    if (other.#sampled.weight > 0) this.#sampled.merge(...other.#sampled.toJSON());
    if (other.#sketch !== null) this.#intoSketch().merge(other.#sketch);
    else for (const [at, value] of other.#values.entries()) this.#keep(value, other.#weightAt(at));
  }

  /** Estimate: how many there were, seen or not. */
  get count(): number {
    return this.#moments.weight;
  }

  /** Weighted; 0 when empty. */
  get mean(): number {
    return this.#moments.mean;
  }

  /** Of the population, weighted; 0 when empty. */
  get stdDev(): number {
    return this.observed === 0 ? 0 : Math.sqrt(this.#moments.squares / this.count);
  }

  /** Half the 95 % interval of `count`, as sampling made it; 0 when nothing was sampled. So are the two below. */
  get countError(): number {
    return Z95 * Math.sqrt(this.#sampled.weight);
  }

  get sumError(): number {
    return Z95 * Math.sqrt(this.#sampled.squaresAround(0));
  }

  /** Of a ratio of two estimates, linearised. */
  get meanError(): number {
    return this.observed === 0 ? 0 : (Z95 * Math.sqrt(this.#sampled.squaresAround(this.mean))) / this.count;
  }

  get median(): number {
    return this.quantile(0.5);
  }

  /**
   * The quantile q (0 to 1), NaN when empty. Of held values by linear interpolation (type 7): the first lies at 0, each
   * next one half of both weights further, and q is a share of the whole way. Else within 1 %, without interpolation.
   */
  quantile(q: number): number {
    assert(q >= 0 && q <= 1, "a quantile from 0 to 1");
    if (this.#sketch !== null) return Math.min(this.max, Math.max(this.min, this.#sketch.quantile(q)));
    this.#sort();
    const values = this.#values;
    let end = 0;
    for (let at = 1; at < values.length; at++) end += this.#stepTo(at);
    const target = q * end;
    let position = 0;
    for (let at = 1; at < values.length; at++) {
      const step = this.#stepTo(at);
      const [from, to] = [values[at - 1] ?? 0, values[at] ?? 0];
      if (target < position + step) return from + (to - from) * ((target - position) / step);
      position += step;
    }
    return values.at(-1) ?? NaN;
  }

  /**
   * The share of values further than `sigmas` standard deviations from the mean. Of sketched values only those count that
   * are further wherever in their bin they lie: it is a lower bound, and near 0 when 1 % of the mean is many deviations.
   */
  exceeding(sigmas: number): number {
    const limit = sigmas * this.stdDev;
    const blur = this.#sketch === null ? 0 : ALPHA / (1 - ALPHA);
    const entries = this.#sketch?.bins() ?? this.#values.map((value, at) => [value, this.#weightAt(at)] as const);
    let [beyond, all] = [0, 0];
    for (const [value, weight] of entries) {
      all += weight;
      if (Math.abs(value - this.mean) - blur * Math.abs(value) > limit) beyond += weight;
    }
    return all === 0 ? 0 : beyond / all;
  }

  toJSON(): WindowStatsJson {
    const { observed, sum, min, max } = this;
    if (observed === 0) return { observed: 0 };
    const weights = this.#weights;
    return {
      observed,
      sum,
      min,
      max,
      moments: this.#moments.toJSON(),
      ...(this.#sampled.weight > 0 && { sampled: this.#sampled.toJSON() }),
      ...(this.#sketch === null
        ? { values: [...this.#values], weights: typeof weights === "number" ? weights : [...weights] }
        : { sketch: this.#sketch.toJSON() }),
    };
  }

  /** What `toJSON` wrote; null for anything else. */
  static parse(json: unknown, maxValues = DEFAULT_MAX_VALUES): WindowStats | null {
    const parsed = windowStatsJson.safeParse(json);
    if (!parsed.success) return null;
    const stats = new WindowStats(maxValues);
    if (!("sum" in parsed.data)) return stats;
    const { observed, sum, min, max, moments, sampled, values, weights = 1, sketch } = parsed.data;
    if (min > max) return null;
    stats.observed = observed;
    stats.sum = sum;
    stats.min = min;
    stats.max = max;
    stats.#moments.merge(...moments);
    if (sampled !== undefined) stats.#sampled.merge(...sampled);
    if (values !== undefined) {
      if (values.length !== observed || (Array.isArray(weights) && weights.length !== observed)) return null;
      stats.#values = values;
      stats.#weights = weights;
      if (observed > maxValues) stats.#intoSketch();
      return stats;
    }
    const bins = QuantileSketch.parse(sketch);
    if (bins?.alpha !== ALPHA || bins.added !== observed) return null;
    stats.#sketch = bins;
    return Math.abs(bins.weight - stats.count) <= 1e-6 * stats.count ? stats : null;
  }

  #keep(value: number, weight: number): void {
    if (this.#sketch !== null || this.#values.length >= this.#maxValues) {
      this.#intoSketch().add(value, weight);
      return;
    }
    const weights = this.#weights;
    if (typeof weights !== "number") weights.push(weight);
    else if (this.#values.length === 0) this.#weights = weight;
    else if (weight !== weights) this.#weights = [...this.#values.map(() => weights), weight];
    this.#values.push(value);
    this.#isSorted = false;
  }

  #intoSketch(): QuantileSketch {
    if (this.#sketch !== null) return this.#sketch;
    const sketch = new QuantileSketch(ALPHA);
    for (const [at, value] of this.#values.entries()) sketch.add(value, this.#weightAt(at));
    this.#values = [];
    this.#weights = 1;
    return (this.#sketch = sketch);
  }

  #weightAt(at: number): number {
    return typeof this.#weights === "number" ? this.#weights : (this.#weights[at] ?? 0);
  }

  /** From the value before to this one, as quantiles go: 1 whenever weights are equal, so that positions are exact. */
  #stepTo(at: number): number {
    return typeof this.#weights === "number" ? 1 : (this.#weightAt(at - 1) + this.#weightAt(at)) / 2;
  }

  /** In place: their order means nothing, and a closing window asks for several quantiles. */
  #sort(): void {
    if (this.#isSorted) return;
    this.#isSorted = true;
    if (typeof this.#weights === "number") {
      this.#values.sort((left, right) => left - right);
      return;
    }
    const pairs = this.#values.map((value, at) => [value, this.#weightAt(at)] as const);
    // Equal values by weight: else quantiles would depend on the order of adding and merging.
    pairs.sort((left, right) => left[0] - right[0] || left[1] - right[1]);
    this.#values = pairs.map(([value]) => value);
    this.#weights = pairs.map(([, weight]) => weight);
  }
}
