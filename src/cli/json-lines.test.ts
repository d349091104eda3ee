/** JSON values as lines, whatever their spacing was. */

import { expect, test } from "bun:test";
import { jsonLines } from "./json-lines.ts";

test("each value is one line, its own spelling kept", () => {
  const values = ['{\n  "a": 1.0,\r\n  "b": "x\\ny"\n}', "2", '"é"'].map((text) => new TextEncoder().encode(text));
  expect(new TextDecoder().decode(jsonLines(values))).toBe('{   "a": 1.0,    "b": "x\\ny" }\n2\n"é"\n');
  expect(jsonLines([])).toHaveLength(0);
});
