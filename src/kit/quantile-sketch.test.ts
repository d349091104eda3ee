/** The sketch against exact quantiles and against another implementation of it; merging, JSON, and hostile JSON. */

import { describe, expect, test } from "bun:test";
import { DDSketch } from "@datadog/sketches-js";
import * as fc from "fast-check";
import { seededRandom } from "../../test/support/random.ts";
import { QuantileSketch } from "./quantile-sketch.ts";

const QUANTILES = [0, 0.25, 0.5, 0.9, 0.99, 0.999, 1];
/** Rounding of logarithms, on top of alpha. */
const BOUND = 0.01 + 1e-9;

type Uniform = () => number;
const DISTRIBUTIONS: Record<string, (uniform: Uniform) => number> = {
  lognormal: (uniform) => Math.exp(3 + Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform())),
  pareto: (uniform) => (1 - uniform()) ** (-1 / 1.1),
  uniform: (uniform) => 1000 * uniform(),
  "both signs and zero": (uniform) => Math.round(20 * uniform() - 10) * Math.exp(10 * uniform()),
};

function draw(name: string, count: number): number[] {
  const random = seededRandom(42);
  const uniform = () => random.below(2 ** 32) / 2 ** 32;
  return Array.from({ length: count }, () => DISTRIBUTIONS[name]?.(uniform) ?? NaN);
}

function sketchOf(entries: Iterable<readonly [value: number, weight?: number]>, alpha?: number): QuantileSketch {
  const sketch = new QuantileSketch(alpha);
  for (const [value, weight] of entries) sketch.add(value, weight);
  return sketch;
}

const relativeError = (found: number, exact: number): number =>
  found === exact ? 0 : Math.abs(found - exact) / Math.abs(exact);

function exactQuantile(sorted: readonly number[], q: number): number {
  return sorted[Math.floor(q * (sorted.length - 1))] ?? NaN;
}

describe.each(Object.keys(DISTRIBUTIONS))("%s", (name) => {
  const values = draw(name, 100_000);
  const sorted = values.toSorted((left, right) => left - right);

  test.each([0.01, 0.05])("quantiles within alpha = %d, of one sketch and of 100 merged ones", (alpha) => {
    const whole = sketchOf(
      values.map((value) => [value]),
      alpha,
    );
    const merged = new QuantileSketch(alpha);
    for (let part = 0; part < 100; part++) {
      merged.merge(
        sketchOf(
          values.filter((_, at) => at % 100 === part).map((value) => [value]),
          alpha,
        ),
      );
    }
    for (const q of QUANTILES) {
      expect(relativeError(whole.quantile(q), exactQuantile(sorted, q))).toBeLessThanOrEqual(alpha + 1e-9);
    }
    expect(merged.toJSON()).toEqual(whole.toJSON());
    expect([merged.added, merged.weight]).toEqual([100_000, 100_000]);
  });

  test("a weight is as many values", () => {
    const few = values.slice(0, 1000);
    const weighted = sketchOf(few.map((value, at) => [value, 1 + (at % 7)]));
    const repeated = few.flatMap((value, at) => Array.from({ length: 1 + (at % 7) }, () => value));
    expect(weighted.weight).toBe(repeated.length);
    repeated.sort((left, right) => left - right);
    // Ranks are shares of the weight, so a quantile may be that of the neighbouring value.
    for (const q of QUANTILES) {
      const [low, high] = [
        exactQuantile(repeated, Math.max(0, q - 0.002)),
        exactQuantile(repeated, Math.min(1, q + 0.002)),
      ];
      expect(weighted.quantile(q)).toBeGreaterThanOrEqual(low - Math.abs(low) * BOUND);
      expect(weighted.quantile(q)).toBeLessThanOrEqual(high + Math.abs(high) * BOUND);
    }
  });

  test("the same bins and quantiles as the other implementation", () => {
    const few = values.slice(0, 5000);
    const [ours, theirs] = [sketchOf(few.map((value) => [value])), new DDSketch({ relativeAccuracy: 0.01 })];
    for (const value of few) theirs.accept(value);
    for (const q of QUANTILES) expect(relativeError(ours.quantile(q), theirs.getValueAtQuantile(q))).toBeLessThan(1e-9);
    for (const value of few) {
      const { positives, negatives } = sketchOf([[value]]).toJSON();
      const key = [...positives, ...negatives][0] ?? NaN;
      if (value !== 0) expect(Math.abs(key - theirs.mapping.key(Math.abs(value)))).toBeLessThanOrEqual(1);
    }
  });
});

/** Any magnitude, and many that meet in a bin. */
const value = fc.oneof(
  fc.double({ noNaN: true, noDefaultInfinity: true }),
  fc.double({ min: -10, max: 10, noNaN: true }),
  fc.constantFrom(0, -0, 1, -1, Number.MIN_VALUE, -(2 ** -1022), Number.MAX_VALUE, -Number.MAX_VALUE),
);
/** Sums of eighths are exact, in any order. */
const weight = fc.integer({ min: 1, max: 8000 }).map((eighths) => eighths / 8);
const entries = fc.array(fc.tuple(value, weight), { maxLength: 60 });

test("every value alone is found within alpha, denormals as zero", () => {
  fc.assert(
    fc.property(value, weight, fc.constantFrom(0.001, 0.01, 0.05, 0.5), (value, weight, alpha) => {
      const sketch = sketchOf([[value, weight]], alpha);
      const exact = Math.abs(value) < 2 ** -1022 ? 0 : value;
      for (const q of QUANTILES) expect(relativeError(sketch.quantile(q), exact)).toBeLessThanOrEqual(alpha + 1e-9);
    }),
    { numRuns: 2000 },
  );
});

