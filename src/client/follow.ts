/**
 * Following a stream: catch up with plain reads, then wait for more by long-poll or SSE, and resume after every
 * interruption at the exact place. Delivers each record once and in order, because offsets never change their meaning:
 * when a response breaks off, the same range is asked for again and what was already delivered is skipped.
 * Bounds: one failure streak lasts at most `giveUpAfterMs`; answers without progress are slowed down.
 */

import type { Result } from "better-result";
import { utf8 } from "../kit/bytes.ts";
import type { Clock } from "../kit/clock.ts";
import { JsonArrayError, JsonArraySplitter } from "./json-array-splitter.ts";
import { notAStream, type Position, rangeQuery, type ReadHeaders, readHeaders, type ReadRange } from "./reading.ts";
import { retryDelayMs, sleep } from "./retry-policy.ts";
import { SseParser } from "./sse-parser.ts";
import { isStreamError, Refused, type StreamError } from "./stream-error.ts";
import { isTransient, type Transport } from "./transport.ts";

export type LiveMode = "long-poll" | "sse";

export interface FollowOptions extends ReadRange {
  /** Default `long-poll`: byte-exact for every content type. SSE normalises line ends of text streams. */
  readonly live?: LiveMode;
  /** How long to keep trying once contact was made and lost. Before first contact the retry policy decides. */
  readonly giveUpAfterMs?: number;
  readonly signal?: AbortSignal;
}

/** One step forward. */
export interface Delivery {
  /** JSON streams: the raw bytes of each value. Other streams: bytes, cut anywhere. */
  readonly parts: readonly Uint8Array[];
  /** Where to resume after these parts; null inside a long response, whose end alone has an offset. */
  readonly nextOffset: string | null;
  readonly upToDate: boolean;
  readonly closed: boolean;
}

const DEFAULT_GIVE_UP_AFTER_MS = 5 * 60_000;
/** A live answer that came this fast and brought nothing is not a wait: slow down. */
const QUICK_ANSWER_MS = 250;
/** Longest JSON value and longest SSE event this client takes into memory. */
export const MAX_VALUE_BYTES = 256 * 1024 * 1024;

export class StreamFollower {
  readonly #transport: Transport;
  readonly #clock: Clock;
  readonly #url: string;
  readonly #options: FollowOptions;
  /** The range still to be read; after the first complete answer it is an offset. */
  #range: ReadRange;
  #cursor: string | null = null;
  #json = false;
  /** Values (JSON) or bytes of the current range that were already delivered. */
  #delivered = 0;
  #caughtUp = false;
  #closed = false;
  #hadContact = false;

