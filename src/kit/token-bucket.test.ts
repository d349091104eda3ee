/** The bucket against the promise it makes: never more than the reserve and the rate allow, and all of that. */

import { expect, test } from "bun:test";
import { TokenBucket } from "./token-bucket.ts";

function bucket(perSecond: number, burst: number) {
  const time = { ms: 5_000 };
  const tokens = new TokenBucket(perSecond, burst, { nowMs: () => time.ms, monotonicMs: () => time.ms });
  const takeAll = (): number => {
    let taken = 0;
    while (taken < 10_000 && tokens.take()) taken++;
    return taken;
  };
  return { time, takeAll };
}

test("the reserve at once, then the rate", () => {
  const { time, takeAll } = bucket(10, 20);
  expect(takeAll()).toBe(20);
  time.ms += 500;
  expect(takeAll()).toBe(5);
  expect(takeAll()).toBe(0);
});

test("quiet hours fill the reserve and no more", () => {
  const { time, takeAll } = bucket(10, 20);
  takeAll();
  time.ms += 3_600_000;
  expect(takeAll()).toBe(20);
});

test("parts of a token add up", () => {
  const { time, takeAll } = bucket(1, 1);
  takeAll();
  let taken = 0;
  for (let step = 0; step < 100; step++) {
    time.ms += 125;
    taken += takeAll();
  }
  expect(taken).toBe(12);
});
