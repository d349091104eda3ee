/** What `bench` shows for what it measured: figures as given, nothing where nothing was measured, and the notes beside them. */

import { expect, test } from "bun:test";
import {
  clientWasTheLimit,
  type Measured,
  measuredObject,
  progressText,
  rowNotes,
  tableHead,
  tableRow,
} from "./bench-report.ts";
import { jsonBody } from "./bench-workloads.ts";

const measured: Measured = {
  workload: "one writer",
  about: "1 connection, 256 B",
  unit: "records",
  count: 12_345,
  seconds: 2,
  bytes: 12_345 * 256,
  p50Ms: 0.1234,
  p99Ms: 12.345,
  missing: null,
  refused: {},
  clientCpu: 0.5,
  serverCpu: 0.9,
};

test("a row says rate, megabytes and latencies, below its titles", () => {
  const row = tableRow(measured);
  expect(row).toMatch(/^one writer +1 connection, 256 B +6,173 records\/s +1\.58 +0\.12 +12\.3$/);
  expect(tableHead()).toHaveLength(row.length);
  expect(rowNotes(measured, [])).toEqual([]);
});

test("for programs the same, as numbers", () => {
  expect(measuredObject(measured, "fsync")).toMatchObject({
    kind: "workload",
    perSecond: 6172.5,
    megabytesPerSecond: 1.58,
    p50Ms: 0.123,
    p99Ms: 12.345,
    clientWasTheLimit: false,
    durability: "fsync",
  });
});

test("what was not measured is no figure", () => {
  const nothing = { ...measured, count: 0, seconds: 2, bytes: 0, p50Ms: NaN, p99Ms: NaN, refused: { "429": 3 } };
  expect(tableRow(nothing)).toMatch(/256 B +- +- +- +-$/);
  expect(measuredObject(nothing, "os")).toMatchObject({ perSecond: null, megabytesPerSecond: null, p50Ms: null });
  expect(rowNotes(nothing, ["too many requests"])).toEqual(["  not counted: 429 3 times (too many requests)"]);
});

test("missing deliveries are told, none are not", () => {
  expect(rowNotes({ ...measured, missing: 1200 }, [])).toEqual(["  missing: 1,200 deliveries did not come"]);
  expect(rowNotes({ ...measured, missing: 0 }, [])).toEqual([]);
});

test.each([
  [0.95, 0.5, true],
  [0.95, null, true],
  [0.95, 0.95, false],
  [0.7, 0.1, false],
])("a client at %d of a core, a server at %p: the client was the limit: %p", (clientCpu, serverCpu, expected) => {
  const row = { ...measured, clientCpu, serverCpu };
  expect(clientWasTheLimit(row)).toBe(expected);
  expect(rowNotes(row, []).some((note) => note.includes("the client was the limit"))).toBe(expected);
});

test("progress: which workload, a bar, the rate so far; never wider than the terminal", () => {
  const progress = { number: 2, of: 8, workload: "batches", share: 0.5, rate: "12 records/s" };
  expect(progressText(progress, 80)).toBe("2/8 batches        [############............] 12 records/s");
  expect(progressText({ ...progress, share: null }, 80)).toEndWith("[........................] preparing");
  expect(progressText({ ...progress, share: 1.2 }, 80)).toContain(`[${"#".repeat(24)}]`);
  expect(progressText(progress, 30)).toHaveLength(29);
});

test("records are JSON of 256 bytes, and none is like another", () => {
  expect(jsonBody(1)).toHaveLength(256);
  const batch = JSON.parse(new TextDecoder().decode(jsonBody(100))) as readonly unknown[];
  expect(batch.map((record) => JSON.stringify(record).length)).toEqual(batch.map(() => 256));
  expect(new Set(batch.map((record) => JSON.stringify(record)))).toHaveProperty("size", 100);
});
