/**
 * Series of known kind with known changes in them, to score a detector on. Everything follows from the seed.
 *
 * A family is a distribution with a level and a standard deviation σ; it is quiet until something is injected:
 *   spike      one window: its value + the greatest of 6σ, one level (so 2x) and the family's reach
 *   drop       one window: its value − the greatest of 6σ, half a level and the reach; not where that leads a positive family below 0
 *   shift     the level + 3σ for 60 to 160 windows, then back: two changes; downwards as often where negative values are possible
 *   trend     the level + 3σ along a ramp of 10 windows, stays 60 to 160, then a ramp back: two changes
 *   variance  three times the variance (not 3σ) for 100 windows, same level; counts become negative binomial
 * The reach is how far above its level a family gets by itself as rarely as a normal distribution exceeds 6σ (1e-9): in a skewed
 * family 6σ are nothing rare. For Student's t with 4 degrees of freedom that would be 166σ; it is put at 20σ (one in 200,000).
 *
 * And the plain ones, which in some families are ordinary values, so that no detector can find all of them:
 *   spike-6s   + 6σ;   spike-2x   + one level, where that is at least 4σ;   drop-half   − half a level, where that is at least 4σ
 */

import { seededRandom } from "../support/random.ts";

export type ChangeKind = "spike" | "drop" | "shift" | "trend" | "variance" | "spike-6s" | "spike-2x" | "drop-half";

export interface InjectedChange {
  readonly kind: ChangeKind;
  /** Window of its first effect. */
  readonly at: number;
  /** Last window in which an alarm finds it. */
  readonly until: number;
}

export interface InjectedSeries {
  readonly values: Float64Array;
  readonly changes: readonly InjectedChange[];
}

/** How far and how wide the next value is drawn: added to the level, and a factor on the variance. */
interface Regime {
  readonly shift: number;
  readonly variance: number;
}

export interface Family {
  readonly name: string;
  readonly level: number;
  readonly sigma: number;
  readonly reach: number;
  /** Values below 0 do not occur in it. */
  readonly positive: boolean;
  /** Makes the source of one series. */
  readonly source: (draw: Draw) => (regime: Regime) => number;
}

const QUIET: Regime = { shift: 0, variance: 1 };
/** Quiet windows before the first change. */
export const RUN_UP = 300;
/** After a change: windows in which an alarm may belong to it, and counts for nothing. */
export const SETTLING = 20;
const RAMP = 10;
const VARIANCE_LENGTH = 100;
const FOUND_WITHIN = { shift: 15, trend: RAMP + 15, variance: VARIANCE_LENGTH, pulse: 2 };

interface Draw {
  uniform(): number;
  gaussian(): number;
  gamma(shape: number): number;
  below(bound: number): number;
}

function drawsOf(seed: number, name: string): Draw {
  // Families do not share their random numbers.
  let mixed = seed;
  for (let at = 0; at < name.length; at++) mixed = Math.imul(mixed ^ name.charCodeAt(at), 16777619);
  const random = seededRandom(mixed);
  const uniform = (): number => (random.below(2 ** 32) + 0.5) / 2 ** 32;
  const gaussian = (): number => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
  /** Marsaglia and Tsang 2000; shapes of 1 and more. */
  const gamma = (shape: number): number => {
    const d = shape - 1 / 3;
    for (;;) {
      const x = gaussian();
      const v = (1 + x / Math.sqrt(9 * d)) ** 3;
      if (v > 0 && Math.log(uniform()) < 0.5 * x * x + d - d * v + d * Math.log(v)) return d * v;
    }
  };
  return { uniform, gaussian, gamma, below: (bound) => random.below(bound) };
}

/** A family whose noise has mean 0 and variance 1, placed by level and σ. */
function placed(
  name: string,
  level: number,
  sigma: number,
  noise: (draw: Draw) => () => number,
  reach = 6 * sigma,
): Family {
  return {
    name,
    level,
    sigma,
    reach,
    positive: false,
    source: (draw) => {
      const next = noise(draw);
      return ({ shift, variance }) => level + shift + sigma * Math.sqrt(variance) * next();
    },
  };
}

