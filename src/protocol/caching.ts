/**
 * Caching rules (PROTOCOL §10): what a shared cache may keep of a read, its ETag, and the CDN cursor. Pure.
 */

/** What a read answered, as far as caches care. */
export interface ReadFacts {
  readonly streamId: number;
  readonly from: number;
  readonly to: number;
  readonly closed: boolean;
  readonly key: string | null;
  /** As the client wrote it. */
  readonly filter: string | null;
  /** The range ends at the tail, which may move. */
  readonly atTail: boolean;
  /** Its bytes are zstd frames: another representation. */
  readonly zstd: boolean;
  /** The request named the range itself (an offset or the start), not a moving target such as `now`, a time or a count. */
  readonly fixed: boolean;
}

/** Changes with the incarnation, the range, closure and what is selected. Null for reads of a moving target. */
export function etagOf(facts: ReadFacts): string | null {
  if (!facts.fixed) return null;
  const key = facts.key === null ? "" : `:k${encodeURIComponent(facts.key)}`;
  const filter = facts.filter === null ? "" : `:f${encodeURIComponent(facts.filter)}`;
  const marks = `${facts.closed ? ":c" : ""}${facts.zstd ? ":z" : ""}`;
  return `"${facts.streamId}:${facts.from}:${facts.to}${marks}${key}${filter}"`;
}

/** A full historical range never changes; one that ends at the tail is stale with the next append. */
export function cacheControlOf(facts: ReadFacts): string {
  if (!facts.fixed || facts.from === facts.to) return "no-store";
  if (facts.atTail) return "private, max-age=0, must-revalidate";
  return "private, max-age=60, stale-while-revalidate=300";
}

/** Whether an `If-None-Match` value names `etag`. */
export function matchesEtag(header: string, etag: string): boolean {
  return header.split(",").some((candidate) => {
    const tag = candidate.trim();
    return tag === "*" || tag === etag || tag === `W/${etag}`;
  });
}

const CURSOR_EPOCH_MS = Date.UTC(2024, 9, 9);
const CURSOR_INTERVAL_MS = 20_000;
const MAX_JITTER_INTERVALS = 180;

/**
 * The cursor of a live answer (PROTOCOL §10.1): the number of the 20 s interval, always above the one the client sent, so that
 * caches never replay an old answer in a loop. `random` is in [0, 1).
 */
export function cdnCursor(nowMs: number, clientCursor: string | null, random: number): string {
  const current = Math.floor((nowMs - CURSOR_EPOCH_MS) / CURSOR_INTERVAL_MS);
  const sent = clientCursor !== null && /^\d{1,15}$/.test(clientCursor) ? Number(clientCursor) : -1;
  if (sent < current) return String(current);
  return String(sent + 1 + Math.floor(random * (MAX_JITTER_INTERVALS - 1)));
}
