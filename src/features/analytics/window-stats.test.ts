/** Window statistics against plain formulas, merges against adding, and what sampling is promised to do to estimates. */

import { describe, expect, test } from "bun:test";
import * as fc from "fast-check";
import { seededRandom } from "../../../test/support/random.ts";
import { WindowStats } from "./window-stats.ts";

type Entry = readonly [value: number, weight: number];

const QUANTILES = [0, 0.01, 0.25, 0.5, 0.75, 0.9, 0.99, 0.999, 1];
/** Few, so that the properties get past it. */
const MAX_VALUES = 30;

function statsOf(entries: readonly Entry[], maxValues = MAX_VALUES): WindowStats {
  const stats = new WindowStats(maxValues);
  for (const [value, weight] of entries) stats.add(value, weight);
  return stats;
}

const plain = (...values: number[]): Entry[] => values.map((value) => [value, 1]);

const total = (entries: readonly Entry[], term: (value: number, weight: number) => number): number =>
  entries.reduce((sum, [value, weight]) => sum + term(value, weight), 0);

/** Within 1e-9 of the size of what was summed up, which cancelling does not make smaller. */
function expectClose(found: number, exact: number, scale = Math.abs(exact)): void {
  expect(Math.abs(found - exact)).toBeLessThanOrEqual(1e-9 * scale + 1e-300);
}

/** A mean loses 1e-16 of the largest value to rounding, however small it is itself and however little that value weighed. */
function expectCloseSumError(found: number, exactSquared: number, entries: readonly Entry[]): void {
  const largest = Math.max(...entries.map(([value]) => Math.abs(value)));
  const blurred = total(entries, (value, weight) => (weight * weight - weight) * Math.abs(value)) * largest;
  expectClose(found ** 2, exactSquared, exactSquared + 1.96 ** 2 * 1e-6 * blurred);
}

/** The same of both: all figures but for rounding. */
function expectSame(found: WindowStats, expected: WindowStats, entries: readonly Entry[]): void {
  const sizes = total(entries, (value, weight) => weight * Math.abs(value));
  const [size, largest] = [sizes / expected.count, Math.max(...entries.map(([value]) => Math.abs(value)), 0)];
  expect([found.observed, found.min, found.max]).toEqual([expected.observed, expected.min, expected.max]);
  expectClose(found.count, expected.count);
  expectClose(found.sum, expected.sum, sizes);
  expectClose(found.mean, expected.mean, size);
  // The square root of a rounding error is what is left of equal values.
  expect(Math.abs(found.stdDev - expected.stdDev)).toBeLessThanOrEqual(1e-7 * largest);
  expectClose(found.countError, expected.countError);
  expectCloseSumError(found.sumError, expected.sumError ** 2, entries);
  expect(Math.abs(found.meanError - expected.meanError)).toBeLessThanOrEqual(1e-7 * largest);
  for (const q of QUANTILES) expectClose(found.quantile(q), expected.quantile(q), largest);
}

function typeSeven(values: readonly number[], q: number): number {
  const sorted = values.toSorted((left, right) => left - right);
  const position = q * (sorted.length - 1);
  const [below, above] = [sorted[Math.floor(position)] ?? NaN, sorted[Math.ceil(position)] ?? NaN];
  return below + (above - below) * (position - Math.floor(position));
}

/** None is -0, which JSON has not, and no square underflows. */
const value = fc
  .oneof(
    fc.double({ min: -1000, max: 1000, noNaN: true }),
    fc.integer({ min: -5, max: 5 }),
    fc.double({ min: 1e6, max: 1e6 + 1, noNaN: true }),
  )
  .map((value) => (Math.abs(value) < 1e-100 ? 0 : value));
const weight = fc.oneof(fc.constant(1), fc.constantFrom(2, 10, 20), fc.double({ min: 1, max: 100, noNaN: true }));
/** All of one weight, or each of its own. */
const entries = fc.oneof(
  fc
    .tuple(fc.array(value, { minLength: 1, maxLength: 80 }), weight)
    .map(([values, weight]) => values.map((value) => [value, weight] as const)),
  fc.array(fc.tuple(value, weight), { minLength: 1, maxLength: 80 }),
);

