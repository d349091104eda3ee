/**
 * A value as text that only who knows the secret can make: `<mark><payload>.<MAC>`, JSON in base64url and HMAC-SHA-256 over mark and
 * payload. One value has one text: other spellings of the same bytes are not taken.
 */

import { createHmac, timingSafeEqual } from "node:crypto";

export function seal(secret: Uint8Array, mark: string, value: object): string {
  const signed = mark + Buffer.from(JSON.stringify(value)).toString("base64url");
  return `${signed}.${macOf(secret, signed).toString("base64url")}`;
}

/** The value; or `malformed` when the text has another form, `forged` when its MAC is another. Takes as long for every wrong MAC. */
export function unseal(
  secret: Uint8Array,
  mark: string,
  text: string,
): { readonly value: unknown } | "malformed" | "forged" {
  const [signed = "", mac = "", ...rest] = text.split(".");
  const given = Buffer.from(mac, "base64url");
  const right = macOf(secret, signed);
  if (!signed.startsWith(mark) || rest.length > 0 || given.length !== right.length) return "malformed";
  if (mac !== given.toString("base64url")) return "malformed";
  if (!timingSafeEqual(given, right)) return "forged";
  // Ours, so it is JSON.
  const value: unknown = JSON.parse(Buffer.from(signed.slice(mark.length), "base64url").toString());
  return { value };
}

function macOf(secret: Uint8Array, signed: string): Buffer {
  return createHmac("sha256", secret).update(signed).digest();
}
