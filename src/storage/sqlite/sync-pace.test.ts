/** When a sync may hold the event loop. */

import { expect, test } from "bun:test";
import { SyncPace } from "./sync-pace.ts";

function paceAfter(...syncsMs: readonly number[]): SyncPace {
  const pace = new SyncPace();
  for (const ms of syncsMs) pace.note(ms);
  return pace;
}

const quick = Array.from({ length: 32 }, () => 0.12);

test("a disk that nobody knows yet is not quick", () => {
  expect(paceAfter().isQuick).toBe(false);
  expect(paceAfter(...quick.slice(1)).isQuick).toBe(false);
  expect(paceAfter(...quick).isQuick).toBe(true);
});

test("one long sync is remembered for as long as the others", () => {
  const pace = paceAfter(...quick, 200);
  for (const ms of quick.slice(1)) {
    expect(pace.isQuick).toBe(false);
    pace.note(ms);
  }
  expect(pace.isQuick).toBe(false);
  pace.note(0.1);
  expect(pace.isQuick).toBe(true);
});

test("half of them above the mark is too many", () => {
  const mixed = (above: number) => quick.map((ms, index) => (index < above ? 0.5 : ms));
  expect(paceAfter(...mixed(15)).isQuick).toBe(true);
  expect(paceAfter(...mixed(16)).isQuick).toBe(false);
});
