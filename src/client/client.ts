/**
 * The client of a streams server over plain HTTP, for Bun, Node, Deno and browsers: it needs `fetch` only.
 *
 *     const client = connect({ url: "http://127.0.0.1:4437" });
 *     const orders = client.stream("shop/orders");
 *     for await (const { parts } of orders.follow({ offset: "now" })) …
 */

import { Result } from "better-result";
import { type Clock, systemClock } from "../kit/clock.ts";
import type { JsonObject } from "../kit/json-object.ts";
import { checkStreamName } from "../protocol/names.ts";
import { type LiveOptions, type LiveParts, liveParts } from "./live-parts.ts";
import { notAStream } from "./reading.ts";
import type { StreamError } from "./stream-error.ts";
import { StreamHandle, withQuery } from "./stream-handle.ts";
import { Transport, type TransportOptions } from "./transport.ts";

export type { Delivery, Notice } from "./delivery.ts";
export type { FollowOptions, LiveMode } from "./follow.ts";
export { hash64 } from "./hash64.ts";
export type { LiveQueryOptions } from "./live-query.ts";
export type { LiveOptions } from "./live-parts.ts";
export type { Page } from "./page-attention.ts";
export type { SocketConstructor, SocketEvent, SocketLike } from "./socket-connection.ts";
export { BrokenAnswer, isStreamError, Refused, type StreamError, Unreachable } from "./stream-error.ts";
export type { Appended, Producer } from "./appending.ts";
export { type EpochStore, localStorageEpochs, type TextStorage } from "./producer-epochs.ts";
export type { ProducerOptions, StreamProducer } from "./producer.ts";
export type {
  AppendOptions,
  Created,
  CreateOptions,
  Details,
  ForkPoint,
  ReadOptions,
  StreamHandle,
  StreamRead,
  StreamStatus,
} from "./stream-handle.ts";
export type { LiveView, LiveViewDefinition, LiveViewOptions, LiveViewport, ViewListener } from "./live-view.ts";
export type { TrackedEvent, Tracker, TrackerOptions } from "./track.ts";
export {
  InvalidRecords,
  type StandardIssue,
  type StandardSchema,
  type TypedAppendOptions,
  type TypedDelivery,
  type TypedFollowOptions,
  type TypedRead,
  type TypedReadOptions,
  type TypedStream,
} from "./typed-stream.ts";
export type { LiveRow, RowChange } from "./view-changes.ts";
export { type TouchField, type TouchKeys, touchKeys, type TouchTemplate } from "./touch-keys.ts";

export interface ClientOptions extends TransportOptions, LiveOptions {
  /** The server's base URL, e.g. `http://127.0.0.1:4437`. */
  readonly url: string;
  readonly clock?: Clock;
}

export interface ListOptions {
  readonly prefix?: string;
  /** Streams per page; the server has a default and a maximum. */
  readonly limit?: number;
  readonly signal?: AbortSignal;
}

/** One stream in a list; the server may say more about it than is typed here. */
export interface StreamSummary {
  readonly name: string;
  readonly contentType: string;
  readonly nextOffset: string;
  readonly closed: boolean;
  readonly createdAt: string;
}

export interface ListPage {
  readonly streams: readonly StreamSummary[];
  /** Where the next page starts; null on the last one. */
  readonly cursor: string | null;
}

/** Longest text of metrics taken into memory: a hundred times what a server has to say. */
const MAX_METRICS_CHARS = 4 * 1024 * 1024;

/** @throws TypeError when the URL is not an http(s) URL. */
export function connect(options: ClientOptions): StreamClient {
  return new StreamClient(options);
}

export class StreamClient {
  readonly #baseUrl: string;
  readonly #transport: Transport;
  readonly #clock: Clock;
  readonly #live: LiveParts;

  constructor(options: ClientOptions) {
    const url = URL.canParse(options.url) ? new URL(options.url) : null;
    if (url?.protocol !== "http:" && url?.protocol !== "https:") {
      throw new TypeError(`expected an http or https URL, not ${options.url}`);
    }
    this.#baseUrl = url.origin + url.pathname.replace(/\/+$/, "");
    this.#transport = new Transport(options);
    this.#clock = options.clock ?? systemClock;
    this.#live = liveParts(this.#transport, this.#clock, this.#baseUrl, options);
  }

  /**
   * The stream of that name; nothing is sent yet.
   * @throws TypeError when no server could have a stream of that name.
   */
  stream(name: string): StreamHandle {
    const checked = checkStreamName(name);
    if (!checked.ok) throw new TypeError(checked.reason);
    return new StreamHandle(this.#transport, this.#clock, this.#live, this.#baseUrl, checked.name);
  }

  /** All streams in the order of their names, page after page. Iterating throws `StreamError`. */
  async *list(options: ListOptions = {}): AsyncGenerator<StreamSummary, void> {
    let cursor: string | null = null;
    do {
      const page: Result<ListPage, StreamError> = await this.listPage(options, cursor);
      if (page.isErr()) throw page.error;
      if (page.value.cursor !== null && page.value.cursor === cursor) {
        throw notAStream(this.#baseUrl, "repeats the cursor of its list, which would never end");
      }
      yield* page.value.streams;
      cursor = page.value.cursor;
    } while (cursor !== null);
  }

  async listPage(options: ListOptions, cursor: string | null): Promise<Result<ListPage, StreamError>> {
    const query = new URLSearchParams();
    if (options.prefix !== undefined) query.set("prefix", options.prefix);
    if (options.limit !== undefined) query.set("limit", String(options.limit));
    if (cursor !== null) query.set("cursor", cursor);
    const url = withQuery(`${this.#baseUrl}/v1/streams`, query);
    const answer = await this.#transport.send({ method: "GET", url, repeatable: true, signal: options.signal });
    if (answer.isErr()) return Result.err(answer.error);
    const body = await this.#transport.jsonObject(answer.value, options.signal);
    if (body.isErr()) return Result.err(body.error);
    const { streams, cursor: next } = body.value;
    if (!Array.isArray(streams)) return Result.err(notAStream(url, "has no list of streams"));
    return Result.ok({ streams: streams as StreamSummary[], cursor: typeof next === "string" ? next : null });
  }

  /** What the server says of itself, its settings and its limits, to those who may read the server (docs/operations.md). */
  async serverDetails(signal?: AbortSignal): Promise<Result<JsonObject, StreamError>> {
    const url = `${this.#baseUrl}/v1/server/_details`;
    const answer = await this.#transport.send({ method: "GET", url, repeatable: true, signal });
    return answer.isErr() ? Result.err(answer.error) : this.#transport.jsonObject(answer.value, signal);
  }

  /** The server's own figures, as the Prometheus text of `GET /metrics`. */
  async metricsText(signal?: AbortSignal): Promise<Result<string, StreamError>> {
    const url = `${this.#baseUrl}/metrics`;
    const answer = await this.#transport.send({ method: "GET", url, repeatable: true, signal });
    if (answer.isErr()) return Result.err(answer.error);
    const text = await this.#transport.text(answer.value, MAX_METRICS_CHARS, signal);
    if (text.isErr()) return Result.err(text.error);
    return text.value === null ? Result.err(notAStream(url, "is too long for metrics")) : Result.ok(text.value);
  }
}
