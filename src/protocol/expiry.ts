/**
 * Lifetimes of streams (PROTOCOL §5.1): a sliding TTL or an absolute time, never both. Pure.
 */

import { MAX_TTL_SECONDS } from "./limits.ts";

/** When a stream ends. `raw` keeps the client's spelling: it is echoed and compared as it came. */
export type Expiry =
  | { readonly kind: "never" }
  | { readonly kind: "ttl"; readonly seconds: number }
  | { readonly kind: "at"; readonly raw: string; readonly atMs: number };

export type ExpiryResult =
  | { readonly ok: true; readonly expiry: Expiry }
  | { readonly ok: false; readonly reason: string };

const TTL = /^(0|[1-9]\d*)$/;
const RFC3339 = /^\d{4}-\d{2}-\d{2}[Tt]\d{2}:\d{2}:\d{2}(\.\d{1,9})?([Zz]|[+-]\d{2}:\d{2})$/;

/** Reads `Stream-TTL` and `Stream-Expires-At`; null means the header is absent. */
export function parseExpiry(ttl: string | null, expiresAt: string | null): ExpiryResult {
  if (ttl !== null && expiresAt !== null) {
    return { ok: false, reason: "send Stream-TTL or Stream-Expires-At, not both" };
  }
  if (ttl !== null) {
    const seconds = TTL.test(ttl) ? Number(ttl) : NaN;
    if (!(seconds <= MAX_TTL_SECONDS)) {
      return {
        ok: false,
        reason: `Stream-TTL is whole seconds, 0 to ${MAX_TTL_SECONDS}, without sign or leading zero`,
      };
    }
    return { ok: true, expiry: { kind: "ttl", seconds } };
  }
  if (expiresAt !== null) {
    const atMs = parseTimestamp(expiresAt);
    if (atMs === null)
      return { ok: false, reason: "Stream-Expires-At is an RFC 3339 time such as 2030-01-01T00:00:00Z" };
    return { ok: true, expiry: { kind: "at", raw: expiresAt, atMs } };
  }
  return { ok: true, expiry: { kind: "never" } };
}

/** An RFC 3339 time in milliseconds since the epoch, or null. */
export function parseTimestamp(text: string): number | null {
  if (!RFC3339.test(text)) return null;
  const atMs = Date.parse(text);
  // `Date.parse` takes the 30th of February for a day in March.
  const [year, month, day] = text.slice(0, 10).split("-").map(Number) as [number, number, number];
  return Number.isNaN(atMs) || day > new Date(Date.UTC(year, month, 0)).getUTCDate() ? null : atMs;
}

export function sameExpiry(left: Expiry, right: Expiry): boolean {
  if (left.kind === "ttl") return right.kind === "ttl" && left.seconds === right.seconds;
  if (left.kind === "at") return right.kind === "at" && left.raw === right.raw;
  return right.kind === "never";
}

/** The moment a stream ends, or Infinity. `accessedMs` is its last read or write. */
export function expiryDeadlineMs(expiry: Expiry, accessedMs: number): number {
  if (expiry.kind === "ttl") return accessedMs + expiry.seconds * 1000;
  if (expiry.kind === "at") return expiry.atMs;
  return Infinity;
}
