/** API keys: how they are made, told from others, and kept in a text that shows when it was touched. */

import { expect, test } from "bun:test";
import { createHash } from "node:crypto";
import { formatKeys, isKey, makeKey, parseKeys, sha256Of, type StoredKey } from "./api-key.ts";
import { ApiKeys } from "./api-keys.ts";

const NOW_MS = 1_700_000_000_000;
let fill = 0;
/** A new row of bytes each time. */
const randomBytes = (count: number): Uint8Array =>
  Uint8Array.from({ length: count }, (_, at) => (fill++ * 7 + at) % 256);
const made = (grants: readonly string[] = ["read:a"], expiresMs: number | null = null) =>
  makeKey({ name: "a name", grants, expiresMs }, NOW_MS, randomBytes);

test("a key is told once and kept as its digest", () => {
  const { key, token } = made();
  expect(token).toMatch(/^sk_[a-z2-7]{10}_[A-Za-z0-9_-]{43}$/);
  expect(token.slice(3, 13)).toBe(key.id);
  expect(isKey(token)).toBe(true);
  expect(key).toEqual({
    id: key.id,
    name: "a name",
    sha256: createHash("sha256").update(token).digest("hex"),
    grants: ["read:a"],
    createdMs: NOW_MS,
    expiresMs: null,
  });
  expect(formatKeys([key])).not.toContain(token.slice(14));
  expect(sha256Of(token)).toBe(key.sha256);
  expect(sha256Of(`${token.slice(0, -1)}!`)).not.toBe(key.sha256);
  expect(sha256Of(token)).not.toBe(made().key.sha256);
});

test.each([
  "",
  "sk_",
  "sk_a_b",
  "x",
  `sk_${"a".repeat(10)}_${"b".repeat(42)}`,
  `sk_${"a".repeat(10)}_${"b".repeat(44)}`,
])("%p is no key", (token) => {
  expect(isKey(token)).toBe(false);
});

test("a text of keys is read as it was written", () => {
  const keys = [made().key, made(["all"], NOW_MS + 1).key];
  expect(parseKeys(formatKeys(keys))).toEqual(keys);
  expect(parseKeys(formatKeys([]))).toEqual([]);
});

test("a text that was touched anywhere is refused", () => {
  const text = formatKeys([made().key, made(["append:b/*"], NOW_MS).key]);
  let refused = 0;
  for (let at = 0; at < text.length; at++) {
    const code = text.charCodeAt(at);
    const parsed = parseKeys(text.slice(0, at) + String.fromCharCode(code ^ 1) + text.slice(at + 1));
    if ("reason" in parsed) refused++;
    // Space that became something else that counts for nothing.
    else expect(JSON.stringify(parsed)).toBe(JSON.stringify(parseKeys(text)));
  }
  expect(refused).toBeGreaterThan(text.length / 2);
  for (let length = 0; length < text.length - 1; length++)
    expect(parseKeys(text.slice(0, length))).toHaveProperty("reason");
});

test("keys that hold: by their token, until they expire or are gone", () => {
  let nowMs = NOW_MS;
  const keys = new ApiKeys({ nowMs: () => nowMs, monotonicMs: () => nowMs });
  const [lasting, ending] = [made(["read:a", "all:b/*"]), made(["all"], NOW_MS + 1000)];
  const revoked = made();
  keys.replace([lasting.key, ending.key, revoked.key]);
  const caller = keys.check(lasting.token);
  expect(caller).toMatchObject({ id: `key:${lasting.key.id}` });
  expect(keys.check(revoked.token)).toMatchObject({ id: `key:${revoked.key.id}` });
  expect(keys.check("sk_junk")).toBe("malformed");
  expect(keys.check(made().token)).toBe("unknown");
  expect(keys.check(lasting.token.slice(0, 14) + made().token.slice(14))).toBe("unknown");
  nowMs = NOW_MS + 999;
  expect(keys.isValid(`key:${ending.key.id}`)).toBe(true);
  nowMs = NOW_MS + 1000;
  expect(keys.check(ending.token)).toBe("expired");
  expect(keys.isValid(`key:${ending.key.id}`)).toBe(false);
  keys.replace([lasting.key]);
  expect(keys.check(revoked.token)).toBe("unknown");
  for (const id of [`key:${revoked.key.id}`, lasting.key.id, `jwt:${lasting.key.id}`, "key:", ""])
    expect(keys.isValid(id)).toBe(false);
  expect(typeof caller === "string" || caller.isValid()).toBe(true);
  // The same id with another secret is another key.
  const { sha256 } = made().key;
  const swapped: StoredKey = { ...lasting.key, sha256 };
  keys.replace([swapped]);
  expect(typeof caller === "string" || caller.isValid()).toBe(false);
});
