/** Splitting JSON bodies: the records are the bytes of the values as they came. */

import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { utf8 } from "../kit/bytes.ts";
import { splitJsonRecords } from "./json-records.ts";
import { MAX_JSON_DEPTH, MAX_RECORDS_PER_APPEND } from "./limits.ts";

function split(text: string): string[] | string {
  const result = splitJsonRecords(utf8(text));
  if (!result.ok) return result.problem.kind;
  const joined = new TextDecoder().decode(result.payload);
  const bytes = utf8(joined);
  const records: string[] = [];
  let at = 0;
  for (const length of result.lengths) {
    records.push(new TextDecoder().decode(bytes.subarray(at, at + length)));
    at += length + 1;
  }
  expect(Math.max(0, at - 1)).toBe(bytes.length);
  return records;
}

test.each([
  ['{"a":1}', ['{"a":1}']],
  ["[]", []],
  ["[ ]", []],
  ["[1,2]", ["1", "2"]],
  ["  [ 1 ,\n2\t]\r\n", ["1", "2"]],
  ["[[1,2],[3]]", ["[1,2]", "[3]"]],
  ['["a,b","]","\\"","\\\\"]', ['"a,b"', '"]"', '"\\""', '"\\\\"']],
  ["1.50", ["1.50"]],
  ["[1e400, 12345678901234567890]", ["1e400", "12345678901234567890"]],
  ['[{"x":[1,{"y":"]"}]},null]', ['{"x":[1,{"y":"]"}]}', "null"]],
  ["", "json-invalid"],
  ["[1,]", "json-invalid"],
  ["\ufeff1", "json-invalid"],
  [
    "[".repeat(MAX_JSON_DEPTH) + "]".repeat(MAX_JSON_DEPTH),
    ["[".repeat(MAX_JSON_DEPTH - 1) + "]".repeat(MAX_JSON_DEPTH - 1)],
  ],
  ["[".repeat(MAX_JSON_DEPTH + 1) + "]".repeat(MAX_JSON_DEPTH + 1), "json-too-deep"],
  [`[${"1,".repeat(MAX_RECORDS_PER_APPEND)}1]`, "too-many-records"],
] as const)("%.40p", (text, expected) => expect(split(text)).toEqual(expected as string[] | string));

test("bytes that are not UTF-8 are no JSON", () => {
  expect(splitJsonRecords(new Uint8Array([0x22, 0xff, 0x22]))).toMatchObject({
    ok: false,
    problem: { kind: "json-invalid" },
  });
});

test("any array of values splits into them, however it is spaced", () => {
  fc.assert(
    fc.property(fc.array(fc.jsonValue({ maxDepth: 3 })), fc.constantFrom(0, 1, "\t"), (values, space) => {
      const records = split(JSON.stringify(values, null, space));
      expect((records as string[]).map((record) => JSON.parse(record) as unknown)).toEqual(
        JSON.parse(JSON.stringify(values)),
      );
    }),
    { numRuns: 300 },
  );
});
