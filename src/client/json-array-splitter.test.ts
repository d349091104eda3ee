/** Splitting a JSON array that is cut anywhere: every value's own bytes, in order, and nothing else. */

import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { JsonArrayError, JsonArraySplitter } from "./json-array-splitter.ts";

const LIMIT = 1024 * 1024;

/** Splits `text` after handing it over in pieces of the given sizes, then the rest. */
function split(text: string, sizes: readonly number[] = [], limit = LIMIT): string[] {
  const splitter = new JsonArraySplitter(limit);
  const values: Uint8Array[] = [];
  let rest = new TextEncoder().encode(text);
  for (const size of sizes) {
    values.push(...splitter.push(rest.subarray(0, size)));
    rest = rest.subarray(size);
  }
  values.push(...splitter.push(rest));
  splitter.end();
  return values.map((value) => new TextDecoder().decode(value));
}

test.each([
  ["[]", []],
  [" [ \n ] ", []],
  ["[1]", ["1"]],
  ["[1, 2 ,\t3]\n", ["1", "2", "3"]],
  ['["a,b]", "\\"]\\\\"]', ['"a,b]"', '"\\"]\\\\"']],
  ['[{"a":[1,{"b":2}]} , [3,[4]]]', ['{"a":[1,{"b":2}]}', "[3,[4]]"]],
  ["[1.50, 12345678901234567890, -0e1]", ["1.50", "12345678901234567890", "-0e1"]],
  ['["é😀"]', ['"é😀"']],
])("%j", (text, values) => {
  expect(split(text)).toEqual(values);
  expect(
    split(
      text,
      Array.from({ length: text.length }, () => 1),
    ),
  ).toEqual(values);
});

test.each(["", "  ", "1", '{"a":1}', "[1", "[1,", "[1,]", "[,1]", "[1]]", "[1] 2", '["a', "[}", "[1}"])(
  "%j is refused",
  (text) => {
    expect(() => split(text)).toThrow(JsonArrayError);
  },
);

test("a value beyond the limit is refused as soon as that is clear", () => {
  const splitter = new JsonArraySplitter(10);
  expect(() => splitter.push(new TextEncoder().encode('["12345678901234'))).toThrow("longer than 10 bytes");
  expect(() => split('["1234567890"]', [], 10)).toThrow("longer than 10 bytes");
});

test("errors name the byte", () => {
  expect(() => split("[1] x", [2])).toThrow("(at byte 4)");
});

test("however it is cut, the values are those of the array", () => {
  fc.assert(
    fc.property(
      fc.array(fc.jsonValue()),
      fc.constantFrom(undefined, 1, "\t"),
      fc.array(fc.nat({ max: 9 })),
      (values, indent, sizes) => {
        const found = split(JSON.stringify(values, null, indent), sizes);
        expect(found.map((value) => JSON.stringify(JSON.parse(value)))).toEqual(values.map((v) => JSON.stringify(v)));
      },
    ),
  );
});
