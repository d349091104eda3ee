/**
 * `GET /v1/stream/{name}`: catch-up reads (PROTOCOL §5.6); live reads go on in `http/live`. A catch-up is one response: its
 * headers are fixed when it is planned, its body is pulled from storage chunk by chunk, as fast as the client reads.
 */

import type { ReadPlan } from "../../engine/reader.ts";
import { cacheControlOf, etagOf, matchesEtag } from "../../protocol/caching.ts";
import { type Exchange, respond, respondProblem, respondRejection } from "../context.ts";
import { isProblem } from "../errors.ts";
import { longPoll } from "../live/long-poll.ts";
import { serverSentEvents } from "../live/sse.ts";
import { factsOf, respondPlan } from "../plan-response.ts";
import { parseReadQuery, type ReadQuery } from "./read-query.ts";
import { planHeaders } from "./stream-headers.ts";

export async function read(exchange: Exchange): Promise<Response> {
  const { engine, query } = exchange;
  const wanted = parseReadQuery(query, exchange.request.headers, engine.clock.nowMs());
  if (isProblem(wanted)) return respondProblem(exchange, wanted);
  if (wanted.live !== "no" && engine.closing) return respondRejection(exchange, { kind: "closing" });
  const head = await engine.find(exchange.name, "read");
  if ("kind" in head) return respondRejection(exchange, head);
  const plan = await engine.reader.plan(head, wanted.start, wanted);
  if ("kind" in plan) return respondRejection(exchange, plan);
  switch (wanted.live) {
    case "no":
      return catchUp(exchange, plan, wanted);
    case "long-poll":
      return longPoll(exchange, plan, wanted);
    case "sse":
      return serverSentEvents(exchange, plan, wanted);
  }
}

async function catchUp(exchange: Exchange, plan: ReadPlan, wanted: ReadQuery): Promise<Response> {
  const headers = planHeaders(plan);
  const facts = factsOf(plan, wanted);
  headers["Cache-Control"] = cacheControlOf(facts);
  const etag = etagOf(facts);
  if (etag !== null) {
    headers["ETag"] = etag;
    const known = exchange.request.headers.get("if-none-match");
    if (known !== null && matchesEtag(known, etag)) return respond(exchange, 304, headers);
  }
  return respondPlan(exchange, plan, headers);
}
