/**
 * `live=sse` (PROTOCOL §5.8): every data event is followed by a control event. The body is pulled: the next chunk is read when
 * the socket has taken the last one. Connections end after a minute, at closure and at shutdown, each with a control
 * event that says where to go on.
 */

import type { Engine } from "../../engine/engine.ts";
import { type ReadPlan, selectsAll } from "../../engine/reader.ts";
import { RecordsGone } from "../../protocol/faults.ts";
import { cdnCursor } from "../../protocol/caching.ts";
import { isSseText } from "../../protocol/content-type.ts";
import { SSE_GRACE_MS, SSE_HEARTBEAT_MS, SSE_LIFETIME_JITTER, SSE_LIFETIME_MS } from "../../protocol/limits.ts";
import { offsetAt } from "../../protocol/offset.ts";
import {
  encodeControlEvent,
  encodeDataEvent,
  SSE_COMMENT,
  type SseControl,
  type SseEncoding,
} from "../../protocol/sse-frame.ts";
import { joinBytes } from "../../kit/bytes.ts";
import { type Exchange, type HeaderMap, reportFault, respond, respondRejection } from "../context.ts";
import type { ReadQuery } from "../routes/read-query.ts";
import type { SharedFrames } from "../shared-frames.ts";
import { admitLive, advance, parkedOrChanged, tooManyLive } from "./follow.ts";

export function serverSentEvents(exchange: Exchange, start: ReadPlan, wanted: ReadQuery): Response {
  const { engine, request, timeouts, frames } = exchange;
  if (!admitLive(engine, start.id)) return respondRejection(exchange, tooManyLive);
  timeouts?.timeout(request, 0);
  const encoding: SseEncoding = start.json ? "json" : isSseText(start.contentType) ? "text" : "base64";
  const headers: HeaderMap = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
  };
  if (encoding === "base64") headers["Stream-SSE-Data-Encoding"] = "base64";
  const events = followEvents({ engine, frames, encoding, cursor: wanted.cursor, signal: request.signal }, start);
  let open = true;
  const end = (): void => {
    if (!open) return;
    open = false;
    overdue.cancel();
    engine.liveRequests.give(1);
  };
  let controller: ReadableStreamDefaultController<Uint8Array> | null = null;
  // A body is only pulled while its reader reads: who stalls past the lifetime is cut off, and goes on from its offset.
  const overdue = engine.deadlines.after(SSE_LIFETIME_MS + SSE_GRACE_MS, () => {
    end();
    controller?.error(new Error("the reader of live=sse has stalled"));
    exchange.counters.stalled.add();
    events.return(undefined).catch((cause: unknown) => reportFault(exchange, `live=sse of ${start.name}`, cause));
  });
  const body = new ReadableStream<Uint8Array>(
    {
      start(own) {
        controller = own;
      },
      async pull(own) {
        try {
          const next = await events.next();
          if (!open) return;
          if (next.done !== true) return own.enqueue(next.value);
          end();
          own.close();
        } catch (cause) {
          end();
          reportFault(exchange, `live=sse of ${start.name}`, cause);
          own.error(cause);
        }
      },
      async cancel() {
        end();
        await events.return(undefined);
      },
    },
    { highWaterMark: 0 },
  );
  return respond(exchange, 200, headers, body);
}

interface Follower {
  readonly engine: Engine;
  readonly frames: SharedFrames;
  readonly encoding: SseEncoding;
  readonly cursor: string | null;
  readonly signal: AbortSignal;
}

/** Frames of one connection, until it has to end. */
async function* followEvents(follower: Follower, start: ReadPlan): AsyncGenerator<Uint8Array, void> {
  const { engine, signal } = follower;
  // Readers that came together do not all come back together.
  const endMs = engine.clock.monotonicMs() + SSE_LIFETIME_MS * (1 - SSE_LIFETIME_JITTER * engine.random());
  let plan = start;
  if (plan.from === plan.to) yield control(follower, plan);
  for (;;) {
    while (plan.from < plan.to) {
      const step = await stepOrEnd(engine, plan);
      if (step === null) return;
      yield frame(follower, plan, step);
      plan = step.rest;
      if (signal.aborted) return;
    }
    const leftMs = endMs - engine.clock.monotonicMs();
    if (plan.closed || leftMs <= 0 || engine.closing) return;
    const wake = await parkedOrChanged(engine, plan, Math.min(SSE_HEARTBEAT_MS, leftMs), signal);
    if (wake === "aborted") return;
    const next = await advance(engine, plan);
    if ("kind" in next) return;
    const isQuiet = wake === "timeout" && next.to === plan.to && next.closed === plan.closed;
    plan = next;
    if (isQuiet && leftMs > SSE_HEARTBEAT_MS) yield SSE_COMMENT;
    else if (plan.from === plan.to) yield control(follower, plan);
    if (wake === "closing") return;
  }
}

type Step = Awaited<ReturnType<Engine["reader"]["step"]>>;

/** Null when the records went away under the reader: it reconnects and hears why. */
async function stepOrEnd(engine: Engine, plan: ReadPlan): Promise<Step | null> {
  try {
    return await engine.reader.step(plan);
  } catch (cause) {
    if (cause instanceof RecordsGone) return null;
    throw cause;
  }
}

/** A data event and its control event; only the control when a key filter left nothing. */
function frame(follower: Follower, plan: ReadPlan, { parts, rest }: Step): Uint8Array {
  if (parts.length === 0) return control(follower, rest);
  const encode = (): Uint8Array => encodeDataEvent(parts, follower.encoding, offsetAt(rest.lineage, rest.from));
  const shared = selectsAll(plan) && rest.from === rest.to;
  const event = shared ? follower.frames.get(plan.id, plan.from, rest.from, encode) : encode();
  return joinBytes([event, control(follower, rest)]);
}

function control({ engine, cursor }: Follower, plan: ReadPlan): Uint8Array {
  const event: { -readonly [K in keyof SseControl]: SseControl[K] } = {
    streamNextOffset: offsetAt(plan.lineage, plan.from),
  };
  const upToDate = plan.from === plan.to;
  if (upToDate && plan.closed) event.streamClosed = true;
  else event.streamCursor = cdnCursor(engine.clock.nowMs(), cursor, engine.random());
  if (upToDate) event.upToDate = true;
  return encodeControlEvent(event);
}
