/** Steps of a followed stream as messages of a WebSocket. Pure, but for texts that are kept with the step and shared. */

import type { ReadPlan } from "../../engine/reader.ts";
import { joinBytes, utf8 } from "../../kit/bytes.ts";
import { isSseText } from "../../protocol/content-type.ts";
import { offsetAt } from "../../protocol/offset.ts";
import type { LiveStep } from "./tail-feed.ts";
import type { ViewFrame } from "./view-port.ts";

/** How the records of a stream travel. */
export type SocketEncoding = "json" | "text" | "bytes";

export function encodingOf({ json, contentType }: ReadPlan): SocketEncoding {
  return json ? "json" : isSseText(contentType) ? "text" : "bytes";
}

/** Where a reader of `plan` stands. */
export function placeOf(plan: ReadPlan): { offset: string; upToDate?: true; closed?: true } {
  const upToDate = plan.from === plan.to;
  return {
    offset: offsetAt(plan.lineage, plan.from),
    ...(upToDate ? { upToDate } : {}),
    ...(upToDate && plan.closed ? { closed: true } : {}),
  };
}

/** One message, the same text for all views of that id that are told the same. */
export function encodeView(id: string, { full, offset, records, texts }: ViewFrame): string {
  return texts.get(id, () => {
    const head = JSON.stringify({ type: "rows", id, offset, ...(full ? { full } : {}) }).slice(0, -1);
    return `${head},"changes":[${records}]}`;
  });
}

const strictUtf8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
const COMMA = 0x2c;

/** One message, the same text for all subscriptions of that id. */
export function encodeStep(id: string, encoding: SocketEncoding, { parts, rest, texts }: LiveStep): string {
  return texts.get(id, () => {
    const place = placeOf(rest);
    if (parts.length === 0) return JSON.stringify({ type: "position", id, ...place });
    const head = JSON.stringify({ type: "records", id, ...place }).slice(0, -1);
    const payload = joinBytes(parts, encoding === "json" ? COMMA : null);
    const text = encoding === "bytes" ? null : decode(payload);
    if (encoding === "json" && text !== null) return `${head},"records":[${text}]}`;
    if (text !== null) return `${head},"text":${JSON.stringify(text)}}`;
    const bytes = encoding === "json" ? joinBytes([utf8("["), payload, utf8("]")]) : payload;
    return `${head},"base64":"${bytes.toBase64()}"}`;
  });
}

/** Null when the bytes are not text, or end inside a character. */
function decode(bytes: Uint8Array): string | null {
  try {
    return strictUtf8.decode(bytes);
  } catch {
    // Sent as base64 instead: nothing of it may change on the way.
    return null;
  }
}
