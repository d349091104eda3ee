/** Keys by names and values: the vectors of docs/live-queries.md, and what is refused. */

import { expect, test } from "bun:test";
import { formatKey, idWords, KeyWriter, parseKey } from "../protocol/touch-keys.ts";
import { hash64 } from "./hash64.ts";
import { touchKeys, type TouchTemplate } from "./touch-keys.ts";
import { xxh3 } from "./xxh3.ts";

const writer = new KeyWriter((bytes) => Bun.hash.xxHash3(bytes));
const byUser: TouchTemplate = { entity: "todo", fields: [{ name: "userId", encoding: "string" }] };
const several: TouchTemplate = {
  entity: "todo",
  fields: [
    { name: "userId", encoding: "string" },
    { name: "due", encoding: "datetime" },
    { name: "count", encoding: "int64" },
  ],
};

test.each([
  ["WebAssembly", hash64],
  ["plain TypeScript", () => Promise.resolve(xxh3)],
])("the vectors of the documentation, by %s", async (_, load) => {
  const hash = await load();
  const keys = touchKeys(hash);
  expect(keys.table("todo")).toBe("0c897182b17d6dc2");
  const fields = [
    { name: "userId", encoding: "string" },
    { name: "projectId", encoding: "string" },
  ] as const;
  expect(keys.templateId({ entity: "todo", fields })).toBe("109d47736c4ee693");
  expect(keys.templateId({ entity: "todo", fields: fields.toReversed() })).toBe("109d47736c4ee693");
  const byHand = new KeyWriter(hash);
  const id = idWords(0x8899_aabb_ccdd_eeffn);
  expect(formatKey(byHand.template(id))).toBe("5463e75d108ef921");
  expect(formatKey(byHand.watch(id, ["u1"]))).toBe("07f5ae42ce0fadd7");
  expect(formatKey(byHand.membership(id, ["u1"]))).toBe("1822f392605e3235");
  expect(formatKey(byHand.field(id, "title", ["u1"]))).toBe("1e454890283c2491");
});

test("every family has the server's keys, with values in the order of the fields as they were given", () => {
  const keys = touchKeys(xxh3);
  const id = writer.templateId("todo", ["count", "due", "userId"]);
  const due = "2026-11-21T08:00:00.000Z";
  const args = ["7", due, "é"];
  for (const values of [
    ["é", due, 7],
    ["é", new Date(due), 7n],
    ["é", "2026-11-21T09:00:00+01:00", " 7 "],
  ]) {
    expect(keys.watch(several, values)).toBe(formatKey(writer.watch(idWords(id), args)));
    expect(keys.membership(several, values)).toBe(formatKey(writer.membership(idWords(id), args)));
    expect(keys.field(several, "title", values)).toBe(formatKey(writer.field(idWords(id), "title", args)));
  }
  expect(keys.templateId(several)).toBe(formatKey(id));
  expect(keys.template(several)).toBe(formatKey(writer.template(idWords(id))));
  expect(parseKey(keys.watch(byUser, ["u1"]))).not.toBe(parseKey(keys.watch(byUser, ["u2"])));
});

test("a key that cannot be made is an error, never a key that is not touched", () => {
  const keys = touchKeys(xxh3);
  expect(() => keys.watch(byUser, [null])).toThrow("no key can hold this value as string, for todo.userId: null");
  expect(() => keys.watch(several, ["a", new Date(Number.NaN), 1])).toThrow(TypeError);
  expect(() => keys.membership(several, ["a", "2026-01-01", 1.5])).toThrow("int64");
  expect(() => keys.watch(byUser, [])).toThrow("takes 1 values, one per field, not 0");
  expect(() => keys.field(byUser, "title", ["a", "b"])).toThrow(TypeError);
});
