/**
 * What the server says on a WebSocket (docs/websocket.md), read: which subscription it is about, and the delivery that it is.
 * Values of JSON streams stay the bytes they are: parsing and writing them again would change numbers and spelling.
 */

import { utf8 } from "../kit/bytes.ts";
import { fromBase64, jsonFields, noticeDelivery, type PlacedDelivery, splitWhole } from "./delivery.ts";
import { notAStream } from "./reading.ts";

/** One message. */
export interface Said {
  readonly type: string;
  /** The subscription that it is about; empty when it is about none. */
  readonly id: string;
  /** All of it but `records`. */
  readonly fields: Readonly<Record<string, unknown>>;
  /** The text of `records`, an array. */
  readonly records: string | null;
  /** Length of the whole message. */
  readonly chars: number;
}

/** Cannot stand inside a string, where quotes are escaped; the server writes this field last. */
const RECORDS_FIELD = ',"records":';

/** @throws BrokenAnswer when it is no message. */
export function readSaid(text: string, url: string): Said {
  const at = text.indexOf(RECORDS_FIELD);
  const fields = jsonFields(at < 0 ? text : `${text.slice(0, at)}}`, "a message", url);
  const { type, id } = fields;
  if (typeof type !== "string") throw notAStream(url, "has a message without a type");
  const records = at < 0 ? null : text.slice(at + RECORDS_FIELD.length, -1);
  return { type, id: typeof id === "string" ? id : "", fields, records, chars: text.length };
}

/** The step that a message about a subscription is. @throws BrokenAnswer when it does not say where it stands. */
export function saidDelivery(said: Said, json: boolean, url: string): PlacedDelivery {
  const { type, fields } = said;
  if (type === "lagged" || type === "gap") return noticeDelivery(type, fields, url);
  const { offset } = fields;
  if (typeof offset !== "string") throw notAStream(url, "has a message without an offset");
  const closed = fields["closed"] === true || type === "unsubscribed";
  return {
    parts: partsOf(said, json, url),
    nextOffset: offset,
    upToDate: closed || fields["upToDate"] === true,
    closed,
  };
}

function partsOf({ fields, records }: Said, json: boolean, url: string): Uint8Array[] {
  if (records !== null) return splitWhole(utf8(records), url);
  const { text, base64 } = fields;
  if (typeof text === "string") return [utf8(text)];
  if (typeof base64 !== "string") return [];
  const bytes = fromBase64(base64);
  return json ? splitWhole(bytes, url) : [bytes];
}
