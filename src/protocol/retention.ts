/**
 * Retention of one stream: `Stream-Retention: max-age=<duration>, max-bytes=<size>`; either part may be missing,
 * `none` lifts both. Pure. The engine enforces it in bounded chunks.
 */

/** `null` = unbounded. Ages in milliseconds, sizes in payload bytes. */
export interface Retention {
  readonly maxAgeMs: number | null;
  readonly maxBytes: number | null;
}

export const KEEP_ALL: Retention = { maxAgeMs: null, maxBytes: null };

const UNIT_MS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000, h: 3_600_000, d: 86_400_000 };
const UNIT_BYTES: Readonly<Record<string, number>> = {
  "": 1,
  b: 1,
  kib: 1024,
  mib: 1024 ** 2,
  gib: 1024 ** 3,
  tib: 1024 ** 4,
};

/** `15m`, `500ms`, `7d`, a bare number is seconds; null when malformed. Result in milliseconds. */
export function parseDuration(text: string): number | null {
  const match = /^(\d{1,12})(ms|s|m|h|d)?$/.exec(text);
  if (match === null) return null;
  return safe(Number(match[1]) * (UNIT_MS[match[2] ?? "s"] ?? NaN));
}

/** `1048576`, `64KiB`, `1GiB`; null when malformed. Result in bytes. */
export function parseSize(text: string): number | null {
  const match = /^(\d{1,15})(B|KiB|MiB|GiB|TiB)?$/i.exec(text);
  if (match === null) return null;
  return safe(Number(match[1]) * (UNIT_BYTES[(match[2] ?? "").toLowerCase()] ?? NaN));
}

/** The header's value as a policy, or null when it is malformed. */
export function parseRetention(header: string): Retention | null {
  if (header.trim().toLowerCase() === "none") return KEEP_ALL;
  let maxAgeMs: number | null = null;
  let maxBytes: number | null = null;
  for (const part of header.split(",")) {
    const [name, value, ...rest] = part.split("=").map((piece) => piece.trim());
    if (value === undefined || rest.length > 0) return null;
    if (name === "max-age" && maxAgeMs === null) maxAgeMs = parseDuration(value);
    else if (name === "max-bytes" && maxBytes === null) maxBytes = parseSize(value);
    else return null;
    if ((name === "max-age" ? maxAgeMs : maxBytes) === null) return null;
  }
  if (maxAgeMs === 0 || maxBytes === 0) return null;
  return { maxAgeMs, maxBytes };
}

/** The policy as a header value; parsing it gives the same policy. */
export function formatRetention(retention: Retention): string {
  const parts: string[] = [];
  if (retention.maxAgeMs !== null) parts.push(`max-age=${retention.maxAgeMs}ms`);
  if (retention.maxBytes !== null) parts.push(`max-bytes=${retention.maxBytes}`);
  return parts.length === 0 ? "none" : parts.join(", ");
}

export function keepsAll(retention: Retention): boolean {
  return retention.maxAgeMs === null && retention.maxBytes === null;
}

export function sameRetention(left: Retention, right: Retention): boolean {
  return left.maxAgeMs === right.maxAgeMs && left.maxBytes === right.maxBytes;
}

function safe(value: number): number | null {
  return Number.isSafeInteger(value) ? value : null;
}
