/** Latency buckets: what a quantile answers, and that merging loses nothing. */

import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { Histogram } from "./histogram.ts";

const BOUNDS = [1, 2, 5, 10];

test("an empty one answers 0", () => {
  const empty = new Histogram(BOUNDS);
  expect([empty.count, empty.sum, empty.mean, empty.quantile(0.5), empty.quantile(1)]).toEqual([0, 0, 0, 0, 0]);
});

test("a quantile is the upper bound of its bucket, the last bound above all", () => {
  const histogram = new Histogram(BOUNDS);
  for (const value of [0, 1, 1.5, 3, 5, 7]) histogram.observe(value);
  expect(histogram.counts).toEqual([2, 1, 2, 1, 0]);
  expect([0, 0.33, 0.5, 0.8, 1].map((q) => histogram.quantile(q))).toEqual([1, 1, 2, 5, 10]);
  expect(histogram.mean).toBeCloseTo(17.5 / 6);
  histogram.observe(10_000);
  expect(histogram.quantile(1)).toBe(10);
});

test("merging is the same as having observed everything", () => {
  const values = fc.array(fc.nat(20));
  fc.assert(
    fc.property(values, values, (left, right) => {
      const [whole, merged, other] = [new Histogram(BOUNDS), new Histogram(BOUNDS), new Histogram(BOUNDS)];
      for (const value of [...left, ...right]) whole.observe(value);
      for (const value of left) merged.observe(value);
      for (const value of right) other.observe(value);
      merged.merge(other);
      expect(merged).toEqual(whole);
    }),
  );
});
