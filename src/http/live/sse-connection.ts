/**
 * One `text/event-stream` response, whatever is told on it: pulled as its reader reads, with a comment when it is quiet, an end after
 * about a minute, and another end for a reader that does not read. What is told comes from a source.
 */

import { joinBytes } from "../../kit/bytes.ts";
import type { Deadline } from "../../kit/deadlines.ts";
import {
  LIVE_END_SECONDS,
  SSE_GRACE_MS,
  SSE_HEARTBEAT_MS,
  SSE_LIFETIME_JITTER,
  SSE_LIFETIME_MS,
  SSE_RETRY_MS,
} from "../../protocol/limits.ts";
import { encodeRetry, SSE_COMMENT } from "../../protocol/sse-frame.ts";
import { type Exchange, type HeaderMap, holdOpen, letGo, reportFault, respond, respondProblem } from "../context.ts";
import type { LiveClient, Subscriptions } from "./clients.ts";

/** The regular end of a source. `tell`: its last frame does not say where to go on. */
export interface SseEnd {
  readonly tell: boolean;
}

/** What a connection tells, asked for whenever the socket has taken the last frame. */
export interface SseSource {
  /** For messages about it. */
  readonly name: string;
  /** The first frame, when there is something to say at once. */
  greeting(): Uint8Array | null;
  /** Resolves when there may be something to take, or it was stopped. Never rejects. */
  ready(): Promise<void>;
  /** A frame that is there already. */
  takeNow(): Uint8Array | null;
  /** Null = after all, nothing. */
  take(): Promise<Uint8Array | SseEnd | null>;
  /** Says where a reader goes on. */
  position(): Uint8Array;
  subscriptions(): Subscriptions;
  /** Its last frame takes up room that is counted. */
  holdsRoom?(): boolean;
  /** Gives back what it holds; `ready` resolves. */
  stop(): void;
}

const HEADERS: Readonly<HeaderMap> = {
  "Content-Type": "text/event-stream",
  "Cache-Control": "no-cache, no-transform",
  "X-Accel-Buffering": "no",
};

export function respondSse(exchange: Exchange, source: SseSource, headers: HeaderMap = {}): Response {
  const held = holdOpen(exchange);
  if (held !== null) {
    source.stop();
    return respondProblem(exchange, held);
  }
  const connection = new SseConnection(exchange, source);
  return respond(exchange, 200, { ...HEADERS, ...headers }, new ReadableStream(connection, { highWaterMark: 0 }));
}

/** One connection, from its head to its end; the source of its body. */
class SseConnection {
  readonly #exchange: Exchange;
  readonly #source: SseSource;
  readonly #client: LiveClient;
  readonly #endMs: number;
  #controller: ReadableStreamDefaultController<Uint8Array> | null = null;
  #beat: Deadline;
  #sentMs: number;
  /** Goes before the first frame. */
  #head: Uint8Array | null;
  /** Its reader asks for more, and there is nothing yet. */
  #waits = false;
  #begun = false;
  #open = true;

  constructor(exchange: Exchange, source: SseSource) {
    const { engine, clients, followers } = exchange;
    this.#exchange = exchange;
    this.#source = source;
    this.#sentMs = engine.clock.monotonicMs();
    this.#head = encodeRetry(SSE_RETRY_MS * (1 + 2 * engine.random()));
    // Readers that came together do not all come back together.
    this.#endMs = this.#sentMs + SSE_LIFETIME_MS * (1 - SSE_LIFETIME_JITTER * engine.random());
    this.#client = clients.open({
      kind: "sse",
      subscriptions: () => source.subscriptions(),
      cut: this.#cut,
      crowds: () => followers.room.isShort && source.holdsRoom?.() === true,
    });
    this.#beat = this.#beatAfter(SSE_HEARTBEAT_MS);
  }

  start(controller: ReadableStreamDefaultController<Uint8Array>): void {
    this.#controller = controller;
  }

  async pull(): Promise<void> {
    this.#client.taken();
    if (!this.#begun) {
      this.#begun = true;
      const greeting = this.#source.greeting();
      if (greeting !== null) return this.#send(greeting);
    }
    if (this.#exchange.engine.clock.monotonicMs() >= this.#endMs) return this.#finish(true);
    try {
      for (;;) {
        this.#waits = true;
        await this.#source.ready();
        this.#waits = false;
        if (!this.#open) return;
        const frame = this.#source.takeNow() ?? (await this.#source.take());
        if (!this.#open) return;
        if (frame === null) continue;
        return "tell" in frame ? this.#finish(frame.tell) : this.#send(frame);
      }
    } catch (cause) {
      reportFault(this.#exchange, `live=sse of ${this.#source.name}`, cause);
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
    if (tell) this.#send(this.#source.position());
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
    // While it was live it had no timeout; a socket that is not read would stay for ever.
    letGo(this.#exchange, LIVE_END_SECONDS);
    this.#beat.cancel();
    this.#source.stop();
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
}
