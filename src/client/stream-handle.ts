/**
 * One stream as a client sees it: create, append, read, follow, head, details, retention, delete.
 *
 * Single answers come as a `Result`; reading and following are async iterators, which throw the same `StreamError`s.
 * Invariant: a request with an unclear outcome is repeated only when that cannot store anything twice.
 */

import { Result } from "better-result";
import type { Clock } from "../kit/clock.ts";
import type { JsonObject } from "../kit/json-object.ts";
import { streamPath } from "../protocol/names.ts";
import {
  type Appended,
  appendHeaders,
  type AppendPlan,
  jsonText,
  present,
  type Producer,
  readAppended,
} from "./appending.ts";
import type { Delivery } from "./delivery.ts";
import { type FollowOptions, StreamFollower } from "./follow.ts";
import { liveQuery, type LiveQueryOptions } from "./live-query.ts";
import { LiveView, type LiveViewDefinition, type LiveViewOptions } from "./live-view.ts";
import type { LiveParts } from "./live-parts.ts";
import { type ProducerOptions, StreamProducer } from "./producer.ts";
import { catchUpQuery, type ReadHeaders, readHeaders, type ReadRange } from "./reading.ts";
import { integerHeader, type StreamError } from "./stream-error.ts";
import { Tracker, type TrackerOptions } from "./track.ts";
import { type RequestBody, type Transport } from "./transport.ts";
import { anyJson, type StandardSchema, type TypedStream, typedStream } from "./typed-stream.ts";

export interface CreateOptions {
  readonly contentType?: string;
  /** Sliding lifetime in whole seconds. */
  readonly ttlSeconds?: number;
  /** RFC 3339 time at which the stream ends. */
  readonly expiresAt?: string;
  readonly closed?: boolean;
  /** E.g. `max-age=7d, max-bytes=1GiB`. */
  readonly retention?: string;
  readonly fork?: ForkPoint;
  /** First records. */
  readonly body?: RequestBody;
  readonly signal?: AbortSignal;
}

/** Where a fork leaves its source: at `offset` (default: the source's tail), plus `subOffset` into the append there. */
export interface ForkPoint {
  /** The source's name, on the same server. */
  readonly source: string;
  readonly offset?: string;
  readonly subOffset?: number;
}

export interface Created {
  /** False when the same stream was there already. */
  readonly created: boolean;
  readonly contentType: string;
  readonly nextOffset: string;
  readonly closed: boolean;
}

export interface AppendOptions {
  /** Must be the stream's own. */
  readonly contentType: string;
  readonly key?: string;
  /** Makes retries exact: an append with an unclear outcome is repeated and stored once. */
  readonly producer?: Producer;
  /** Append only while the tail is here; otherwise `Refused` with status 412. */
  readonly ifMatch?: string;
  /** Close the stream with this append, atomically. */
  readonly close?: boolean;
  readonly signal?: AbortSignal;
}

export interface ReadOptions extends ReadRange {
  readonly signal?: AbortSignal;
}

/** One catch-up answer: what its headers say, and its body, to be iterated once. */
export interface StreamRead extends ReadHeaders, AsyncIterable<Uint8Array> {}

export interface StreamStatus {
  readonly contentType: string;
  readonly nextOffset: string;
  readonly closed: boolean;
  readonly ttlSeconds: number | null;
  readonly expiresAt: string | null;
}

export interface DetailsOptions {
  /** The `etag` of details already known: the answer is null while nothing changed. */
  readonly ifNoneMatch?: string;
  /** Wait for a change (long-poll) instead of answering at once. */
  readonly wait?: boolean;
  readonly signal?: AbortSignal;
}

export interface Details {
  readonly value: Readonly<Record<string, unknown>>;
  readonly etag: string | null;
}

export class StreamHandle {
  readonly name: string;
  readonly url: string;
  readonly #transport: Transport;
  readonly #clock: Clock;
  readonly #live: LiveParts;

  /** `baseUrl` has no slash at its end; `name` was checked; `live` is shared by all streams of a client. */
  constructor(transport: Transport, clock: Clock, live: LiveParts, baseUrl: string, name: string) {
    this.#transport = transport;
    this.#clock = clock;
    this.#live = live;
    this.name = name;
    this.url = baseUrl + streamPath(name);
  }

