/** The query of a read: where to start, which records, and how to wait. */

import type { ReadStart } from "../../engine/reader.ts";
import { parseTimestamp } from "../../protocol/expiry.ts";
import { type Filter, parseFilter } from "../../protocol/filter.ts";
import { parseOffset } from "../../protocol/offset.ts";
import { parseDuration } from "../../protocol/retention.ts";
import { badRequest, type HttpProblem, isProblem } from "../errors.ts";
import { OVERFLOW_POLICIES, type Overflow } from "../live/follower.ts";
import { checkKey, oneParam } from "../request-parts.ts";

export interface ReadQuery {
  readonly start: ReadStart;
  readonly live: "no" | "long-poll" | "sse";
  readonly key: string | null;
  readonly filter: Filter | null;
  readonly cursor: string | null;
  /** The body is asked for as zstd frames, whatever the platform unpacks. */
  readonly asFrames: boolean;
  /** What becomes of records that a live reader is too slow for. */
  readonly overflow: Overflow;
}

const NAMES = ["offset", "from", "tail", "live", "key", "filter", "cursor", "overflow", "encoding"] as const;
type Params = Record<(typeof NAMES)[number], string | null>;

/** `headers`: an EventSource that reconnects says in `Last-Event-ID` how far it came, which is stronger than its URL. */
export function parseReadQuery(query: URLSearchParams, headers: Headers, nowMs: number): ReadQuery | HttpProblem {
  const params: Partial<Params> = {};
  for (const name of NAMES) {
    const value = oneParam(query, name);
    if (isProblem(value)) return value;
    params[name] = value;
  }
  const lastEventId = params.live === "sse" ? headers.get("last-event-id") : null;
  const isResumed = lastEventId !== null && lastEventId !== "";
  const { live = null, key = null, filter = null, cursor = null, encoding = null } = params;
  const overflow = parseOverflow(params.overflow ?? null);
  if (overflow === null) return badRequest("overflow-invalid", `overflow is ${OVERFLOW_POLICIES.join(", ")}`);
  const start = parseStart(isResumed ? { offset: lastEventId } : params, nowMs);
  if (isProblem(start)) return start;
  if (live !== null && live !== "long-poll" && live !== "sse")
    return badRequest("live-invalid", "live is 'long-poll' or 'sse'");
  if (encoding !== null && encoding !== "zstd") return badRequest("encoding-invalid", "encoding is 'zstd'");
  if (encoding !== null && live !== null)
    return badRequest("encoding-invalid", "encoding is for catch-up reads; live answers come as they are");
  if (live !== null && start === null) return badRequest("offset-missing", "a live read needs offset, from or tail");
  const checkedKey = key === null ? null : checkKey(key);
  if (isProblem(checkedKey)) return checkedKey;
  const parsed = filter === null ? null : parseFilter(filter);
  if (parsed?.ok === false) return badRequest("filter-invalid", parsed.reason);
  return {
    filter: parsed?.filter ?? null,
    start: start ?? { kind: "offset", token: { kind: "start" } },
    live: live ?? "no",
    key: checkedKey,
    cursor,
    asFrames: encoding !== null,
    overflow,
  };
}

function parseOverflow(text: string | null): Overflow | null {
  return OVERFLOW_POLICIES.find((policy) => policy === (text ?? "resume")) ?? null;
}

/** Null when the query names no start. */
function parseStart(params: Partial<Params>, nowMs: number): ReadStart | null | HttpProblem {
  const { offset = null, from = null, tail = null } = params;
  if ([offset, from, tail].filter((value) => value !== null).length > 1) {
    return badRequest("start-ambiguous", "give one of offset, from and tail");
  }
  if (from !== null) {
    const atMs = parseMoment(from, nowMs);
    return atMs === null
      ? badRequest("from-invalid", "from is an RFC 3339 time or an age such as -15m")
      : { kind: "time", atMs };
  }
  if (tail !== null) {
    return /^\d{1,9}$/.test(tail)
      ? { kind: "tail", records: Number(tail) }
      : badRequest("tail-invalid", "tail is a number of records");
  }
  if (offset === null) return null;
  const token = parseOffset(offset);
  if (token === null) return badRequest("offset-invalid", "offset is -1, now, or an offset that this server gave out");
  return { kind: "offset", token };
}

/** An RFC 3339 time, or an age such as `-15m`; null for anything else. */
export function parseMoment(text: string, nowMs: number): number | null {
  if (!text.startsWith("-")) return parseTimestamp(text);
  const agoMs = parseDuration(text.slice(1));
  return agoMs === null ? null : nowMs - agoMs;
}
