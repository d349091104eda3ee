/** `live=long-poll` (PROTOCOL §5.7): answers at once when there are records, else parks until there are, or 204. */

import type { ReadPlan } from "../../engine/reader.ts";
import type { Wake } from "../../engine/waiters.ts";
import { cdnCursor, etagOf } from "../../protocol/caching.ts";
import {
  type Exchange,
  type HeaderMap,
  holdOpen,
  letGo,
  respond,
  respondProblem,
  respondRejection,
} from "../context.ts";
import type { ReadQuery } from "../routes/read-query.ts";
import { factsOf, respondPlan } from "../plan-response.ts";
import { planHeaders } from "../routes/stream-headers.ts";
import { admitLive, advance, findMatch, parkedOrChanged, tooManyLive } from "./follow.ts";

export async function longPoll(exchange: Exchange, start: ReadPlan, wanted: ReadQuery): Promise<Response> {
  const { engine, request, options } = exchange;
  if (!admitLive(engine, start.id)) return respondRejection(exchange, tooManyLive);
  try {
    const held = holdOpen(exchange);
    if (held !== null) return respondProblem(exchange, held);
    const endMs = engine.clock.monotonicMs() + options.longPollTimeoutMs;
    let plan = start;
    for (;;) {
      const found = await findMatch(engine, plan, request.signal);
      if (found !== null) return await answerRecords(exchange, found, wanted);
      plan = { ...plan, from: plan.to };
      const leftMs = endMs - engine.clock.monotonicMs();
      const wake: Wake =
        plan.closed || leftMs <= 0 ? "timeout" : await parkedOrChanged(engine, plan, leftMs, request.signal);
      const next = await advance(engine, plan);
      if ("kind" in next) return respondRejection(exchange, next);
      plan = next;
      if (wake !== "changed" && plan.from === plan.to)
        return respond(exchange, 204, liveHeaders(exchange, plan, wanted));
      if (plan.closed && plan.from === plan.to) return respond(exchange, 204, liveHeaders(exchange, plan, wanted));
    }
  } finally {
    letGo(exchange);
    engine.liveRequests.give(1);
  }
}

async function answerRecords(exchange: Exchange, plan: ReadPlan, wanted: ReadQuery): Promise<Response> {
  const headers = liveHeaders(exchange, plan, wanted);
  const etag = etagOf(factsOf(plan, wanted));
  if (etag !== null) headers["ETag"] = etag;
  return respondPlan(exchange, plan, headers);
}

function liveHeaders(exchange: Exchange, plan: ReadPlan, wanted: ReadQuery): HeaderMap {
  const headers = planHeaders(plan);
  headers["Cache-Control"] = "no-store";
  if (!plan.closed)
    headers["Stream-Cursor"] = cdnCursor(exchange.engine.clock.nowMs(), wanted.cursor, exchange.engine.random());
  return headers;
}