test("merging in any order and grouping is adding, also of what spans too much", () => {
  fc.assert(
    fc.property(fc.array(entries, { minLength: 1, maxLength: 8 }), fc.infiniteStream(fc.nat(7)), (parts, picks) => {
      const whole = sketchOf(parts.flat());
      const sketches = parts.map((part) => sketchOf(part));
      while (sketches.length > 1) {
        const [from] = sketches.splice(Number(picks.next().value) % sketches.length, 1);
        const into = sketches[Number(picks.next().value) % sketches.length];
        if (from !== undefined) into?.merge(from);
      }
      expect(sketches[0]?.toJSON()).toEqual(whole.toJSON());
    }),
  );
});

test("what spans too much shares the lowest bin, and the largest magnitudes keep the bound", () => {
  const values = Array.from({ length: 600 }, (_, at) => 10 ** (at - 300));
  for (const order of [values, values.toReversed()]) {
    const sketch = sketchOf(order.map((value) => [value]));
    expect(sketch.toJSON().positives.length).toBeLessThan(100);
    expect(sketch.weight).toBe(600);
    // 4,096 bins at 1 % are 35.6 powers of ten.
    for (let at = 565; at < 600; at++) {
      expect(relativeError(sketch.quantile(at / 599), values[at] ?? NaN)).toBeLessThanOrEqual(BOUND);
    }
    expect(sketch.quantile(0)).toBeGreaterThan(1e262);
  }
});

test("an empty one has no quantile; values, weights and quantiles out of their domain are defects", () => {
  const sketch = new QuantileSketch();
  expect([sketch.quantile(0.5), sketch.weight, sketch.added]).toEqual([NaN, 0, 0]);
  for (const value of [NaN, Infinity, -Infinity]) expect(() => sketch.add(value)).toThrow("finite values");
  for (const weight of [NaN, Infinity, 0, -1]) expect(() => sketch.add(1, weight)).toThrow("weights above zero");
  for (const q of [NaN, -0.1, 1.1]) expect(() => sketch.quantile(q)).toThrow("from 0 to 1");
  for (const alpha of [NaN, 0, 1]) expect(() => new QuantileSketch(alpha)).toThrow("relative error");
  expect(() => sketch.merge(new QuantileSketch(0.02))).toThrow("same relative error");
});

describe("JSON", () => {
  test("comes back as it was, and goes on as it would have", () => {
    fc.assert(
      fc.property(entries, entries, fc.constantFrom(0.001, 0.01, 0.2), (before, after, alpha) => {
        const sketch = sketchOf(before, alpha);
        const text = JSON.stringify(sketch);
        const back = QuantileSketch.parse(JSON.parse(text));
        expect(JSON.stringify(back)).toBe(text);
        for (const q of QUANTILES) expect(back?.quantile(q)).toBe(sketch.quantile(q));
        for (const [value, weight] of after) {
          sketch.add(value, weight);
          back?.add(value, weight);
        }
        expect(back?.toJSON()).toEqual(sketch.toJSON());
      }),
    );
  });

  test("stays small: a bin takes a few characters, and an empty one none", () => {
    for (const name of Object.keys(DISTRIBUTIONS)) {
      const sketch = sketchOf(draw(name, 5000).map((value) => [value, 10]));
      expect(JSON.stringify(sketch).length).toBeLessThan(name === "both signs and zero" ? 4000 : 1700);
    }
  });

  const whole = { alpha: 0.01, added: 6, zeros: 1, positives: [5, 1, 2, -3, 1], negatives: [-7, 2] };

  const malformed = [
    null,
    [],
    "",
    { ...whole, alpha: 0 },
    { ...whole, alpha: "0.01" },
    { ...whole, added: 3 },
    { ...whole, added: 0 },
    { ...whole, added: 6.5 },
    { ...whole, added: 2 ** 60 },
    { ...whole, zeros: -1 },
    { ...whole, zeros: null },
    { ...whole, zeros: 1e308, positives: [5, 1e308] },
    { ...whole, zeros: 0, positives: [], negatives: [] },
    { ...whole, positives: { 0: 1 } },
    { ...whole, positives: ["5", 1] },
    { ...whole, positives: [5.5, 1] },
    { ...whole, positives: [5, 0] },
    { ...whole, positives: [5, null] },
    { ...whole, positives: [5, 1, -1.5, 1] },
    { ...whole, positives: [5, 1, -4095, 1] },
    { ...whole, positives: [5, 1, -1e300, 1] },
    { ...whole, positives: [1e9, 1] },
    { ...whole, negatives: [-1e9, 1] },
    { ...whole, added: 1e6, positives: [5, ...Array.from({ length: 5000 }, () => 1)] },
  ];

  test("malformed gives null, and what it was made from does not", () => {
    expect(malformed.filter((json) => QuantileSketch.parse(json) !== null)).toEqual([]);
    expect(QuantileSketch.parse(whole)?.toJSON()).toEqual(whole);
    expect(QuantileSketch.parse({ ...whole, positives: [5, 1, -4094, 1] })?.weight).toBe(5);
  });

  test("anything at all is a sketch that works, or null", () => {
    const anything = fc.oneof(fc.anything(), fc.jsonValue());
    const field = fc.oneof(anything, fc.array(fc.oneof(fc.integer(), fc.double(), anything)));
    const key = fc.constantFrom(...Object.keys(whole));
    fc.assert(
      fc.property(anything, key, field, (anything, key, field) => {
        for (const json of [anything, { ...whole, [key]: field }]) {
          const sketch = QuantileSketch.parse(json);
          if (sketch === null) continue;
          sketch.add(1);
          expect(sketch.quantile(0.5)).toBeFinite();
        }
      }),
      { numRuns: 2000 },
    );
  });
});
