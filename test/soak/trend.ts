/**
 * What a long series of samples says about growth. Invariants: the warm-up (the first third) is left out; noise is allowed
 * once for the whole run, a slope for every minute of it, so the longer a run the smaller a leak it finds.
 */

export interface Sample {
  readonly atMs: number;
  readonly value: number;
}

export interface GrowthLimit {
  readonly perMinute: number;
  /** What the value may swing by without meaning anything. */
  readonly noise: number;
}

export interface Growth {
  readonly perMinute: number;
  readonly allowedPerMinute: number;
  readonly grows: boolean;
}

/** The slope by least squares over what comes after the warm-up, against the limit. */
export function growthOf(samples: readonly Sample[], limit: GrowthLimit): Growth {
  const settled = afterWarmUp(samples);
  const meanMs = mean(settled.map(({ atMs }) => atMs));
  const meanValue = mean(settled.map(({ value }) => value));
  let products = 0;
  let squares = 0;
  for (const { atMs, value } of settled) {
    products += (atMs - meanMs) * (value - meanValue);
    squares += (atMs - meanMs) ** 2;
  }
  const minutes = ((settled.at(-1)?.atMs ?? 0) - (settled[0]?.atMs ?? 0)) / 60_000;
  const perMinute = (products / squares) * 60_000;
  const allowedPerMinute = limit.perMinute + limit.noise / minutes;
  return { perMinute, allowedPerMinute, grows: perMinute > allowedPerMinute };
}

/** The largest value of the middle third and of the last one: what churn reuses does not grow from one to the other. */
export function highestOf(samples: readonly Sample[]): { readonly middle: number; readonly last: number } {
  const settled = afterWarmUp(samples);
  const half = Math.ceil(settled.length / 2);
  return { middle: highest(settled.slice(0, half)), last: highest(settled.slice(half)) };
}

function afterWarmUp(samples: readonly Sample[]): readonly Sample[] {
  const settled = samples.slice(Math.floor(samples.length / 3));
  if (settled.length < 6) throw new Error(`${settled.length} samples after the warm-up say nothing`);
  return settled;
}

function mean(values: readonly number[]): number {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function highest(samples: readonly Sample[]): number {
  return samples.reduce((most, { value }) => Math.max(most, value), 0);
}
