/**
 * Tells when the windows of one series change: the documented rules, held against the series' own noise.
 *
 * Young, from the `minimum` to 20 windows, the documented rules hold as they are: a spike is more than twice the mean of the last
 * windows, a drop less than half of it, an anomaly far from the level for so few windows, a trend a rise or fall that chance does not
 * explain. After that something has to be odd for this series: one window (its normal score), or many together (their sums); the
 * documented rules then say what it is. A confidence of 0.8 stands for less than one false alarm in 10,000 windows whatever the
 * distribution, but for a few where the tails are as heavy as Student's t with 4 degrees of freedom (`test/analytics/detection.test.ts`).
 *
 * After an alarm its direction is quiet for 12 windows; what has lasted by then is the new normal. O(1) memory, below 1 KB.
 */

import { ChangeSums } from "./change-sums.ts";
import { clamp, NormalScores } from "./normal-scores.ts";
import { mean, robustBaseline } from "./robust-baseline.ts";
import { isGradual, trendOf } from "./trend-test.ts";

export type PatternType = "spike" | "drop" | "anomaly" | "trend";

export interface Detection {
  readonly type: PatternType;
  /** 0 to 1. */
  readonly confidence: number;
  /** One line with the values. */
  readonly description: string;
}

export interface DetectorConfig {
  /** Detections of less confidence are not told: `patternThreshold`, 0.8. */
  readonly threshold: number;
  /** How many windows the mean of the documented rules covers: 10; at most 24. */
  readonly history: number;
  /** Windows before anything is told: 3, and not less than 2. */
  readonly minimum: number;
}

type Cause = "window" | "level" | "variance";
/** 1 = upwards, -1 = downwards, 0 = wider. */
type Direction = 1 | -1 | 0;

const NOTHING: readonly Detection[] = Object.freeze([]);
const FARTHEST = 1e100;
const YOUNG = 20;
/** Values kept: enough to find the scale again after a change of the variance. */
const KEPT = 24;
/** The score of one window, and the sums, that give a confidence of 0.8. */
const LIMIT = { window: 4.1, level: 8, variance: 7 };
/** The sum that shows that the noise is less than half of the scale. */
const NARROW = 14;
/** 1 - confidence at the limit; squared at twice the limit. */
const DOUBT_AT_LIMIT = 0.2;
/** The heavier the tails, the more the g-and-h distribution falls short of the far ones: the limit grows by this times h. */
const FAR_TAIL = 1.5;
/** The limit of the variance grows by this over the windows behind the scale: it may be wrong by more. */
const SCALE_DOUBT = 60;
/** Windows without another alarm in that direction; what has lasted then is the new normal. */
const REFRACTORY = 12;
/** Its latest windows, which the new normal is taken from. */
const SETTLED = 10;
/** After a change, what is known of level and scale counts as if it came from so few windows. */
const DOUBT = { levelWeight: 15, scaleWeight: 30 };
/** A new level so many scales away, or with so many times the noise or that part of it, has a distribution of its own. */
const FAR = 20;
const OTHER = 4;
const TREND = { windows: 10, fewest: 5, isOne: 0.01, goesOn: 0.05 };
/** So many odd windows in about so many are a habit of the series, unless one is so many times as far out. */
const HABIT = { count: 4, memory: 1000, farther: 2 };

const short = (value: number): number => Number(value.toPrecision(4));

export class SeriesDetector {
  readonly #config: DetectorConfig;
  readonly #minimum: number;
  /** The strength that gives the threshold's confidence. */
  readonly #enough: number;
  readonly #scores = new NormalScores();
  readonly #sums = new ChangeSums();
  readonly #kept = new Float64Array(KEPT);
  #count = 0;
  /** Windows for which a direction stays quiet. */
  #quietUp = 0;
  #quietDown = 0;
  /** Windows until what has lasted is the new normal. */
  #settling = 0;
  /** What was told last, while it settles. */
  #trend: Direction = 0;
  #isWider = false;
  /** Odd windows lately, and how far out they were. */
  #habit = 0;
  #habitSize = 0;

  constructor(config: DetectorConfig) {
    this.#config = config;
    this.#minimum = Math.max(config.minimum, 2);
    this.#enough = Math.log(1 - config.threshold) / Math.log(DOUBT_AT_LIMIT);
  }

