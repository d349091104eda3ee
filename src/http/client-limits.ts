/**
 * What one client may ask of the server: requests and bytes a second, live connections at a time, streams in all; and of what the
 * server holds for all of them, body bytes in flight and places of live requests, no more than a quarter. A client is a caller,
 * or an address where callers are not told apart. Bodies are paid for after they came: who owes bytes waits until the debt is gone.
 * Bounded: of clients that come and go the most recent ones are remembered, of what is held those who hold it.
 */

import { LRUCache } from "lru-cache";
import type { Clock } from "../kit/clock.ts";
import { TokenBucket } from "../kit/token-bucket.ts";
import { CLIENT_BURST_SECONDS, MAX_CLIENTS_REMEMBERED } from "../protocol/limits.ts";
import type { BodyClient } from "./body-room.ts";
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

/** What the server has for all clients. */
export interface SharedBudget {
  readonly liveRequests: number;
  readonly bodyBytes: number;
}

/** One client holds at most this part of it: whoever takes all that it may leaves as much to three others. */
const CLIENT_SHARE = 1 / 4;

/** Of something that is given back: how much of it each client holds now. */
class Holdings {
  readonly #held = new Map<string, number>();

  /** False when the client would hold more than that; then nothing is taken. */
  take(id: string, units: number, atMost: number): boolean {
    const held = (this.#held.get(id) ?? 0) + units;
    if (held > atMost) return false;
    this.#held.set(id, held);
    return true;
  }

  give(id: string, units: number): void {
    const held = (this.#held.get(id) ?? 0) - units;
    if (held > 0) this.#held.set(id, held);
    else this.#held.delete(id);
  }
}

interface Buckets {
  readonly requests: TokenBucket;
  readonly bytes: TokenBucket;
}

/** The limits of one client. */
export class Client implements BodyClient {
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

  /** Room for one thing more that a live connection follows; `givePlace` when it is over. */
  takePlace(): HttpProblem | null {
    return this.#limits.takePlace(this.id) ? null : tooManyLive;
  }

  givePlace(): void {
    this.#limits.givePlace(this.id);
  }

  /** Its part of `ofAll` units that a feature keeps for live requests; false when it has used that up. */
  takeShare(what: string, units: number, ofAll: number): boolean {
    return this.#limits.takeShare(this.id, what, units, ofAll);
  }

  giveShare(what: string, units: number): void {
    this.#limits.giveShare(this.id, what, units);
  }

  takeBytes(bytes: number, least: number): boolean {
    return this.#limits.takeBytes(this.id, bytes, least);
  }

  giveBytes(bytes: number): void {
    this.#limits.giveBytes(this.id, bytes);
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
  readonly #live = new Holdings();
  /** Of the server's live requests, those of live connections included. */
  readonly #places = new Holdings();
  readonly #bodies = new Holdings();
  readonly #shares = new Holdings();
  readonly #mostPlaces: number;
  readonly #mostBytes: number;

  constructor(rates: ClientRates, clock: Clock, quota: StreamQuota | null = null, budget: SharedBudget = UNBOUNDED) {
    this.#rates = rates;
    this.#clock = clock;
    this.quota = quota;
    // Who lifts a limit lifts the share that goes with it.
    this.#mostPlaces = rates.live === Infinity ? Infinity : Math.floor(budget.liveRequests * CLIENT_SHARE);
    this.#mostBytes = rates.bytesPerSecond === Infinity ? Infinity : Math.floor(budget.bodyBytes * CLIENT_SHARE);
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
    if (!this.takePlace(id)) return false;
    if (this.#live.take(id, 1, this.#rates.live)) return true;
    this.givePlace(id);
    return false;
  }

  giveLive(id: string): void {
    this.#live.give(id, 1);
    this.givePlace(id);
  }

  takePlace(id: string): boolean {
    return this.#places.take(id, 1, this.#mostPlaces);
  }

  givePlace(id: string): void {
    this.#places.give(id, 1);
  }

  takeShare(id: string, what: string, units: number, ofAll: number): boolean {
    const atMost = this.#rates.live === Infinity ? Infinity : ofAll * CLIENT_SHARE;
    return this.#shares.take(`${what} ${id}`, units, atMost);
  }

  giveShare(id: string, what: string, units: number): void {
    this.#shares.give(`${what} ${id}`, units);
  }

  takeBytes(id: string, bytes: number, least: number): boolean {
    return this.#bodies.take(id, bytes, Math.max(least, this.#mostBytes));
  }

  giveBytes(id: string, bytes: number): void {
    this.#bodies.give(id, bytes);
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

const UNBOUNDED: SharedBudget = { liveRequests: Infinity, bodyBytes: Infinity };

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
  message: "this client holds too many live connections or subscriptions; close some",
  headers: { "Retry-After": "5" },
};
