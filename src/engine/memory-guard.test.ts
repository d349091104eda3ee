/** When memory counts as short, and when no more. */

import { expect, test } from "bun:test";
import { Deadlines } from "../kit/deadlines.ts";
import { Metrics } from "../kit/metrics.ts";
import { MemoryGuard } from "./memory-guard.ts";

const MiB = 1024 * 1024;
const LIMIT = 400 * MiB;

function guardAt(start: number) {
  const state = { resident: start, ms: 0, collections: 0 };
  const clock = { nowMs: () => state.ms, monotonicMs: () => state.ms };
  const deadlines = new Deadlines(clock);
  const options = {
    limitBytes: LIMIT,
    residentBytes: () => state.resident,
    collect: () => void state.collections++,
  };
  const guard = new MemoryGuard(options, clock, deadlines, new Metrics());
  deadlines.close();
  return { state, guard };
}

test("sheds above three quarters of the limit and goes on until well below", () => {
  const { state, guard } = guardAt(100 * MiB);
  const at = (resident: number): boolean => {
    state.resident = resident;
    guard.sample();
    return guard.shedding;
  };
  expect([at(299 * MiB), at(301 * MiB), at(290 * MiB), at(261 * MiB), at(259 * MiB), at(290 * MiB)]).toEqual([
    false,
    true,
    true,
    true,
    false,
    false,
  ]);
});

test("what is announced counts before the process shows it, and no longer than until the next look", () => {
  const { state, guard } = guardAt(100 * MiB);
  guard.note(66 * MiB);
  expect(guard.shedding).toBe(false);
  guard.note(1 * MiB);
  expect(guard.shedding).toBe(true);
  state.resident = 150 * MiB;
  guard.sample();
  expect(guard.shedding).toBe(false);
});

test("collects garbage while memory is short, and not at every look", () => {
  const { state, guard } = guardAt(350 * MiB);
  for (let look = 0; look < 20; look++) {
    guard.sample();
    state.ms += 50;
  }
  expect(state.collections).toBe(2);
  state.resident = 100 * MiB;
  state.ms += 1_000;
  guard.sample();
  expect(state.collections).toBe(2);
});
