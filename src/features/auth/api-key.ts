/**
 * An API key: `sk_<id>_<secret>`. The server keeps the SHA-256 of the whole and never the secret: 256 random bits need no slow hash.
 * Rules over keys are pure; where they are kept is the server's affair.
 */

import { createHash } from "node:crypto";
import { z } from "zod";
import { parseGrant } from "../../protocol/grants.ts";
import { MAX_GRANT_CHARS, MAX_GRANTS, MAX_KEY_NAME_CHARS, MAX_KEYS } from "./limits.ts";

const TOKEN = /^sk_[a-z2-7]{10}_[A-Za-z0-9_-]{43}$/;
const ID_CHARS = "abcdefghijklmnopqrstuvwxyz234567";
const ID_LENGTH = 10;
const SECRET_BYTES = 32;

const grant = z
  .string()
  .max(MAX_GRANT_CHARS)
  .refine((text) => parseGrant(text) !== null, {
    error: "a grant is read, append, manage or all, and may name streams: read:orders/*",
  });

/** A key as it is kept. Times are milliseconds since the epoch. */
export const storedKey = z.strictObject({
  id: z.string().regex(/^[a-z2-7]{10}$/),
  name: z.string().max(MAX_KEY_NAME_CHARS),
  /** Of the whole key, as hex. */
  sha256: z.string().regex(/^[0-9a-f]{64}$/),
  grants: z.array(grant).min(1).max(MAX_GRANTS),
  createdMs: z.int(),
  expiresMs: z.int().nullable(),
});
export type StoredKey = z.output<typeof storedKey>;

const keyFile = z.strictObject({
  version: z.literal(1),
  keys: z.array(storedKey).max(MAX_KEYS),
  /** SHA-256 of the keys as JSON: a bit that flips on the disk must not widen a grant. */
  checksum: z.string(),
});

/** The text of a key file. */
export function formatKeys(keys: readonly StoredKey[]): string {
  return `${JSON.stringify({ version: 1, keys, checksum: checksumOf(keys) }, null, 2)}\n`;
}

/** The keys of such a text, or why it is none. */
export function parseKeys(text: string): readonly StoredKey[] | { readonly reason: string } {
  const json = jsonOf(text);
  if (json === undefined) return { reason: "it is not JSON" };
  const parsed = keyFile.safeParse(json);
  if (!parsed.success) {
    const [issue] = parsed.error.issues;
    return { reason: `${issue?.path.join(".") ?? ""}: ${issue?.message ?? "not valid"}` };
  }
  const { keys, checksum } = parsed.data;
  return checksum === checksumOf(keys) ? keys : { reason: "its checksum does not match: it is damaged or was edited" };
}

interface NewKey {
  readonly name: string;
  readonly grants: readonly string[];
  readonly expiresMs: number | null;
}

/** A new key and the token that is told once. `randomBytes`: of cryptographic quality. */
export function makeKey(
  { name, grants, expiresMs }: NewKey,
  nowMs: number,
  randomBytes: (count: number) => Uint8Array,
): { readonly key: StoredKey; readonly token: string } {
  const id = Array.from(randomBytes(ID_LENGTH), (byte) => ID_CHARS[byte % ID_CHARS.length]).join("");
  const token = `sk_${id}_${Buffer.from(randomBytes(SECRET_BYTES)).toString("base64url")}`;
  const sha256 = sha256Of(token);
  return { key: { id, name, sha256, grants: [...grants], createdMs: nowMs, expiresMs }, token };
}

/** Whether it has the form of a key. */
export function isKey(token: string): boolean {
  return TOKEN.test(token);
}

/** What a key is looked up by: nobody can choose a token with a digest that begins like another's. */
export function sha256Of(token: string): string {
  return createHash("sha256").update(token).digest("hex");
}

function checksumOf(keys: readonly StoredKey[]): string {
  return createHash("sha256").update(JSON.stringify(keys)).digest("hex");
}

function jsonOf(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // The caller says what is wrong with it.
    return undefined;
  }
}
