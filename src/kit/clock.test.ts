/** The steady clock against a wall clock that is set: what it follows at once, what only later, and what it tells. */

import { describe, expect, test } from "bun:test";
import { runSeed, seededRandom } from "../../test/support/random.ts";
import { JUMP_HOLD_MS, JUMP_TOLERANCE_MS, steadyClock } from "./clock.ts";

const SECOND = 1_000;
const DAY = 86_400 * SECOND;
const START = 1_700_000_000_000;

/** A machine: its true time passes, its wall clock is off by what somebody set. */
function machine() {
  const state = { trueMs: 0, offMs: 0 };
  const jumps: number[] = [];
  const wall = (): number => START + Math.floor(state.trueMs) + state.offMs;
  const clock = steadyClock({ wall, monotonic: () => state.trueMs + 5_000.25, onJump: (byMs) => jumps.push(byMs) });
  /** Time passes with a look each `everyMs`, as the server's own sweeps look. */
  const pass = (ms: number, everyMs = SECOND): void => {
    for (const end = state.trueMs + ms; state.trueMs < end;) {
      state.trueMs = Math.min(end, state.trueMs + everyMs);
      clock.nowMs();
    }
  };
  /** How far the clock is from true time. */
  const error = (): number => clock.nowMs() - START - state.trueMs;
  return { state, clock, jumps, wall, pass, error };
}

describe.each([
  ["a day forwards", DAY],
  ["a day back", -DAY],
  ["just more than is tolerated", JUMP_TOLERANCE_MS + SECOND],
  ["as much back", -JUMP_TOLERANCE_MS - SECOND],
  ["to the epoch", -START],
])("a jump: %s", (_, byMs) => {
  test("time goes on as before, is told of once, and steps when the new time has held", () => {
    const { state, jumps, wall, clock, pass, error } = machine();
    pass(10 * SECOND);
    state.offMs = byMs;
    pass(JUMP_HOLD_MS - 2 * SECOND);
    expect(Math.abs(error())).toBeLessThan(2);
    expect(Number.isInteger(clock.nowMs())).toBe(true);
    pass(4 * SECOND);
    expect(clock.nowMs()).toBe(wall());
    pass(2 * JUMP_HOLD_MS);
    expect(clock.nowMs()).toBe(wall());
    expect(jumps).toHaveLength(1);
    expect(Math.abs((jumps[0] ?? 0) - byMs)).toBeLessThan(2);
  });

  test("a jump that is taken back was never there", () => {
    const { state, jumps, pass, error } = machine();
    state.offMs = byMs;
    pass(JUMP_HOLD_MS / 2);
    state.offMs = 0;
    pass(JUMP_HOLD_MS);
    expect(Math.abs(error())).toBeLessThan(2);
    expect(jumps).toHaveLength(1);
  });
});

test.each([SECOND, -SECOND, JUMP_TOLERANCE_MS - SECOND, -JUMP_TOLERANCE_MS + SECOND])(
  "a correction by %d ms is followed at once and not told",
  (byMs) => {
    const { state, jumps, clock, wall, pass } = machine();
    pass(SECOND);
    state.offMs = byMs;
    expect(clock.nowMs()).toBe(wall());
    expect(jumps).toEqual([]);
  },
);

test("a clock that drifts is followed however far it gets", () => {
  const { state, jumps, clock, wall, pass } = machine();
  for (let step = 0; step < 5_000; step++) {
    state.offMs += 500;
    pass(SECOND);
  }
  expect(clock.nowMs()).toBe(wall());
  expect(jumps).toEqual([]);
});

test("a second jump starts the ten minutes anew", () => {
  const { state, jumps, pass, error } = machine();
  state.offMs = DAY;
  pass(JUMP_HOLD_MS - SECOND);
  state.offMs = 2 * DAY;
  pass(JUMP_HOLD_MS - SECOND);
  expect(Math.abs(error())).toBeLessThan(2);
  pass(2 * SECOND);
  expect(Math.abs(error() - 2 * DAY)).toBeLessThan(2);
  expect(jumps.map((byMs) => Math.round(byMs / DAY))).toEqual([1, 1]);
});

test("a server that nobody asked for a day sees no jump in it", () => {
  const { jumps, clock, wall, pass } = machine();
  pass(DAY, DAY);
  expect(clock.nowMs()).toBe(wall());
  expect(jumps).toEqual([]);
});

test("a random life: never off by more than is tolerated, but for what has held ten minutes", () => {
  const random = seededRandom(runSeed());
  const { state, clock, jumps, pass } = machine();
  let settledMs = 0;
  let held = 0;
  for (let step = 0; step < 400; step++) {
    // Days apart, and never twice the same: no two claims are taken for one.
    const offMs = ((state.offMs / DAY + 4 + 1 + random.below(8)) % 9) * DAY - 4 * DAY;
    state.offMs = offMs;
    const stays = random.below(2) === 0;
    pass(stays ? JUMP_HOLD_MS + 2 * SECOND : random.below(JUMP_HOLD_MS - 2 * SECOND));
    if (stays && offMs !== settledMs) held++;
    if (stays) settledMs = offMs;
    const near = Math.abs(clock.nowMs() - START - state.trueMs - settledMs) < 2;
    expect({ seed: random.seed, step, near }).toEqual({ seed: random.seed, step, near: true });
  }
  expect(held).toBeGreaterThan(50);
  expect(jumps.length).toBeGreaterThan(held);
});
