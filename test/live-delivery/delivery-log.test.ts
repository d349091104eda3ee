/** The judge of the live delivery test can say no: each log below is wrong in one way, and it is told which. */

import { expect, test } from "bun:test";
import { type Delivery, DeliveryLog, endOf, type Owed, problemsOf, type WrittenRecord } from "./delivery-log.ts";

/** Ten records, ids 100 to 109, in groups 0 and 1 in turn. */
const records: readonly WrittenRecord[] = Array.from({ length: 10 }, (_, at) => ({
  id: 100 + at,
  group: at % 2,
  key: null,
}));
const everything: Owed = { records, selects: () => true, mayDrop: false };
const dropping: Owed = { ...everything, mayDrop: true };
const evenOnly: Owed = { ...everything, selects: ({ group }) => group === 0 };

const opened = (at: number): Delivery => ({ kind: "opened", at });
const gap = (from: number, to: number, count = to - from): Delivery => ({ kind: "gap", from, to, count });
const lagged = (from: number, to: number): Delivery => ({ kind: "lagged", from, to });

/** What a reader is given that wants everything. */
function given(from: number, to: number, ids = records.slice(from, to).map(({ id }) => id)): Delivery {
  return { kind: "records", from, to, ids };
}

test.each<[what: string, log: Delivery[], owed: Owed]>([
  ["all in one", [opened(0), given(0, 10)], everything],
  ["over two connections", [opened(0), given(0, 4), opened(4), opened(4), given(4, 10)], everything],
  ["late, and told so", [opened(0), given(0, 3), lagged(3, 8), given(3, 10)], everything],
  ["told so when it had missed nothing yet", [opened(0), lagged(0, 0), given(0, 10)], everything],
  ["with a gap that is admitted", [opened(0), given(0, 2), gap(2, 7), given(7, 10)], dropping],
  ["with a gap behind what was promised", [opened(0), lagged(0, 5), given(0, 5), gap(5, 9), given(9, 10)], dropping],
  ["with a gap after a promise that a cut took back", [lagged(0, 5), given(0, 2), opened(2), gap(2, 10)], dropping],
  ["filtered, past the last match", [given(0, 5, [100, 102, 104]), given(5, 10, [106, 108])], evenOnly],
  ["filtered, not told of the last, which it does not want", [given(0, 9, [100, 102, 104, 106, 108])], evenOnly],
])("a good log: %s", (_, log, owed) => {
  expect(problemsOf(log, owed)).toEqual([]);
});

test.each<[what: string, log: Delivery[], owed: Owed, problem: string]>([
  ["a missing record", [given(0, 10, [100, 101, 103, 104, 105, 106, 107, 108, 109])], everything, "missing 1 (102)"],
  ["a range left out in silence", [given(0, 3), given(5, 10)], everything, "the reader stood at 3"],
  ["an end that never came", [given(0, 8)], everything, "2 records from 8 on did not come"],
  ["a record twice at once", [given(0, 3, [100, 101, 101, 102]), given(3, 10)], everything, "1 came twice"],
  ["a range twice", [given(0, 5), given(3, 10)], everything, "the reader stood at 5"],
  ["a record again in the next range", [given(0, 5), given(5, 10, [104])], everything, "not of this range 1 (104)"],
  ["records out of order", [given(0, 3, [100, 102, 101]), given(3, 10)], everything, "out of order"],
  ["a reconnect that went back", [given(0, 5), opened(3), given(3, 10)], everything, "the reader stood at 5"],
  ["a record that the filter takes out", [given(0, 10, [100, 101, 102, 104, 106, 108])], evenOnly, "not of this range"],
  ["a match that the filter swallowed", [given(0, 10, [100, 102, 104, 108])], evenOnly, "missing 1 (106)"],
  ["a gap with too small a count", [given(0, 2), gap(2, 7, 4), given(7, 10)], dropping, "5 records are in it"],
  ["a gap with too large a count", [given(0, 2), gap(2, 7, 6), given(7, 10)], dropping, "5 records are in it"],
  ["a gap that begins too late", [given(0, 2), gap(3, 7), given(7, 10)], dropping, "the reader stood at 2"],
  ["a gap over what came", [given(0, 4), gap(2, 7), given(7, 10)], dropping, "the reader stood at 4"],
  ["a gap, and its records after all", [gap(0, 5), given(0, 10)], dropping, "the reader stood at 5"],
  ["an empty gap", [gap(0, 0), given(0, 10)], dropping, "no range"],
  ["a gap where nothing may be dropped", [gap(0, 5), given(5, 10)], everything, "nothing may be left out"],
  ["a gap in what was promised", [lagged(0, 5), given(0, 2), gap(2, 6), given(6, 10)], dropping, "promised"],
  ["a promise about another place", [given(0, 2), lagged(4, 8), given(2, 10)], everything, "the reader stood at 2"],
  ["a promise past the tail", [lagged(0, 11), given(0, 10)], everything, "ends behind the tail, 10"],
  ["an offset past the tail", [given(0, 11)], everything, "ends behind the tail, 10"],
])("the judge finds %s", (_, log, owed, problem) => {
  expect(problemsOf(log, owed).join("\n")).toContain(problem);
});

test("a log moves with what is received, and comes back from there", () => {
  const at = (seq: number): string => `0000000000000007_${String(seq).padStart(16, "0")}`;
  const log = new DeliveryLog();
  log.opened();
  log.records([], "-1");
  log.records([100, 101], at(2));
  log.records([], at(2));
  log.lagged(at(2), at(9));
  expect(log.offset).toBe(at(2));
  log.gap(at(2), at(8), 6);
  log.records([], at(10));
  expect([log.offset, log.position, log.count("gap"), log.count("lagged")]).toEqual([at(10), 10, 1, 1]);
  expect(log.deliveries).toEqual([opened(0), given(0, 2), lagged(2, 9), gap(2, 8), given(8, 10, [])]);
  expect(() => log.records([1], "10")).toThrow("not an offset: 10");
});

test("a reader is at its end behind the last record that it wants", () => {
  expect([endOf(everything), endOf(evenOnly), endOf({ records, selects: () => false })]).toEqual([10, 9, 0]);
});
