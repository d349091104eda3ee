/** Rows on the client's side: in the server's order, changed by whole messages, told as what became of each. */

import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { parseView, type ViewRow } from "../features/live-views/view-definition.ts";
import { compareRows } from "../protocol/view-order.ts";
import { type LiveRow, orderBy, ViewRows } from "./view-changes.ts";

const set = (key: string, value: unknown, offset: string, operation = "insert", type = "t"): object => ({
  type,
  key,
  value,
  headers: { operation, offset },
});
const gone = (key: string, type = "t"): object => ({ type, key, headers: { operation: "delete" } });
const control = (mark: string): object => ({ headers: { control: mark, offset: "o1" } });
const full = (...rows: object[]): object[] => [
  control("reset"),
  control("snapshot-start"),
  ...rows,
  control("snapshot-end"),
];

const keysOf = (rows: readonly LiveRow[]): string[] => rows.map(({ key }) => key);

/** Each change as the values before and after. */
function told(rows: ViewRows<unknown>, records: readonly object[]): unknown[] {
  return (rows.apply(records) ?? []).map(({ before, after }) => [before?.value ?? null, after?.value ?? null]);
}

test("rows enter, change and leave, and stand in their order", () => {
  const rows = new ViewRows<unknown>("-n");
  expect(told(rows, full(set("a", { n: 1 }, "o1"), set("b", { n: 2 }, "o2")))).toEqual([
    [null, { n: 1 }],
    [null, { n: 2 }],
  ]);
  expect(keysOf(rows.inOrder())).toEqual(["b", "a"]);
  expect(rows.inOrder()).toBe(rows.inOrder());
  expect(told(rows, [set("a", { n: 3 }, "o3", "update"), gone("b"), set("c", { n: 0 }, "o4")])).toEqual([
    [{ n: 1 }, { n: 3 }],
    [{ n: 2 }, null],
    [null, { n: 0 }],
  ]);
  expect(keysOf(rows.inOrder())).toEqual(["a", "c"]);
  rows.reorder("n");
  expect(keysOf(rows.inOrder())).toEqual(["c", "a"]);
});

test("what is told again as it was is no change: who comes back is told rows it has, and that rows it has not are gone", () => {
  const rows = new ViewRows<unknown>(undefined);
  rows.apply(full(set("a", 1, "o1"), set("b", 2, "o2")));
  const [first] = rows.inOrder();
  expect(told(rows, [set("a", 1, "o1"), gone("z")])).toEqual([]);
  expect(told(rows, full(set("a", 1, "o1"), set("c", 3, "o3")))).toEqual([
    [2, null],
    [null, 3],
  ]);
  expect(rows.get("t", "a")).toBe(first as LiveRow);
});

test("a key belongs to its type", () => {
  const rows = new ViewRows<unknown>(undefined);
  rows.apply([set("1:a", "x", "o1", "insert", "t"), set("a", "y", "o2", "insert", "t1:")]);
  expect([rows.size, rows.get("t", "1:a")?.value, rows.get("t1:", "a")?.value]).toEqual([2, "x", "y"]);
  rows.apply([gone("a", "t1:")]);
  expect(rows.size).toBe(1);
});

test("a message that is none changes nothing", () => {
  const rows = new ViewRows<unknown>(undefined);
  rows.apply(full(set("a", 1, "o1")));
  for (const broken of [null, {}, "x", [null], [{ key: "a" }], [set("b", 2, "o2"), { headers: { operation: "x" } }]]) {
    expect(rows.apply(broken)).toBeNull();
  }
  expect(told(rows, [{ type: "t", headers: { operation: "delete" } }])).toEqual([]);
  expect(keysOf(rows.inOrder())).toEqual(["a"]);
});

test("the order is the server's, for every order and all values", () => {
  const value = fc.oneof(
    fc.integer({ min: -2, max: 2 }),
    fc.constantFrom("", "a", "b", "ä", "B", "10"),
    fc.constantFrom<unknown>(null, true, [1], { x: 1 }, undefined),
  );
  const row = fc.record({
    type: fc.constantFrom("t", "u"),
    key: fc.constantFrom("k", "l", "m", "10", "9"),
    value: fc.oneof(
      { weight: 1, arbitrary: value },
      {
        weight: 9,
        arbitrary: fc.record({
          a: value,
          b: fc.record({ c: value }),
          l: fc.array(value, { maxLength: 2 }),
          'q"-.': value,
        }),
      },
    ),
  });
  const paths = ["a", "-a", "b.c", " - b . c ", '"b"."c"', '-"\\u0061"', "l[1]", "-l[ 0 ]", '"q\\"-."', "a.b", "é"];
  const order = fc.array(fc.constantFrom(...paths), { maxLength: 4 }).map((terms) => terms.join(","));
  fc.assert(
    fc.property(fc.array(row, { maxLength: 12 }), order, (found, text) => {
      const definition = parseView({ order: text });
      if (typeof definition === "string") throw new Error(definition);
      const rows = found.map((one, at): ViewRow => ({ ...one, id: String(at), hash: 0n, offset: "" }));
      const theirs = rows.toSorted(compareRows(definition.order));
      expect(rows.toSorted(orderBy(text))).toEqual(theirs);
    }),
    { numRuns: 300 },
  );
});
