/**
 * Reading requests defensively: target, Host, Origin and headers are hostile until they passed here. Parsers return
 * a value or an `HttpProblem`, never throw.
 */

import { MAX_CONTENT_TYPE_BYTES, MAX_KEY_BYTES, MAX_PRODUCER_ID_BYTES } from "../protocol/limits.ts";
import type { ProducerClaim } from "../protocol/stream.ts";
import { badRequest, type HttpProblem } from "./errors.ts";

/**
 * A header costs nothing to send: were it believed whole, a few of them a second would make the server refuse everybody. What a
 * larger body really brings is counted as it arrives.
 */
const MAX_ANNOUNCED_BYTES = 1024 * 1024;

const HOST = /^(\[[0-9a-fA-F:.]{2,45}\]|[A-Za-z0-9._-]{1,253})(:\d{1,5})?$/;
const LOOPBACK_HOST = /^(localhost|127(\.\d{1,3}){3}|\[::1\])(:\d{1,5})?$/i;

/** Path and query of a request, without trusting `new URL`: a bad Host makes it throw. */
export function splitTarget(url: string): { readonly path: string; readonly search: string } {
  const scheme = url.indexOf("://");
  const start = scheme < 0 ? 0 : url.indexOf("/", scheme + 3);
  if (start < 0) return { path: "/", search: "" };
  const mark = url.indexOf("?", start);
  return mark < 0
    ? { path: url.slice(start), search: "" }
    : { path: url.slice(start, mark), search: url.slice(mark + 1) };
}

/** The Host header, or why it is refused. `publicHost`: the host of --public-url, valid besides loopback names. */
export function checkHost(request: Request, loopbackOnly: boolean, publicHost: string | null): string | HttpProblem {
  const host = request.headers.get("host");
  if (host === null || !HOST.test(host)) return badRequest("host-invalid", "the request needs one valid Host header");
  if (loopbackOnly && host !== publicHost && !namesThisMachine(host)) {
    return {
      status: 403,
      code: "host-refused",
      message:
        "this server answers on loopback names only; start it with --public-url or authentication to change that",
    };
  }
  return host;
}

/** Whether a browser page of another origin may send this request; null or the value for Access-Control-Allow-Origin. */
export function checkOrigin(
  request: Request,
  host: string,
  allowed: "*" | readonly string[],
): string | null | HttpProblem {
  const origin = request.headers.get("origin");
  if (origin === null) return null;
  if (allowed === "*") return "*";
  if (allowed.includes(origin)) return origin;
  const safe = request.method === "GET" || request.method === "HEAD" || request.method === "OPTIONS";
  return safe || isSameOrigin(origin, host) ? null : originRefused;
}

/** Whether a Host that passed `checkHost` names this machine: only then may a link be built from it. */
export function namesThisMachine(host: string): boolean {
  return LOOPBACK_HOST.test(host);
}

/** Whether a page with this Origin came from this server itself. */
export function isSameOrigin(origin: string, host: string): boolean {
  return origin === `http://${host}` || origin === `https://${host}`;
}

export const originRefused: HttpProblem = {
  status: 403,
  code: "origin-refused",
  message: "pages of this origin may not write here; allow it with --cors-origin",
};

/** The one value of a query parameter; null when absent, a problem when repeated. */
export function oneParam(query: URLSearchParams, name: string): string | null | HttpProblem {
  const value = query.get(name);
  if (value === null || query.getAll(name).length === 1) return value;
  return badRequest("parameter-repeated", `the parameter '${name}' is given more than once`);
}

/** Whether a browser's `EventSource` asks, which always says so. To it any status but 200 is an end for good. */
export function isEventSource(request: Request): boolean {
  return request.method === "GET" && request.headers.get("accept")?.includes("text/event-stream") === true;
}

/** `Stream-Closed: true` in any case; every other value counts as absent (PROTOCOL §4.1). */
export function wantsClose(headers: Headers): boolean {
  return headers.get("stream-closed")?.toLowerCase() === "true";
}

