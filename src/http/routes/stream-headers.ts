/** Headers that describe a stream or a read of it; shared by the routes that answer with them. */

import { mediaType } from "../../protocol/content-type.ts";
import { formatRetention, keepsAll } from "../../protocol/retention.ts";
import type { ReadPlan } from "../../engine/reader.ts";
import { offsetAt } from "../../protocol/offset.ts";
import { lineageOf, type StreamHead } from "../../protocol/stream.ts";
import type { HeaderMap } from "../context.ts";

/** Metadata of a stream, as HEAD answers it. */
export function headHeaders(head: StreamHead): HeaderMap {
  const { contentType, expiry } = head.config;
  const headers: HeaderMap = {
    "Content-Type": contentType,
    "Stream-Next-Offset": offsetAt(lineageOf(head), head.next),
    "Cache-Control": "no-store",
  };
  if (expiry.kind === "ttl") headers["Stream-TTL"] = String(expiry.seconds);
  if (expiry.kind === "at") headers["Stream-Expires-At"] = expiry.raw;
  if (!keepsAll(head.retention)) headers["Stream-Retention"] = formatRetention(head.retention);
  if (head.closed) headers["Stream-Closed"] = "true";
  return headers;
}

/** Where a read that delivers `plan` whole leaves the client. */
export function planHeaders(plan: ReadPlan): HeaderMap {
  const headers: HeaderMap = { "Stream-Next-Offset": offsetAt(plan.lineage, plan.to), "Stream-Up-To-Date": "true" };
  if (plan.closed) headers["Stream-Closed"] = "true";
  return headers;
}

/** What a browser shows, plays or saves without running any of it, whatever its parameters say. */
const INERT =
  /^(?:application\/(?:json|octet-stream)|text\/(?:plain|csv)|image\/(?:png|jpeg|gif|webp|avif)|(?:audio|video)\/.+)$/;

/**
 * Stored bytes must not act in this origin when they are opened directly. Types that run are many (markup, scripts, multipart with
 * markup inside) and get more: those that do not are named instead.
 */
export function guardActiveContent(headers: HeaderMap, contentType: string): void {
  if (INERT.test(mediaType(contentType) ?? "")) return;
  headers["Content-Security-Policy"] = "sandbox; default-src 'none'";
  headers["Content-Disposition"] = "attachment";
}
