/**
 * One subscription: a durable cursor over streams that wakes a worker when one of them has news (PROTOCOL §6, §7). At most one wake is
 * in flight; each has a generation, which fences late answers. Everything that is told to anybody is durable first: the wake, who holds
 * it, what was acked. One operation at a time; a webhook is under way besides, and what comes of it is one more operation.
 */

import type { Deadline } from "../../kit/deadlines.ts";
import { type Link, Links } from "./links.ts";
import { MAX_REWAKE_MS, MAX_STREAMS_PER_WAKE, RETRY_MS } from "./limits.ts";
import type { AckRequest } from "./subscription-config.ts";
import type {
  Answer,
  Claimed,
  Refusal,
  SubscriptionParts,
  SubscriptionRecord,
  WakeRecord,
  WakeStream,
} from "./subscription-port.ts";

/** Operations that may wait for their turn: more come only from clients that do not wait for answers. */
const MAX_WAITING = 1_000;

const fenced: Refusal = {
  code: "FENCED",
  message: "this wake is not the present one; claim again, or wait for the next",
};
const busy: Refusal = { code: "OVERLOADED", message: "too many requests for this subscription wait; try again" };
const gone: Refusal = { code: "SUBSCRIPTION_NOT_FOUND", message: "no such subscription" };

export class Subscription {
  readonly id: string;
  readonly links = new Links();
  readonly #parts: SubscriptionParts;
  #record: SubscriptionRecord;
  #turn: Promise<unknown> = Promise.resolve();
  #waiting = 0;
  /** When the present retry or wake is due, by the monotonic clock: the wall clock is for what is stored, and may be set. */
  #due: { readonly of: object; readonly atMs: number; readonly timer: Deadline } | null = null;
  /** Ends the webhook under way. */
  #delivery: AbortController | null = null;
  #isPoked = false;
  /** It is durable, and its streams are known. */
  #isStarted = false;
  #isClosed = false;

  constructor(id: string, record: SubscriptionRecord, parts: SubscriptionParts) {
    this.id = id;
    this.#record = record;
    this.#parts = parts;
  }

  get record(): SubscriptionRecord {
    return this.#record;
  }

  /** False while it is being made, or looked for: nobody may use it then. */
  get isStarted(): boolean {
    return this.#isStarted;
  }

  /** Takes up what was under way when the process ended. */
  start(): void {
    this.#isStarted = true;
    this.#arm();
    this.poke();
  }

  /** Looks whether a worker has to be woken; cheap while one is. */
  poke(): void {
    if (!this.#isStarted || this.#isClosed || this.#isPoked || !this.#isIdle || !this.links.hasPending) return;
    this.#isPoked = true;
    this.#background(async () => {
      this.#isPoked = false;
      if (this.#isIdle) await this.#wake(0);
    });
  }

