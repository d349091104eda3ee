/**
 * How odd the next value of a series is, as a score of the standard normal distribution, whatever the series' own distribution: its
 * level, scale, skew, tails and the correlation with the value before are learned, in bounded steps, so that one value moves them
 * little. It is Tukey's g-and-h distribution fitted by stochastic approximation: each parameter moves until a clipped statistic of the
 * scores has the mean that it has for a standard normal. Every value costs O(1).
 *
 * Source: Hoaglin, "Summarizing shape numerically: the g-and-h distributions" (1985); Robbins and Monro (1951).
 */

/** The noise is taken as at least this share of the level: less is no news, and a constant series has none. */
const RELATIVE_FLOOR = 1e-3;
const ABSOLUTE_FLOOR = 1e-150;
const FARTHEST = 1e4;
/** Windows that each parameter remembers. The level follows drift and seasons; skew and tails take many values to know. */
const MEMORY = { level: 40, scale: 400, shape: 1500 };
/** Tails are somewhat heavy until the series has shown that they are not: this h, with the weight of so many windows. */
const PRIOR = { tail: 0.06, weight: 200 };

/** The mean of min(|u|, `to`) of a standard normal, and how fast it falls as the scale grows. */
const BODY = { to: 1.5, mean: 0.7392, slope: 0.5388 };
/** The mean of |u| between `from` and `from + width`, less `from`, and how fast it grows with h. */
const TAIL = { from: 2, width: 2, mean: 0.01697, slope: 0.3216 };
/** The same of signed |u|, and how fast it grows with g. */
const SKEW = { from: 1, width: 2, slope: 0.386 };
/** By so much over the root of the weight the tails must exceed a normal's to count: chance tails would hide real spikes. */
const TAIL_MARGIN = 0.42;
/** A skewed distribution ends on one side; what lies past the end scores as if it were this near to it. */
const BEYOND_THE_END = 1e-4;

export const clamp = (value: number, limit: number): number => Math.max(-limit, Math.min(limit, value));
const excess = (size: number, { from, width }: { from: number; width: number }): number =>
  Math.min(Math.max(size - from, 0), width);

export class NormalScores {
  level = 0;
  /** Standard deviation of the noise, by its body. */
  scale = 0;
  /** h: 0 = tails of a normal, 0.15 = about those of Student's t with 4 degrees of freedom. */
  tail = 0;
  /** How many windows are behind the scale, at most what it remembers. */
  scaleWeight = 0;
  /** Of the value scored last: in scales from where it was expected, skew taken out, tails still in. */
  deviation = 0;
  /** g: above 0 when the values reach farther upwards. */
  #skew = 0;
  #correlation = 0;
  #levelWeight = 0;
  #shapeWeight = 0;
  /** The value before, less the level. */
  #last = 0;

  /** From now on the level is this one, known from so many windows; the same for the scale, unless it is null. */
  anchor(level: number, scale: number | null, windows: number): void {
    this.level = level;
    this.#levelWeight = windows;
    this.#last = 0;
    if (scale === null) return;
    this.scale = scale;
    this.scaleWeight = windows;
  }

  /** Lets level and scale move faster again, as if they were known from no more than so many windows. */
  doubt(levelWeight: number, scaleWeight: number): void {
    this.#levelWeight = Math.min(this.#levelWeight, levelWeight);
    this.scaleWeight = Math.min(this.scaleWeight, scaleWeight);
  }

  /** Skew, tails and correlation are to be learned anew: the distribution is another one. */
  forgetShape(): void {
    this.tail = this.#skew = this.#correlation = this.#shapeWeight = 0;
  }

  /** The score of the next value. Learns nothing. */
  score(value: number): number {
    const z = clamp((value - this.level - this.#correlation * this.#last) / this.#noise(), FARTHEST);
    const skew = this.#skew;
    this.deviation = Math.abs(skew) < 1e-3 ? z : Math.log(Math.max(1 + skew * z, BEYOND_THE_END)) / skew;
    if (this.tail < 1e-3) return this.deviation;
    // Lambert's W in Winitzki's approximation, within 2 %, inverts u·exp(h·u²/2).
    const log = Math.log(1 + this.tail * this.deviation * this.deviation);
    const size = Math.sqrt((log * (1 - Math.log(1 + log) / (2 + log))) / this.tail);
    return this.deviation < 0 ? -size : size;
  }

  /** Learns from a value that had this score. */
  learn(value: number, score: number): void {
    if (this.#shapeWeight === 0) {
      this.#shapeWeight = PRIOR.weight;
      this.tail = PRIOR.tail;
    }
    const size = Math.abs(score);
    const noise = this.#noise();
    const step = 1 / this.#shapeWeight;
    const heavier = excess(size, TAIL) - TAIL.mean - TAIL_MARGIN * Math.sqrt(step);
    this.tail = Math.min(Math.max(this.tail + (step * heavier) / TAIL.slope, 0), 0.5);
    this.#skew = clamp(this.#skew + (step * Math.sign(score) * excess(size, SKEW)) / SKEW.slope, 0.9);
    this.#correlation = clamp(this.#correlation + step * clamp(score, 2) * clamp(this.#last / noise, 2), 0.95);
    this.level += (noise * clamp(score, BODY.to)) / this.#levelWeight;
    this.scale = noise * (1 + (Math.min(size, BODY.to) - BODY.mean) / BODY.slope / this.scaleWeight);
    if (this.#levelWeight < MEMORY.level) this.#levelWeight++;
    if (this.scaleWeight < MEMORY.scale) this.scaleWeight++;
    if (this.#shapeWeight < MEMORY.shape) this.#shapeWeight++;
    this.pass(value);
  }

  /** Passes over a value without learning from it. */
  pass(value: number): void {
    this.#last = clamp(value - this.level, 3 * this.scale);
  }

  #noise(): number {
    return Math.max(this.scale, RELATIVE_FLOOR * Math.abs(this.level), ABSOLUTE_FLOOR);
  }
}
