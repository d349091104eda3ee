/**
 * `live=sse` (PROTOCOL §5.8): every data event is followed by a control event. The body is pulled: what comes next is asked for
 * when the socket has taken the last frame. Connections end after a minute, at closure and at shutdown, each with a control
 * event that says where to go on.
 */

import type { ReadPlan } from "../../engine/reader.ts";
import type { Deadline } from "../../kit/deadlines.ts";
import { cdnCursor } from "../../protocol/caching.ts";
import { isSseText } from "../../protocol/content-type.ts";
import {
  SSE_GRACE_MS,
  SSE_HEARTBEAT_MS,
  SSE_LIFETIME_JITTER,
  SSE_LIFETIME_MS,
  SSE_RETRY_MS,
} from "../../protocol/limits.ts";
import { offsetAt } from "../../protocol/offset.ts";
import {
  encodeControlEvent,
  encodeDataEvent,
  encodeNotice,
  encodeRetry,
  SSE_COMMENT,
  type SseControl,
  type SseEncoding,
} from "../../protocol/sse-frame.ts";
import { joinBytes } from "../../kit/bytes.ts";
import { type Exchange, type HeaderMap, reportFault, respond, respondRejection } from "../context.ts";
import type { ReadQuery } from "../routes/read-query.ts";
import type { LiveClient } from "./clients.ts";
import type { Follower, LiveItem } from "./follower.ts";
import type { LiveStep } from "./tail-feed.ts";

export function serverSentEvents(exchange: Exchange, start: ReadPlan, wanted: ReadQuery): Response {
  const follower = exchange.followers.open(start, wanted.overflow);
  if ("kind" in follower) return respondRejection(exchange, follower);
  exchange.server?.timeout(exchange.request, 0);
  const encoding: SseEncoding = start.json ? "json" : isSseText(start.contentType) ? "text" : "base64";
  const headers: HeaderMap = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-cache, no-transform",
    "X-Accel-Buffering": "no",
  };
  if (encoding === "base64") headers["Stream-SSE-Data-Encoding"] = "base64";
  const connection = new SseConnection(exchange, follower, encoding, wanted.cursor);
  return respond(exchange, 200, headers, new ReadableStream(connection, { highWaterMark: 0 }));
}

/** One connection, from its head to its end; the source of its body. */
class SseConnection {
  readonly #exchange: Exchange;
  readonly #follower: Follower;
  readonly #encoding: SseEncoding;
  readonly #cursor: string | null;
  readonly #client: LiveClient;
  readonly #endMs: number;
  #controller: ReadableStreamDefaultController<Uint8Array> | null = null;
  #beat: Deadline;
  #sentMs: number;
  /** Its reader asks for more, and there is nothing yet. */
  #waits = false;
  #begun = false;
  /** Goes before the first frame. */
  #head: Uint8Array | null;
  #open = true;

  constructor(exchange: Exchange, follower: Follower, encoding: SseEncoding, cursor: string | null) {
    const { engine, clients } = exchange;
    this.#exchange = exchange;
    this.#follower = follower;
    this.#encoding = encoding;
    this.#cursor = cursor;
    this.#sentMs = engine.clock.monotonicMs();
    this.#head = encodeRetry(SSE_RETRY_MS * (1 + 2 * engine.random()));
    // Readers that came together do not all come back together.
    this.#endMs = this.#sentMs + SSE_LIFETIME_MS * (1 - SSE_LIFETIME_JITTER * engine.random());
    this.#client = clients.open({ kind: "sse", subscriptions: () => [[follower.plan.name, follower]], cut: this.#cut });
    this.#beat = this.#beatAfter(SSE_HEARTBEAT_MS);
  }

  start(controller: ReadableStreamDefaultController<Uint8Array>): void {
    this.#controller = controller;
  }