describe("against plain formulas", () => {
  test("count, sum, extremes, mean and deviation", () => {
    fc.assert(
      fc.property(entries, (entries) => {
        const stats = statsOf(entries);
        const values = entries.map(([value]) => value);
        const [count, sum] = [total(entries, (_, w) => w), total(entries, (x, w) => w * x)];
        const size = total(entries, (x, w) => w * Math.abs(x));
        const variance = total(entries, (x, w) => w * (x - sum / count) ** 2) / count;
        expect([stats.observed, stats.min, stats.max]).toEqual([
          values.length,
          Math.min(...values),
          Math.max(...values),
        ]);
        expectClose(stats.count, count);
        expectClose(stats.sum, sum, size);
        expectClose(stats.mean, sum / count, size / count);
        expectClose(stats.stdDev ** 2, variance, variance + (1e-6 * size) / count);
      }),
      { numRuns: 1000 },
    );
  });

  test("the errors of sampling", () => {
    fc.assert(
      fc.property(entries, (entries) => {
        const stats = statsOf(entries);
        const mean = total(entries, (x, w) => w * x) / total(entries, (_, w) => w);
        const a0 = total(entries, (_, w) => w * w - w);
        const a2 = total(entries, (x, w) => (w * w - w) * x * x);
        // Around the mean at once: A2 - 2 mean A1 + mean² A0 cancels.
        const around = total(entries, (x, w) => (w * w - w) * (x - mean) ** 2);
        expectClose(stats.countError ** 2, 1.96 ** 2 * a0);
        expectCloseSumError(stats.sumError, 1.96 ** 2 * a2, entries);
        expectClose((stats.meanError * stats.count) ** 2, 1.96 ** 2 * around, 1.96 ** 2 * (around + 1e-6 * (a2 + a0)));
      }),
      // A weight of next to nothing on the value that the mean begins with.
      {
        numRuns: 1000,
        examples: [
          [
            [
              [1, 1.0000000000000002],
              [1.1820346637224967e-11, 20],
              [0, 1],
            ],
          ],
        ],
      },
    );
  });

  test("quantiles of held values: type 7, whatever their one weight", () => {
    const values = fc.array(value, { minLength: 1, maxLength: MAX_VALUES });
    fc.assert(
      fc.property(values, weight, fc.double({ min: 0, max: 1, noNaN: true }), (values, weight, anyQ) => {
        const stats = statsOf(values.map((value) => [value, weight]));
        for (const q of [...QUANTILES, anyQ]) {
          expectClose(stats.quantile(q), typeSeven(values, q), Math.max(...values.map(Math.abs)));
        }
      }),
      { numRuns: 1000 },
    );
  });

  test("the share beyond some deviations, of held values", () => {
    fc.assert(
      fc.property(entries, fc.constantFrom(0.5, 1, 2, 3), (entries, sigmas) => {
        const stats = statsOf(entries, 1000);
        const beyond = entries.filter(([value]) => Math.abs(value - stats.mean) > sigmas * stats.stdDev);
        expectClose(stats.exceeding(sigmas), total(beyond, (_, w) => w) / stats.count);
      }),
    );
  });
});

describe("merging", () => {
  test("any tree of parts is adding all of them, held or sketched", () => {
    fc.assert(
      fc.property(fc.array(entries, { minLength: 1, maxLength: 8 }), fc.infiniteStream(fc.nat(7)), (parts, picks) => {
        const whole = statsOf(parts.flat());
        const stats = [...parts.map((part) => statsOf(part)), statsOf([])];
        while (stats.length > 1) {
          const [from] = stats.splice(Number(picks.next().value) % stats.length, 1);
          const into = stats[Number(picks.next().value) % stats.length];
          // Asking a part for a quantile puts its values in order: nothing else may notice.
          into?.quantile(0.5);
          if (from !== undefined) into?.merge(from);
        }
        const [merged = statsOf([])] = stats;
        expectSame(merged, whole, parts.flat());
        expect("sketch" in merged.toJSON()).toBe(parts.flat().length > MAX_VALUES);
      }),
      { numRuns: 500 },
    );
  });

  test("leaves what is merged, or was written, as it was", () => {
    const other = statsOf([
      [3, 1],
      [1, 2],
    ]);
    const before = JSON.stringify(other);
    const stats = statsOf(plain(2));
    stats.merge(other);
    stats.add(5, 1);
    expect(JSON.stringify(other)).toBe(before);
    const json = stats.toJSON();
    const text = JSON.stringify(json);
    stats.add(6, 3);
    expect(JSON.stringify(json)).toBe(text);
    expect([stats.observed, stats.count, stats.sum, stats.min, stats.max]).toEqual([5, 8, 30, 1, 6]);
  });
});

