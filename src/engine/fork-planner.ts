/**
 * Where a fork branches off (PROTOCOL §4.2): from the source's offset and sub-offset to a seq, checked against durable
 * records only, which never change. In JSON streams a sub-offset counts messages of the one append at the anchor; in
 * byte streams it cuts the record at the anchor, whose first bytes become the fork's first own record.
 */

import { isJson } from "../protocol/content-type.ts";
import type { ForkPlan } from "../protocol/intents.ts";
import { MAX_FORK_DEPTH } from "../protocol/limits.ts";
import { type Lineage, type LineageSegment, offsetAt, parseOffset, resolveOffset } from "../protocol/offset.ts";
import { isExpired, lineageOf } from "../protocol/stream.ts";
import type { Rejection } from "../protocol/verdicts.ts";
import type { StreamStore } from "../storage/port.ts";

export interface ForkWish {
  readonly sourceName: string;
  readonly offset: string | null;
  readonly subOffset: number;
}

export async function planFork(
  store: StreamStore,
  wish: ForkWish,
  nowMs: number,
): Promise<ForkPlan | { readonly rejection: Rejection }> {
  const source = await store.catalog.byName(wish.sourceName);
  if (source === undefined) return { rejection: { kind: "fork-source-missing" } };
  if (source.deletion !== "none") return { rejection: { kind: "fork-source-gone" } };
  if (isExpired(source, nowMs)) return { rejection: { kind: "fork-source-missing" } };
  const lineage = lineageOf(source);
  const anchor = wish.offset === null ? source.next : resolveAnchor(lineage, wish.offset);
  if (typeof anchor !== "number") return { rejection: anchor };
  if (lineage.length >= MAX_FORK_DEPTH) return invalid(`forks are at most ${MAX_FORK_DEPTH} deep`);
  const base = {
    sourceId: source.id,
    contentType: source.config.contentType,
    expiry: source.config.expiry,
    tailOffset: offsetAt(lineage, source.next),
  };
  if (wish.subOffset === 0) return { ...base, at: anchor, inherited: cutLineage(lineage, anchor), prefix: null };
  if (anchor >= source.next) return invalid("a sub-offset needs a record after the fork offset");
  if (isJson(source.config.contentType)) {
    const at = anchor + wish.subOffset;
    if (at > (await appendEnd(store, lineage, anchor)))
      return invalid("the sub-offset is past the append at the fork offset");
    return { ...base, at, inherited: cutLineage(lineage, at), prefix: null };
  }
  const record = await readRecord(store, lineage, anchor);
  if (wish.subOffset > record.length) return invalid("the sub-offset is past the append at the fork offset");
  if (wish.subOffset === record.length)
    return { ...base, at: anchor + 1, inherited: cutLineage(lineage, anchor + 1), prefix: null };
  return { ...base, at: anchor, inherited: cutLineage(lineage, anchor), prefix: record.slice(0, wish.subOffset) };
}

function resolveAnchor(lineage: Lineage, offset: string): number | Rejection {
  const token = parseOffset(offset);
  if (token === null || token.kind === "now")
    return { kind: "fork-invalid", reason: "Stream-Fork-Offset is not an offset" };
  const position = resolveOffset(lineage, token);
  if (position.kind === "seq") return position.seq;
  const reason = position.kind === "invalid" ? position.reason : "the offset belongs to a former stream of that name";
  return { kind: "fork-invalid", reason };
}

/** The source's lineage up to `at`. */
function cutLineage(lineage: Lineage, at: number): LineageSegment[] {
  const cut: LineageSegment[] = [];
  for (const segment of lineage) {
    cut.push({ ...segment, to: Math.min(segment.to, at) });
    if (segment.to >= at) break;
  }
  return cut;
}

function holding(lineage: Lineage, seq: number): LineageSegment | undefined {
  return lineage.find((segment) => seq < segment.to);
}

async function appendEnd(store: StreamStore, lineage: Lineage, seq: number): Promise<number> {
  const segment = holding(lineage, seq);
  if (segment === undefined) return seq;
  return Math.min(segment.to, await store.log.appendEnd(segment.epoch, seq));
}

async function readRecord(store: StreamStore, lineage: Lineage, seq: number): Promise<Uint8Array> {
  const segment = holding(lineage, seq);
  if (segment === undefined) return new Uint8Array();
  const { parts } = await store.log.read({ id: segment.epoch, from: seq, to: seq + 1, maxBytes: 1, key: null });
  return parts[0] ?? new Uint8Array();
}

function invalid(reason: string): { readonly rejection: Rejection } {
  return { rejection: { kind: "fork-invalid", reason } };
}
