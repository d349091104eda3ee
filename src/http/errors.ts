/**
 * From verdicts to responses: one table, which does not compile when a kind is missing. Also the refusals that HTTP itself
 * makes before any rule is asked. Error bodies are `{"error":{"code","message"}}`; codes are stable, messages are not.
 */

import { Damage, DiskFull, RecordsGone } from "../protocol/faults.ts";
import { MAX_JSON_DEPTH, MAX_PRODUCERS_PER_STREAM, MAX_RECORDS_PER_APPEND } from "../protocol/limits.ts";
import type { Rejection, RejectionKind } from "../protocol/verdicts.ts";

/** A request that HTTP refuses by itself. */
export interface HttpProblem {
  readonly status: number;
  readonly code: string;
  readonly message: string;
  readonly headers?: Readonly<Record<string, string>>;
}

type Renderer<K extends RejectionKind> = (rejection: Extract<Rejection, { kind: K }>) => Omit<HttpProblem, "code">;
type Table = { readonly [K in RejectionKind]: Renderer<K> };

const plain = (status: number, message: string, headers?: Record<string, string>) => (): Omit<HttpProblem, "code"> =>
  headers === undefined ? { status, message } : { status, message, headers };

const TABLE: Table = {
  "json-invalid": ({ reason }) => ({ status: 400, message: `the body is not valid JSON: ${reason}` }),
  "json-too-deep": plain(400, `the JSON is nested deeper than ${MAX_JSON_DEPTH} levels`),
  "record-invalid": ({ index, reason }) => ({ status: 400, message: `record ${index} of the append: ${reason}` }),
  "append-too-large": ({ maxBytes }) => ({
    status: 413,
    message: `one append to a stream with this profile has at most ${maxBytes} bytes; split it`,
  }),
  "stream-internal": plain(403, "the server writes this stream itself; it can be read, followed and deleted"),
  "too-many-records": plain(413, `one append holds at most ${MAX_RECORDS_PER_APPEND} records; split it`),
  "empty-array": plain(400, "an empty JSON array appends nothing; send at least one value"),
  "not-found": plain(404, "no such stream; create it with PUT"),
  gone: plain(410, "the stream was deleted; its records only live on in forks"),
  "name-taken": plain(409, "a deleted stream still holds this name for its forks; use another name"),
  "config-conflict": ({ field }) => ({ status: 409, message: `the stream exists with another ${field}` }),
  "stream-closed": ({ offset }) => ({
    status: 409,
    message: "the stream is closed; nothing can be appended any more",
    headers: { "Stream-Closed": "true", "Stream-Next-Offset": offset },
  }),
  "content-type-mismatch": ({ expected }) => ({ status: 409, message: `the stream's content type is ${expected}` }),
  "producer-stale-epoch": ({ epoch }) => ({
    status: 403,
    message: "another instance of this producer has taken over with a higher epoch",
    headers: { "Producer-Epoch": String(epoch) },
  }),
  "producer-epoch-start": plain(400, "a new producer epoch starts at Producer-Seq 0"),
  "producer-gap": ({ expected, received }) => ({
    status: 409,
    message: `expected Producer-Seq ${expected}, received ${received}; send the missing ones first`,
    headers: { "Producer-Expected-Seq": String(expected), "Producer-Received-Seq": String(received) },
  }),
  "too-many-producers": plain(
    429,
    `a stream remembers at most ${MAX_PRODUCERS_PER_STREAM} producers; reuse producer ids`,
  ),
  "stream-seq-regressed": ({ last }) => ({
    status: 409,
    message: `Stream-Seq must be greater than the last one, ${JSON.stringify(last)}`,
  }),
  "tail-moved": ({ offset }) => ({
    status: 412,
    message: "the tail is not at the offset in If-Match; read on from there and decide again",
    headers: { "Stream-Next-Offset": offset },
  }),
  "offset-invalid": ({ reason }) => ({ status: 400, message: reason }),
  "filter-needs-json": plain(400, "a filter looks into JSON records; this stream holds another type"),
  "offset-gone": plain(410, "the offset belongs to a former stream of this name; read from the start"),
  "offset-trimmed": ({ earliest }) => ({
    status: 410,
    message: "retention has trimmed the records at this offset; read on from the earliest one",
    headers: { "Stream-Earliest-Offset": earliest },
  }),
  "fork-source-missing": plain(404, "the stream in Stream-Forked-From does not exist"),
  "fork-source-gone": plain(409, "the stream in Stream-Forked-From was deleted"),
  "fork-invalid": ({ reason }) => ({ status: 400, message: reason }),
  "header-unsupported": ({ header }) => ({
    status: 400,
    message: `${header} says nothing to a stream with this profile; leave it out`,
  }),
  overloaded: ({ reason }) => ({ status: 429, message: `${reason}; try again`, headers: { "Retry-After": "1" } }),
  "disk-full": plain(507, "the disk is nearly full; appends resume when space is free", { "Retry-After": "10" }),
  "storage-full": plain(
    507,
    "the server holds as much as it may; appends resume when streams are deleted or trimmed, or --max-stored is raised",
    { "Retry-After": "10" },
  ),
  closing: plain(503, "the server is shutting down", { "Retry-After": "2" }),
};

/** What a client hears about a verdict. */
export function describeRejection(rejection: Rejection): HttpProblem {
  const render = TABLE[rejection.kind] as Renderer<RejectionKind>;
  return { code: rejection.kind, ...render(rejection) };
}

/** What a client hears of something that was thrown. Only what has the status 500 is for the log. */
export function describeFault(cause: unknown): HttpProblem {
  // Deleted or trimmed while it was worked out: whoever comes again hears which.
  if (cause instanceof RecordsGone) return describeRejection({ kind: "overloaded", reason: "what was read has gone" });
  if (cause instanceof DiskFull) return describeRejection({ kind: "disk-full" });
  if (cause instanceof Damage) return { status: 500, code: cause.code, message: cause.message };
  return { status: 500, code: "internal", message: "the server failed to answer; its log says why" };
}

export function badRequest(code: string, message: string): HttpProblem {
  return { status: 400, code, message };
}

/** Parsers return a value or a problem; this tells them apart. */
export function isProblem(value: unknown): value is HttpProblem {
  return typeof value === "object" && value !== null && "status" in value && "code" in value;
}