describe("edges", () => {
  test("empty", () => {
    const { observed, count, sum, min, max, mean, stdDev, countError, sumError, meanError, median } = new WindowStats();
    expect([observed, count, sum, min, max, mean, stdDev]).toEqual([0, 0, 0, Infinity, -Infinity, 0, 0]);
    expect([countError, sumError, meanError, median, new WindowStats().exceeding(3)]).toEqual([0, 0, 0, NaN, 0]);
  });

  test("one value", () => {
    const stats = statsOf([[-7, 4]]);
    expect([stats.count, stats.sum, stats.mean, stats.stdDev, stats.median, stats.meanError]).toEqual([
      4, -28, -7, 0, -7, 0,
    ]);
    expectClose(stats.countError, 1.96 * Math.sqrt(12));
  });

  test.each([0.1, -0.1, 0, 1e100])("equal values %d: no deviation, none beyond it, no other quantile", (value) => {
    for (const count of [10, 1000, 5000]) {
      const stats = statsOf(
        Array.from({ length: count }, (_, at) => [value, 1 + (at % 3) / 7]),
        1000,
      );
      expect([stats.mean, stats.stdDev, stats.meanError, stats.exceeding(3)]).toEqual([value, 0, 0, 0]);
      expect(QUANTILES.map((q) => stats.quantile(q))).toEqual(QUANTILES.map(() => value));
    }
  });

  test("negatives and zeros", () => {
    const stats = statsOf(plain(-1, 0, -3, 0, 4));
    expect([stats.sum, stats.min, stats.max, stats.mean, stats.median]).toEqual([0, -3, 4, 0, 0]);
    expectClose(stats.stdDev, Math.sqrt(26 / 5));
    expect([stats.quantile(0.25), stats.quantile(0.875)]).toEqual([-1, 2]);
  });

  test("quantiles of different weights: each value lies half of both weights after the one before", () => {
    const stats = statsOf([
      [30, 2],
      [10, 1],
      [20, 3],
    ]);
    // 10 at 0, 20 at 2, 30 at 4.5.
    const at = (position: number): number => stats.quantile(position / 4.5);
    expect([at(0), at(1), at(2), at(3.25), at(4.5)]).toEqual([10, 15, 20, 25, 30]);
  });

  test("1,000 values are held, one more is sketched: within 1 %, and never out of the extremes", () => {
    const values = Array.from({ length: 1001 }, (_, at) => 1000 + at);
    expect(statsOf(plain(...values.slice(1)), 1000).quantile(0.3)).toBeCloseTo(typeSeven(values.slice(1), 0.3), 9);
    const stats = statsOf(plain(...values), 1000);
    for (const q of QUANTILES) {
      const exact = typeSeven(values, q);
      expect(Math.abs(stats.quantile(q) - exact)).toBeLessThanOrEqual(0.0101 * exact);
      expect(stats.quantile(q)).toBeWithin(1000, 2000.001);
    }
  });

  test("the share beyond some deviations of a sketch: nearly exact, and not above", () => {
    const uniform = seededRandom(3);
    const values = Array.from({ length: 20_000 }, () => Math.exp(4 * (uniform.below(1e6) / 1e6)));
    const [held, sketched] = [statsOf(plain(...values), 20_000), statsOf(plain(...values), 1000)];
    for (const sigmas of [0.5, 1, 2]) {
      expect(sketched.exceeding(sigmas)).toBeWithin(held.exceeding(sigmas) - 0.02, held.exceeding(sigmas) + 1e-9);
    }
    expect(held.exceeding(1)).toBeGreaterThan(0.1);
  });

  test("values and weights out of their bounds are defects; the largest allowed do not overflow", () => {
    for (const value of [NaN, Infinity, -Infinity, 1.1e100]) expect(() => statsOf([[value, 1]])).toThrow("magnitude");
    for (const weight of [NaN, 0.9, -1, Infinity]) expect(() => statsOf([[1, weight]])).toThrow("weights of 1");
    const stats = statsOf(Array.from({ length: 100 }, (_, at) => [at % 2 === 0 ? 1e100 : -1e100, 1e9]));
    for (const figure of [stats.sum, stats.stdDev, stats.sumError, stats.meanError]) expect(figure).toBeFinite();
  });
});

