/**
 * `GET /v1/stream/{name}`: catch-up reads (PROTOCOL §5.6); live reads go on in `http/live`. A catch-up is one response: its
 * headers are fixed when it is planned, its body is pulled from storage chunk by chunk, as fast as the client reads.
 */

import type { ReadPlan } from "../../engine/reader.ts";
import { RecordsGone } from "../../protocol/faults.ts";
import { cacheControlOf, etagOf, matchesEtag } from "../../protocol/caching.ts";
import { negotiateCoding } from "../content-coding.ts";
import { type Exchange, respond, respondProblem, respondRejection } from "../context.ts";
import { isProblem } from "../errors.ts";
import { whyGone } from "../live/follow.ts";
import { longPoll } from "../live/long-poll.ts";
import { respondClosing, serverSentEvents } from "../live/sse.ts";
import { factsOf, respondPlan } from "../plan-response.ts";
import { parseReadQuery, type ReadQuery } from "./read-query.ts";
import { offsetAt } from "../../protocol/offset.ts";
import { planHeaders } from "./stream-headers.ts";

const ZSTD_TYPE = "application/zstd";

export async function read(exchange: Exchange): Promise<Response> {
  const { engine, query } = exchange;
  const wanted = parseReadQuery(query, exchange.request.headers, engine.clock.nowMs());
  if (isProblem(wanted)) return respondProblem(exchange, wanted);
  if (wanted.live !== "no" && engine.closing) return respondClosing(exchange);
  for (let isAgain = false; ; isAgain = true) {
    const head = await engine.find(exchange.name, "read");
    if ("kind" in head) return respondRejection(exchange, head);
    const plan = await engine.reader.plan(head, wanted.start, wanted);
    if ("kind" in plan) return respondRejection(exchange, plan);
    const response = await answer(exchange, plan, wanted);
    if (response !== null) return response;
    // Planned anew, it is refused, or begins where records are kept now.
    if (isAgain) return respondRejection(exchange, await whyGone(engine, plan));
  }
}

/** Null when retention or a deletion took the records between plan and answer. */
async function answer(exchange: Exchange, plan: ReadPlan, wanted: ReadQuery): Promise<Response | null> {
  try {
    switch (wanted.live) {
      case "no":
        return await catchUp(exchange, plan, wanted);
      case "long-poll":
        return await longPoll(exchange, plan, wanted);
      case "sse":
        return serverSentEvents(exchange, plan, wanted);
    }
  } catch (cause) {
    if (cause instanceof RecordsGone) return null;
    throw cause;
  }
}

async function catchUp(exchange: Exchange, plan: ReadPlan, wanted: ReadQuery): Promise<Response> {
  const { headers: asked } = exchange.request;
  const coding = wanted.asFrames ? "zstd" : negotiateCoding(asked.get("accept-encoding"), plan);
  const headers = planHeaders(plan);
  // Whoever is cut off can ask for the same again.
  if (wanted.start.kind !== "offset") headers["Stream-Start-Offset"] = offsetAt(plan.lineage, plan.from);
  const facts = factsOf(plan, wanted, coding);
  headers["Cache-Control"] = cacheControlOf(facts);
  if (!wanted.asFrames) headers["Vary"] = "Accept-Encoding";
  const etag = etagOf(facts);
  if (etag !== null) {
    headers["ETag"] = etag;
    const known = asked.get("if-none-match");
    if (known !== null && matchesEtag(known, etag)) return respond(exchange, 304, headers);
  }
  if (wanted.asFrames) {
    headers["Content-Type"] = ZSTD_TYPE;
    headers["Stream-Content-Type"] = plan.contentType;
  } else if (coding === "zstd") headers["Content-Encoding"] = "zstd";
  return respondPlan(exchange, plan, headers, coding);
}
