/** `HEAD` and `DELETE` of a stream, and `PUT …/_retention`. */

import { parseRetention } from "../../protocol/retention.ts";
import { isInternal } from "../../protocol/stream.ts";
import { type Exchange, respond, respondProblem, respondRejection } from "../context.ts";
import { retentionInvalid } from "./create.ts";
import { headHeaders } from "./stream-headers.ts";

/** Looking does not slide a TTL (PROTOCOL §5.5). */
export async function headOf(exchange: Exchange): Promise<Response> {
  const head = await exchange.engine.find(exchange.name, "look");
  return "kind" in head ? respondRejection(exchange, head) : respond(exchange, 200, headHeaders(head));
}

export async function remove(exchange: Exchange): Promise<Response> {
  const outcome = await exchange.engine.delete(exchange.name);
  return outcome.kind === "rejected" ? respondRejection(exchange, outcome.rejection) : respond(exchange, 204, {});
}

export async function setRetention(exchange: Exchange): Promise<Response> {
  const retention = parseRetention(exchange.request.headers.get("stream-retention") ?? "");
  if (retention === null) return respondProblem(exchange, retentionInvalid);
  const head = await exchange.engine.find(exchange.name, "look");
  if ("kind" in head) return respondRejection(exchange, head);
  if (isInternal(head)) return respondRejection(exchange, { kind: "stream-internal" });
  const outcome = await exchange.engine.retain(exchange.name, retention);
  return outcome.kind === "rejected" ? respondRejection(exchange, outcome.rejection) : respond(exchange, 204, {});
}