  /** No wake is in flight, and none is to be tried again. */
  get #isIdle(): boolean {
    return this.#record.wake === null && (this.#record.retry?.atMs ?? null) === null;
  }

  /** With a retry the end of the lease was there already: only what followed could not be told. */
  get #isLeaseOver(): boolean {
    return this.#record.retry !== null || this.#isDue;
  }

  get #isDue(): boolean {
    return this.#due !== null && this.#parts.clock.monotonicMs() >= this.#due.atMs;
  }

  /** Clients reach the server elsewhere now. */
  setBase(base: string): Promise<Answer<object>> {
    return this.#exclusive(async () => {
      await this.#parts.saveBase(base);
      this.#record = { ...this.#record, base };
      return {};
    });
  }

  /** A worker takes the present wake, or the news that nobody was woken for yet. */
  claim(worker: string): Promise<Answer<Claimed>> {
    return this.#exclusive(async () => {
      const { config, wake, generation } = this.#record;
      if (config.type !== "pull-wake")
        return { refused: { code: "INVALID_REQUEST", message: "a webhook subscription is not claimed" } };
      const nowMs = this.#parts.clock.nowMs();
      if (wake !== null && wake.holder !== null && !this.#isLeaseOver) {
        const more = { current_holder: wake.holder, generation };
        return { refused: { code: "ALREADY_CLAIMED", message: `${wake.holder} holds the lease`, more } };
      }
      if (!this.links.hasPending) return { refused: { code: "NO_PENDING_WORK", message: "no stream has news" } };
      // One that was held is over: whoever held it is fenced.
      const isNew = wake === null || wake.holder !== null;
      const next = isNew ? generation + 1 : generation;
      const id = isNew ? this.#parts.newId() : wake.id;
      const held: WakeRecord = { id, holder: worker, untilMs: nowMs + config.leaseMs, told: 0 };
      await this.#save({ ...this.#record, generation: next, wake: held, retry: null });
      const streams = await this.#streams();
      const token = this.#parts.tokens.mint({ subscription: this.#parts.subject, generation: next }, nowMs);
      return { wake_id: id, generation: next, token, streams, lease_ttl_ms: config.leaseMs };
    });
  }

  /** Moves cursors; done ends the wake, otherwise its lease is longer. */
  ack(token: string, { acks, done, ...wake }: AckRequest): Promise<Answer<{ ok: true; next_wake: boolean }>> {
    return this.#exclusive(async () => {
      const refused = this.#fence(token, wake);
      if (refused !== null) return { refused };
      const moves: (readonly [Link, number])[] = [];
      for (const { name, offset } of acks) {
        const link = this.links.byName(name);
        const seq = link === undefined ? null : await this.#parts.seqOf(link.streamId, offset);
        if (link === undefined || seq === null || seq < link.acked || seq > link.tail) {
          const message = `'${offset}' is not an offset of ${name} between what was acked and its tail`;
          return { refused: { code: "INVALID_OFFSET", message } };
        }
        moves.push([link, seq]);
      }
      const { record } = this;
      const untilMs = this.#parts.clock.nowMs() + record.config.leaseMs;
      const next = done || record.wake === null ? null : { ...record.wake, untilMs };
      await this.#save({ ...record, wake: next, retry: null }, moves);
      if (done) this.#delivery?.abort();
      return { ok: true, next_wake: done && this.links.hasPending };
    });
  }

  /** Gives a wake back: what is pending wakes somebody again. */
  release(token: string, wake: { readonly wake_id: string; readonly generation: number }): Promise<Answer<object>> {
    return this.#exclusive(async () => {
      const refused = this.#fence(token, wake);
      if (refused !== null) return { refused };
      await this.#save({ ...this.#record, wake: null, retry: null });
      return {};
    });
  }

  /**
   * Changes which streams are linked by name. `cursors` are those that change with it, as they are in its turn: one may have been acked
   * since it was linked. `saved` is called in that turn as well, before anything else can move a cursor.
   */
  setExplicit(
    explicit: readonly string[],
    cursors: () => ReadonlyMap<number, number | null>,
    saved: () => void = () => undefined,
  ): Promise<Answer<object>> {
    return this.#exclusive(async () => {
      await this.#parts.saveExplicit(explicit, cursors());
      this.#record = { ...this.#record, explicit };
      saved();
      return {};
    });
  }

  /** It is deleted, or the process ends: nothing more is told, and what waits fails. */
  close(): void {
    this.#isClosed = true;
    this.#due?.timer.cancel();
    this.#delivery?.abort();
  }

  /** Why the token is none of this subscription; null when it is, of whichever wake. */
  refuses(token: string): Refusal | null {
    const claims = this.#parts.tokens.verify(token, this.#parts.subject, this.#parts.clock.nowMs());
    return typeof claims === "string" ? { code: claims, message: "the bearer token is not one of this wake" } : null;
  }

  #fence(token: string, { wake_id, generation }: { wake_id: string; generation: number }): Refusal | null {
    const claims = this.#parts.tokens.verify(token, this.#parts.subject, this.#parts.clock.nowMs());
    if (typeof claims === "string") return { code: claims, message: "the bearer token is not one of this wake" };
    const { wake } = this.#record;
    const isCurrent = claims.generation === this.#record.generation && generation === claims.generation;
    return wake !== null && isCurrent && wake.id === wake_id ? null : fenced;
  }

  /** Begins a wake, durably, and tells it. Without news there is none. */
  async #wake(told: number): Promise<void> {
    const { config, wake } = this.#record;
    if (!this.links.hasPending) {
      if (wake !== null || this.#record.retry !== null) await this.#save({ ...this.#record, wake: null, retry: null });
      return;
    }
    const nowMs = this.#parts.clock.nowMs();
    const waitMs = Math.min(MAX_REWAKE_MS, config.leaseMs * 2 ** told);
    const untilMs = nowMs + (config.type === "webhook" ? config.leaseMs : Math.max(config.leaseMs, waitMs));
    const next: WakeRecord = { id: this.#parts.newId(), holder: null, untilMs, told: told + 1 };
    const generation = this.#record.generation + 1;
    const record = { ...this.#record, generation, wake: next, retry: underWay(this.#record.retry) };
    if (config.type === "webhook") {
      await this.#save(record);
      this.#deliver();
      return;
    }
    const [first] = this.links.first(1);
    const event = {
      type: "wake",
      subscription_id: this.id,
      stream: first?.link.name ?? "",
      generation,
      ts: nowMs,
    };
    const announced = { ...record, retry: null };
    const failed = await this.#parts.tell(config.wakeStream ?? "", event, announced);
    if (failed === null) {
      this.#record = announced;
      this.#parts.counters.wakes.of("pull-wake").add();
    } else await this.#fail(failed);
  }

  /** The webhook of the present wake. What comes of it is an operation of its own. */
  #deliver(): void {
    const { wake, generation } = this.#record;
    // It may have been deleted while its wake was saved.
    if (wake === null || this.#isClosed) return;
    this.#delivery?.abort();
    const delivery = new AbortController();
    this.#delivery = delivery;
    const tails = new Map<Link, number>();
    const post = async (): Promise<void> => {
      const streams = await this.#streams(tails);
      if (delivery.signal.aborted) return;
      this.#parts.counters.wakes.of("webhook").add();
      const outcome = await this.#parts.deliver(
        { id: this.id, subject: this.#parts.subject, record: this.#record },
        { wake, generation, streams },
        delivery.signal,
      );
      if (delivery.signal.aborted) return;
      await this.#inTurn(async () => {
        // Answered meanwhile, by its callback or by its lease.
        if (this.#record.wake?.id !== wake.id || delivery.signal.aborted) return {};
        if (outcome.kind === "failed") {
          await this.#fail(outcome.reason);
          return {};
        }
        if (outcome.kind === "done") await this.#save({ ...this.#record, wake: null, retry: null }, tails);
        else if (this.#record.retry !== null) await this.#save({ ...this.#record, retry: null });
        return {};
      });
    };
    post().catch((cause: unknown) => this.#parts.onFault(`the webhook of ${this.id}`, cause));
  }

  /** What could not be told is told again, later and later. */
  async #fail(reason: string): Promise<void> {
    this.#parts.counters.failures.add();
    await this.#save({ ...this.#record, retry: this.#nextRetry(reason) });
  }

  #nextRetry(reason: string): NonNullable<SubscriptionRecord["retry"]> {
    const attempts = (this.#record.retry?.attempts ?? 0) + 1;
    const backoffMs = Math.min(RETRY_MS.last, RETRY_MS.first * 2 ** (attempts - 1));
    const jitterMs = backoffMs * RETRY_MS.jitter * (2 * this.#parts.random() - 1);
    return { attempts, atMs: Math.round(this.#parts.clock.nowMs() + backoffMs + jitterMs), reason };
  }

  /** The next thing that time brings: a retry, or the end of the lease. */
  #onDue(): void {
    this.#background(async () => {
      // Another operation came first, and what is due now is something else.
      if (!this.#isDue) return;
      const { wake, retry, config } = this.#record;
      if (retry !== null && retry.atMs !== null) {
        // What it was to tell may be gone.
        if (wake === null || config.type === "pull-wake" || !this.links.hasPending) return this.#wake(0);
        const again = { ...wake, untilMs: this.#parts.clock.nowMs() + config.leaseMs };
        await this.#save({ ...this.#record, retry: underWay(retry), wake: again });
        this.#deliver();
        return;
      }
      if (wake === null) return;
      this.#delivery?.abort();
      this.#parts.counters.expired.add();
      await this.#wake(wake.holder === null ? wake.told : 0);
    });
  }

  async #save(record: SubscriptionRecord, moves: Iterable<readonly [Link, number]> = []): Promise<void> {
    const cursors = new Map<number, number>();
    for (const [link, seq] of moves) {
      if (this.links.get(link.streamId) !== link) continue;
      // An ack may have come further than what a webhook was told.
      cursors.set(link.streamId, Math.max(seq, link.acked, cursors.get(link.streamId) ?? 0));
    }
    await this.#parts.save(record, cursors);
    this.#record = record;
    for (const [streamId, seq] of cursors) {
      const link = this.links.get(streamId);
      if (link !== undefined) this.links.ack(link, seq);
    }
  }

  /** The linked streams as a wake tells them; `tails` are noted where they are told. */
  async #streams(tails: Map<Link, number> = new Map()): Promise<WakeStream[]> {
    const told: WakeStream[] = [];
    for (const { link, acked, tail } of this.links.first(MAX_STREAMS_PER_WAKE)) {
      const stream = await this.#parts.describe(link, tail);
      // Deleted in this moment.
      if (stream === null) continue;
      tails.set(link, tail);
      told.push({ ...stream, has_pending: tail > acked });
    }
    return told;
  }

  /** One at a time. Afterwards the timer stands right, and news that came meanwhile is looked at. */
  #exclusive<T extends object>(operation: () => Promise<Answer<T>>): Promise<Answer<T>> {
    if (this.#waiting >= MAX_WAITING) return Promise.resolve({ refused: busy });
    return this.#inTurn(operation);
  }

  /** The same for what the subscription itself does, which is one thing of a kind at a time and must not be left out. */
  #inTurn<T extends object>(operation: () => Promise<Answer<T>>): Promise<Answer<T>> {
    this.#waiting++;
    const run = async (): Promise<Answer<T>> => {
      this.#waiting--;
      if (this.#isClosed) return { refused: gone };
      try {
        return await operation();
      } finally {
        this.#arm();
        this.poke();
      }
    };
    const result = this.#turn.then(run, run);
    this.#turn = result;
    return result;
  }

  #background(operation: () => Promise<void>): void {
    this.#inTurn(async () => {
      try {
        await operation();
      } catch (cause) {
        this.#parts.onFault(`the subscription ${this.id}`, cause);
        // Not saved, since that is what failed: what is durable is still true.
        this.#record = {
          ...this.#record,
          retry: this.#nextRetry(cause instanceof Error ? cause.message : String(cause)),
        };
      }
      return {};
    }).catch((cause: unknown) => this.#parts.onFault(`the subscription ${this.id}`, cause));
  }

  /**
   * The wall clock is asked once for each retry and wake, what is left of it is then measured by the other one. A stored time further
   * ahead than any lease is of a clock that was set back.
   */
  #arm(): void {
    const { wake, retry } = this.#record;
    const of = retry !== null && retry.atMs !== null ? retry : wake;
    if (of === this.#due?.of || this.#isClosed || !this.#isStarted) return;
    this.#due?.timer.cancel();
    this.#due = null;
    if (of === null) return;
    const { clock, deadlines } = this.#parts;
    const untilMs = ("untilMs" in of ? of.untilMs : of.atMs) ?? 0;
    const delayMs = Math.min(MAX_REWAKE_MS, Math.max(1, untilMs - clock.nowMs()));
    const atMs = clock.monotonicMs() + delayMs;
    this.#due = { of, atMs, timer: deadlines.after(delayMs, () => this.#onDue()) };
  }
}

function underWay(retry: SubscriptionRecord["retry"]): SubscriptionRecord["retry"] {
  return retry === null ? null : { ...retry, atMs: null };
}
