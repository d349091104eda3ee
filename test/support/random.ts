/** Seeded random numbers, so that a failing run can be repeated. The seed of a run is printed by the test that uses it. */

export interface SeededRandom {
  readonly seed: number;
  /** An integer in 0..bound-1. */
  below(bound: number): number;
}

export function seededRandom(seed: number): SeededRandom {
  let state = seed >>> 0;
  // mulberry32
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  return { seed, below: (bound) => Math.floor(next() * bound) };
}

/** `TEST_SEED` of the environment, else a new seed for this run. */
export function runSeed(): number {
  return Number(process.env["TEST_SEED"] ?? Math.floor(Math.random() * 2 ** 31));
}