const gaussian = (draw: Draw) => (): number => draw.gaussian();
const uniform = (draw: Draw) => (): number => (draw.uniform() - 0.5) * Math.sqrt(12);
/** Its variance is 2. */
const student4 = (draw: Draw) => (): number => draw.gaussian() / Math.sqrt(draw.gamma(2) / 2) / Math.SQRT2;
function autoregressive(phi: number): (draw: Draw) => () => number {
  return (draw) => {
    let last = draw.gaussian();
    return () => (last = phi * last + Math.sqrt(1 - phi * phi) * draw.gaussian());
  };
}

/** A skewed family of positive values: a shift moves it as it is, more variance widens it about its level. */
function skewed(
  name: string,
  level: number,
  cv: number,
  unit: (draw: Draw, cv: number) => number,
  reach: number,
): Family {
  return {
    name,
    level,
    sigma: level * cv,
    reach: level * reach,
    positive: true,
    source:
      (draw) =>
      ({ shift, variance }) =>
        shift + level * unit(draw, cv * Math.sqrt(variance)),
  };
}

function lognormalUnit(draw: Draw, cv: number): number {
  const variance = Math.log(1 + cv * cv);
  return Math.exp(Math.sqrt(variance) * draw.gaussian() - variance / 2);
}
const lognormalReach = (cv: number): number =>
  Math.exp(6 * Math.sqrt(Math.log(1 + cv * cv))) / Math.sqrt(1 + cv * cv) - 1;
const gammaUnit = (draw: Draw, cv: number): number => draw.gamma(1 / (cv * cv)) * cv * cv;

/** Wilson and Hilferty's approximation. */
const gammaReach = (cv: number): number => (1 - (cv * cv) / 9 + (6 * cv) / 3) ** 3 - 1;

const countTables = new Map<string, Float64Array>();
/** Cumulative probabilities of a Poisson, or of the negative binomial of that mean and `variance` times its variance. */
function countTable(mean: number, variance: number): Float64Array {
  const key = `${mean}/${variance}`;
  const known = countTables.get(key);
  if (known !== undefined) return known;
  const size = mean / Math.max(variance - 1, 1e-9);
  const isPoisson = variance === 1;
  const table = new Float64Array(Math.ceil(mean + 15 * Math.sqrt(mean * variance) + 20));
  let log = isPoisson ? -mean : size * Math.log(size / (size + mean));
  let sum = 0;
  for (let k = 0; k < table.length; k++) {
    sum += Math.exp(log);
    table[k] = sum;
    log += isPoisson ? Math.log(mean / (k + 1)) : Math.log(((k + size) / (k + 1)) * (mean / (size + mean)));
  }
  countTables.set(key, table);
  return table;
}

function countOf(table: Float64Array, uniform: number): number {
  let [low, high] = [0, table.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((table[middle] ?? 1) < uniform) low = middle + 1;
    else high = middle;
  }
  return low;
}

function poisson(mean: number): Family {
  return {
    name: `poisson ${mean}`,
    level: mean,
    sigma: Math.sqrt(mean),
    reach: countOf(countTable(mean, 1), 1 - 1e-9) - mean,
    positive: true,
    source:
      (draw) =>
      ({ shift, variance }) =>
        countOf(countTable(mean + shift, variance), draw.uniform()),
  };
}

