/** Lateness of the loop, on a clock of this test's own. */

import { expect, test } from "bun:test";
import { Deadlines } from "./deadlines.ts";
import { EventLoopLag } from "./event-loop-lag.ts";
import { Histogram } from "./histogram.ts";

function lagOn() {
  const time = { ms: 0 };
  const clock = { nowMs: () => time.ms, monotonicMs: () => time.ms };
  const deadlines = new Deadlines(clock);
  const seconds = new Histogram([0.01, 0.1, 1]);
  const cpu = { share: 1, ms: 0 };
  const lag = new EventLoopLag(clock, deadlines, seconds, () => cpu.ms);
  const wait = (ms: number): void => {
    time.ms += ms;
    cpu.ms += cpu.share * ms;
    deadlines.tick();
  };
  return { lag, wait, seconds, deadlines, cpu };
}

test("max, sum and count since the last take, against the time that was due", () => {
  const { lag, wait, seconds } = lagOn();
  lag.start();
  wait(100);
  wait(130);
  // Due at 300, 30 ms after the late one.
  wait(70);
  expect(lag.take()).toEqual({ maxMs: 30, sumMs: 30, samples: 3 });
  expect(lag.take()).toEqual({ maxMs: 0, sumMs: 0, samples: 0 });
  expect([seconds.count, seconds.counts]).toEqual([3, [2, 1, 0, 0]]);
});

test("a long pause counts once: the expectation starts again from now", () => {
  const { lag, wait } = lagOn();
  lag.start();
  wait(10_000);
  wait(100);
  expect(lag.take()).toEqual({ maxMs: 9_900, sumMs: 9_900, samples: 2 });
});

test("an idle process is looked at once a second, and a busy one ten times", () => {
  const { lag, wait, cpu } = lagOn();
  lag.start();
  cpu.share = 0.01;
  for (let tenths = 0; tenths < 31; tenths++) wait(100);
  expect(lag.take().samples).toBe(4);
  cpu.share = 0.5;
  for (let tenths = 0; tenths < 20; tenths++) wait(100);
  expect(lag.take().samples).toBe(11);
});

test("start is idempotent and stop leaves no deadline", () => {
  const { lag, deadlines } = lagOn();
  lag.start();
  lag.start();
  expect(deadlines.size).toBe(1);
  lag.stop();
  lag.stop();
  expect(deadlines.size).toBe(0);
});
