/** Server-level routes: `/health`, `/health/clients`, `/ready`, `/metrics` and `GET /v1/streams`. */

import { DEFAULT_LIST_LIMIT, MAX_LIST_LIMIT, MAX_NAME_BYTES } from "../../protocol/limits.ts";
import { allowsEvery } from "../../protocol/grants.ts";
import { isInternal } from "../../protocol/stream.ts";
import { type Exchange, respond, respondJson, respondProblem } from "../context.ts";
import { EXPOSITION_TYPE, renderExposition } from "../exposition.ts";
import { badRequest, describeRejection, type HttpProblem, isProblem } from "../errors.ts";
import { oneParam } from "../request-parts.ts";
import { describeStream } from "./details.ts";

/** Alive, and, where nobody is asked who they are, figures of the parts. Always 200 while the process can answer. */
export function health(exchange: Exchange): Response {
  const { engine, principal } = exchange;
  const status = engine.closing ? "closing" : "ok";
  if (!allowsEvery(principal.grants, "read", "")) return respondJson(exchange, 200, { status });
  return respondJson(exchange, 200, {
    status,
    storage: engine.status(),
    bodyBytesInFlight: engine.bodyBytes.used,
    liveRequests: engine.liveRequests.used,
    waiters: engine.waiters.size,
  });
}

/** Whether to send traffic here, and all that speaks against it: shutting down, or work would be refused. */
export function ready(exchange: Exchange): Response {
  const reasons = exchange.engine.refusals().map(describeRejection);
  const [first] = reasons;
  if (first === undefined) return respondJson(exchange, 200, { status: "ready" });
  const said = reasons.map(({ code, message }) => ({ code, message }));
  exchange.counters.refused(first.code);
  return respondJson(exchange, 503, { error: said[0], reasons: said }, { ...first.headers });
}

/** Live connections, oldest first: how far each is behind, and whether its socket takes what it is sent. */
export async function liveClients(exchange: Exchange): Promise<Response> {
  const limit = parseLimit(exchange.query);
  if (isProblem(limit)) return respondProblem(exchange, limit);
  const cursor = oneParam(exchange.query, "cursor");
  if (isProblem(cursor)) return respondProblem(exchange, cursor);
  if (cursor !== null && !/^c\d{1,15}$/.test(cursor)) return respondProblem(exchange, clientCursorInvalid);
  const { clients, next } = await exchange.clients.page(cursor, limit);
  return respondJson(exchange, 200, { clients, cursor: next });
}

const clientCursorInvalid = badRequest("cursor-invalid", "cursor is the one from the page before");

/** The registry in the Prometheus text format. */
export function metrics(exchange: Exchange): Response {
  const headers = { "Content-Type": EXPOSITION_TYPE, "Cache-Control": "no-store" };
  return respond(exchange, 200, headers, renderExposition(exchange.engine.metrics));
}

export async function listStreams(exchange: Exchange): Promise<Response> {
  const { query, engine } = exchange;
  const prefix = oneParam(query, "prefix");
  if (isProblem(prefix)) return respondProblem(exchange, prefix);
  const cursor = oneParam(query, "cursor");
  if (isProblem(cursor)) return respondProblem(exchange, cursor);
  const limit = parseLimit(query);
  if (isProblem(limit)) return respondProblem(exchange, limit);
  const after = cursor === null ? "" : decodeCursor(cursor);
  const foreign = after === null || (cursor !== null && !after.startsWith(prefix ?? ""));
  if (foreign) return respondProblem(exchange, cursorInvalid);
  const internal = oneParam(query, "internal");
  if (isProblem(internal)) return respondProblem(exchange, internal);
  if (internal !== null && internal !== "true" && internal !== "false") {
    return respondProblem(exchange, badRequest("internal-invalid", "internal is true or false"));
  }
  const heads = await engine.list({ prefix: prefix ?? "", after, limit });
  // A page may hold fewer than asked for: its cursor goes on all the same.
  const shown = internal === "true" ? heads : heads.filter((head) => !isInternal(head));
  const last = heads.length === limit ? heads[heads.length - 1] : undefined;
  return respondJson(exchange, 200, {
    streams: await Promise.all(shown.map(async (head) => describeStream(head, await engine.reader.earliest(head)))),
    cursor: last === undefined ? null : encodeCursor(last.config.name),
  });
}

function parseLimit(query: URLSearchParams): number | HttpProblem {
  const text = oneParam(query, "limit");
  if (text === null || isProblem(text)) return text ?? DEFAULT_LIST_LIMIT;
  const limit = /^\d{1,6}$/.test(text) ? Number(text) : 0;
  if (limit >= 1 && limit <= MAX_LIST_LIMIT) return limit;
  return badRequest("limit-invalid", `limit is a number from 1 to ${MAX_LIST_LIMIT}`);
}

const cursorInvalid = badRequest("cursor-invalid", "cursor is the one from the page before, with the same prefix");

/** The last name of the page before, as URL-safe base64. */
function encodeCursor(name: string): string {
  return new TextEncoder().encode(name).toBase64({ alphabet: "base64url" });
}

function decodeCursor(cursor: string): string | null {
  if (cursor === "" || cursor.length > 2 * MAX_NAME_BYTES) return null;
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(Uint8Array.fromBase64(cursor, { alphabet: "base64url" }));
  } catch {
    // Not base64 or not UTF-8: a cursor that we never gave out, which the caller answers with 400.
    return null;
  }
}
