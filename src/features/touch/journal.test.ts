/** The journal against a map: what was touched since when, through growth, indexing and overflow. */

import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { keyIdOf } from "../../protocol/touch-keys.ts";
import { Journal, JournalBudget, type TemplateTrace } from "./journal.ts";

const budget = () => new JournalBudget(1_000_000);

/** Few keys, so that they meet; some share their low half. */
const key = fc.constantFrom(1n, 2n, 0x1_0000_0001n, 0xffff_ffff_0000_0001n, 2n ** 64n - 1n, 0n);

test("says of every key whether it was touched since a seq", () => {
  fc.assert(
    fc.property(fc.array(fc.tuple(key, fc.nat(50)), { maxLength: 60 }), key, fc.nat(50), (touches, asked, since) => {
      const journal = new Journal(budget(), 0);
      for (const [touched, seq] of touches) journal.touchKey(touched, seq);
      const expected = touches.some(([touched, seq]) => touched === asked && seq >= since);
      const byId = touches.some(([touched, seq]) => keyIdOf(touched) === keyIdOf(asked) && seq >= since);
      expect(journal.touchedSince([asked], [], since)).toBe(expected);
      expect(journal.touchedSince([], [keyIdOf(asked)], since)).toBe(byId);
      // So many keys that the journal is indexed first.
      const many = Array.from({ length: 20_000 }, (_, index) => BigInt(index) + 10n);
      expect(journal.touchedSince([...many, asked], [], since)).toBe(expected);
      journal.touchKey(7n, 60);
      expect(journal.touchedSince([asked], [], since)).toBe(expected);
      expect(journal.touchedSince([], [keyIdOf(asked)], since)).toBe(byId);
      expect(journal.touchedSince([7n], [], 60)).toBe(true);
    }),
    { numRuns: 300 },
  );
});

test("many keys: growth loses none, and the budget is given back", () => {
  const shared = budget();
  const journal = new Journal(shared, 0);
  for (let index = 0; index < 5_000; index++) journal.touchKey(BigInt(index) << 20n, index);
  expect(journal.size).toBe(5_000);
  expect(shared.entries).toBe(5_000);
  for (let index = 0; index < 5_000; index += 37) {
    expect(journal.touchedSince([BigInt(index) << 20n], [], index)).toBe(true);
    expect(journal.touchedSince([BigInt(index) << 20n], [], index + 1)).toBe(false);
  }
  journal.clear();
  expect(shared.entries).toBe(0);
});

test("over the budget it forgets keys, says so by its coverage, and keeps what is not a key", () => {
  const shared = new JournalBudget(3);
  const journal = new Journal(shared, 2);
  const trace: TemplateTrace = { coveredFrom: 2, lastCoarse: -1, lastSeen: -1 };
  const small = new Journal(shared, 0);
  shared.add(journal, () => journal.forget([trace], 6));
  shared.add(small, () => small.forget([], 0));
  for (let seq = 2; seq < 5; seq++) journal.touchKey(9n, seq);
  shared.enforce();
  expect(journal.size).toBe(3);
  journal.touchTemplate(trace, 4);
  journal.touchAll(3);
  // One more, from another stream: the largest is forgotten, not the last.
  small.touchKey(8n, 1);
  shared.enforce();
  expect([shared.entries, journal.size, small.size]).toEqual([1, 0, 1]);
  expect([trace.coveredFrom, journal.tablesFrom, journal.overflows]).toEqual([6, 6, 1]);
  expect(journal.touchedSince([9n], [], 2)).toBe(false);
  expect([journal.coarseSince(4), journal.coarseSince(5)]).toEqual([true, false]);
  expect([journal.resetSince(3), journal.resetSince(4)]).toEqual([true, false]);
});

test("what is forgotten or cleared holds no memory, and what comes then is kept", () => {
  const journal = new Journal(budget(), 0);
  const empty = journal.bytes;
  for (const giveBack of [() => journal.forget([], 0), () => journal.clear()]) {
    for (let index = 0; index < 5_000; index++) journal.touchKey(BigInt(index), index);
    journal.index(2_000);
    expect(journal.bytes).toBeGreaterThan(5_000 * 16);
    giveBack();
    expect(journal.bytes).toBe(empty);
    journal.touchKey(7n, 9);
    expect([journal.size, journal.touchedSince([7n], [], 9), journal.touchedSince([8n], [], 0)]).toEqual([
      1,
      true,
      false,
    ]);
    journal.clear();
  }
  expect(empty).toBe(0);
});
