/**
 * The events of one `live=sse` answer as deliveries: data events are held until the control event behind them says where
 * they end, so an answer that breaks between the two delivers nothing that would come again.
 */

import { utf8 } from "../kit/bytes.ts";
import {
  fromBase64,
  jsonFields,
  MAX_VALUE_BYTES,
  noticeDelivery,
  outline,
  type PlacedDelivery,
  splitWhole,
} from "./delivery.ts";
import { notAStream } from "./reading.ts";
import { SseParser } from "./sse-parser.ts";

export interface SseStep {
  readonly delivery: PlacedDelivery;
  /** To be echoed on the next live request. */
  readonly cursor: string | null;
}

interface SseFormat {
  readonly json: boolean;
  /** As `Stream-SSE-Data-Encoding` says. */
  readonly encoding: string | null;
  /** For messages. */
  readonly url: string;
}

/** Ends with the pieces, or with the stream. Throws what the pieces throw, and `BrokenAnswer`. */
export async function* sseSteps(
  pieces: AsyncIterable<Uint8Array>,
  { json, encoding, url }: SseFormat,
): AsyncGenerator<SseStep, void> {
  const parser = new SseParser(MAX_VALUE_BYTES);
  let parts: Uint8Array[] = [];
  for await (const piece of pieces) {
    for (const { type, data } of outline(() => parser.push(piece), url)) {
      if (type === "data") parts.push(encoding === "base64" ? fromBase64(data.replaceAll("\n", "")) : utf8(data));
      if (type === "lagged" || type === "gap") {
        yield { delivery: noticeDelivery(type, jsonFields(data, `a ${type} event`, url), url), cursor: null };
      }
      if (type !== "control") continue;
      const { streamNextOffset, streamCursor, upToDate, streamClosed } = jsonFields(data, "a control event", url);
      if (typeof streamNextOffset !== "string") throw notAStream(url, "has a control event without streamNextOffset");
      if (json) parts = parts.flatMap((array) => splitWhole(array, url));
      const closed = streamClosed === true;
      const delivery = {
        parts: parts.filter((part) => part.length > 0),
        nextOffset: streamNextOffset,
        upToDate: upToDate === true || closed,
        closed,
      };
      yield { delivery, cursor: typeof streamCursor === "string" ? streamCursor : null };
      parts = [];
      if (closed) return;
    }
  }
}
