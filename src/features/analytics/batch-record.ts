/**
 * A batch as one record of its stream, and back. Events stand as they were sent, with their times and weights beside them. With zstd, events
 * and windows are one compressed text in base64; who they were is lost without it, but the counts are always there to be read.
 */

import { zstdDecompressSync } from "node:zlib";
import { isJsonObject } from "../../kit/json-object.ts";
import type { EventBatch } from "./batch-writer.ts";
import { partialJson, type PartialWindow, readPartial } from "./window-set.ts";

export const BATCH_TYPE = "analytics.batch";

/** Smaller than this, zstd and base64 gain nothing. */
const MIN_COMPRESSED_CHARS = 512;
/** What a batch may unfold to: 2 MiB of events and 1,000 windows of 20 kB, and room. */
const MAX_CONTENT_BYTES = 64 * 1024 * 1024;

export function encodeBatch(batch: EventBatch, compression: "none" | "zstd", atMs: number): string {
  const { number, events, windows, counts } = batch;
  const head = JSON.stringify({ type: BATCH_TYPE, batch: number, at: atMs, counts });
  const content = encodeContent(events, windows);
  if (compression === "none" || content.length < MIN_COMPRESSED_CHARS) return `${head.slice(0, -1)},${content}}`;
  const packed = Bun.zstdCompressSync(`{${content}}`).toBase64();
  return `${head.slice(0, -1)},"encoding":"zstd","content":"${packed}"}`;
}

function encodeContent(events: EventBatch["events"], windows: EventBatch["windows"]): string {
  const texts = events.map(({ json }) => json).join(",");
  const [first] = events;
  // Times as steps from the first one, weights only when one is not 1: short, and they compress well.
  const times = events.map(({ timestampMs }, at) => timestampMs - (at === 0 ? 0 : (events[at - 1]?.timestampMs ?? 0)));
  const weights = events.some(({ weight }) => weight !== 1) ? { weights: events.map(({ weight }) => weight) } : {};
  const beside = JSON.stringify({
    ...(first !== undefined && { times, ...weights }),
    windows: windows.map(partialJson),
  });
  return `"events":[${texts}],${beside.slice(1, -1)}`;
}

/** An event of a batch with what stood beside it. */
export interface BatchEvent {
  readonly event: unknown;
  readonly timestampMs: number;
  readonly weight: number;
}

export interface BatchContent {
  readonly events: readonly BatchEvent[];
  readonly windows: readonly PartialWindow[];
}

/** Null for a record that is no batch. */
export function decodeBatch(record: unknown): BatchContent | null {
  if (!isJsonObject(record) || record["type"] !== BATCH_TYPE) return null;
  const content = record["encoding"] === "zstd" ? unpack(record["content"]) : record;
  if (content === null) return null;
  const { events, times, weights, windows } = content;
  const partials = Array.isArray(windows) ? windows.map(readPartial).filter((part) => part !== null) : [];
  return { events: Array.isArray(events) ? readEvents(events, times, weights) : [], windows: partials };
}

function readEvents(events: readonly unknown[], times: unknown, weights: unknown): BatchEvent[] {
  let timestampMs = 0;
  return events.map((event, at) => {
    timestampMs += numberAt(times, at, 0);
    return { event, timestampMs, weight: numberAt(weights, at, 1) };
  });
}

function numberAt(values: unknown, at: number, otherwise: number): number {
  const value: unknown = Array.isArray(values) ? values[at] : undefined;
  return typeof value === "number" ? value : otherwise;
}

function unpack(packed: unknown): Readonly<Record<string, unknown>> | null {
  if (typeof packed !== "string") return null;
  try {
    const bytes = zstdDecompressSync(Uint8Array.fromBase64(packed), { maxOutputLength: MAX_CONTENT_BYTES });
    const content: unknown = JSON.parse(bytes.toString());
    return isJsonObject(content) ? content : null;
  } catch {
    // Not ours: a client may have written it before the stream had its profile.
    return null;
  }
}
