/** The few largest, whatever the order they come in. */

import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { largest } from "./largest.ts";

test("the same as sorting everything, without zeros", async () => {
  await fc.assert(
    fc.asyncProperty(fc.array(fc.nat(50)), fc.integer({ min: 1, max: 8 }), async (sizes, limit) => {
      const expected = sizes.filter((size) => size > 0).toSorted((left, right) => right - left);
      expect(await largest(sizes, limit, (size) => size)).toEqual(expected.slice(0, limit));
    }),
  );
});

test("many items take several turns, between which others run", async () => {
  let others = 0;
  const timer = setInterval(() => others++, 0);
  const items = Array.from({ length: 500_000 }, (_, at) => at);
  expect(await largest(items, 2, (item) => item)).toEqual([499_999, 499_998]);
  clearInterval(timer);
  expect(others).toBeGreaterThan(0);
});
