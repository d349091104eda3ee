/** `live=long-poll` (PROTOCOL §5.7): answers at once when there are records, else parks until there are, or 204. */

import type { ReadPlan } from "../../engine/reader.ts";
import { cdnCursor, etagOf } from "../../protocol/caching.ts";
import {
  completeHead,
  type Exchange,
  type HeaderMap,
  headVariant,
  holdOpen,
  letGo,
  respond,
  respondProblem,
  respondRejection,
  respondUnder,
} from "../context.ts";
import type { ReadQuery } from "../routes/read-query.ts";
import { describeBody, factsOf, respondPlan, wholeBody } from "../plan-response.ts";
import { planHeaders } from "../routes/stream-headers.ts";
import { advance, findMatch, tooManyLive } from "./follow.ts";
import type { LiveStep } from "./tail-feed.ts";
import { waitAtTail } from "./tail-wait.ts";

export async function longPoll(exchange: Exchange, start: ReadPlan, wanted: ReadQuery): Promise<Response> {
  const { engine, request, options, followers } = exchange;
  if (!followers.admit(start.id)) return respondRejection(exchange, tooManyLive);
  try {
    const held = holdOpen(exchange);
    if (held !== null) return respondProblem(exchange, held);
    const endMs = engine.clock.monotonicMs() + options.longPollTimeoutMs;
    let plan = start;
    for (;;) {
      const found = await findMatch(engine, plan, request.signal);
      if (found !== null) return await answerRecords(exchange, found, wanted);
      plan = { ...plan, from: plan.to };
      const leftMs = plan.closed ? 0 : endMs - engine.clock.monotonicMs();
      const waited = leftMs <= 0 ? null : await waitAtTail(followers, plan, leftMs, request.signal);
      if (waited !== null) {
        if (waited.step !== null) return await answerStep(exchange, waited.step, wanted);
        plan = waited.plan;
      }
      const next = await advance(engine, plan);
      if ("kind" in next) return respondRejection(exchange, next);
      plan = next;
      const isOver = plan.closed || engine.closing || waited?.why !== "left";
      if (isOver && plan.from === plan.to) return respond(exchange, 204, liveHeaders(exchange, plan, wanted));
    }
  } finally {
    letGo(exchange);
    followers.closed(start.id);
  }
}

/** What came while it waited: the same bytes, and mostly the same head, for all that waited with it. */
function answerStep(exchange: Exchange, step: LiveStep, wanted: ReadQuery): Response | Promise<Response> {
  const { from, parts, rest } = step;
  const plan = { ...rest, from };
  // More than one chunk has come: the others are read for each, as its socket takes them.
  if (rest.from < rest.to) return answerRecords(exchange, plan, wanted);
  const body = step.bytes.get("body", () => wholeBody({ json: plan.json, coding: "identity" }, parts));
  const headers = (): HeaderMap => completeHead(exchange, describeBody(plan, recordHeaders(exchange, plan, wanted)));
  const variant = headVariant(exchange);
  if (variant === null) return respondUnder(exchange, 200, headers(), body);
  const key = `${variant} ${factsOf(plan, wanted).fixed} ${wanted.cursor}`;
  return respondUnder(
    exchange,
    200,
    step.heads.get(key, () => new Headers(headers())),
    body,
  );
}

function answerRecords(exchange: Exchange, plan: ReadPlan, wanted: ReadQuery): Promise<Response> {
  return respondPlan(exchange, plan, recordHeaders(exchange, plan, wanted));
}

function recordHeaders(exchange: Exchange, plan: ReadPlan, wanted: ReadQuery): HeaderMap {
  const headers = liveHeaders(exchange, plan, wanted);
  const etag = etagOf(factsOf(plan, wanted));
  if (etag !== null) headers["ETag"] = etag;
  return headers;
}

function liveHeaders(exchange: Exchange, plan: ReadPlan, wanted: ReadQuery): HeaderMap {
  const headers = planHeaders(plan);
  headers["Cache-Control"] = "no-store";
  if (!plan.closed)
    headers["Stream-Cursor"] = cdnCursor(exchange.engine.clock.nowMs(), wanted.cursor, exchange.engine.random());
  return headers;
}
