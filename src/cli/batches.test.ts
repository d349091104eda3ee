/** Packing units into request bodies. */

import { expect, test } from "bun:test";
import { rejection } from "../../test/support/wait.ts";
import { type Batch, batches, type Packing } from "./batches.ts";

/** Groups of units; null is a pause in the input. */
async function* input(groups: readonly (readonly string[] | null)[]): AsyncGenerator<Uint8Array[], void> {
  for (const group of groups) {
    if (group === null) await Bun.sleep(30);
    else yield group.map((unit) => new TextEncoder().encode(unit));
  }
}

async function packed(
  groups: readonly (readonly string[] | null)[],
  packing: Partial<Packing> = {},
): Promise<string[]> {
  const limits = { maxBytes: 10, maxUnits: 3 };
  const bodies: string[] = [];
  let last: Batch | null = null;
  for await (const batch of batches(input(groups), { json: false, pace: "steady", limits, ...packing })) {
    expect(last?.last).not.toBe(true);
    last = batch;
    bodies.push(new TextDecoder().decode(batch.body));
  }
  expect(last?.last).toBe(true);
  return bodies;
}

test.each([
  [[], [""]],
  [[["a", "b"]], ["ab"]],
  [[["a", "b", "c", "d"]], ["abc", "d"]],
  [[["aaaaa", "bbbbb", "c"]], ["aaaaabbbbb", "c"]],
  [[["aaaaa", "bbbbbb"]], ["aaaaa", "bbbbbb"]],
  [[["a", "longer than the limit", "b"]], ["a", "longer than the limit", "b"]],
])("%j: %j", async (groups, bodies) => {
  expect(await packed(groups)).toEqual(bodies);
});

test("JSON bodies are arrays", async () => {
  expect(
    await packed(
      [
        ["1", "[2]"],
        ["3", "4"],
      ],
      { json: true },
    ),
  ).toEqual(["[1,[2],3]", "[4]"]);
});

test("steady packing looks at the content only; eager packing also at pauses", async () => {
  const groups = [["a"], null, ["b"], ["c"], null];
  expect(await packed(groups)).toEqual(["abc"]);
  expect(await packed(groups, { pace: "eager" })).toEqual(["a", "bc", ""]);
});

test("a failing input fails the packing", async () => {
  async function* failing(): AsyncGenerator<Uint8Array[], void> {
    yield [new Uint8Array(1)];
    await Bun.sleep(10);
    throw new Error("input broke");
  }
  const packing: Packing = { json: false, pace: "eager", limits: { maxBytes: 10, maxUnits: 3 } };
  expect((await rejection(Array.fromAsync(batches(failing(), packing)))).message).toBe("input broke");
});
