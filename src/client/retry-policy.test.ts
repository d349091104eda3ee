/** When to try again: bounded, jittered, polite. */

import { expect, test } from "bun:test";
import { rejection } from "../../test/support/wait.ts";
import { DEFAULT_RETRY_POLICY, retryDelayMs, sleep } from "./retry-policy.ts";
import { parseRetryAfter } from "./stream-error.ts";

const policy = { maxAttempts: 4, baseDelayMs: 100, maxDelayMs: 1000 };

test("doubles up to the maximum, jittered to between half and all", () => {
  expect([1, 2, 3, 4, 5, 60].map((failures) => retryDelayMs(policy, failures, null, 0))).toEqual([
    50, 100, 200, 400, 500, 500,
  ]);
  expect(retryDelayMs(policy, 1, null, 0.999)).toBeCloseTo(100, 0);
});

test("waits at least as long as the server asks, but not for ever", () => {
  expect(retryDelayMs(policy, 1, 3000, 0)).toBe(3000);
  expect(retryDelayMs(DEFAULT_RETRY_POLICY, 1, 10 * 3_600_000, 0)).toBe(60_000);
});

test.each([
  [null, null],
  ["2", 2000],
  ["0", 0],
  ["Thu, 01 Jan 1970 00:01:00 GMT", 59_000],
  ["Thu, 01 Jan 1970 00:00:00 GMT", 0],
  ["soon", null],
])("Retry-After %j is %j ms", (header, delayMs) => {
  expect(parseRetryAfter(header, 1000)).toBe(delayMs);
});

test("sleep ends with the signal's reason", async () => {
  const abort = new AbortController();
  const sleeping = sleep(60_000, abort.signal);
  abort.abort(new Error("enough"));
  expect((await rejection(sleeping)).message).toBe("enough");
  expect((await rejection(sleep(1, abort.signal))).message).toBe("enough");
  await sleep(1, null);
});
