/**
 * Subscriptions of a streams server over plain HTTP (PROTOCOL §6, §7), for Bun, Node, Deno and browsers: durable cursors that
 * wake a webhook or a worker when one of their streams has something new.
 *
 *     const subscriptions = connectSubscriptions({ url: "http://127.0.0.1:4437" });
 *     await subscriptions.subscription("orders").create({ type: "pull-wake", wakeStream: "wakes", pattern: "orders/*" });
 *     await subscriptions.work("orders", { worker: "ann", handle: async (job) => …, onFailure: console.error, signal });
 */

import { Result } from "better-result";
import { type Clock, systemClock } from "../kit/clock.ts";
import { checkStreamName } from "../protocol/names.ts";
import { type LiveParts, liveParts } from "./live-parts.ts";
import { notAStream } from "./reading.ts";
import type { StreamError } from "./stream-error.ts";
import { StreamHandle, withQuery } from "./stream-handle.ts";
import { readPage, type SubscriptionPage, type SubscriptionSummary } from "./subscription-answers.ts";
import { SubscriptionHandle, SUBSCRIPTIONS_PATH } from "./subscription-handle.ts";
import { SubscriptionWorker, type WorkOptions } from "./subscription-worker.ts";
import { Transport, type TransportOptions } from "./transport.ts";

export { LeaseConflict, type LeaseConflictCode } from "./lease-conflict.ts";
export type {
  Claim,
  ClaimedStream,
  Subscription,
  SubscriptionLink,
  SubscriptionPage,
  SubscriptionSummary,
  SubscriptionWebhook,
  WakeProof,
} from "./subscription-answers.ts";
export type {
  Acked,
  AckOptions,
  Confirmed,
  StreamAck,
  SubscribedStreams,
  SubscriptionConfig,
  SubscriptionHandle,
} from "./subscription-handle.ts";
export type { Job, WorkFailure, WorkOptions } from "./subscription-worker.ts";

export interface SubscriptionClientOptions extends TransportOptions {
  /** The server's base URL, e.g. `http://127.0.0.1:4437`. */
  readonly url: string;
  readonly clock?: Clock;
}

export interface SubscriptionListOptions {
  /** Subscriptions per page; the server has a default and a maximum. */
  readonly limit?: number;
  readonly signal?: AbortSignal;
}

/** @throws TypeError when the URL is not an http(s) URL. */
export function connectSubscriptions(options: SubscriptionClientOptions): SubscriptionClient {
  return new SubscriptionClient(options);
}

export class SubscriptionClient {
  readonly #baseUrl: string;
  readonly #options: TransportOptions;
  readonly #transport: Transport;
  readonly #clock: Clock;
  readonly #live: LiveParts;

  constructor(options: SubscriptionClientOptions) {
    const url = new URL(options.url);
    if (url.protocol !== "http:" && url.protocol !== "https:") {
      throw new TypeError(`expected an http or https URL, not ${options.url}`);
    }
    this.#baseUrl = url.origin + url.pathname.replace(/\/+$/, "");
    this.#options = options;
    this.#transport = new Transport(options);
    this.#clock = options.clock ?? systemClock;
    // Whoever holds leases works on when nobody looks at the page.
    this.#live = liveParts(this.#transport, this.#clock, this.#baseUrl, { page: null });
  }

  /**
   * The subscription with that id; nothing is sent yet.
   * @throws TypeError when no subscription can have it.
   */
  subscription(id: string): SubscriptionHandle {
    return new SubscriptionHandle(this.#options, this.#baseUrl, id);
  }

  /** All subscriptions in the order of their ids, page after page. Iterating throws `StreamError`. */
  async *list(options: SubscriptionListOptions = {}): AsyncGenerator<SubscriptionSummary, void> {
    let after: string | null = null;
    do {
      const page: Result<SubscriptionPage, StreamError> = await this.listPage(options, after);
      if (page.isErr()) throw page.error;
      if (page.value.next !== null && page.value.next === after) {
        throw notAStream(this.#baseUrl, "repeats the place in its list, which would never end");
      }
      yield* page.value.subscriptions;
      after = page.value.next;
    } while (after !== null);
  }

  async listPage(
    options: SubscriptionListOptions,
    after: string | null,
  ): Promise<Result<SubscriptionPage, StreamError>> {
    const query = new URLSearchParams();
    if (after !== null) query.set("after", after);
    if (options.limit !== undefined) query.set("limit", String(options.limit));
    const url = withQuery(`${this.#baseUrl}${SUBSCRIPTIONS_PATH}`, query);
    const answer = await this.#transport.send({ method: "GET", url, repeatable: true, signal: options.signal });
    if (answer.isErr()) return Result.err(answer.error);
    return (await this.#transport.jsonObject(answer.value, options.signal)).andThen((body) => readPage(body, url));
  }

  /**
   * Works on a pull-wake subscription until the signal aborts or its wake stream is closed: claims what is pending, hands it to
   * the handler, keeps the lease meanwhile, acks. Goes on over lost connections and failed handlers, which `onFailure` is told;
   * the error it ends with is one that waiting cannot cure, such as a subscription that was deleted.
   * @throws TypeError when the subscription is not pull-wake.
   */
  work(id: string, options: WorkOptions): Promise<Result<void, StreamError>> {
    const parts = {
      subscription: this.subscription(id),
      stream: (name: string) => this.#stream(name),
      clock: this.#clock,
      retry: this.#transport.retry,
      random: this.#transport.random,
    };
    return new SubscriptionWorker(parts, options).run();
  }

  #stream(name: string): StreamHandle {
    const checked = checkStreamName(name);
    if (!checked.ok) throw new TypeError(checked.reason);
    return new StreamHandle(this.#transport, this.#clock, this.#live, this.#baseUrl, checked.name);
  }
}
