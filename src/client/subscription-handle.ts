/**
 * One subscription as a client sees it (PROTOCOL §6, §7): create, read, delete, its streams, and for pull-wake claim, ack and
 * release. All answers are `Result`s; FENCED, ALREADY_CLAIMED and NO_PENDING_WORK are a `LeaseConflict`.
 * Invariant: a claim with an unclear outcome is not repeated; everything else that is changes nothing the second time.
 */

import { Result } from "better-result";
import type { JsonObject } from "../kit/json-object.ts";
import { STREAM_PREFIX } from "../protocol/names.ts";
import { orLeaseConflict } from "./lease-conflict.ts";
import type { RetryPolicy } from "./retry-policy.ts";
import type { StreamError } from "./stream-error.ts";
import { type Claim, readClaim, readSubscription, type Subscription, type WakeProof } from "./subscription-answers.ts";
import { type RequestPlan, Transport, type TransportOptions } from "./transport.ts";

/** Which streams, and how to be told. Give a pattern, streams, or both. */
export type SubscriptionConfig = SubscribedStreams &
  (
    | { readonly type: "webhook"; readonly webhookUrl: string }
    /** The wake stream is an ordinary JSON stream that exists already. */
    | { readonly type: "pull-wake"; readonly wakeStream: string }
  );

export interface SubscribedStreams {
  /** Glob over stream names: `*` is one segment, `**` any number of them. */
  readonly pattern?: string;
  /** Names of streams. */
  readonly streams?: readonly string[];
  /** From 1 s to 10 minutes; the server's default is 30 s. */
  readonly leaseTtlMs?: number;
  readonly description?: string;
}

export interface Confirmed extends Subscription {
  /** False when the same subscription was there already. */
  readonly created: boolean;
}

/** The stream is processed up to this offset; what follows it is not. */
export interface StreamAck {
  readonly stream: string;
  readonly offset: string;
}

export interface AckOptions {
  readonly acks?: readonly StreamAck[];
  /** Ends the claim; otherwise its lease begins anew. */
  readonly done?: boolean;
  readonly signal?: AbortSignal;
}

export interface Acked {
  /** After done: there is more to do already, and a further wake tells of it. */
  readonly nextWake: boolean;
}

export const SUBSCRIPTIONS_PATH = `${STREAM_PREFIX}__ds/subscriptions`;

export class SubscriptionHandle {
  readonly id: string;
  readonly url: string;
  readonly #options: TransportOptions;

  /** `baseUrl` has no slash at its end. @throws TypeError when no subscription can have this id. */
  constructor(options: TransportOptions, baseUrl: string, id: string) {
    // A path segment of dots is taken out of a URL before it is sent.
    if (id === "" || id === "." || id === ".." || /\p{Surrogate}/u.test(id)) {
      throw new TypeError(`${JSON.stringify(id)} cannot be the id of a subscription`);
    }
    this.#options = options;
    this.id = id;
    this.url = `${baseUrl}${SUBSCRIPTIONS_PATH}/${encodeURIComponent(id)}`;
  }

