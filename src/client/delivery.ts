/**
 * One step of a followed stream, however it came: over long-poll, server-sent events or a WebSocket. Owns what those have in
 * common: bytes from base64, whole JSON arrays cut into their values, and the server's notices about the delivery itself.
 */

import { JsonArrayError, JsonArraySplitter } from "./json-array-splitter.ts";
import { notAStream } from "./reading.ts";

/** One step forward. */
export interface Delivery {
  /** JSON streams: the raw bytes of each value. Other streams: bytes, cut anywhere. */
  readonly parts: readonly Uint8Array[];
  /** Where to resume after these parts; null inside a long response, whose end alone has an offset. */
  readonly nextOffset: string | null;
  readonly upToDate: boolean;
  readonly closed: boolean;
  /** The server's word about the delivery; such a step has no parts. */
  readonly notice?: Notice;
}

/**
 * `lagged`: this reader was too slow for `ms`; the records between the offsets follow, all of them.
 * `gap`: only with `overflow: "drop-oldest"`; the `count` records between the offsets will not come.
 */
export type Notice =
  | { readonly kind: "lagged"; readonly fromOffset: string; readonly toOffset: string; readonly ms: number }
  | { readonly kind: "gap"; readonly fromOffset: string; readonly toOffset: string; readonly count: number };

/** A step whose place is known: what was delivered before it, and with it, is never asked for again. */
export interface PlacedDelivery extends Delivery {
  readonly nextOffset: string;
}

/** Longest JSON value and longest SSE event this client takes into memory. */
export const MAX_VALUE_BYTES = 256 * 1024 * 1024;

/** The step that a notice is; `fields` are as the server sent them. */
export function noticeDelivery(
  kind: Notice["kind"],
  fields: Readonly<Record<string, unknown>>,
  url: string,
): PlacedDelivery {
  const { fromOffset, toOffset, ms, count } = fields;
  if (typeof fromOffset !== "string" || typeof toOffset !== "string") {
    throw notAStream(url, `has a ${kind} notice without its offsets`);
  }
  const range = { fromOffset, toOffset };
  const notice: Notice = kind === "gap" ? { kind, ...range, count: Number(count) } : { kind, ...range, ms: Number(ms) };
  // What is skipped is behind the reader; what it lagged for is still to come.
  const nextOffset = kind === "gap" ? toOffset : fromOffset;
  return { parts: [], nextOffset, upToDate: false, closed: false, notice };
}

/** The values of one whole JSON array. */
export function splitWhole(array: Uint8Array, url: string): Uint8Array[] {
  return outline(() => {
    const splitter = new JsonArraySplitter(MAX_VALUE_BYTES);
    const values = splitter.push(array);
    splitter.end();
    return values;
  }, url);
}

/** Runs a splitter or parser; a broken outline means the answer is not what its content type says. */
export function outline<T>(split: () => T, url: string): T {
  try {
    return split();
  } catch (cause) {
    if (cause instanceof JsonArrayError) throw notAStream(url, `is not a JSON array: ${cause.message}`);
    throw cause instanceof RangeError ? notAStream(url, `is too long: ${cause.message}`) : cause;
  }
}

/** The fields of a JSON object; throws when the text is none. */
export function jsonFields(text: string, what: string, url: string): Record<string, unknown> {
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (cause) {
    throw cause instanceof SyntaxError ? notAStream(url, `has ${what} that is not JSON`) : cause;
  }
  if (typeof value === "object" && value !== null) return value as Record<string, unknown>;
  throw notAStream(url, `has ${what} that is no object`);
}

/** What the types of applications need not know yet. */
interface NewerBytes {
  readonly fromBase64?: (text: string) => Uint8Array;
}

/** Node before 25 and older browsers have no `Uint8Array.fromBase64`. */
export function fromBase64(text: string): Uint8Array {
  const { fromBase64: native } = Uint8Array as NewerBytes;
  if (native !== undefined) return native.call(Uint8Array, text);
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
}
