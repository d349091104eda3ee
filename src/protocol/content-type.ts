/**
 * Content types as the protocol compares them: lower-cased media type without parameters. Pure.
 */

export const OCTET_STREAM = "application/octet-stream";
const MEDIA_TYPE = /^[a-z0-9!#$%&'*+.^_`|~-]+\/[a-z0-9!#$%&'*+.^_`|~-]+$/;

/** Answers by header value: the same few are asked several times per request. Cleared when hostile variety fills it. */
const known = new Map<string, string | null>();
const MAX_KNOWN = 1_000;

/** `Application/JSON; charset=utf-8` → `application/json`; null when it is no media type. */
export function mediaType(contentType: string): string | null {
  const remembered = known.get(contentType);
  if (remembered !== undefined) return remembered;
  const type = parseMediaType(contentType);
  if (known.size >= MAX_KNOWN) known.clear();
  known.set(contentType, type);
  return type;
}

function parseMediaType(contentType: string): string | null {
  const bare = (contentType.split(";", 1)[0] ?? "").trim().toLowerCase();
  return MEDIA_TYPE.test(bare) ? bare : null;
}

/** JSON mode: records are JSON values (PROTOCOL §7.1). */
export function isJson(contentType: string): boolean {
  return mediaType(contentType) === "application/json";
}

/** Whether SSE carries the bytes as text; every other type travels as base64 (PROTOCOL §5.8). */
export function isSseText(contentType: string): boolean {
  const type = mediaType(contentType);
  return type !== null && (type.startsWith("text/") || type === "application/json");
}
