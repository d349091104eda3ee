/**
 * Following a stream: catch up with plain reads, then wait for more by long-poll, server-sent events or WebSocket, and resume
 * after every interruption at the exact place. Delivers each record once and in order, because offsets never change their
 * meaning: when a response breaks off, the same range is asked for again and what was already delivered is skipped.
 * Bounds: one failure streak lasts at most `giveUpAfterMs`; answers without progress are slowed down.
 */

import type { Result } from "better-result";
import type { Clock } from "../kit/clock.ts";
import { type Delivery, MAX_VALUE_BYTES, outline } from "./delivery.ts";
import { JsonArraySplitter } from "./json-array-splitter.ts";
import type { LiveParts } from "./live-parts.ts";
import { sseSteps } from "./live-sse.ts";
import { PageAttention } from "./page-attention.ts";
import {
  catchUpQuery,
  notAStream,
  type Position,
  rangeQuery,
  type ReadHeaders,
  readHeaders,
  type ReadRange,
} from "./reading.ts";
import { DEFAULT_GIVE_UP_AFTER_MS, isExhausted, retryDelayMs, sleep } from "./retry-policy.ts";
import { saidDelivery } from "./socket-said.ts";
import { isStreamError, Refused, type StreamError, Unreachable } from "./stream-error.ts";
import { isTransient, type Transport } from "./transport.ts";

/**
 * How to wait at the tail. `auto`: server-sent events for JSON, as long as they come through; else long-poll, which is
 * byte-exact for every content type. `sse` normalises line ends of text streams. `websocket`: all streams that a client
 * follows so share one connection.
 */
export type LiveMode = "auto" | "long-poll" | "sse" | "websocket";

export interface FollowOptions extends ReadRange {
  /** Default `auto`. */
  readonly live?: LiveMode;
  /**
   * What becomes of records that this reader is too slow for, over SSE and WebSocket (docs/live-delivery.md). Default: it
   * gets them all.
   */
  readonly overflow?: "resume" | "drop-oldest" | "disconnect";
  /** How long to keep trying once contact was made and lost. Before first contact the retry policy decides. */
  readonly giveUpAfterMs?: number;
  /** Whether a browser's page that is hidden stops waiting, and goes on from its offset when it is seen. Default true. */
  readonly pauseWhenHidden?: boolean;
  /** How long it has to be hidden. Default 30 s. */
  readonly hiddenAfterMs?: number;
  readonly signal?: AbortSignal;
}

/** What a follower needs of its stream. */
export interface FollowedStream {
  readonly name: string;
  readonly url: string;
}

/** A live answer that came this fast and brought nothing is not a wait: slow down. */
const QUICK_ANSWER_MS = 250;
const LIVE_MODES = new Set<LiveMode>(["auto", "long-poll", "sse", "websocket"]);
/** A connection that lived so long was none that failed at once: the next failure begins a new streak. */
const STEADY_MS = 5_000;
const DEFAULT_HIDDEN_AFTER_MS = 30_000;
/** Why a live connection was given up that nobody looks at. */
const AWAY = new Error("nobody looks at the page");

export class StreamFollower {
  readonly #transport: Transport;
  readonly #clock: Clock;
  readonly #live: LiveParts;
  readonly #stream: FollowedStream;
  readonly #options: FollowOptions;
  readonly #selection: Pick<ReadRange, "key" | "filter">;
  /** The range still to be read; after the first complete answer it is an offset. */
  #range: ReadRange;
  #cursor: string | null = null;
  #json = false;
  /** Values (JSON) or bytes of the current range that were already delivered, and what the answer said of its start. */
  #delivered = 0;
  #start: string | null = null;
  #caughtUp = false;
  #closed = false;
  #hadContact = false;
  /** When the answer began that is read now. */
  #answeredMs: number | null = null;
  /** The next answer comes by long-poll: another way was refused, and perhaps not for its own sake. */
  #askPlainly = false;
  #sseRefused = false;
  /** The last answer came by WebSocket, which waits by itself before it is opened again. */
  #onSocket = false;
  /** The last subscription ended because this reader was too slow. */
  #fellBehind = false;
  /** Ends the live connection, with a reason. */
  #connection: AbortController | null = null;