describe("JSON", () => {
  test("comes back exactly, and goes on as it would have", () => {
    fc.assert(
      fc.property(fc.oneof(entries, fc.constant([])), entries, fc.boolean(), (before, after, isMerged) => {
        const stats = statsOf(before);
        if (isMerged) stats.merge(statsOf(after));
        stats.quantile(0.5);
        const text = JSON.stringify(stats);
        const back = WindowStats.parse(JSON.parse(text), MAX_VALUES);
        expect(JSON.stringify(back)).toBe(text);
        back?.merge(statsOf(after));
        stats.merge(statsOf(after));
        expect(JSON.stringify(back)).toBe(JSON.stringify(stats));
        for (const q of QUANTILES) expect(back?.quantile(q)).toBe(stats.quantile(q));
      }),
    );
  });

  test("holds one weight when all are equal, and nothing of sampling when nothing was sampled", () => {
    expect(statsOf(plain(2, 1)).toJSON()).toEqual({
      observed: 2,
      sum: 3,
      min: 1,
      max: 2,
      moments: [2, 1.5, 0.5],
      values: [2, 1],
      weights: 1,
    });
    expect(statsOf([...plain(2), [1, 10]]).toJSON()).toMatchObject({ sampled: [90, 1, 0], weights: [1, 10] });
  });

  test("with less room than values, they become a sketch", () => {
    const stats = WindowStats.parse(statsOf(plain(1, 2, 3)).toJSON(), 2);
    expect([stats?.observed, "sketch" in (stats?.toJSON() ?? {})]).toEqual([3, true]);
  });

  const held = statsOf([
    [2, 1],
    [1, 10],
  ]).toJSON();
  const sketched = statsOf(plain(1, 2), 1).toJSON();
  const { sketch } = sketched as { sketch: object };

  test("malformed gives null", () => {
    const malformed = [
      null,
      [],
      {},
      { ...held, observed: 1 },
      { ...held, observed: 2.5 },
      { ...held, observed: -1 },
      { ...held, sum: null },
      { ...held, min: 3 },
      { ...held, max: 1e101 },
      { ...held, moments: [2, 1] },
      { ...held, moments: [0, 1, 1] },
      { ...held, moments: [1e300, 1, 1] },
      { ...held, moments: [2, 1, -1e-9] },
      { ...held, sampled: [1, 1, NaN] },
      { ...held, sampled: null },
      { ...held, values: [1] },
      { ...held, values: [1, "2"] },
      { ...held, values: [1, Infinity] },
      { ...held, weights: [1] },
      { ...held, weights: [1, 0.5] },
      { ...held, weights: 0 },
      { ...held, values: undefined },
      { ...sketched, observed: 3 },
      { ...sketched, sketch: null },
      { ...sketched, sketch: { ...sketch, alpha: 0.02 } },
      { ...sketched, moments: [3, 1.5, 0.5] },
    ];
    expect(malformed.filter((json) => WindowStats.parse(json) !== null)).toEqual([]);
    for (const json of [held, sketched, { observed: 0 } as const])
      expect(WindowStats.parse(json)?.toJSON()).toEqual(json);
  });

  test("anything at all is statistics that work, or null", () => {
    const anything = fc.oneof(fc.anything(), fc.jsonValue(), fc.double(), fc.array(fc.double()));
    const key = fc.constantFrom(...Object.keys(held), "sketch");
    const sketchKey = fc.constantFrom(...Object.keys(sketch));
    fc.assert(
      fc.property(anything, key, sketchKey, (anything, key, sketchKey) => {
        const mutated = [held, sketched].map((json) => ({ ...json, [key]: anything }));
        for (const json of [anything, ...mutated, { ...sketched, sketch: { ...sketch, [sketchKey]: anything } }]) {
          const stats = WindowStats.parse(json);
          if (stats === null) continue;
          stats.merge(statsOf([[1, 2]]));
          const { sum, mean, stdDev, countError, sumError, meanError, median } = stats;
          for (const figure of [sum, mean, stdDev, countError, sumError, meanError, median, stats.exceeding(3)]) {
            expect(figure).toBeFinite();
          }
        }
      }),
      { numRuns: 2000 },
    );
  });
});

describe("1,000 samples of one lognormal population", () => {
  const RUNS = 1000;
  const random = seededRandom(20_260_101);
  const uniform = (): number => random.below(2 ** 32) / 2 ** 32;
  const normal = (): number => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
  const population = Array.from({ length: 4000 }, () => Math.exp(3 + 0.7 * normal()));
  const sum = population.reduce((left, right) => left + right);
  const truth = { count: population.length, sum, mean: sum / population.length };

  test.each([
    ["the rate 0.1", () => 0.1],
    ["rates of 0.05 to 1", (at: number) => [0.05, 0.1, 0.5, 1][at % 4] ?? 1],
  ])("%s: estimates are unbiased, intervals hold the truth in 93 to 97 %% of the samples", (_, rateOf) => {
    const sums = { count: 0, sum: 0, mean: 0 };
    const covered = { count: 0, sum: 0, mean: 0 };
    for (let run = 0; run < RUNS; run++) {
      const stats = new WindowStats();
      for (const [at, value] of population.entries()) if (uniform() < rateOf(at)) stats.add(value, 1 / rateOf(at));
      for (const figure of ["count", "sum", "mean"] as const) {
        sums[figure] += stats[figure];
        if (Math.abs(stats[figure] - truth[figure]) <= stats[`${figure}Error`]) covered[figure]++;
      }
    }
    for (const figure of ["count", "sum", "mean"] as const) {
      expect(sums[figure] / RUNS / truth[figure]).toBeWithin(0.99, 1.01);
      expect(covered[figure] / RUNS).toBeWithin(0.93, 0.97);
    }
  });
});
