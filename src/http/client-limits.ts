/**
 * What one client may ask of the server: requests and bytes a second, live connections at a time, streams in all. A client is a caller,
 * or an address where callers are not told apart. Bodies are paid for after they came: who owes bytes waits until the debt is gone.
 * Bounded: of clients that come and go the most recent ones are remembered, of live connections those that are open.
 */

import { LRUCache } from "lru-cache";
import type { Clock } from "../kit/clock.ts";
import { TokenBucket } from "../kit/token-bucket.ts";
import { CLIENT_BURST_SECONDS, MAX_CLIENTS_REMEMBERED } from "../protocol/limits.ts";
import type { HttpProblem } from "./errors.ts";
import type { StreamQuota } from "./stream-quota.ts";

/** Infinity = no limit. */
export interface ClientRates {
  readonly requestsPerSecond: number;
  readonly bytesPerSecond: number;
  /** Long-polls, waits, SSE connections and WebSockets at a time. */
  readonly live: number;
  /** Streams that it has made and that are still there. */
  readonly streams: number;
}

interface Buckets {
  readonly requests: TokenBucket;
  readonly bytes: TokenBucket;
}

/** The limits of one client. */
export class Client {
  readonly id: string;
  readonly #limits: ClientLimits;

  constructor(id: string, limits: ClientLimits) {
    this.id = id;
    this.#limits = limits;
  }

  /** Takes one request from what it may do now. */
  admit(): HttpProblem | null {
    return this.#limits.admit(this.id);
  }

  /** A body came, or a part of it. */
  spend(bytes: number): void {
    this.#limits.spend(this.id, bytes);
  }

  /** A message that came whole: one request and its bytes. */
  charge(bytes: number): HttpProblem | null {
    const problem = this.admit();
    if (problem === null) this.spend(bytes);
    return problem;
  }

  /** Room for one live connection; `giveLive` when it is gone. */
  takeLive(): HttpProblem | null {
    return this.#limits.takeLive(this.id) ? null : tooManyLive;
  }

  giveLive(): void {
    this.#limits.giveLive(this.id);
  }

  /** Null when streams are not counted. */
  get quota(): StreamQuota | null {
    return this.#limits.quota;
  }
}

export class ClientLimits {
  readonly quota: StreamQuota | null;
  readonly #rates: ClientRates;
  readonly #clock: Clock;
  readonly #buckets = new LRUCache<string, Buckets>({ max: MAX_CLIENTS_REMEMBERED });
  readonly #live = new Map<string, number>();

  constructor(rates: ClientRates, clock: Clock, quota: StreamQuota | null = null) {
    this.#rates = rates;
    this.#clock = clock;
    this.quota = quota;
  }

  of(id: string): Client {
    return new Client(id, this);
  }

  admit(id: string): HttpProblem | null {
    const { requests, bytes } = this.#bucketsOf(id);
    const owedMs = bytes.owedMs;
    if (owedMs > 0) return tooFast("bytes", owedMs);
    return requests.take() ? null : tooFast("requests", 1_000);
  }

  spend(id: string, bytes: number): void {
    this.#bucketsOf(id).bytes.spend(bytes);
  }

  takeLive(id: string): boolean {
    const held = this.#live.get(id) ?? 0;
    if (held >= this.#rates.live) return false;
    this.#live.set(id, held + 1);
    return true;
  }

  giveLive(id: string): void {
    const held = (this.#live.get(id) ?? 0) - 1;
    if (held > 0) this.#live.set(id, held);
    else this.#live.delete(id);
  }

  #bucketsOf(id: string): Buckets {
    let buckets = this.#buckets.get(id);
    if (buckets === undefined) {
      const { requestsPerSecond, bytesPerSecond } = this.#rates;
      const bucket = (perSecond: number): TokenBucket =>
        new TokenBucket(perSecond, perSecond * CLIENT_BURST_SECONDS, this.#clock);
      buckets = { requests: bucket(requestsPerSecond), bytes: bucket(bytesPerSecond) };
      this.#buckets.set(id, buckets);
    }
    return buckets;
  }
}

function tooFast(what: string, waitMs: number): HttpProblem {
  return {
    status: 429,
    code: "rate-limited",
    message: `this client has sent too many ${what}; slow down`,
    headers: { "Retry-After": String(Math.max(1, Math.ceil(waitMs / 1000))) },
  };
}

const tooManyLive: HttpProblem = {
  status: 429,
  code: "too-many-live",
  message: "this client holds too many live connections; close some, or follow many streams on one WebSocket",
  headers: { "Retry-After": "5" },
};
