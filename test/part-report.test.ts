/** The test runner's own honesty: no outcome of a part but a clean one may count as success. */

import { describe, expect, test } from "bun:test";
import {
  afterAnotherRun,
  countsLine,
  judge,
  filesWithErrors,
  readJunit,
  readVitest,
  sum,
  type Outcome,
} from "./support/part-report.ts";

const clean: Outcome = {
  exitCode: 0,
  signal: null,
  timedOut: false,
  counts: { passed: 3, failed: 0, skipped: 1 },
  filesWithErrors: [],
  unreported: [],
};

describe("judge", () => {
  test("a clean part keeps its counts", () => {
    expect(judge(clean)).toEqual({ passed: 3, failed: 0, skipped: 1, problems: [] });
  });

  const bad: Record<string, Partial<Outcome>> = {
    "a failed test": { exitCode: 1, counts: { passed: 2, failed: 1, skipped: 0 } },
    "a failed test behind exit code 0": { counts: { passed: 2, failed: 1, skipped: 0 } },
    "an exit code without a failed test": { exitCode: 1 },
    "no exit code": { exitCode: null },
    "a signal": { exitCode: null, signal: "SIGSEGV" },
    "an error outside of tests": { exitCode: 1, filesWithErrors: ["a.test.ts"] },
    "a time limit": { exitCode: null, signal: "SIGKILL", timedOut: true },
    "no report": { counts: null },
    "no tests": { counts: { passed: 0, failed: 0, skipped: 0 } },
    "only skipped tests": { counts: { passed: 0, failed: 0, skipped: 5 } },
    "a file left out": { unreported: ["test/a.test.ts"] },
  };
  for (const [name, difference] of Object.entries(bad)) {
    test(`${name} is a failure`, () => {
      expect(judge({ ...clean, ...difference }).failed).toBeGreaterThan(0);
    });
  }
});

describe("reports", () => {
  const junit = `<?xml version="1.0"?>
    <testsuites name="bun test" tests="8" assertions="5" failures="2" skipped="1" time="0.05">
      <testsuite name="test/c.test.ts" file="test/c.test.ts" tests="2" failures="0"></testsuite>
      <testsuite name="test/a.test.ts" file="test/a.test.ts" tests="6" failures="2" skipped="1">
        <testsuite name="group" file="test/a.test.ts" line="2" failures="1"></testsuite>
      </testsuite>
    </testsuites>`;

  test("JUnit gives counts and files", () => {
    expect(readJunit(junit)).toEqual({
      counts: { passed: 5, failed: 2, skipped: 1 },
      files: new Set(["test/a.test.ts", "test/c.test.ts"]),
      failedFiles: ["test/a.test.ts"],
    });
  });

  test("errors outside of tests are those of the file that was named before", () => {
    const told = "# Unhandled error between tests\n-------\nerror: it broke\n-------\n";
    const twoFiles = `test/a.test.ts:\n(pass) x\n\ntest/b.test.ts:\n${told}(pass) y\n${told}`;
    expect(filesWithErrors(twoFiles)).toEqual(["test/b.test.ts"]);
    expect(filesWithErrors("test/a.test.ts:\n(fail) x\n # Unhandled error between tests\n")).toEqual([]);
    expect(filesWithErrors(told)).toEqual(["no file"]);
  });

  test("of files that ran once more the last run counts, for good or bad", () => {
    const first = { passed: 90, failed: 3, skipped: 1 };
    expect(afterAnotherRun(first, { passed: 8, failed: 0, skipped: 0 })).toEqual({ passed: 93, failed: 0, skipped: 1 });
    expect(afterAnotherRun(first, { passed: 7, failed: 1, skipped: 0 })).toEqual({ passed: 92, failed: 1, skipped: 1 });
  });

  test("a torn or foreign JUnit report is none", () => {
    expect(readJunit(junit.slice(0, 300))).toBeNull();
    expect(readJunit("<testsuites></testsuites>")).toBeNull();
    expect(readJunit("")).toBeNull();
  });

  test("vitest's last closing line counts", () => {
    const noise = "      Tests  9 passed (9)\n";
    expect(
      readVitest(`${noise} Test Files  1 failed (1)\n      Tests  1 failed | 331 passed | 6 skipped (338)\n`),
    ).toEqual({
      passed: 331,
      failed: 1,
      skipped: 6,
    });
    expect(readVitest("      Tests  2 passed (3)\n")).toBeNull();
    expect(readVitest(" Test Files  no tests\n      Tests  no tests\n")).toBeNull();
  });

  test("the last line names skipped tests only when there are any", () => {
    expect(countsLine(sum([clean.counts ?? sum([]), { passed: 1, failed: 2, skipped: 0 }]))).toBe(
      "4 passed, 2 failed, 1 skipped",
    );
    expect(countsLine(sum([]))).toBe("0 passed, 0 failed");
  });
});
