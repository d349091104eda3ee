/**
 * What the headers of a read say, in one place: position, up-to-date, closed, and the query that asks for a range.
 * Offsets are opaque here: they come from the server and go back to it.
 */

import { Result } from "better-result";
import { isJson, OCTET_STREAM } from "../protocol/content-type.ts";
import { BrokenAnswer } from "./stream-error.ts";

/**
 * Where to start: an offset the server gave (or `-1` for the start, `now` for the tail), or a time (`-15m`, RFC 3339), or
 * the last `tail` records. None: the start. At most one of the three.
 */
export interface ReadRange {
  readonly offset?: string;
  readonly from?: string;
  readonly tail?: number;
  /** Only records appended with this key. */
  readonly key?: string;
  /** Only JSON records that match, e.g. `status = "open" and total > 10`. */
  readonly filter?: string;
}

/** Where a response ends and what is known there. */
export interface Position {
  readonly nextOffset: string;
  /** The response reached the tail as it was when the answer began. */
  readonly upToDate: boolean;
  /** The stream is closed and the response reached its end: nothing will follow. */
  readonly closed: boolean;
}

export interface ReadHeaders extends Position {
  readonly contentType: string;
  readonly json: boolean;
  readonly etag: string | null;
  /** Where the answer begins, when the request did not say it by an offset. */
  readonly startOffset: string | null;
  /** To be echoed on the next live request. */
  readonly cursor: string | null;
}

export function rangeQuery(range: ReadRange): URLSearchParams {
  const query = new URLSearchParams();
  if (range.offset !== undefined) query.set("offset", range.offset);
  if (range.from !== undefined) query.set("from", range.from);
  if (range.tail !== undefined) query.set("tail", String(range.tail));
  if (range.key !== undefined) query.set("key", range.key);
  if (range.filter !== undefined) query.set("filter", range.filter);
  return query;
}

/** The query of a plain read. `asFrames`: its body is asked for packed, to be unpacked here. */
export function catchUpQuery(range: ReadRange, asFrames: boolean): URLSearchParams {
  const query = rangeQuery(range);
  if (asFrames) query.set("encoding", "zstd");
  return query;
}

/** Whether a body is the stream's bytes packed in zstd frames; then another header names the stream's type. */
export function isFramed(headers: Headers): boolean {
  return headers.has(FRAMED_TYPE);
}

const FRAMED_TYPE = "stream-content-type";

export function readHeaders(response: Response): Result<ReadHeaders, BrokenAnswer> {
  const headers = response.headers;
  const nextOffset = headers.get("stream-next-offset");
  if (nextOffset === null) {
    // Nobody will read it; that it cannot be given up any more is no news.
    response.body?.cancel().catch(() => undefined);
    return Result.err(notAStream(response.url, "has no Stream-Next-Offset header"));
  }
  const contentType = headers.get(FRAMED_TYPE) ?? headers.get("content-type") ?? OCTET_STREAM;
  return Result.ok({
    nextOffset,
    upToDate: isTrue(headers, "stream-up-to-date"),
    closed: isTrue(headers, "stream-closed"),
    contentType,
    json: isJson(contentType),
    etag: headers.get("etag"),
    startOffset: headers.get("stream-start-offset"),
    cursor: headers.get("stream-cursor"),
  });
}

export function isTrue(headers: Headers, name: string): boolean {
  return headers.get(name)?.toLowerCase() === "true";
}

export function notAStream(url: string, what: string): BrokenAnswer {
  return new BrokenAnswer({
    message: `the answer from ${url} ${what}`,
    hint: "the URL seems to belong to another kind of server; streams live under /v1/stream/",
    url,
  });
}

export function damaged(url: string, how: string): BrokenAnswer {
  return new BrokenAnswer({
    message: `the answer from ${url} is damaged: ${how}`,
    hint: "read it again; when it is damaged again, run streams-server doctor on the server",
    url,
  });
}
