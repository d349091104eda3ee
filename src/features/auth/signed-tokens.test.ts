/** Signed tokens: what is minted is what is read, until its time or its signer ends; what was touched is none. */

import { expect, test } from "bun:test";
import type { Principal } from "../../http/principal.ts";
import { type Grant, parseGrant } from "../../protocol/grants.ts";
import type { Check } from "./credentials.ts";
import { isSigned, readGrant, SignedTokens } from "./signed-tokens.ts";

const SECRET = new Uint8Array(32).fill(7);
let nowMs = 1000;
let ids = 0;
const valid = new Set(["key:a"]);
const clock = { nowMs: () => nowMs, monotonicMs: () => nowMs };
const tokensOf = (secret: Uint8Array): SignedTokens =>
  new SignedTokens({ secret, clock, newId: () => String(++ids), isValid: (id) => valid.has(id) });
const tokens = tokensOf(SECRET);
const grant = (names: string): Grant => readGrant(names) ?? expect.unreachable(`no names: ${names}`);
const caller = (check: Check): Principal => (typeof check === "string" ? expect.unreachable(check) : check);

test("gives what was asked for, to a client of its own", () => {
  const names = ["a", "b/*", "c*d", "e f/ü"].map(grant);
  const [one, other] = [tokens.mint(names, "key:a", nowMs + 1), tokens.mint(names, "key:a", nowMs + 1)];
  expect(one).toMatch(/^su_[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{43}$/);
  const found = caller(tokens.check(one));
  expect(found.grants).toEqual(
    ["read:a", "read:b/*", "read:c*d", "read:e f/ü"].map((text) => parseGrant(text) as Grant),
  );
  expect(found.id).not.toBe(caller(tokens.check(other)).id);
  expect(isSigned(found)).toBe(true);
  for (const id of ["key:a", "jwt:signed:1", null]) expect(isSigned({ ...found, id })).toBe(false);
});

test("ends at its time, to the millisecond, and with its signer", () => {
  const token = tokens.mint([grant("a")], "key:a", nowMs + 10);
  const found = caller(tokens.check(token));
  nowMs += 9;
  expect(found.isValid()).toBe(true);
  nowMs += 1;
  expect([found.isValid(), tokens.check(token)]).toEqual([false, "expired"]);
  const orphan = tokens.mint([grant("a")], "key:a", nowMs + 10);
  valid.delete("key:a");
  expect(tokens.check(orphan)).toBe("expired");
  valid.add("key:a");
  expect(caller(tokens.check(orphan)).isValid()).toBe(true);
});

test("is none after any change of a character, and under another secret", () => {
  const token = tokens.mint([grant("a")], "key:a", nowMs + 1000);
  for (let at = 0; at < token.length; at++) {
    for (const other of ["A", "Q", "_", ".", "=", " "]) {
      if (token[at] === other) continue;
      expect(typeof tokens.check(token.slice(0, at) + other + token.slice(at + 1))).toBe("string");
    }
    expect(typeof tokens.check(token.slice(0, at))).toBe("string");
  }
  for (const more of ["=", "==", ".", "A", `.${token}`]) expect(typeof tokens.check(token + more)).toBe("string");
  expect(tokensOf(new Uint8Array(32).fill(8)).check(token)).toBe("unknown");
  expect(typeof tokens.check(token)).toBe("object");
});

test.each(["", "su_", "su_.", "su_..", "sk_a.b", "SU_a.b", "su_e30.", ".".repeat(1000)])("%p is none", (token) => {
  expect(typeof tokens.check(token)).toBe("string");
});

test("names that are none give no grant", () => {
  expect(readGrant("")).toBeNull();
  expect(readGrant("*")).toEqual(parseGrant("read"));
});
