/**
 * Stream names: from a raw URL path to a validated name and back. A name is the part after
 * `/v1/stream/`, percent-decoded once; slashes are part of it. Pure.
 */

import { MAX_NAME_BYTES } from "./limits.ts";

export const STREAM_PREFIX = "/v1/stream/";

export type NameResult = { readonly ok: true; readonly name: string } | { readonly ok: false; readonly reason: string };

/** Characters that break logs, headers or paths when echoed (controls, line separators), and U+10FFFF, the end of every prefix range. */
// eslint-disable-next-line no-control-regex
const FORBIDDEN = /[\u0000-\u001f\u007f-\u009f\u2028\u2029\ufffd]|\p{Surrogate}|\u{10ffff}/u;

/** Most names: nothing to decode, no segment that could mean another place. */
const PLAIN = /^[A-Za-z0-9_~-]+(?:[./][A-Za-z0-9_~-]+)*$/;

/** Decodes and checks the path after the prefix, e.g. `orders%2F7` or `orders/7` → `orders/7`. */
export function parseStreamName(rawPath: string): NameResult {
  if (rawPath.length <= MAX_NAME_BYTES && PLAIN.test(rawPath)) return { ok: true, name: rawPath };
  if (rawPath.length > 3 * MAX_NAME_BYTES) return tooLong;
  let name: string;
  try {
    name = decodeURIComponent(rawPath);
  } catch {
    return { ok: false, reason: "the path holds a percent-escape that is not UTF-8" };
  }
  return checkCharacters(name);
}

/** First segment of names that no client may use as a stream: control APIs, and what the server keeps (PROTOCOL §6). */
export const RESERVED = "__ds";

export function isReservedName(name: string): boolean {
  return name === RESERVED || name.startsWith(`${RESERVED}/`);
}

/** Checks a decoded name that is to be a stream's: as below, and not reserved. */
export function checkStreamName(name: string): NameResult {
  if (isReservedName(name)) return { ok: false, reason: `names below '${RESERVED}/' are reserved for control APIs` };
  return checkCharacters(name);
}

/** Not empty, bounded, no control characters, no empty, `.` or `..` segment. */
function checkCharacters(name: string): NameResult {
  if (name.length === 0) return { ok: false, reason: "the stream name is empty" };
  if (name.length > MAX_NAME_BYTES || byteLength(name) > MAX_NAME_BYTES) return tooLong;
  if (FORBIDDEN.test(name)) return { ok: false, reason: "the stream name holds a control or unpaired character" };
  for (const segment of name.split("/")) {
    if (segment === "" || segment === "." || segment === "..") {
      return { ok: false, reason: "the stream name has an empty, '.' or '..' segment" };
    }
  }
  return { ok: true, name };
}

/** The URL path of a name, each segment percent-encoded. */
export function streamPath(name: string): string {
  return STREAM_PREFIX + name.split("/").map(encodeURIComponent).join("/");
}

const tooLong: NameResult = { ok: false, reason: `the stream name is longer than ${MAX_NAME_BYTES} bytes` };

function byteLength(text: string): number {
  return new TextEncoder().encode(text).length;
}
