/** Grants: what is one, what it covers, and that what one caller may hand on is never more than it has. */

import { expect, test } from "bun:test";
import { allows, allowsEvery, covers, EVERYTHING, formatGrant, type Grant, parseGrant, SCOPES } from "./grants.ts";

const grants = (...texts: readonly string[]): Grant[] =>
  texts.map((text) => parseGrant(text) ?? expect.unreachable(`no grant: ${text}`));

test.each([
  ["read", "read:*"],
  ["read:*", "read:*"],
  ["all", "all:*"],
  ["append:orders/1", "append:orders/1"],
  ["manage:orders/*", "manage:orders/*"],
  ["read:a:b", "read:a:b"],
  ["read:a*b", "read:a*b"],
  ["read:**", "read:**"],
])("%s is a grant, written %s", (text, written) => {
  const [grant] = grants(text);
  expect(grant === undefined ? null : formatGrant(grant)).toBe(written);
  expect(parseGrant(written)).toEqual(grant ?? null);
});

test.each(["", ":", "read:", ":a", "Read", "READ:a", " read", "read ", "write:a", "reads", "all:", "*", "constructor"])(
  "%p is none",
  (text) => {
    expect(parseGrant(text)).toBeNull();
  },
);

test.each([
  ["read:orders/1", "orders/1", true],
  ["read:orders/1", "orders/10", false],
  ["read:orders/1", "orders/", false],
  ["read:orders*", "orders", true],
  ["read:orders*", "orders-old", true],
  ["read:orders*", "order", false],
  ["read:orders/*", "orders/1", true],
  ["read:orders/*", "orders/1/2", true],
  ["read:orders/*", "orders", false],
  ["read:orders/*", "Orders/1", false],
  ["read:a*b", "a*b", true],
  ["read:a*b", "axb", false],
  ["read", "anything", true],
  ["all:orders/*", "orders/1", true],
  ["append", "orders/1", false],
  ["manage", "orders/1", false],
])("%s gives read of %s: %p", (text, name, expected) => {
  expect(allows(grants(text), "read", name)).toBe(expected);
});

test("no scope includes another, but all", () => {
  for (const given of SCOPES)
    for (const wanted of SCOPES) expect(allows(grants(given), wanted, "a")).toBe(given === wanted);
  for (const wanted of SCOPES) {
    expect(allows(grants("all:a"), wanted, "a")).toBe(true);
    expect(allows(EVERYTHING, wanted, "a")).toBe(true);
  }
  expect(allows([], "read", "a")).toBe(false);
});

test.each([
  ["read:orders*", "orders", true],
  ["read:orders*", "orders/1", true],
  ["read:orders*", "order", false],
  ["read:orders/*", "orders", false],
  ["read:orders", "orders", false],
  ["read", "", true],
  ["read:a*", "", false],
])("%s gives read of every name that begins with %p: %p", (text, prefix, expected) => {
  expect(allowsEvery(grants(text), "read", prefix)).toBe(expected);
});

test.each([
  [["read"], "read:a", true],
  [["read:a*"], "read:a", true],
  [["read:a*"], "read:a*", true],
  [["read:a*"], "read:ab*", true],
  [["read:ab*"], "read:a*", false],
  [["read:a"], "read:a*", false],
  [["read:a", "read:a/*"], "read:a*", false],
  [["all"], "all", true],
  [["read", "append"], "all", false],
  [["read", "append", "manage"], "all", true],
  [["append"], "read:a", false],
  [[], "read:a", false],
] as const)("%p covers %s: %p", (texts, wanted, expected) => {
  const [grant] = grants(wanted);
  expect(grant !== undefined && covers(grants(...texts), grant)).toBe(expected);
});
