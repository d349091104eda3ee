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
import { LIVE_END_SECONDS } from "../../protocol/limits.ts";
import { offsetAt } from "../../protocol/offset.ts";
import type { Rejection } from "../../protocol/verdicts.ts";
import type { ReadQuery } from "../routes/read-query.ts";
import { describeBody, factsOf, respondPlan, wholeBody } from "../plan-response.ts";
import { planHeaders } from "../routes/stream-headers.ts";
import { advance, findMatch, tooManyLive } from "./follow.ts";
import type { LiveStep } from "./tail-feed.ts";
import { isLarge, waitAtTail } from "./tail-wait.ts";

const noRoom: Rejection = { kind: "overloaded", reason: "a large record came, and many are waiting for it" };

export async function longPoll(exchange: Exchange, start: ReadPlan, wanted: ReadQuery): Promise<Response> {
  const { engine, request, options, followers } = exchange;
  if (!followers.admit(start.id)) return respondRejection(exchange, tooManyLive);
  try {
    const held = holdOpen(exchange);
    if (held !== null) return respondProblem(exchange, held);
    const endMs = engine.clock.monotonicMs() + options.longPollTimeoutMs;
    let plan = start;
    for (;;) {
      const found = await findMatch(engine, plan, request.signal, endMs);
      if (found.isMatch) return await answerRecords(exchange, found.plan, wanted);
      plan = found.plan;
      if (plan.from < plan.to) return respond(exchange, 204, searchedHeaders(exchange, plan, wanted));
      const leftMs = plan.closed ? 0 : endMs - engine.clock.monotonicMs();
      const waited = leftMs <= 0 ? null : await waitAtTail(followers, plan, leftMs, request.signal);
      if (waited !== null) {
        if (waited.why === "crowded") return respondRejection(exchange, noRoom);
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
  const { room } = exchange.followers;
  // More than one chunk has come: the others are read for each, as its socket takes them.
  if (rest.from < rest.to) {
    if (isLarge(step)) room.give(step.size);
    return answerRecords(exchange, plan, wanted);
  }
  const body = step.bytes.get("body", () => wholeBody({ json: plan.json, coding: "identity" }, parts));
  const headers = (): HeaderMap => completeHead(exchange, describeBody(plan, recordHeaders(exchange, plan, wanted)));
  if (isLarge(step)) return respondUnder(exchange, 200, headers(), countedBody(exchange, body, step.size));
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

/** Given whole as one chunk; the next pull says that it was taken. Its room is given back once, whatever becomes of it. */
function countedBody(
  { server, request, followers: { room } }: Exchange,
  body: Uint8Array,
  bytes: number,
): ReadableStream<Uint8Array> {
  const { signal } = request;
  let held = bytes;
  let given = false;
  const end = (): void => {
    room.give(held);
    held = 0;
    signal.removeEventListener("abort", end);
  };
  // Who has gone never pulls.
  if (signal.aborted) end();
  else signal.addEventListener("abort", end);
  return new ReadableStream<Uint8Array>(
    {
      pull(controller) {
        if (!given) {
          given = true;
          // Others wait for the room of who does not take it.
          server?.timeout(request, LIVE_END_SECONDS);
          return controller.enqueue(body);
        }
        end();
        controller.close();
      },
      cancel: end,
    },
    { highWaterMark: 0 },
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
  return { ...planHeaders(plan), ...waitHeaders(exchange, plan, wanted) };
}

/** The time was over before the search for a record that is wanted: it goes on with the next request. */
function searchedHeaders(exchange: Exchange, plan: ReadPlan, wanted: ReadQuery): HeaderMap {
  const reached = { "Stream-Next-Offset": offsetAt(plan.lineage, plan.from) };
  return { ...reached, ...waitHeaders(exchange, { closed: false }, wanted) };
}

function waitHeaders({ engine }: Exchange, { closed }: Pick<ReadPlan, "closed">, { cursor }: ReadQuery): HeaderMap {
  const headers = { "Cache-Control": "no-store" };
  return closed ? headers : { ...headers, "Stream-Cursor": cdnCursor(engine.clock.nowMs(), cursor, engine.random()) };
}