  constructor(transport: Transport, clock: Clock, url: string, options: FollowOptions) {
    this.#transport = transport;
    this.#clock = clock;
    this.#url = url;
    this.#options = options;
    const { offset, from, tail, key, filter } = options;
    this.#range = {
      ...(offset === undefined ? {} : { offset }),
      ...(from === undefined ? {} : { from }),
      ...(tail === undefined ? {} : { tail }),
      ...(key === undefined ? {} : { key }),
      ...(filter === undefined ? {} : { filter }),
    };
  }

  /** @throws StreamError when it cannot go on; the signal's reason when it aborts. Ends when the stream is closed. */
  async *deliveries(): AsyncGenerator<Delivery, void> {
    let failures = 0;
    let failingSinceMs = 0;
    let idleAnswers = 0;
    while (!this.#closed) {
      const startedMs = this.#clock.monotonicMs();
      let progressed = false;
      try {
        for await (const delivery of this.#nextAnswer()) {
          if (delivery.parts.length > 0) progressed = true;
          failures = 0;
          yield delivery;
        }
        failures = 0;
        const answeredQuickly = this.#clock.monotonicMs() - startedMs < QUICK_ANSWER_MS;
        idleAnswers = progressed || !answeredQuickly ? 0 : idleAnswers + 1;
        if (idleAnswers > 1 && !this.#closed) await this.#pause(idleAnswers - 1, null);
      } catch (cause) {
        if (!isStreamError(cause) || !this.#mayResume(cause)) throw cause;
        if (failures++ === 0) failingSinceMs = this.#clock.monotonicMs();
        if (this.#exhausted(failures, failingSinceMs)) throw cause;
        await this.#pause(failures, Refused.is(cause) ? cause.retryAfterMs : null);
      }
    }
  }

  #nextAnswer(): AsyncGenerator<Delivery, void> {
    if (!this.#caughtUp) return this.#catchUp();
    return this.#options.live === "sse" ? this.#listen() : this.#poll();
  }

  /** One plain read to the tail, streamed. `now` finds the tail this way, so nothing is missed before the first wait. */
  async *#catchUp(): AsyncGenerator<Delivery, void> {
    const response = await this.#get(rangeQuery(this.#range));
    const headers = valueOrThrow(readHeaders(response));
    this.#json = headers.json;
    yield* this.#body(response, headers);
  }

  async *#poll(): AsyncGenerator<Delivery, void> {
    const response = await this.#get(this.#liveQuery("long-poll"));
    const headers = valueOrThrow(readHeaders(response));
    this.#cursor = headers.cursor;
    if (response.status !== 204) return yield* this.#body(response, headers);
    this.#advance(headers);
    yield { parts: [], ...headers };
  }

  async *#listen(): AsyncGenerator<Delivery, void> {
    const response = await this.#get(this.#liveQuery("sse"));
    const encoding = response.headers.get("stream-sse-data-encoding");
    const parser = new SseParser(MAX_VALUE_BYTES);
    let parts: Uint8Array[] = [];
    for await (const piece of this.#transport.pieces(response, this.#options.signal)) {
      for (const event of parser.push(piece)) {
        if (event.type === "data") parts.push(decodeData(event.data, encoding));
        if (event.type !== "control") continue;
        const control = parseControl(event.data, this.#url);
        if (this.#json) parts = parts.flatMap((array) => splitWhole(array, this.#url));
        this.#cursor = control.cursor;
        this.#advance(control);
        yield { parts: parts.filter((part) => part.length > 0), ...control };
        parts = [];
        if (control.closed) return;
      }
    }
  }

  /** Delivers a body whose end has an offset: pieces as they come, the last one together with the position. */
  async *#body(response: Response, headers: ReadHeaders): AsyncGenerator<Delivery, void> {
    const splitter = this.#json ? new JsonArraySplitter(MAX_VALUE_BYTES) : null;
    let skip = this.#delivered;
    let held: Uint8Array[] = [];
    for await (const piece of this.#transport.pieces(response, this.#options.signal)) {
      if (held.length > 0) {
        yield { parts: held, nextOffset: null, upToDate: false, closed: false };
        this.#delivered += splitter === null ? byteLength(held) : held.length;
        held = [];
      }
      if (splitter === null) {
        held = piece.length > skip ? [piece.subarray(skip)] : [];
        skip = Math.max(0, skip - piece.length);
      } else {
        const values = outline(() => splitter.push(piece), this.#url);
        held = values.slice(skip);
        skip = Math.max(0, skip - values.length);
      }
    }
    if (splitter !== null && response.body !== null) outline(() => splitter.end(), this.#url);
    this.#advance(headers);
    yield { parts: held, nextOffset: headers.nextOffset, upToDate: headers.upToDate, closed: headers.closed };
  }

  async #get(query: URLSearchParams): Promise<Response> {
    const url = query.size === 0 ? this.#url : `${this.#url}?${query.toString()}`;
    const { signal } = this.#options;
    const response = valueOrThrow(await this.#transport.sendOnce({ method: "GET", url, repeatable: true, signal }));
    this.#hadContact = true;
    return response;
  }

  #liveQuery(live: LiveMode): URLSearchParams {
    const query = rangeQuery(this.#range);
    query.set("live", live);
    if (this.#cursor !== null) query.set("cursor", this.#cursor);
    return query;
  }

  #advance(position: Position): void {
    const { key, filter } = this.#options;
    this.#range = {
      offset: position.nextOffset,
      ...(key === undefined ? {} : { key }),
      ...(filter === undefined ? {} : { filter }),
    };
    this.#delivered = 0;
    this.#caughtUp ||= position.upToDate || position.closed;
    this.#closed = position.closed;
  }

  /** A range told by time or count moves while the stream grows: once a part of it was delivered it cannot be repeated. */
  #mayResume(error: StreamError): boolean {
    const movingStart = this.#range.from !== undefined || this.#range.tail !== undefined;
    return isTransient(error) && !(movingStart && this.#delivered > 0);
  }

  #exhausted(failures: number, failingSinceMs: number): boolean {
    if (!this.#hadContact) return failures >= this.#transport.retry.maxAttempts;
    const giveUpAfterMs = this.#options.giveUpAfterMs ?? DEFAULT_GIVE_UP_AFTER_MS;
    return this.#clock.monotonicMs() - failingSinceMs > giveUpAfterMs;
  }

  async #pause(failures: number, retryAfterMs: number | null): Promise<void> {
    const delayMs = retryDelayMs(this.#transport.retry, failures, retryAfterMs, this.#transport.random());
    await sleep(delayMs, this.#options.signal ?? null);
  }
}

interface Control extends Position {
  readonly cursor: string | null;
}

/** The JSON of a control event: `streamNextOffset`, and optionally `streamCursor`, `upToDate`, `streamClosed`. */
function parseControl(data: string, url: string): Control {
  let fields: Record<string, unknown>;
  try {
    fields = JSON.parse(data) as Record<string, unknown>;
  } catch (cause) {
    throw cause instanceof SyntaxError ? notAStream(url, "has a control event that is not JSON") : cause;
  }
  const { streamNextOffset, streamCursor, upToDate, streamClosed } = fields;
  if (typeof streamNextOffset !== "string") throw notAStream(url, "has a control event without streamNextOffset");
  return {
    nextOffset: streamNextOffset,
    upToDate: upToDate === true || streamClosed === true,
    closed: streamClosed === true,
    cursor: typeof streamCursor === "string" ? streamCursor : null,
  };
}

function decodeData(data: string, encoding: string | null): Uint8Array {
  return encoding === "base64" ? Uint8Array.fromBase64(data.replaceAll("\n", "")) : utf8(data);
}

function splitWhole(array: Uint8Array, url: string): Uint8Array[] {
  return outline(() => {
    const splitter = new JsonArraySplitter(MAX_VALUE_BYTES);
    const values = splitter.push(array);
    splitter.end();
    return values;
  }, url);
}

/** Runs a splitter; a broken outline means the answer is not what its content type says. */
function outline<T>(split: () => T, url: string): T {
  try {
    return split();
  } catch (cause) {
    throw cause instanceof JsonArrayError ? notAStream(url, `is not a JSON array: ${cause.message}`) : cause;
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
