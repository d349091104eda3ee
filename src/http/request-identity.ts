/**
 * How a request is named in logs, errors and traces: by the id and the `traceparent` that its client sent, else by an id of ours.
 * Both are hostile text until they passed here; what does not match is ignored, never an error.
 */

const REQUEST_ID = /^[\w.:/+=-]{1,128}$/;
/** W3C Trace Context, version 00: no all-zero ids. */
const TRACEPARENT = /^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$/;

export function requestIdIn(headers: Headers): string | null {
  const sent = headers.get("x-request-id");
  return sent !== null && REQUEST_ID.test(sent) ? sent : null;
}

export function traceparentIn(headers: Headers): string | null {
  const sent = headers.get("traceparent");
  return sent !== null && TRACEPARENT.test(sent) ? sent : null;
}

/** Ids that no two requests of one process share, and hardly those of two processes. */
export function requestIds(random: () => number): () => string {
  const prefix = Math.floor(random() * 36 ** 6)
    .toString(36)
    .padStart(6, "0");
  let made = 0;
  return () => `${prefix}-${(++made).toString(36)}`;
}