/** For injected changes and for quiet series. */
export const FAMILIES: readonly Family[] = [
  placed("gaussian cv 1 %", 1e6, 1e4, gaussian),
  placed("gaussian cv 5 %", 100, 5, gaussian),
  placed("gaussian cv 10 %", 0.02, 0.002, gaussian),
  placed("gaussian cv 20 %", 5000, 1000, gaussian),
  placed("gaussian cv 50 %", 40, 20, gaussian),
  placed("gaussian at 0", 0, 1, gaussian),
  placed("gaussian at -300", -300, 3, gaussian),
  skewed("lognormal cv 10 %", 250, 0.1, lognormalUnit, lognormalReach(0.1)),
  skewed("lognormal cv 30 %", 250, 0.3, lognormalUnit, lognormalReach(0.3)),
  skewed("lognormal cv 50 %", 250, 0.5, lognormalUnit, lognormalReach(0.5)),
  skewed("gamma cv 20 %", 12, 0.2, gammaUnit, gammaReach(0.2)),
  skewed("gamma cv 50 %", 12, 0.5, gammaUnit, gammaReach(0.5)),
  poisson(4),
  poisson(30),
  poisson(1000),
  placed("student-t4 cv 5 %", 100, 5, student4, 100),
  placed("student-t4 at 0", 0, 7e-5, student4, 140e-5),
  placed("uniform cv 15 %", 100, 15, uniform),
  placed("uniform at 0", 0, 1e9, uniform),
  placed("ar(1) 0.3 cv 5 %", 100, 5, autoregressive(0.3)),
  placed("ar(1) 0.3 at 0", 0, 1, autoregressive(0.3)),
];

/** Only as quiet series: six σ are within their ordinary values, or there is no σ. */
export const QUIET_FAMILIES: readonly Family[] = [poisson(1), poisson(0.02), placed("constant", 100, 0, gaussian)];

export function quietSeries(family: Family, seed: number, windows: number): Float64Array {
  const next = family.source(drawsOf(seed, family.name));
  return Float64Array.from({ length: windows }, () => next(QUIET));
}

/** How far each kind of pulse goes, without those that the family cannot have. */
function pulsesOf({ level, sigma, reach, positive }: Family): readonly (readonly [ChangeKind, number])[] {
  const far = Math.max(6 * sigma, reach);
  const drop = Math.max(positive ? 6 * sigma : far, level / 2);
  const pulses: (readonly [ChangeKind, number])[] = [
    ["spike", Math.max(far, level)],
    ["spike-6s", 6 * sigma],
  ];
  if (!positive || drop < level) pulses.push(["drop", -drop]);
  if (level >= 4 * sigma) pulses.push(["spike-2x", level]);
  if (level >= 8 * sigma) pulses.push(["drop-half", -level / 2]);
  return pulses;
}

/** Each kind that the family can have once, in random order, 150 to 300 quiet windows before each and after the last. */
export function injectedSeries(family: Family, seed: number): InjectedSeries {
  const { sigma, positive } = family;
  const draw = drawsOf(seed, family.name);
  const next = family.source(draw);
  const values: number[] = [];
  const changes: InjectedChange[] = [];
  const run = (windows: number, shift = 0, variance = 1): void => {
    for (let window = 0; window < windows; window++) values.push(next({ shift, variance }));
  };
  const begin = (kind: ChangeKind, within: number): void => {
    changes.push({ kind, at: values.length, until: values.length + within - 1 });
  };
  const ramp = (from: number, to: number): void => {
    begin("trend", FOUND_WITHIN.trend);
    for (let step = 1; step <= RAMP; step++) run(1, from + ((to - from) * step) / RAMP);
  };
  const far = (): number => 3 * sigma * (positive || draw.below(2) === 0 ? 1 : -1);
  const injections = pulsesOf(family).map(([kind, by]) => () => {
    begin(kind, FOUND_WITHIN.pulse);
    // Counts stay whole.
    values.push(next(QUIET) + (family.name.startsWith("poisson") ? Math.round(by) : by));
  });
  injections.push(
    () => {
      const shift = far();
      begin("shift", FOUND_WITHIN.shift);
      run(60 + draw.below(100), shift);
      begin("shift", FOUND_WITHIN.shift);
    },
    () => {
      const shift = far();
      ramp(0, shift);
      run(60 + draw.below(100), shift);
      ramp(shift, 0);
    },
    () => {
      begin("variance", FOUND_WITHIN.variance);
      run(VARIANCE_LENGTH, 0, 3);
    },
  );
  run(RUN_UP);
  while (injections.length > 0) {
    run(150 + draw.below(150));
    for (const inject of injections.splice(draw.below(injections.length), 1)) inject();
  }
  run(150 + draw.below(150));
  return { values: Float64Array.from(values), changes };
}