  async pull(): Promise<void> {
    this.#client.taken();
    const { plan } = this.#follower;
    if (!this.#begun) {
      this.#begun = true;
      if (plan.from === plan.to) return this.#send(this.#control(plan));
    }
    if (this.#exchange.engine.clock.monotonicMs() >= this.#endMs) return this.#finish(true);
    try {
      for (;;) {
        this.#waits = true;
        await this.#follower.ready();
        this.#waits = false;
        if (!this.#open) return;
        const item = this.#follower.takeHeld() ?? (await this.#follower.take());
        if (!this.#open) return;
        if (item === null) continue;
        return item.kind === "end" ? this.#finish(item.why?.kind === "closing") : this.#send(this.#frame(item));
      }
    } catch (cause) {
      reportFault(this.#exchange, `live=sse of ${plan.name}`, cause);
      this.#fail(cause);
    }
  }

  cancel(): void {
    this.#close();
  }

  #send(frame: Uint8Array): void {
    this.#sentMs = this.#client.sent();
    this.#controller?.enqueue(this.#head === null ? frame : joinBytes([this.#head, frame]));
    this.#head = null;
  }

  /** The regular end. `tell`: also where to go on, in case that the last frame did not. */
  #finish(tell: boolean): void {
    if (tell) this.#send(this.#control(this.#follower.plan));
    this.#close();
    this.#controller?.close();
  }

  #fail(cause: unknown): void {
    this.#close();
    this.#controller?.error(cause);
  }

  #cut = (): void => {
    this.#exchange.counters.stalled.add();
    this.#fail(new Error("the reader of live=sse has stalled"));
  };

  #close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#beat.cancel();
    this.#follower.stop();
    this.#client.close();
  }

  #beatAfter(ms: number): Deadline {
    return this.#exchange.engine.deadlines.after(ms, this.#onBeat);
  }

  /** What a connection does by itself: a comment when it is quiet, and its end. */
  #onBeat = (): void => {
    const nowMs = this.#exchange.engine.clock.monotonicMs();
    // A body is only pulled while its reader reads: who stalls past the lifetime is cut off, and goes on from its offset.
    if (nowMs >= this.#endMs) {
      if (this.#waits) return this.#finish(true);
      if (nowMs >= this.#endMs + SSE_GRACE_MS) return this.#cut();
      this.#beat = this.#beatAfter(Math.min(SSE_HEARTBEAT_MS, this.#endMs + SSE_GRACE_MS - nowMs));
      return;
    }
    let quietMs = nowMs - this.#sentMs;
    if (this.#waits && quietMs >= SSE_HEARTBEAT_MS) {
      this.#controller?.enqueue(SSE_COMMENT);
      this.#sentMs = nowMs;
      quietMs = 0;
    }
    const nextMs = this.#waits ? SSE_HEARTBEAT_MS - quietMs : SSE_HEARTBEAT_MS;
    this.#beat = this.#beatAfter(Math.min(nextMs, this.#endMs - nowMs));
  };

  #frame(item: Exclude<LiveItem, { kind: "end" }>): Uint8Array {
    if (item.kind === "step") return this.#step(item);
    const { kind, ...facts } = item;
    return encodeNotice(kind, facts, this.#follower.offset);
  }

  /** A data event and its control event; only the control when a selection left nothing. */
  #step(step: LiveStep): Uint8Array {
    if (this.#cursor === null) return step.bytes.get(this.#encoding, () => this.#encode(step, this.#nextCursor()));
    const cursor = this.#nextCursor();
    return step.bytes.get(`${this.#encoding} ${cursor}`, () => this.#encode(step, cursor));
  }

  #encode({ parts, rest }: LiveStep, cursor: string): Uint8Array {
    const control = this.#control(rest, cursor);
    if (parts.length === 0) return control;
    return joinBytes([encodeDataEvent(parts, this.#encoding, offsetAt(rest.lineage, rest.from)), control]);
  }

  #nextCursor(): string {
    const { clock, random } = this.#exchange.engine;
    return cdnCursor(clock.nowMs(), this.#cursor, random());
  }

  #control(plan: ReadPlan, cursor = this.#nextCursor()): Uint8Array {
    const event: { -readonly [K in keyof SseControl]: SseControl[K] } = {
      streamNextOffset: offsetAt(plan.lineage, plan.from),
    };
    const upToDate = plan.from === plan.to;
    if (upToDate && plan.closed) event.streamClosed = true;
    else event.streamCursor = cursor;
    if (upToDate) event.upToDate = true;
    return encodeControlEvent(event);
  }
}
