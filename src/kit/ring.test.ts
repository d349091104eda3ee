/** The ring against an array. */

import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { Ring } from "./ring.ts";

test("the same as an array, at both ends", () => {
  const actions = fc.array(fc.constantFrom("push", "shift", "unshift", "clear", "push", "push"), { maxLength: 200 });
  fc.assert(
    fc.property(actions, (steps) => {
      const ring = new Ring<number>();
      let model: number[] = [];
      for (const [at, step] of steps.entries()) {
        if (step === "push") {
          ring.push(at);
          model.push(at);
        } else if (step === "unshift") {
          ring.unshift(at);
          model.unshift(at);
        } else if (step === "clear") {
          ring.clear();
          model = [];
        } else expect(ring.shift()).toBe(model.shift());
        expect(ring.length).toBe(model.length);
      }
      while (model.length > 0) expect(ring.shift()).toBe(model.shift());
      expect(ring.shift()).toBeUndefined();
    }),
  );
});
