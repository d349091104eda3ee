/** The wheel against a list of deadlines: each entry is told once, at its last due time, never early and hardly late. */

import { expect, test } from "bun:test";
import { assert, integer, property } from "fast-check";
import { Deadlines } from "./deadlines.ts";
import { DeadlineWheel, type WheelPlace } from "./deadline-wheel.ts";

interface Entry {
  readonly name: string;
  readonly place: WheelPlace;
}

function world() {
  const time = { ms: 100_000.25 };
  const clock = { nowMs: () => time.ms, monotonicMs: () => time.ms };
  const deadlines = new Deadlines(clock);
  const told: (readonly [name: string, ms: number])[] = [];
  const wheel = new DeadlineWheel<Entry>({
    clock,
    deadlines,
    placeOf: ({ place }) => place,
    onDue: (entries) => told.push(...entries.map(({ name }) => [name, time.ms] as const)),
  });
  const entry = (name: string): Entry => ({ name, place: { dueMs: Infinity, slot: -1 } });
  const pass = (ms: number): void => {
    for (const end = time.ms + ms; time.ms < end;) {
      time.ms = Math.min(end, time.ms + 1);
      deadlines.tick();
    }
  };
  return { time, deadlines, wheel, told, entry, pass };
}

test("told once, at the time it was moved to last, at most a tick late", () => {
  const { time, wheel, told, entry, pass } = world();
  const one = entry("one");
  const start = time.ms;
  for (let mark = 0; mark < 10; mark++) {
    wheel.set(one, time.ms + 200);
    pass(100);
  }
  expect(told).toEqual([]);
  pass(200);
  expect(told.length).toBe(1);
  const lateMs = (told[0]?.[1] ?? 0) - (start + 900 + 200);
  expect([lateMs >= 0, lateMs <= 6]).toEqual([true, true]);
});

test("moved earlier it comes earlier, and not again", () => {
  const { time, wheel, told, entry, pass } = world();
  const one = entry("one");
  wheel.set(one, time.ms + 4_000);
  wheel.set(one, time.ms + 50);
  pass(60);
  expect(told.length).toBe(1);
  pass(10_000);
  expect(told.length).toBe(1);
});

test("cleared it does not come; set again it does", () => {
  const { time, wheel, told, entry, pass } = world();
  const one = entry("one");
  wheel.set(one, time.ms + 100);
  wheel.clear(one);
  pass(200);
  expect(told).toEqual([]);
  wheel.set(one, time.ms + 100);
  wheel.clear(one);
  wheel.set(one, time.ms + 300);
  pass(400);
  expect(told.length).toBe(1);
});

test("further away than the wheel is wide, and after a sleep longer than that", () => {
  const { time, deadlines, wheel, told, entry, pass } = world();
  const [far, near] = [entry("far"), entry("near")];
  wheel.set(far, time.ms + 60_000);
  wheel.set(near, time.ms + 10);
  pass(59_990);
  expect(told.map(([name]) => name)).toEqual(["near"]);
  pass(20);
  expect(told.map(([name]) => name)).toEqual(["near", "far"]);
  wheel.set(near, time.ms + 10);
  wheel.set(far, time.ms + 20_000);
  time.ms += 3_600_000;
  deadlines.tick();
  expect(told.length).toBe(4);
});

test("no timer while nothing waits", () => {
  const { time, deadlines, wheel, entry, pass } = world();
  expect(deadlines.size).toBe(0);
  wheel.set(entry("one"), time.ms + 100);
  expect(deadlines.size).toBe(1);
  pass(200);
  expect(deadlines.size).toBe(0);
});

test("any sequence of sets, clears and waits: exactly the due ones, in time", () => {
  assert(
    property(integer(), (seed) => {
      const { time, wheel, told, entry, pass } = world();
      let state = seed >>> 0;
      const below = (bound: number): number => {
        state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
        return Math.floor((state / 2 ** 32) * bound);
      };
      const entries = Array.from({ length: 8 }, (_, index) => entry(`e${index}`));
      const due = new Map<string, number>();
      for (let step = 0; step < 60; step++) {
        const one = entries[below(entries.length)] ?? entry("none");
        const choice = below(10);
        if (choice < 5) {
          const at = time.ms + ([0, 3, 50, 700, 6_000, 30_000][below(6)] ?? 0) + below(20);
          wheel.set(one, at);
          due.set(one.name, at);
        } else if (choice < 6) {
          wheel.clear(one);
          due.delete(one.name);
        } else {
          pass([1, 20, 300, 5_300][below(4)] ?? 1);
          for (const [name, ms] of told.splice(0)) {
            const at = due.get(name) ?? expect.unreachable(`${name} was not due`);
            expect([ms >= at, ms - at <= 7]).toEqual([true, true]);
            due.delete(name);
          }
          for (const at of due.values()) expect(at).toBeGreaterThan(time.ms - 7);
        }
      }
    }),
    { numRuns: 100 },
  );
});