  constructor(transport: Transport, clock: Clock, live: LiveParts, stream: FollowedStream, options: FollowOptions) {
    this.#transport = transport;
    this.#clock = clock;
    this.#live = live;
    this.#stream = stream;
    this.#options = options;
    const { offset, from, tail, key, filter } = options;
    this.#selection = { ...(key === undefined ? {} : { key }), ...(filter === undefined ? {} : { filter }) };
    this.#range = {
      ...(offset === undefined ? {} : { offset }),
      ...(from === undefined ? {} : { from }),
      ...(tail === undefined ? {} : { tail }),
      ...this.#selection,
    };
  }

  /** @throws StreamError when it cannot go on; the signal's reason when it aborts. Ends when the stream is closed. */
  async *deliveries(): AsyncGenerator<Delivery, void> {
    const { live, signal, pauseWhenHidden = true, hiddenAfterMs = DEFAULT_HIDDEN_AFTER_MS } = this.#options;
    if (live !== undefined && !LIVE_MODES.has(live)) throw new TypeError(`no such live mode: ${live}`);
    if (live === "websocket") this.#live.socket.platform();
    const page = pauseWhenHidden ? this.#live.page : null;
    const attention = new PageAttention(page, hiddenAfterMs, () => this.#connection?.abort(AWAY));
    let failures = 0;
    let failingSinceMs = 0;
    let idleAnswers = 0;
    try {
      while (!this.#closed) {
        if (this.#caughtUp) await attention.back(signal);
        const startedMs = this.#clock.monotonicMs();
        let progressed = false;
        this.#answeredMs = null;
        try {
          for await (const delivery of this.#nextAnswer()) {
            // What lies ready is not given out after an abort.
            signal?.throwIfAborted();
            if (delivery.parts.length > 0) {
              progressed = true;
              failures = 0;
            }
            yield delivery;
          }
          failures = 0;
          const answeredQuickly = this.#clock.monotonicMs() - startedMs < QUICK_ANSWER_MS;
          idleAnswers = progressed || !answeredQuickly ? 0 : idleAnswers + 1;
          if (idleAnswers > 1 && !this.#closed) await this.#pause(idleAnswers - 1, null);
        } catch (cause) {
          if (cause === AWAY) continue;
          if (!isStreamError(cause) || !this.#mayResume(cause)) throw cause;
          if (this.#clock.monotonicMs() - (this.#answeredMs ?? Infinity) >= STEADY_MS) failures = 0;
          if (failures++ === 0) failingSinceMs = this.#clock.monotonicMs();
          if (this.#exhausted(failures, failingSinceMs)) throw cause;
          if (!this.#onSocket) await this.#pause(failures, Refused.is(cause) ? cause.retryAfterMs : null);
        }
      }
    } finally {
      attention.stop();
    }
  }

  async *#nextAnswer(): AsyncGenerator<Delivery, void> {
    this.#onSocket = false;
    if (!this.#caughtUp) return yield* this.#catchUp();
    const { signal } = this.#options;
    const connection = new AbortController();
    // By hand: a signal that lives long would remember everything that `AbortSignal.any` made of it.
    const onAbort = (): void => connection.abort(signal?.reason);
    if (signal?.aborted === true) onAbort();
    signal?.addEventListener("abort", onAbort);
    this.#connection = connection;
    try {
      yield* this.#liveAnswer(connection);
    } finally {
      this.#connection = null;
      signal?.removeEventListener("abort", onAbort);
    }
  }

  #liveAnswer(connection: AbortController): AsyncGenerator<Delivery, void> {
    const { live = "auto" } = this.#options;
    const { signal } = connection;
    const askPlainly = this.#askPlainly;
    this.#askPlainly = false;
    if (live === "sse") return this.#listen(signal);
    // An answer that broke can be skipped into by the like of it only.
    if (askPlainly || this.#delivered > 0) return this.#poll(signal);
    if (live === "websocket") return this.#converse(signal);
    // Over SSE line ends of text change, and other bytes travel as base64.
    if (live === "auto" && this.#json && this.#live.sse.isTrusted) return this.#tryListening(connection);
    return this.#poll(signal);
  }

  /** One plain read to the tail, streamed. `now` finds the tail this way, so nothing is missed before the first wait. */
  async *#catchUp(): AsyncGenerator<Delivery, void> {
    const { signal } = this.#options;
    const response = await this.#get(catchUpQuery(this.#range, this.#transport.asFrames), signal);
    const headers = valueOrThrow(readHeaders(response));
    this.#json = headers.json;
    // A start told by time or count moves while the stream grows; where it was now does not.
    if (headers.startOffset !== null) this.#range = { offset: headers.startOffset, ...this.#selection };
    this.#checkStart(headers);
    yield* this.#body(response, headers, signal);
  }

  async *#poll(signal: AbortSignal): AsyncGenerator<Delivery, void> {
    const response = await this.#get(this.#liveQuery("long-poll"), signal);
    const headers = valueOrThrow(readHeaders(response));
    // So it was not the stream.
    if (this.#sseRefused) this.#live.sse.avoid();
    this.#sseRefused = false;
    this.#cursor = headers.cursor;
    if (response.status !== 204) return yield* this.#body(response, headers, signal);
    this.#advance(headers);
    yield { parts: [], nextOffset: headers.nextOffset, upToDate: headers.upToDate, closed: headers.closed };
  }

  /** `onBegun` is called when an answer has begun, `onEvent` at each event. */
  async *#listen(signal: AbortSignal, onBegun?: () => void, onEvent?: () => void): AsyncGenerator<Delivery, void> {
    const query = this.#liveQuery("sse");
    if (this.#options.overflow !== undefined) query.set("overflow", this.#options.overflow);
    const response = await this.#get(query, signal);
    onBegun?.();
    const format = {
      json: this.#json,
      encoding: response.headers.get("stream-sse-data-encoding"),
      url: this.#stream.url,
    };
    for await (const { delivery, cursor } of sseSteps(this.#transport.events(response, signal), format)) {
      onEvent?.();
      this.#cursor = cursor ?? this.#cursor;
      this.#advance(delivery);
      yield delivery;
    }
  }

  /** Server-sent events, noting whether they come through. */
  async *#tryListening(connection: AbortController): AsyncGenerator<Delivery, void> {
    const { sse } = this.#live;
    let isBegun = false;
    let isHeard = false;
    const timer = setTimeout(() => {
      isBegun = true;
      const { url } = this.#stream;
      connection.abort(new Unreachable({ message: `no event came from ${url}`, hint: null, url, cause: null }));
    }, sse.firstEventLimitMs);
    const onEvent = (): void => {
      if (isHeard) return;
      isHeard = true;
      clearTimeout(timer);
      sse.came();
    };
    try {
      yield* this.#listen(connection.signal, () => (isBegun = true), onEvent);
      if (!isHeard) sse.missed();
    } catch (cause) {
      if (isHeard || !isStreamError(cause)) throw cause;
      if (!isTransient(cause)) {
        this.#askPlainly = true;
        this.#sseRefused = true;
        return;
      }
      if (isBegun) sse.missed();
      throw cause;
    } finally {
      clearTimeout(timer);
    }
  }

  /** A subscription on the WebSocket of this client, until it ends or this reader was too slow for it. */
  async *#converse(signal: AbortSignal): AsyncGenerator<Delivery, void> {
    this.#onSocket = true;
    const { offset = "-1" } = this.#range;
    const { overflow } = this.#options;
    const subscription = await this.#live.socket.subscribe(
      {
        stream: this.#stream.name,
        offset,
        ...this.#selection,
        ...(overflow === undefined ? {} : { overflow }),
        ...(this.#fellBehind ? { behind: true } : {}),
      },
      signal,
    );
    this.#fellBehind = false;
    try {
      for (;;) {
        const said = await subscription.next(signal);
        // It says no status; the same question over HTTP is answered with one.
        if (said === "refused") this.#askPlainly = true;
        if (said === "behind") this.#fellBehind = true;
        if (typeof said === "string") return;
        const delivery = saidDelivery(said, this.#json, this.#stream.url);
        this.#advance(delivery);
        yield delivery;
        if (delivery.closed) return;
      }
    } finally {
      subscription.leave();
    }
  }

  /** Delivers a body whose end has an offset: pieces as they come, the last one together with the position. */
  async *#body(
    response: Response,
    headers: ReadHeaders,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<Delivery, void> {
    const splitter = this.#json ? new JsonArraySplitter(MAX_VALUE_BYTES) : null;
    let skip = this.#delivered;
    let held: Uint8Array[] = [];
    for await (const piece of this.#transport.pieces(response, signal)) {
      if (held.length > 0) {
        yield { parts: held, nextOffset: null, upToDate: false, closed: false };
        this.#delivered += splitter === null ? byteLength(held) : held.length;
        held = [];
      }
      if (splitter === null) {
        held = piece.length > skip ? [piece.subarray(skip)] : [];
        skip = Math.max(0, skip - piece.length);
      } else {
        const values = outline(() => splitter.push(piece), this.#stream.url);
        held = values.slice(skip);
        skip = Math.max(0, skip - values.length);
      }
    }
    if (splitter !== null && response.body !== null) outline(() => splitter.end(), this.#stream.url);
    this.#advance(headers);
    yield { parts: held, nextOffset: headers.nextOffset, upToDate: headers.upToDate, closed: headers.closed };
  }

  async #get(query: URLSearchParams, signal: AbortSignal | undefined): Promise<Response> {
    const url = query.size === 0 ? this.#stream.url : `${this.#stream.url}?${query.toString()}`;
    const events = query.get("live") === "sse";
    const response = valueOrThrow(
      await this.#transport.sendOnce({ method: "GET", url, repeatable: true, events, signal }),
    );
    this.#hadContact = true;
    this.#answeredMs = this.#clock.monotonicMs();
    return response;
  }

  /**
   * What was delivered is skipped by counting, so the answer must begin where the broken one did. The start of a stream does
   * not, when retention trims it or another stream takes the name; the server's ETag (protocol/caching.ts) begins with both.
   */
  #checkStart({ etag }: ReadHeaders): void {
    const start = /^(?:W\/)?("\d+:\d+:)/.exec(etag ?? "")?.[1] ?? null;
    if (this.#delivered > 0 && start !== this.#start && start !== null && this.#start !== null) {
      throw notAStream(this.#stream.url, "begins elsewhere than the one that broke: records were trimmed meanwhile");
    }
    this.#start = start;
  }

  #liveQuery(live: "long-poll" | "sse"): URLSearchParams {
    const query = rangeQuery(this.#range);
    query.set("live", live);
    if (this.#cursor !== null) query.set("cursor", this.#cursor);
    return query;
  }

  #advance(position: Position): void {
    this.#range = { offset: position.nextOffset, ...this.#selection };
    this.#delivered = 0;
    this.#caughtUp ||= position.upToDate || position.closed;
    this.#closed = position.closed;
  }

  /** Of a server that does not tell where a range begins that is told by time or count, no part can be repeated. */
  #mayResume(error: StreamError): boolean {
    const movingStart = this.#range.from !== undefined || this.#range.tail !== undefined;
    return isTransient(error) && !(movingStart && this.#delivered > 0);
  }

  #exhausted(failures: number, failingSinceMs: number): boolean {
    const { giveUpAfterMs = DEFAULT_GIVE_UP_AFTER_MS } = this.#options;
    const forMs = this.#clock.monotonicMs() - failingSinceMs;
    return isExhausted(this.#transport.retry, giveUpAfterMs, { hadContact: this.#hadContact, failures, forMs });
  }

  async #pause(failures: number, retryAfterMs: number | null): Promise<void> {
    const delayMs = retryDelayMs(this.#transport.retry, failures, retryAfterMs, this.#transport.random());
    await sleep(delayMs, this.#options.signal ?? null);
  }
}

function byteLength(parts: readonly Uint8Array[]): number {
  return parts.reduce((total, part) => total + part.length, 0);
}

/** Inside a generator errors travel by throwing; its caller sees the same typed error. */
function valueOrThrow<T>(result: Result<T, StreamError>): T {
  if (result.isErr()) throw result.error;
  return result.value;
}
