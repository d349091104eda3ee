/** Findings are counted and handed on at once, and what a check throws is one of them. */

import { expect, test } from "bun:test";
import { type Finding, Findings, recordRange } from "./finding.ts";

test("errors and warnings are counted apart, in the order in which they come", () => {
  const heard: Finding[] = [];
  const findings = new Findings((finding) => heard.push(finding));
  findings.warning("leftover", "three rows wait");
  findings.error("batch", "damaged", { stream: "a", streamId: 7, from: 1, to: 3 });
  findings.guard("head", "the streams", () => {
    throw new Error("database disk image is malformed");
  });
  findings.guard("name", "the names", () => undefined);
  expect([findings.errors, findings.warnings]).toEqual([2, 1]);
  expect(heard.map(({ check }) => check)).toEqual(["leftover", "batch", "head"]);
  expect(heard[1]).toMatchObject({ severity: "error", stream: "a", streamId: 7, from: 1, to: 3 });
  expect(heard[2]?.message).toBe("the streams cannot be read to the end (database disk image is malformed)");
});

test("a range names its first and its last record", () => {
  expect([recordRange(7, 8), recordRange(7, 10)]).toEqual(["record 7", "records 7 to 9"]);
});
