/**
 * Everything that can go wrong between a client and a server, as three tagged errors. The server said no (`Refused`),
 * it could not be reached or the connection broke (`Unreachable`), or it answered something that is not the protocol
 * (`BrokenAnswer`). Branch on `_tag`, `status` and `code`, never on the message.
 */

import { TaggedError } from "better-result";
import { isJsonObject, type JsonObject, parseJson } from "../kit/json-object.ts";

/** The server understood and said no. `code` is the server's own word, e.g. `stream-not-found`. */
export class Refused extends TaggedError("Refused")<{
  readonly status: number;
  readonly code: string;
  readonly message: string;
  readonly hint: string | null;
  readonly url: string;
  /** How long the server asks to wait before the next try. */
  readonly retryAfterMs: number | null;
  /** Where the stream's tail is, when the answer says so (closed stream, failed `If-Match`). */
  readonly nextOffset: string | null;
  readonly closed: boolean;
  /** The producer epoch the server knows (403), and the producer seq it expected next (409). */
  readonly producerEpoch: number | null;
  readonly expectedSeq: number | null;
  /** The error object of the server's answer, as it came; empty when there is none. */
  readonly details: JsonObject;
}> {}

/** No answer: connection refused, broken or silent. An append without a producer may or may not have been stored. */
export class Unreachable extends TaggedError("Unreachable")<{
  readonly message: string;
  readonly hint: string | null;
  readonly url: string;
  readonly cause: unknown;
}> {}

/** The answer does not follow the protocol: most often the URL belongs to another kind of server. */
export class BrokenAnswer extends TaggedError("BrokenAnswer")<{
  readonly message: string;
  readonly hint: string | null;
  readonly url: string;
}> {}

/** Whether a server of ours said it, and not a gateway in front of it. */
export function isOfServer({ code }: Refused): boolean {
  return !code.startsWith(FOREIGN);
}

export type StreamError = Refused | Unreachable | BrokenAnswer;

export function isStreamError(value: unknown): value is StreamError {
  return Refused.is(value) || Unreachable.is(value) || BrokenAnswer.is(value);
}

/** Codes of answers that are not the server's begin so. */
const FOREIGN = "http-";
const MAX_ERROR_BODY_CHARS = 2_000;

/** Turns an error answer into `Refused`. Bodies that are not the server's JSON (a proxy's page) are quoted, shortened. */
export function refusal(response: Response, body: string, nowMs: number): Refused {
  const details = errorObjectIn(body);
  const told = readError(details) ?? (body === "" ? WITHOUT_BODY[response.status] : null);
  const headers = response.headers;
  return new Refused({
    status: response.status,
    code: told?.code ?? `${FOREIGN}${response.status}`,
    message: told?.message ?? (body.trim().slice(0, MAX_ERROR_BODY_CHARS) || defaultMessage(response)),
    hint: told?.hint ?? null,
    url: response.url,
    retryAfterMs: parseRetryAfter(headers.get("retry-after"), nowMs),
    nextOffset: headers.get("stream-next-offset"),
    closed: headers.get("stream-closed")?.toLowerCase() === "true",
    producerEpoch: integerHeader(headers, "producer-epoch"),
    expectedSeq: integerHeader(headers, "producer-expected-seq"),
    details,
  });
}

/** `Retry-After` in milliseconds from now: whole seconds or an HTTP date; null when absent or unreadable. */
export function parseRetryAfter(value: string | null, nowMs: number): number | null {
  if (value === null) return null;
  if (/^\d{1,9}$/.test(value.trim())) return Number(value) * 1000;
  const atMs = Date.parse(value);
  return Number.isNaN(atMs) ? null : Math.max(0, atMs - nowMs);
}

export function integerHeader(headers: Headers, name: string): number | null {
  const value = headers.get(name);
  return value !== null && /^\d{1,16}$/.test(value) ? Number(value) : null;
}

interface ErrorBody {
  readonly code: string;
  readonly message: string;
  readonly hint: string | null;
}

function errorObjectIn(body: string): JsonObject {
  const parsed = body.trimStart().startsWith("{") ? parseJson(body) : null;
  const error = isJsonObject(parsed) ? parsed["error"] : null;
  return isJsonObject(error) ? error : {};
}

function readError({ code, message, hint }: JsonObject): ErrorBody | null {
  if (typeof code !== "string" || typeof message !== "string") return null;
  return { code, message, hint: typeof hint === "string" ? hint : null };
}

/** HEAD is answered without a body; these say what its status means for a stream. */
const WITHOUT_BODY: Readonly<Record<number, ErrorBody>> = {
  401: { code: "unauthenticated", message: "the server asks for credentials", hint: null },
  403: { code: "forbidden", message: "these credentials do not allow it", hint: null },
  404: { code: "not-found", message: "no such stream; create it first", hint: null },
  410: { code: "gone", message: "the stream was deleted; its records only live on in forks", hint: null },
};

function defaultMessage(response: Response): string {
  return `the server answered ${response.status} ${response.statusText}`.trimEnd();
}
