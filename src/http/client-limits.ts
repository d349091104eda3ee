/**
 * What one client may ask of the server: requests and bytes a second, and live connections at a time. A client is a caller, or an
 * address where callers are not told apart. Bodies are paid for after they came: who owes bytes waits until the debt is gone.
 * Bounded: of clients that come and go the most recent ones are remembered, of live connections those that are open.
 */

import { LRUCache } from "lru-cache";
import type { Clock } from "../kit/clock.ts";
import { TokenBucket } from "../kit/token-bucket.ts";
import { CLIENT_BURST_SECONDS, MAX_CLIENTS_REMEMBERED } from "../protocol/limits.ts";
import type { HttpProblem } from "./errors.ts";

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

export class ClientLimits {
  readonly #rates: ClientRates;
  readonly #clock: Clock;
  readonly #buckets = new LRUCache<string, Buckets>({ max: MAX_CLIENTS_REMEMBERED });
  readonly #live = new Map<string, number>();

  constructor(rates: ClientRates, clock: Clock) {
    this.#rates = rates;
    this.#clock = clock;
  }

  /** Takes one request from what the client may do now. */
  admit(client: string): HttpProblem | null {
    const { requests, bytes } = this.#bucketsOf(client);
    const owedMs = bytes.owedMs;
    if (owedMs > 0) return tooFast("bytes", owedMs);
    return requests.take() ? null : tooFast("requests", 1_000);
  }

  /** A body came. */
  spend(client: string, bytes: number): void {
    this.#bucketsOf(client).bytes.spend(bytes);
  }

  /** A message that came whole: one request and its bytes. */
  charge(client: string, bytes: number): HttpProblem | null {
    const problem = this.admit(client);
    if (problem === null) this.spend(client, bytes);
    return problem;
  }

  takeLive(client: string): boolean {
    const held = this.#live.get(client) ?? 0;
    if (held >= this.#rates.live) return false;
    this.#live.set(client, held + 1);
    return true;
  }

  giveLive(client: string): void {
    const held = (this.#live.get(client) ?? 0) - 1;
    if (held > 0) this.#live.set(client, held);
    else this.#live.delete(client);
  }

  #bucketsOf(client: string): Buckets {
    let buckets = this.#buckets.get(client);
    if (buckets === undefined) {
      const { requestsPerSecond, bytesPerSecond } = this.#rates;
      const bucket = (perSecond: number): TokenBucket =>
        new TokenBucket(perSecond, perSecond * CLIENT_BURST_SECONDS, this.#clock);
      buckets = { requests: bucket(requestsPerSecond), bytes: bucket(bytesPerSecond) };
      this.#buckets.set(client, buckets);
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
