/** Signing keys: made once, durable before they sign, rotated, and published for as long as a receiver may need them. */

import { expect, test } from "bun:test";
import { createPublicKey, verify } from "node:crypto";
import { KEY_PUBLISHED_MS, KEY_SIGNS_MS } from "./limits.ts";
import { type KeyStore, SigningKeys } from "./signing-keys.ts";

const NOW_MS = 1_900_000_000_000;

function keptIn(kept: Map<string, string>): KeyStore {
  return {
    load: async () => [...kept.values()],
    add: async (kid, key) => void kept.set(kid, key),
    remove: async (kid) => void kept.delete(kid),
  };
}

async function isGood(keys: SigningKeys, body: string, signature: string, nowMs: number): Promise<boolean> {
  const [, seconds = "", kid = "", bytes = ""] = /^t=(\d+),kid=([^,]+),ed25519=([\w-]+)$/.exec(signature) ?? [];
  const jwk = (await keys.published(nowMs)).find((key) => key.kid === kid);
  if (jwk === undefined) return false;
  const key = createPublicKey({ key: { ...jwk }, format: "jwk" });
  return verify(null, Buffer.from(`${seconds}.${body}`), key, Buffer.from(bytes, "base64url"));
}

test("a key signs, and goes on after a restart", async () => {
  const kept = new Map<string, string>();
  const keys = new SigningKeys(keptIn(kept));
  await keys.load();
  const signature = await keys.signature("body", NOW_MS);
  expect(await isGood(keys, "body", signature, NOW_MS)).toBe(true);
  expect(await isGood(keys, "other", signature, NOW_MS)).toBe(false);
  const again = new SigningKeys(keptIn(kept));
  await again.load();
  expect((await again.current(NOW_MS)).kid).toBe((await keys.current(NOW_MS)).kid);
  expect(await isGood(again, "body", signature, NOW_MS)).toBe(true);
  expect(JSON.stringify(await again.published(NOW_MS))).not.toContain('"d"');
});

test("after 90 days another one signs; the old one is published for a day more, then forgotten", async () => {
  const kept = new Map<string, string>();
  const keys = new SigningKeys(keptIn(kept));
  const old = await keys.signature("body", NOW_MS);
  const lateMs = NOW_MS + KEY_SIGNS_MS;
  const signatures = await Promise.all([keys.signature("a", lateMs), keys.signature("b", lateMs)]);
  expect(new Set(signatures.map((signature) => /kid=([^,]+)/.exec(signature)?.[1])).size).toBe(1);
  expect(await isGood(keys, "body", old, lateMs)).toBe(true);
  expect(await isGood(keys, "a", signatures[0], lateMs)).toBe(true);
  expect(kept.size).toBe(2);
  const laterMs = lateMs + KEY_SIGNS_MS;
  await keys.signature("c", laterMs);
  expect(kept.size).toBe(2);
  expect(await isGood(keys, "body", old, lateMs + KEY_PUBLISHED_MS + 1)).toBe(false);
});

test("a key that could not be kept signs nothing", async () => {
  const keys = new SigningKeys({ ...keptIn(new Map()), add: () => Promise.reject(new Error("disk full")) });
  expect(keys.signature("body", NOW_MS)).rejects.toThrow("disk full");
});
