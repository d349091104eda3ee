/** The scanner against `JSON.parse`: the same texts, damaged or whole, must be accepted by both or by neither. */

import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { utf8 } from "../kit/bytes.ts";
import { scanJson } from "./json-scan.ts";

const accepts = (text: string): boolean => !("kind" in scanJson(utf8(text)));

function parses(text: string): boolean {
  try {
    JSON.parse(text);
    return true;
  } catch (cause) {
    if (cause instanceof SyntaxError) return false;
    throw cause;
  }
}

test.each([
  ..."0 -0 1 01 -01 +1 1. .5 1.5 1.5e 1e5 1E+5 1e-05 -  - 1e1.5 0x1 NaN Infinity 1_0".split(" "),
  ..."true tru truex nul null[] false,".split(" "),
  `""`,
  `"`,
  `"a`,
  `"\\"`,
  `"\\n"`,
  `"\\x"`,
  `"\\u12aF"`,
  `"\\u12a"`,
  `"\\u12g0"`,
  `"\\ud800"`,
  `"\u0000"`,
  `"\n"`,
  "'a'",
  `"\u2028é😀"`,
  `"\u007f"`,
  "\u00a01",
  "1\u2003",
  "\ufeff1",
  " \t\r\n1 \t\r\n",
  "1\v",
  ..."[] [ [1 [1,] [,1] [1,,2] [1 2] [1}] ]1 [] [] 1] [[]] [[],[]] [1],".split(" "),
  ...`{} { {"a" {"a":} {"a":1 {"a":1,} {,"a":1} {"a":1,"a":2} {a:1} {1:1} {"a"::1} {"a":1]} {}{}`.split(" "),
  `{"a" : 1 , "b":[ {} , [ ] ]}`,
  `{ }`,
  `[ ]`,
  `[{"a":[]}]`,
  `{"a":{"b":{}}} `,
  "",
  " ",
])("%p", (text) => expect(accepts(text)).toBe(parses(text)));

test("a text with random damage is accepted if and only if JSON.parse takes it", () => {
  const edit = fc.record({
    at: fc.double({ min: 0, max: 1, noNaN: true }),
    cut: fc.nat(2),
    put: fc.oneof(
      fc.constant(""),
      fc.constantFrom(...Array.from('{}[],:"\\0123456789.eE+-tfnu \n\t\u00e9\u0001')),
      fc.string({ maxLength: 3 }),
    ),
  });
  fc.assert(
    fc.property(
      fc.jsonValue({ maxDepth: 4 }),
      fc.constantFrom(0, 1),
      fc.array(edit, { maxLength: 2 }),
      (value, space, edits) => {
        let text = JSON.stringify(value, null, space);
        for (const { at, cut, put } of edits) {
          const index = Math.floor(at * text.length);
          text = text.slice(0, index) + put + text.slice(index + cut);
        }
        // What a client sends are bytes: lone surrogates became U+FFFD on the way.
        const sent = text.toWellFormed();
        expect(accepts(sent)).toBe(parses(sent));
      },
    ),
    { numRuns: 3_000 },
  );
});