export function parseKey(headers: Headers): string | null | HttpProblem {
  const key = headers.get("stream-key");
  if (key === null) return null;
  return isUtf8Header(key) ? badRequest("key-invalid", notLatin1("Stream-Key")) : checkKey(key);
}

/**
 * Headers are Latin-1, as `fetch` sends them and Bun reads them. What `curl` sends of `ü` is two other characters then, and the key that is
 * meant would never be found: what can be read in both ways is refused.
 */
export function isUtf8Header(value: string): boolean {
  if (!/[\x80-\xff]/.test(value)) return false;
  const bytes = Buffer.from(value, "latin1");
  return Buffer.from(bytes.toString()).equals(bytes);
}

export function notLatin1(header: string): string {
  return `${header} was sent as UTF-8, but headers are Latin-1; send it as that, or over a WebSocket, or in ASCII`;
}

export function checkKey(key: string): string | HttpProblem {
  if (key.length === 0 || !key.isWellFormed() || new TextEncoder().encode(key).length > MAX_KEY_BYTES) {
    return badRequest("key-invalid", `a record key has 1 to ${MAX_KEY_BYTES} bytes of UTF-8`);
  }
  return key;
}

export function contentTypeOf(headers: Headers): string | null | HttpProblem {
  const contentType = headers.get("content-type");
  if (contentType === null || contentType.trim() === "") return null;
  if (contentType.length > MAX_CONTENT_TYPE_BYTES) {
    return badRequest("content-type-invalid", `a content type has at most ${MAX_CONTENT_TYPE_BYTES} characters`);
  }
  return contentType;
}

/** Bodies are stored as they come, and served later without a word of their coding. */
export function codingOf(headers: Headers): HttpProblem | null {
  const coding = headers.get("content-encoding")?.trim().toLowerCase() ?? "";
  return coding === "" || coding === "identity" ? null : codedBody;
}

const codedBody: HttpProblem = {
  status: 415,
  code: "content-encoding-unsupported",
  message: "a body is stored as it comes; send it as it is, without Content-Encoding",
  headers: { "Accept-Encoding": "identity" },
};

const WHOLE_NUMBER = /^\d{1,16}$/;

/** `Producer-Id`, `Producer-Epoch`, `Producer-Seq`: all or none (PROTOCOL §5.2.1). */
export function parseProducer(headers: Headers): ProducerClaim | null | HttpProblem {
  const id = headers.get("producer-id");
  const epoch = headers.get("producer-epoch");
  const seq = headers.get("producer-seq");
  if (id === null && epoch === null && seq === null) return null;
  if (id === null || epoch === null || seq === null) {
    return badRequest("producer-incomplete", "send Producer-Id, Producer-Epoch and Producer-Seq together");
  }
  if (isUtf8Header(id)) return badRequest("producer-invalid", notLatin1("Producer-Id"));
  return checkProducer({ id, epoch: wholeNumber(epoch), seq: wholeNumber(seq) });
}

export function checkProducer({ id, epoch, seq }: ProducerClaim): ProducerClaim | HttpProblem {
  if (id === "" || id.length > MAX_PRODUCER_ID_BYTES || !id.isWellFormed()) {
    return badRequest("producer-invalid", `Producer-Id has 1 to ${MAX_PRODUCER_ID_BYTES} characters`);
  }
  for (const value of [epoch, seq]) {
    if (Number.isSafeInteger(value) && value >= 0) continue;
    return badRequest("producer-invalid", "Producer-Epoch and Producer-Seq are whole numbers up to 2^53 - 1");
  }
  return { id, epoch, seq };
}

function wholeNumber(text: string): number {
  return WHOLE_NUMBER.test(text) ? Number(text) : NaN;
}

/** What the body of a request will be, as far as its header says and is believed. */
export function announcedBytes(headers: Headers): number {
  const declared = Number(headers.get("content-length") ?? 0);
  return declared > 0 ? Math.min(declared, MAX_ANNOUNCED_BYTES) : 0;
}

export function tooLarge(maxBytes: number): HttpProblem {
  return { status: 413, code: "body-too-large", message: `one body has at most ${maxBytes} bytes; split it` };
}
