/** "Did you mean …?": close names are found, far ones are not. */

import { expect, test } from "bun:test";
import { nearestName } from "./nearest-name.ts";

test.each([
  ["prot", "port"],
  ["PORT", "port"],
  ["dataDirectory", null],
  ["datadri", "dataDir"],
  ["x", null],
  ["", null],
])("%j: %j", (name, expected) => {
  expect(nearestName(name, ["port", "dataDir", "host"])).toBe(expected);
});