  /** The next window's value: what is odd about it, mostly nothing. A value that is not finite is passed over. */
  observe(value: number): readonly Detection[] {
    if (!Number.isFinite(value)) return NOTHING;
    const near = clamp(value, FARTHEST);
    const detection = this.#count < this.#minimum ? null : this.#judge(near);
    this.#kept[this.#count++ % KEPT] = near;
    if (this.#settling > 0) this.#pass();
    return detection === null ? NOTHING : [detection];
  }

  #judge(value: number): Detection | null {
    const scores = this.#scores;
    const isYoung = this.#count < YOUNG;
    const isSettling = this.#settling > 0;
    if (this.#count <= YOUNG) {
      const { level, scale } = robustBaseline(this.#last(this.#count));
      scores.anchor(level, scale, this.#count);
    }
    const score = scores.score(value);
    let strength = this.#strengthOf(Math.abs(score));
    let direction: Direction = score < 0 ? -1 : 1;
    let cause: Cause = "window";
    if (!isYoung && !isSettling) {
      const sums = this.#sums;
      sums.add(score, scores.deviation);
      const level = Math.max(sums.up, sums.down) / LIMIT.level;
      if (level > strength) {
        strength = level;
        cause = "level";
        direction = sums.up > sums.down ? 1 : -1;
      }
      const variance = sums.wide / (LIMIT.variance * (1 + SCALE_DOUBT / scores.scaleWeight));
      if (variance > strength) {
        strength = variance;
        cause = "variance";
        direction = 0;
      }
    }
    let detection: Detection | null = null;
    if (isYoung) {
      detection = this.#documented(value, direction, strength, true) ?? this.#youngTrend(value);
    } else if (strength >= 1 || strength >= this.#enough) {
      detection = this.#known(value, cause, direction, strength);
    }
    this.#habit *= 1 - 1 / HABIT.memory;
    if (detection !== null && !this.#isMuted(value, cause, direction)) this.#alarm(detection, cause, direction);
    else detection = null;
    if (this.#sums.narrow > NARROW) this.#narrow();
    if (isSettling) scores.pass(value);
    else if (!isYoung) scores.learn(value, score);
    return detection;
  }

  /** Of one window's score, 1 at its limit. A score from a scale known from few windows counts for less, as in a t-test. */
  #strengthOf(size: number): number {
    const { scaleWeight, tail } = this.#scores;
    const sure = size < 2.5 ? size : Math.sqrt((scaleWeight + 0.5) * Math.log(1 + (size * size) / scaleWeight));
    return sure / (LIMIT.window * (1 + FAR_TAIL * tail));
  }

  /** What the documented rules call a window; an anomaly when it is only odd. Null when the threshold's confidence is not reached. */
  #documented(value: number, direction: Direction, strength: number, isYoung: boolean): Detection | null {
    const values = this.#last(this.#config.history);
    const average = mean(values);
    // Twice and half mean something to amounts only. From nothing to something is infinitely more.
    const ratio = value >= 0 && values.every((one) => one >= 0) ? value / average : 1;
    const odd = 1 - DOUBT_AT_LIMIT ** strength;
    const compared = `${short(value)} after a mean of ${short(average)} in ${values.length} windows`;
    let [type, rule, description]: [PatternType, number, string] = [
      "anomaly",
      0,
      `${short(value)} where ${this.#usual()} is usual`,
    ];
    if (direction === 1 && ratio > 2) [type, rule, description] = ["spike", Math.min(ratio / 2, 1), compared];
    if (direction === -1 && ratio < 0.5) [type, rule, description] = ["drop", 1 - ratio, compared];
    const confidence = Math.max(rule, odd);
    const isTold = odd >= this.#config.threshold || (rule >= this.#config.threshold && (isYoung || strength >= 1));
    return isTold ? { type, confidence, description } : null;
  }

  #youngTrend(value: number): Detection | null {
    const values = this.#latest(value);
    const trend =
      values.length < TREND.fewest ? null : trendOf(values, Math.min(TREND.isOne, 1 - this.#config.threshold));
    return trend === null ? null : trendDetection(values, trend.slope, 1 - trend.probability);
  }

  /** Of a series whose noise is known. */
  #known(value: number, cause: Cause, direction: Direction, strength: number): Detection | null {
    if (cause === "window") return this.#documented(value, direction, strength, false);
    const confidence = 1 - DOUBT_AT_LIMIT ** strength;
    if (confidence < this.#config.threshold) return null;
    const values = this.#latest(value);
    if (cause === "variance") {
      const [lately, before] = [robustBaseline(values).scale, this.#scores.scale];
      return {
        type: "anomaly",
        confidence,
        description: `varies by ± ${short(lately)} where ± ${short(before)} is usual`,
      };
    }
    const trend = trendOf(values, TREND.goesOn);
    if (trend !== null && isGradual(values, trend.slope)) return trendDetection(values, trend.slope, confidence);
    const description = `the level is about ${short(mean(values.slice(-3)))} where ${this.#usual()} is usual`;
    return { type: "anomaly", confidence, description };
  }

  /** In its quiet time, or what this series does all the time. */
  #isMuted(value: number, cause: Cause, direction: Direction): boolean {
    if ((direction === 1 && this.#quietUp > 0) || (direction === -1 && this.#quietDown > 0)) return true;
    if (cause !== "window") return false;
    const size = Math.abs(value - this.#scores.level);
    const isHabit = this.#habit >= HABIT.count && size <= HABIT.farther * this.#habitSize;
    this.#habitSize = this.#habit < 1 ? size : (this.#habitSize + size) / 2;
    this.#habit++;
    return isHabit;
  }

  #alarm({ type }: Detection, cause: Cause, direction: Direction): void {
    this.#sums.clear();
    this.#quiet(direction);
    if (this.#settling === 0) this.#settling = REFRACTORY;
    this.#trend = type === "trend" ? direction : 0;
    this.#isWider = cause === "variance";
  }

  #quiet(direction: Direction): void {
    if (direction === 1) this.#quietUp = REFRACTORY;
    if (direction === -1) this.#quietDown = REFRACTORY;
  }

  /** One window less of the quiet time. */
  #pass(): void {
    if (this.#quietUp > 0) this.#quietUp--;
    if (this.#quietDown > 0) this.#quietDown--;
    if (--this.#settling > 0) return;
    this.#settle();
    // An alarm of the other direction came meanwhile, or the trend goes on.
    this.#settling = Math.max(this.#quietUp, this.#quietDown);
  }

  /** What has lasted since the alarm is the new normal. */
  #settle(): void {
    const scores = this.#scores;
    const { level, scale } = robustBaseline(this.#last(SETTLED));
    const moved = Math.abs(level - scores.level);
    if (moved > scores.scale) {
      const isOther = moved > FAR * scores.scale || scale > OTHER * scores.scale || scale < scores.scale / OTHER;
      scores.anchor(level, isOther ? scale : null, SETTLED);
      scores.doubt(SETTLED, DOUBT.scaleWeight);
      if (isOther) scores.forgetShape();
    } else {
      scores.doubt(DOUBT.levelWeight, Infinity);
    }
    if (this.#isWider) scores.anchor(scores.level, robustBaseline(this.#last(KEPT)).scale, KEPT);
    this.#isWider = false;
    const trend = this.#trend === 0 ? null : trendOf(this.#last(TREND.windows), TREND.goesOn);
    if (trend !== null && Math.sign(trend.slope) === this.#trend) this.#quiet(this.#trend);
    else this.#trend = 0;
  }

  /** The series has calmed down: no news, but what it does from now on counts for more. */
  #narrow(): void {
    const { level, scale } = this.#scores;
    this.#scores.anchor(level, Math.max(robustBaseline(this.#last(KEPT)).scale, scale / 2), KEPT);
    this.#sums.clear();
  }

  #usual(): string {
    const { level, scale } = this.#scores;
    return `${short(level)} ± ${short(scale)}`;
  }

  /** The windows a trend shows in, with the one that is not kept yet. */
  #latest(value: number): readonly number[] {
    return [...this.#last(TREND.windows - 1), value];
  }

  /** The latest windows, so many or as many as there are, the oldest first. */
  #last(windows: number): readonly number[] {
    const length = Math.min(windows, this.#count, KEPT);
    return Array.from({ length }, (_, at) => this.#kept[(this.#count - length + at) % KEPT] ?? 0);
  }
}

function trendDetection(values: readonly number[], slope: number, confidence: number): Detection {
  const description = `${slope < 0 ? "falling" : "rising"} by ${short(Math.abs(slope))} a window for ${values.length} windows, to ${short(values.at(-1) ?? 0)}`;
  return { type: "trend", confidence, description };
}
