/** The filter language: what parses, what does not and why, and what matches. */

import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { type Filter, MAX_FILTER_CHARS, parseFilter } from "./filter.ts";

function filter(text: string): Filter {
  const result = parseFilter(text);
  return result.ok ? result.filter : expect.unreachable(result.reason);
}

const ORDER = {
  id: 7,
  status: "open",
  total: 12.5,
  paid: false,
  note: null,
  customer: { name: "Zoë", "e-mail": "z@x.example", tags: ["new", "vip"] },
  lines: [{ sku: "a-1", qty: 2 }],
};

test.each([
  `status = "open"`,
  `status != "closed"`,
  `status = "open" and total > 10`,
  `status = "closed" or id = 7`,
  `not status = "closed"`,
  `not (status = "closed" or total > 100)`,
  // `and` binds tighter than `or`.
  `id = 7 or id = 8 and status = "never"`,
  `(id = 8 or id = 7) and status = "open"`,
  `total >= 12.5 and total <= 12.5 and total < 1e2 and total > -1`,
  `paid = false`,
  `paid != true`,
  `note = null`,
  `has(note)`,
  `not has(missing)`,
  `has(customer.tags[1])`,
  `not has(customer.tags[2])`,
  `prefix(status, "op")`,
  `prefix(customer.name, "Zo")`,
  `customer."e-mail" = "z@x.example"`,
  `customer.tags[0] = "new"`,
  `lines[0].qty = 2`,
  `status in ("open", "new", 3, null)`,
  `note in (null)`,
  `id != "7"`,
  `customer != 1`,
  `status < "p"`,
  `customer.name = "Zo\\u00eb"`,
  `  status="open"  `,
])("matches: %s", (text) => {
  expect(filter(text).matches(ORDER)).toBe(true);
});

test.each([
  `status = "Open"`,
  `id = "7"`,
  `total > "12"`,
  `missing = 1`,
  `missing != 1`,
  `note = 0`,
  `note < 1`,
  `paid = null`,
  `customer = null`,
  `customer.tags = "new"`,
  `lines.sku = "a-1"`,
  `customer[0] = 1`,
  `status.length = 4`,
  `customer.tags.length = 2`,
  `has(toString)`,
  `has(constructor.name)`,
  `has(__proto__)`,
  `prefix(id, "7")`,
  `prefix(missing, "")`,
  `status in ("closed")`,
  `not has(note)`,
])("does not match: %s", (text) => {
  expect(filter(text).matches(ORDER)).toBe(false);
});

test("names that are words of the language are fields where a field is meant", () => {
  const record = { has: 1, prefix: 2, and: 3, not: 4 };
  expect(filter("has = 1").matches(record)).toBe(true);
  expect(filter("prefix >= 2").matches(record)).toBe(true);
  expect(filter(`"and" = 3 and "not" = 4`).matches(record)).toBe(true);
});

test.each([1, "text", null, true, [1, 2], {}])("a record that is no such object is no fault: %p", (record) => {
  expect(filter("a.b[0] = 1").matches(record)).toBe(false);
  expect(filter("not has(a)").matches(record)).toBe(true);
});

test.each([
  ["", /position 0: expected the name/],
  ["status", /position 6: expected one of/],
  ["status =", /position 8: expected a text/],
  ["status = open", /position 9: expected a text/],
  ["status = 'open'", /position 9: this character/],
  ['status = "open', /position 9: this character/],
  ["= 1", /position 0: expected the name/],
  ["a = 1 b = 2", /position 6: expected 'and', 'or' or the end/],
  ["a = 1 and", /position 9: expected the name/],
  ["(a = 1", /position 6: expected '\)'/],
  ["a = 1)", /position 5: expected 'and'/],
  ["a < true", /position 4: < compares numbers and texts/],
  ["a > null", /compares numbers and texts/],
  ["a[x] = 1", /expected the number of an element/],
  ["a[-1] = 1", /expected the number of an element/],
  ["a[1.5] = 1", /expected the number of an element/],
  ["a. = 1", /expected the name/],
  ["has()", /expected the name/],
  ["has(a", /expected '\)'/],
  ["prefix(a, 1)", /expected a text in double quotes/],
  ["prefix(a)", /expected ','/],
  ["a in ()", /expected a text/],
  ["a in 1", /expected '\('/],
  ["a == 1", /position 3: expected a text/],
  ["a = 01", /position 5: expected 'and'/],
  ["a = 1; drop", /this character/],
  ["a =~ /x/", /this character/],
  ["not", /expected the name/],
  [`${"(".repeat(40)}a = 1${")".repeat(40)}`, /at most 32 deep/],
  [`${"not ".repeat(40)}a = 1`, /at most (32 deep|64 terms)/],
  [Array.from({ length: 65 }, () => "a = 1").join(" or "), /at most 64 terms/],
  [`a in (${Array.from({ length: 65 }, (_, at) => at).join(", ")})`, /at most 64 terms/],
  [`${"a.".repeat(16)}a = 1`, /at most 16 parts/],
  [`a = "${"x".repeat(MAX_FILTER_CHARS)}"`, /at most 2048 characters/],
])("is refused: %s", (text, reason) => {
  const result = parseFilter(text);
  expect(result.ok ? "accepted" : result.reason).toMatch(reason);
});

test("any text is accepted or refused in words, and what is accepted never throws", () => {
  const words = [
    "a",
    "b.c",
    "[0]",
    "=",
    "!=",
    "<",
    "and",
    "or",
    "not",
    "(",
    ")",
    '"x"',
    "1",
    "null",
    "has(",
    "in (",
    ",",
    ".",
  ];
  const text = fc.oneof(
    fc.string({ unit: "binary" }),
    fc.array(fc.constantFrom(...words)).map((parts) => parts.join(" ")),
  );
  fc.assert(
    fc.property(text, fc.jsonValue(), (source, record) => {
      const result = parseFilter(source);
      if (result.ok) expect(typeof result.filter.matches(record)).toBe("boolean");
      else expect(result.reason.length).toBeGreaterThan(10);
    }),
    { numRuns: 2_000 },
  );
});