  /**
   * Creates the subscription; finding the same one there already is fine. `Refused` with SUBSCRIPTION_ALREADY_EXISTS (409)
   * when it exists with another configuration. Streams that exist are followed from their present tail on.
   */
  async create(config: SubscriptionConfig, signal?: AbortSignal): Promise<Result<Confirmed, StreamError>> {
    const answer = await this.#send("PUT", "", { body: wireConfig(config), repeatable: true, signal });
    if (answer.isErr()) return Result.err(answer.error);
    const created = answer.value.status === 201;
    return (await this.#read(answer.value, signal)).map((subscription) => ({ ...subscription, created }));
  }

  async get(signal?: AbortSignal): Promise<Result<Subscription, StreamError>> {
    const answer = await this.#send("GET", "", { repeatable: true, signal });
    return answer.isErr() ? Result.err(answer.error) : this.#read(answer.value, signal);
  }

  /** Ends the subscription and every claim on it. Not repeated on its own: somebody may have made it anew. */
  async delete(signal?: AbortSignal): Promise<Result<void, StreamError>> {
    return (await this.#send("DELETE", "", { repeatable: false, signal })).map(() => undefined);
  }

  /** Follows these streams too, from their present tails on. */
  async addStreams(streams: readonly string[], signal?: AbortSignal): Promise<Result<void, StreamError>> {
    const answer = await this.#send("POST", "/streams", { body: { streams }, repeatable: true, signal });
    return answer.map(() => undefined);
  }

  /** Takes back an explicit stream; one that the pattern matches stays. */
  async removeStream(stream: string, signal?: AbortSignal): Promise<Result<void, StreamError>> {
    const path = `/streams/${stream.split("/").map(encodeURIComponent).join("/")}`;
    return (await this.#send("DELETE", path, { repeatable: true, signal })).map(() => undefined);
  }

  /**
   * Takes the lease, under a name that other workers are shown. `LeaseConflict` with ALREADY_CLAIMED or NO_PENDING_WORK when
   * there is none to take. A claim whose answer was lost holds the lease until it runs out.
   */
  claim(worker: string, signal?: AbortSignal): Promise<Result<Claim, StreamError>> {
    return this.#claim({ body: { worker }, repeatable: false, signal });
  }

  /** The same in one request, for who waits out an overload by himself: the lease cannot have begun before the call. */
  claimOnce(worker: string, signal?: AbortSignal): Promise<Result<Claim, StreamError>> {
    return this.#claim({ body: { worker }, repeatable: false, retry: ONCE, signal });
  }

  /**
   * Says how far streams were processed, and keeps the lease, or ends the claim with `done`. `LeaseConflict` with FENCED when
   * the wake is over; with `done`, after a connection that broke, that may be because it was applied the first time.
   */
  async ack(wake: WakeProof, options: AckOptions = {}): Promise<Result<Acked, StreamError>> {
    const { acks, done, signal } = options;
    const body = { ...wireWake(wake), ...(acks === undefined ? {} : { acks }), ...(done === true ? { done } : {}) };
    const answer = await this.#send("POST", "/ack", { body, token: wake.token, repeatable: true, signal });
    if (answer.isErr()) return Result.err(answer.error);
    return (await this.#json(answer.value, signal)).map((told) => ({ nextWake: told["next_wake"] === true }));
  }

  /** Ends the claim without an ack: what is pending wakes a worker again. */
  async release(wake: WakeProof, signal?: AbortSignal): Promise<Result<void, StreamError>> {
    const plan = { body: wireWake(wake), token: wake.token, repeatable: true, signal };
    return (await this.#send("POST", "/release", plan)).map(() => undefined);
  }

  #json(response: Response, signal: AbortSignal | undefined): Promise<Result<JsonObject, StreamError>> {
    return new Transport(this.#options).jsonObject(response, signal);
  }

  async #claim(call: Call): Promise<Result<Claim, StreamError>> {
    const answer = await this.#send("POST", "/claim", call);
    if (answer.isErr()) return Result.err(answer.error);
    return (await this.#json(answer.value, call.signal)).andThen((body) => readClaim(body, this.url));
  }

  async #read(response: Response, signal: AbortSignal | undefined): Promise<Result<Subscription, StreamError>> {
    return (await this.#json(response, signal)).andThen((body) => readSubscription(body, this.url));
  }

  async #send(method: RequestPlan["method"], path: string, call: Call): Promise<Result<Response, StreamError>> {
    const { body, token, retry, repeatable, signal } = call;
    // The token of a claim stands where the client's own authorization does otherwise.
    const auth = token === undefined ? {} : { auth: `Bearer ${token}` };
    const options = { ...this.#options, ...auth, ...(retry === undefined ? {} : { retry }) };
    const answer = await new Transport(options).send({
      method,
      url: this.url + path,
      ...(body === undefined ? {} : { headers: { "content-type": "application/json" }, body: JSON.stringify(body) }),
      repeatable,
      signal,
    });
    return answer.mapError(orLeaseConflict);
  }
}

interface Call extends Pick<RequestPlan, "repeatable" | "signal"> {
  readonly body?: JsonObject;
  readonly token?: string;
  /** In place of the client's. */
  readonly retry?: RetryPolicy;
}

const ONCE: RetryPolicy = { maxAttempts: 1, baseDelayMs: 0, maxDelayMs: 0 };

function wireConfig(config: SubscriptionConfig): JsonObject {
  const { type, pattern, streams, leaseTtlMs, description } = config;
  return {
    type,
    pattern,
    streams,
    ...(config.type === "webhook" ? { webhook: { url: config.webhookUrl } } : { wake_stream: config.wakeStream }),
    lease_ttl_ms: leaseTtlMs,
    description,
  };
}

function wireWake({ wakeId, generation }: WakeProof): JsonObject {
  return { wake_id: wakeId, generation };
}
