/** `live=sse` (PROTOCOL §5.8): the records of a stream as server-sent events, every data event followed by a control event. */

import type { Engine } from "../../engine/engine.ts";
import type { ReadPlan } from "../../engine/reader.ts";
import { joinBytes } from "../../kit/bytes.ts";
import { cdnCursor } from "../../protocol/caching.ts";
import { isSseText } from "../../protocol/content-type.ts";
import { offsetAt } from "../../protocol/offset.ts";
import {
  encodeControlEvent,
  encodeDataEvent,
  encodeNotice,
  encodeRetry,
  type SseControl,
  type SseEncoding,
} from "../../protocol/sse-frame.ts";
import { type Exchange, respond, respondRejection } from "../context.ts";
import { isEventSource } from "../request-parts.ts";
import type { ReadQuery } from "../routes/read-query.ts";
import type { Subscriptions } from "./clients.ts";
import type { Follower } from "./follower.ts";
import { respondSse, type SseEnd, type SseSource } from "./sse-connection.ts";
import type { LiveStep } from "./tail-feed.ts";

export function serverSentEvents(exchange: Exchange, start: ReadPlan, wanted: ReadQuery): Response {
  const follower = exchange.followers.open(start, wanted.overflow);
  if ("kind" in follower) return respondRejection(exchange, follower);
  const encoding: SseEncoding = start.json ? "json" : isSseText(start.contentType) ? "text" : "base64";
  const source = new RecordEvents(exchange.engine, follower, encoding, wanted.cursor);
  return respondSse(exchange, source, encoding === "base64" ? { "Stream-SSE-Data-Encoding": "base64" } : {});
}

/** By then the port is closed, which an `EventSource` tries again, or another server has it. */
const CLOSING_RETRY_MS = 3_000;

/** To whom comes while the server shuts down. */
export function respondClosing(exchange: Exchange): Response {
  if (!isEventSource(exchange.request)) return respondRejection(exchange, { kind: "closing" });
  const headers = { "Content-Type": "text/event-stream", "Cache-Control": "no-store", Connection: "close" };
  return respond(exchange, 200, headers, encodeRetry(CLOSING_RETRY_MS));
}

/** What a follower is given, as frames. */
class RecordEvents implements SseSource {
  readonly #engine: Engine;
  readonly #follower: Follower;
  readonly #encoding: SseEncoding;
  readonly #cursor: string | null;

  constructor(engine: Engine, follower: Follower, encoding: SseEncoding, cursor: string | null) {
    this.#engine = engine;
    this.#follower = follower;
    this.#encoding = encoding;
    this.#cursor = cursor;
  }

  get name(): string {
    return this.#follower.plan.name;
  }

  greeting(): Uint8Array | null {
    const { plan } = this.#follower;
    return plan.from === plan.to ? this.position() : null;
  }

  ready(): Promise<void> {
    return this.#follower.ready();
  }

  takeNow(): Uint8Array | null {
    const held = this.#follower.takeHeld();
    return held === null ? null : this.#step(held);
  }

  async take(): Promise<Uint8Array | SseEnd | null> {
    const item = await this.#follower.take();
    if (item === null) return null;
    if (item.kind === "step") return this.#step(item);
    if (item.kind === "end") return { tell: item.why?.kind === "closing" };
    const { kind, ...facts } = item;
    return encodeNotice(kind, facts, this.#follower.offset);
  }

  position(): Uint8Array {
    return this.#control(this.#follower.plan, this.#nextCursor());
  }

  subscriptions(): Subscriptions {
    return [[this.name, this.#follower]];
  }

  holdsRoom(): boolean {
    return this.#follower.holdsRoom;
  }

  stop(): void {
    this.#follower.stop();
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
    const { clock, random } = this.#engine;
    return cdnCursor(clock.nowMs(), this.#cursor, random());
  }

  #control(plan: ReadPlan, cursor: string): Uint8Array {
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
