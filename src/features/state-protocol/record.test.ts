/** Records of the State Protocol: what is one, and that our types are the published ones. */

import { expect, test } from "bun:test";
import type { ChangeEvent, ControlEvent, Operation as PublishedOperation } from "@durable-streams/state";
import { type ChangeRecord, type ControlRecord, type Operation, parseStateRecord } from "./record.ts";

const change = (more: object = {}, headers: object = {}) => ({
  type: "todo",
  key: "1",
  value: { a: 1 },
  headers: { operation: "insert", ...headers },
  ...more,
});

test.each([
  change(),
  change({ old_value: null }),
  change({ value: null }),
  change({ value: "text" }),
  change({}, { operation: "update", txid: "7", timestamp: "2026-01-02T03:04:05Z" }),
  change({}, { operation: "upsert" }),
  change({}, { timestamp: "2026-01-02t03:04:05.123456789+02:00" }),
  { type: "t", key: "k", headers: { operation: "delete" } },
  { type: "t", key: "k", old_value: { a: 1 }, headers: { operation: "delete" } },
  { headers: { control: "reset" } },
  { headers: { control: "snapshot-start", offset: "0000000000000001_0000000000000002" } },
  { headers: { control: "snapshot-end", offset: "-1" } },
])("%j is a record", (record) => expect(typeof parseStateRecord(record)).toBe("object"));

test.each([
  [null, "not an object"],
  [[], "not an object"],
  ["text", "not an object"],
  [{}, "'headers'"],
  [{ type: "t", key: "k", value: 1 }, "'headers'"],
  [change({ headers: {} }), "exactly one"],
  [change({}, { control: "reset" }), "exactly one"],
  [change({ type: "" }), "'type'"],
  [change({ type: 1 }), "'type'"],
  [change({ key: "" }), "'key'"],
  [change({ extra: 1 }), "unknown field 'extra'"],
  [change({}, { extra: 1 }), "unknown header 'extra'"],
  [change({}, { operation: "replace" }), "'headers.operation'"],
  [change({}, { txid: "" }), "'headers.txid'"],
  [change({}, { txid: 7 }), "'headers.txid'"],
  [change({}, { timestamp: "yesterday" }), "'headers.timestamp'"],
  [change({}, { timestamp: "2026-01-02 03:04:05Z" }), "'headers.timestamp'"],
  [change({}, { timestamp: "2026-01-02T03:04:05" }), "'headers.timestamp'"],
  [change({}, { timestamp: "2026-13-02T03:04:05Z" }), "'headers.timestamp'"],
  [change({}, { timestamp: "2026-01-02T03:04:05.1234567890Z" }), "'headers.timestamp'"],
  [{ type: "t", key: "k", headers: { operation: "insert" } }, "'value' is missing"],
  [{ type: "t", key: "k", headers: { operation: "update" } }, "'value' is missing"],
  [{ type: "t", headers: { control: "reset" } }, "unknown field 'type'"],
  [{ headers: { control: "restart" } }, "'headers.control'"],
  [{ headers: { control: "reset", txid: "1" } }, "unknown header 'txid'"],
  [{ headers: { control: "reset", offset: "somewhere" } }, "'headers.offset'"],
] as const)("%j is none", (record, reason) => expect(parseStateRecord(record)).toContain(reason));

test("a change says entity, key, operation and both sides", () => {
  expect(parseStateRecord(change({ old_value: { a: 0 } }, { operation: "update" }))).toEqual({
    kind: "change",
    entity: "todo",
    key: "1",
    operation: "update",
    before: { a: 0 },
    after: { a: 1 },
  });
  expect(parseStateRecord(JSON.parse('{"__proto__":{"type":"x"},"headers":{"control":"reset"}}'))).toContain(
    "__proto__",
  );
});

test("our types are the published ones (checked by the compiler)", () => {
  // The same operations, neither more nor fewer.
  const ours = (operation: PublishedOperation): Operation => operation;
  const theirs = (operation: Operation): PublishedOperation => operation;
  // What we store is what their readers read. Not the other way round: their headers also know `from` and `offset`, which
  // their client adds while reading and which a writer may not send.
  const readable = (record: ChangeRecord): ChangeEvent => record;
  const control = (record: ControlRecord): ControlEvent => record;
  const controlBack = (record: ControlEvent): ControlRecord => record;
  expect([ours("insert"), theirs("delete")]).toEqual(["insert", "delete"]);
  expect([readable, control, controlBack].every((check) => typeof check === "function")).toBe(true);
});
