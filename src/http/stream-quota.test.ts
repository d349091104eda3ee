/** How many streams a client may have made: counted once however many ask at a time, never exceeded, and counted again at the limit. */

import { expect, test } from "bun:test";
import { StreamQuota } from "./stream-quota.ts";
import { QUOTA_RECOUNT_MS } from "../protocol/limits.ts";
import type { Engine } from "../engine/engine.ts";

function world(limit: number, made: number) {
  const state = { nowMs: 0, made, pages: 0 };
  const engine = {
    clock: { nowMs: () => state.nowMs, monotonicMs: () => state.nowMs },
    annotated: async (_key: string, after: number, most: number): Promise<readonly number[]> => {
      state.pages++;
      await Bun.sleep(1);
      return Array.from({ length: Math.min(most, Math.max(0, state.made - after)) }, (_, at) => after + at + 1);
    },
  };
  return { state, quota: new StreamQuota(engine as unknown as Engine, limit) };
}

test("fifty that come together make as many as there is room for, and count once", async () => {
  const { quota, state } = world(10, 5);
  const answers = await Promise.all(Array.from({ length: 50 }, () => quota.take("a")));
  expect(answers.filter((answer) => answer === null)).toHaveLength(5);
  expect(state.pages).toBe(1);
});

test("what was not made is given back, and others are not concerned", async () => {
  const { quota } = world(1, 0);
  expect(await quota.take("a")).toBeNull();
  expect(await quota.take("a")).toMatchObject({ status: 429, code: "too-many-streams" });
  expect(await quota.take("b")).toBeNull();
  quota.giveBack("a");
  expect(await quota.take("a")).toBeNull();
});

test("at the limit it is counted again, now and then: streams are deleted", async () => {
  const { quota, state } = world(3, 3);
  expect(await quota.take("a")).not.toBeNull();
  state.made = 2;
  expect(await quota.take("a")).not.toBeNull();
  state.nowMs = QUOTA_RECOUNT_MS;
  const answers = await Promise.all([quota.take("a"), quota.take("a"), quota.take("a")]);
  expect(answers.filter((answer) => answer === null)).toHaveLength(1);
  expect(state.pages).toBe(2);
});