  /** Creates the stream; finding the same one there already is fine. 409 when it exists with another configuration. */
  async create(options: CreateOptions = {}): Promise<Result<Created, StreamError>> {
    const answer = await this.#transport.send({
      method: "PUT",
      url: this.url,
      headers: createHeaders(options),
      body: options.body ?? null,
      repeatable: true,
      signal: options.signal,
    });
    return answer.andThen((response) =>
      readHeaders(response).map(({ contentType, nextOffset, closed }) => {
        return { created: response.status === 201, contentType, nextOffset, closed };
      }),
    );
  }

  /** Appends one request's records; done means durable. JSON streams take one value, or an array of them. */
  append(body: RequestBody, options: AppendOptions): Promise<Result<Appended, StreamError>> {
    return this.#post(body, options);
  }

  /** Appends each value as one JSON record, so that a value which is an array stays one record. Rejects with a TypeError for what is no JSON. */
  async appendJson(
    values: readonly unknown[],
    options: Omit<AppendOptions, "contentType"> = {},
  ): Promise<Result<Appended, StreamError>> {
    return this.#post(`[${values.map(jsonText).join(",")}]`, { ...options, contentType: "application/json" });
  }

  /**
   * Appends many values, each exactly once and in order, in batches that form by themselves. Nothing is sent before the
   * first append; `close` it when done.
   */
  producer(options: ProducerOptions = {}): StreamProducer {
    return new StreamProducer(this.#transport, this.#clock, this.url, options);
  }

  /** Closes the stream: it can be read for ever and never appended to again. */
  close(options: Pick<AppendOptions, "producer" | "ifMatch" | "signal"> = {}): Promise<Result<Appended, StreamError>> {
    return this.#post(null, { ...options, contentType: null, close: true });
  }

  /** Reads once, up to the tail as it is now. Iterating throws `Unreachable` when the connection breaks. */
  async read(options: ReadOptions = {}): Promise<Result<StreamRead, StreamError>> {
    const { signal } = options;
    const url = withQuery(this.url, catchUpQuery(options, this.#transport.asFrames));
    const answer = await this.#transport.send({ method: "GET", url, repeatable: true, signal });
    return answer.andThen((response) =>
      readHeaders(response).map((headers) => {
        return { ...headers, [Symbol.asyncIterator]: () => this.#transport.pieces(response, signal) };
      }),
    );
  }

  /**
   * Reads, then waits for more, over every interruption, until the stream is closed. Iterating throws a `StreamError`
   * when it cannot go on.
   */
  follow(options: FollowOptions = {}): AsyncGenerator<Delivery, void> {
    return new StreamFollower(this.#transport, this.#clock, this.#live, this, options).deliveries();
  }

  /**
   * What `run` gives, and again whenever a change in this stream may have changed it (docs/live-queries.md). Each waits on a
   * connection of its own, of which a browser has six per host over HTTP/1.1. Iterating throws what `liveQuery` says.
   */
  liveQuery<T>(options: LiveQueryOptions<T>): AsyncGenerator<T, void> {
    return liveQuery(this.#transport, this.#clock, this.url, options);
  }

  /**
   * The rows of a State Protocol stream that a definition names, kept as the server keeps them (docs/live-views.md), on a
   * connection of its own. Begins at once; `close` it when done. `T` is what the caller knows of the rows' values: nothing
   * checks it.
   */
  liveView<T = unknown>(definition: LiveViewDefinition = {}, options: LiveViewOptions = {}): LiveView<T> {
    return new LiveView<T>(this.#transport, this.#clock, this.url, definition, options);
  }

  /** Collects events for an analytics stream and sends them in batches; may lose some, and counts them. `close` it when done. */
  tracker(options: TrackerOptions = {}): Tracker {
    return new Tracker(this.#transport, this.url, options);
  }

  /** The stream's records as JSON values. `T` is what the caller knows of them: nothing checks it, `typed` does. */
  json<T = unknown>(): TypedStream<T, T> {
    return typedStream(this, anyJson<T>());
  }

  /** The stream with a schema for its records, by Standard Schema: zod, valibot, arktype, … */
  typed<Input, Output>(schema: StandardSchema<Input, Output>): TypedStream<Input, Output> {
    return typedStream(this, schema);
  }

  async head(signal?: AbortSignal): Promise<Result<StreamStatus, StreamError>> {
    const answer = await this.#transport.send({ method: "HEAD", url: this.url, repeatable: true, signal });
    return answer.andThen((response) =>
      readHeaders(response).map(({ contentType, nextOffset, closed }) => {
        const ttlSeconds = integerHeader(response.headers, "stream-ttl");
        return { contentType, nextOffset, closed, ttlSeconds, expiresAt: response.headers.get("stream-expires-at") };
      }),
    );
  }

  /** What the server knows of the stream, as JSON; null when nothing changed since `ifNoneMatch`. */
  async details(options: DetailsOptions = {}): Promise<Result<Details | null, StreamError>> {
    const query = new URLSearchParams(options.wait === true ? { live: "long-poll" } : {});
    const answer = await this.#transport.send({
      method: "GET",
      url: withQuery(`${this.url}/_details`, query),
      headers: options.ifNoneMatch === undefined ? {} : { "if-none-match": options.ifNoneMatch },
      repeatable: true,
      signal: options.signal,
    });
    if (answer.isErr()) return Result.err(answer.error);
    if (answer.value.status !== 200) return Result.ok(null);
    const etag = answer.value.headers.get("etag");
    return (await this.#transport.jsonObject(answer.value, options.signal)).map((value) => ({ value, etag }));
  }

  /** Gives the stream a profile, e.g. `{ kind: "state-protocol", touch: { enabled: true } }`; the docs of each say what it takes. */
  async setProfile(profile: JsonObject, signal?: AbortSignal): Promise<Result<void, StreamError>> {
    const answer = await this.#transport.send({
      method: "POST",
      url: `${this.url}/_profile`,
      headers: { "content-type": "application/json" },
      body: JSON.stringify({ profile }),
      repeatable: true,
      signal,
    });
    return answer.map(() => undefined);
  }

  /** Changes how long records are kept, e.g. `max-age=7d, max-bytes=1GiB`, or `none`. */
  async setRetention(retention: string, signal?: AbortSignal): Promise<Result<void, StreamError>> {
    const url = `${this.url}/_retention`;
    const headers = { "stream-retention": retention };
    const answer = await this.#transport.send({ method: "PUT", url, headers, repeatable: true, signal });
    return answer.map(() => undefined);
  }

  /** Deletes the stream and its records. Not repeated on its own: a lost answer may already mean deleted. */
  async delete(signal?: AbortSignal): Promise<Result<void, StreamError>> {
    const answer = await this.#transport.send({ method: "DELETE", url: this.url, repeatable: false, signal });
    return answer.map(() => undefined);
  }

  async #post(
    body: RequestBody | null,
    options: AppendPlan & Pick<AppendOptions, "signal">,
  ): Promise<Result<Appended, StreamError>> {
    const { producer } = options;
    const answer = await this.#transport.send({
      method: "POST",
      url: this.url,
      headers: appendHeaders(options),
      body,
      repeatable: producer !== undefined,
      signal: options.signal,
    });
    return answer.andThen((response) => readAppended(response, producer !== undefined));
  }
}

function createHeaders(options: CreateOptions): Record<string, string> {
  return present({
    "content-type": options.contentType,
    "stream-ttl": options.ttlSeconds?.toString(),
    "stream-expires-at": options.expiresAt,
    "stream-closed": options.closed === true ? "true" : undefined,
    "stream-retention": options.retention,
    "stream-forked-from": options.fork === undefined ? undefined : streamPath(options.fork.source),
    "stream-fork-offset": options.fork?.offset,
    "stream-fork-sub-offset": options.fork?.subOffset?.toString(),
  });
}

export function withQuery(url: string, query: URLSearchParams): string {
  return query.size === 0 ? url : `${url}?${query.toString()}`;
}
