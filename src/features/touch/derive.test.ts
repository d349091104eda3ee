/** The emission rules, as a table: which keys a change touches, seen by one template. */

import { expect, test } from "bun:test";
import { formatKey, KeyWriter } from "../../protocol/touch-keys.ts";
import { type Change, ChangeView, deriveKeys } from "./derive.ts";
import { makeTemplate, type Template } from "./template.ts";

const writer = new KeyWriter((bytes) => Bun.hash.xxHash3(bytes));

function template(...names: readonly string[]): Template {
  const made = makeTemplate({ entity: "t", fields: names.map((name) => ({ name, encoding: "string" })) }, writer);
  return made ?? expect.unreachable("a valid template");
}

const byUser = template("user");

/** Names of all keys that could come up, to read the emitted ones by. */
function nameKeys(of: Template, values: readonly string[], fields: readonly string[]): Map<string, string> {
  const names = new Map<string, string>();
  for (const value of values) {
    const args = value.split("+");
    names.set(formatKey(writer.watch(of.idWords, args)), `watch ${value}`);
    names.set(formatKey(writer.membership(of.idWords, args)), `member ${value}`);
    for (const field of fields) names.set(formatKey(writer.field(of.idWords, field, args)), `${field} of ${value}`);
  }
  return names;
}

const names = nameKeys(byUser, ["a", "b"], ["title", "done", "tags", "user", "constructor", "__proto__"]);

function derive(change: Partial<Change>, skipBefore = false, of = byUser, named = names): unknown {
  const keys: string[] = [];
  const whole: Change = {
    kind: "change",
    entity: "t",
    key: "1",
    operation: "update",
    before: undefined,
    after: undefined,
    ...change,
  };
  const derivedAs = deriveKeys(new ChangeView(whole), of, skipBefore, writer, (key) => {
    keys.push(named.get(formatKey(key)) ?? formatKey(key));
  });
  return keys.length === 0 ? derivedAs : keys.sort();
}

const row = (user: unknown, more: object = {}) => ({ user, title: "t", ...more });

test.each<[string, Partial<Change>, unknown]>([
  ["insert", { operation: "insert", after: row("a") }, ["member a", "watch a"]],
  ["insert into no set", { operation: "insert", after: row(null) }, "nothing"],
  ["insert of a row that lacks the field", { operation: "insert", after: { title: "t" } }, "nothing"],
  ["insert of a value no key expresses", { operation: "insert", after: row({}) }, "nothing"],
  ["insert of something that is no row", { operation: "insert", after: "text" }, "nothing"],
  ["an inherited name is no field", { operation: "insert", after: JSON.parse('{"title":"t"}') }, "nothing"],
  ["delete", { operation: "delete", before: row("a") }, ["member a", "watch a"]],
  ["delete without the old row", { operation: "delete" }, "coarse"],
  ["delete of a row in no set", { operation: "delete", before: row(null) }, "nothing"],
  ["update that changes nothing", { before: row("a"), after: row("a") }, ["watch a"]],
  ["update of a field", { before: row("a"), after: row("a", { title: "u" }) }, ["title of a", "watch a"]],
  ["a field that is new", { before: row("a"), after: row("a", { done: true }) }, ["done of a", "watch a"]],
  ["a field that is gone", { before: row("a", { done: true }), after: row("a") }, ["done of a", "watch a"]],
  ["a field that was null and is gone", { before: row("a", { done: null }), after: row("a") }, ["watch a"]],
  [
    "an object that changed",
    { before: row("a", { tags: [1] }), after: row("a", { tags: [2] }) },
    ["tags of a", "watch a"],
  ],
  ["an object that did not", { before: row("a", { tags: [1] }), after: row("a", { tags: [1] }) }, ["watch a"]],
  ["moved", { before: row("a"), after: row("b") }, ["member a", "member b", "watch a", "watch b"]],
  ["moved out", { before: row("a"), after: row(null) }, ["member a", "watch a"]],
  ["moved in", { before: row(null), after: row("b") }, ["member b", "watch b"]],
  ["in no set before and after", { before: row(null), after: row(null) }, "nothing"],
  ["update without the old row", { after: row("a") }, "coarse"],
  ["update whose old row lacks the field", { before: { title: "t" }, after: row("a") }, "coarse"],
  [
    "an upsert that says there was no row",
    { operation: "upsert", before: null, after: row("a") },
    ["member a", "watch a"],
  ],
  ["an old value that is no row", { before: null, after: row("a") }, "coarse"],
  ["a delete whose old value is no row", { operation: "delete", before: "text" }, "coarse"],
  ["a number that JSON has rounded", { before: row("a"), after: row(2 ** 53) }, "coarse"],
  ["a rounded number in the old row", { before: row(-(2 ** 60)), after: row("a") }, "coarse"],
  [
    "a rounded number in another field counts as changed",
    { before: row("a", { title: 2 ** 53 }), after: row("a", { title: 2 ** 53 }) },
    ["title of a", "watch a"],
  ],
  ["upsert is an update", { operation: "upsert", before: row("a"), after: row("a") }, ["watch a"]],
  ["upsert of what may be new", { operation: "upsert", after: row("a") }, "coarse"],
  [
    "names that every object inherits",
    { before: JSON.parse('{"user":"a","constructor":1}'), after: JSON.parse('{"user":"a","__proto__":2}') },
    ["__proto__ of a", "constructor of a", "watch a"],
  ],
])("%s", (_, change, expected) => expect(derive(change)).toEqual(expected));

test("skipBefore touches the side it knows, and every field of it", () => {
  expect(derive({ after: row("a", { done: 1 }) }, true)).toEqual(["done of a", "member a", "title of a", "watch a"]);
  expect(derive({ operation: "delete" }, true)).toBe("nothing");
  expect(derive({ before: row("b"), after: row("a") }, true)).toEqual(["member a", "member b", "watch a", "watch b"]);
});

test("fields are sorted by code unit, and one null argument puts the row in no set", () => {
  const pair = template("user", "done");
  expect(pair.fields.map(({ name }) => name)).toEqual(["done", "user"]);
  const named = nameKeys(pair, ["true+a", "false+a"], ["title"]);
  const change = { before: row("a", { done: false }), after: row("a", { done: true }) };
  const moved = ["member false+a", "member true+a", "watch false+a", "watch true+a"];
  expect(derive(change, false, pair, named)).toEqual(moved);
  const half = { before: row("a", { done: null }), after: row("a", { done: true }) };
  expect(derive(half, false, pair, named)).toEqual(["member true+a", "watch true+a"]);
});
