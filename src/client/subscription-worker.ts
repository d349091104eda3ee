/**
 * Working on a pull-wake subscription (PROTOCOL §7.2): follow its wake stream, claim, handle, ack, again and again. One claim at
 * a time; what fails is handed out again, to this worker or to another, so handling must bear a repetition.
 * Invariants: no wake is missed, because a claim is tried after the place in the wake stream is known, and again until the
 * server has answered it; a lease that may be over stops its handler; nothing is acked after a handler failed; no claim is
 * dropped while its answer can be had.
 */

import { Result } from "better-result";
import type { Clock } from "../kit/clock.ts";
import { isJsonObject } from "../kit/json-object.ts";
import type { LiveMode } from "./follow.ts";
import { LeaseConflict } from "./lease-conflict.ts";
import { retryDelayMs, type RetryPolicy, sleep } from "./retry-policy.ts";
import { isStreamError, Refused, type StreamError, Unreachable } from "./stream-error.ts";
import type { StreamHandle } from "./stream-handle.ts";
import type { Claim, ClaimedStream } from "./subscription-answers.ts";
import type { Acked, StreamAck, SubscriptionHandle } from "./subscription-handle.ts";
import { isTransient } from "./transport.ts";

export interface WorkOptions {
  /** Names this worker; others are told who holds the lease. */
  readonly worker: string;
  /** Processes what is pending. When it resolves the streams are acked, when it throws they are given back. */
  readonly handle: (job: Job) => void | Promise<void>;
  /** Told of everything that went wrong and is tried again; must not throw. */
  readonly onFailure: (failure: WorkFailure) => void;
  /** Ends the work: the handler is told, and what it makes of its job is still acked or given back. */
  readonly signal: AbortSignal;
  /** How wakes are waited for; default `long-poll`. */
  readonly live?: LiveMode;
}

export interface WorkFailure {
  readonly during: "follow" | "claim" | "handle" | "heartbeat" | "ack" | "release";
  /** A `StreamError`, or what the handler threw. */
  readonly cause: unknown;
}

/** A claim, as its handler sees it. */
export interface Job {
  readonly subscriptionId: string;
  readonly generation: number;
  /** The streams with something new: read each from its `ackedOffset`. */
  readonly streams: readonly ClaimedStream[];
  /** Aborts when the lease is lost, or the work is to end: what is done from then on may be done by somebody else too. */
  readonly signal: AbortSignal;
  stream(name: string): StreamHandle;
  /**
   * Says how far a stream of the job was processed. The next heartbeat tells the server, so that it stays done whatever happens
   * to this worker. A stream of which nothing is said is done up to its `tailOffset` when the handler resolves.
   */
  processed(path: string, offset: string): void;
}

/** What the loop needs of a client. */
export interface WorkerParts {
  readonly subscription: SubscriptionHandle;
  stream(name: string): StreamHandle;
  readonly clock: Clock;
  readonly retry: RetryPolicy;
  /** In [0, 1). */
  readonly random: () => number;
}

/** Each has a third of a lease to be answered: one may vanish. */
const BEATS_PER_LEASE = 3;
/** For the answer of a claim that was under way when the work ended. */
const LAST_CLAIM_LIMIT_MS = 5_000;
/** Acks in one request: names have up to 1 KiB, and a request body is to stay well below what a server takes. */
const MAX_ACKS = 100;

export class SubscriptionWorker {
  readonly #parts: WorkerParts;
  readonly #options: WorkOptions;
  /** Jobs in a row that came to nothing. */
  #failedJobs = 0;
  /** Of the subscription. */
  #leaseTtlMs = 0;

  constructor(parts: WorkerParts, options: WorkOptions) {
    this.#parts = parts;
    this.#options = options;
  }

  /** Ok when the signal aborts, or the wake stream is closed. @throws TypeError when the subscription is not pull-wake. */
  async run(): Promise<Result<void, StreamError>> {
    try {
      return await this.#followUntilTheEnd();
    } catch (cause) {
      // Whatever waited when the signal came was rejected with its reason.
      if (this.#options.signal.aborted) return Result.ok();
      throw cause;
    }
  }

  async #followUntilTheEnd(): Promise<Result<void, StreamError>> {
    for (let failures = 0; ;) {
      let isFollowing = false;
      try {
        for await (const isWake of this.#wakes()) {
          isFollowing = true;
          failures = 0;
          if (isWake) await this.#workOff();
          this.#options.signal.throwIfAborted();
        }
        return Result.ok();
      } catch (cause) {
        this.#options.signal.throwIfAborted();
        if (!isStreamError(cause)) throw cause;
        // 410: the place in the wake stream was trimmed away. Where it ends now is as good.
        const mayFollowAgain = isTransient(cause) || (isFollowing && Refused.is(cause) && cause.status === 410);
        if (!mayFollowAgain) return Result.err(cause);
        this.#failed("follow", cause);
        await this.#pause(++failures, cause);
      }
    }
  }

  /** Each step of the wake stream: whether to claim. The first step always is: what was told before it is not seen. */
  async *#wakes(): AsyncGenerator<boolean, void> {
    const { signal, live = "long-poll" } = this.#options;
    const { subscription } = this.#parts;
    const { wakeStream, leaseTtlMs } = valueOrThrow(await subscription.get(signal));
    this.#leaseTtlMs = leaseTtlMs;
    if (wakeStream === null) throw new TypeError(`the subscription ${subscription.id} has no wake stream to follow`);
    let isFirst = true;
    for await (const { parts } of this.#parts.stream(wakeStream).follow({ offset: "now", live, signal })) {
      yield isFirst || parts.some((part) => isWakeOf(subscription.id, part));
      isFirst = false;
    }
  }

  /** Claims and handles. After a failure it waits, longer each time, so that a job that cannot succeed does not spin. */
  async #workOff(): Promise<void> {
    const claim = await this.#claim();
    if (claim === null) return;
    const isDone = await this.#hold(claim);
    this.#failedJobs = isDone ? 0 : this.#failedJobs + 1;
    if (!isDone) await this.#pause(this.#failedJobs, null);
  }

  /** A claim, or null when there is none to get. Asks until it is answered: a wake is told once. */
  async #claim(): Promise<HeldClaim | null> {
    const { signal } = this.#options;
    for (let failures = 1; ; failures++) {
      signal.throwIfAborted();
      const sinceMs = this.#parts.clock.monotonicMs();
      const answer = await this.#claimOnce();
      if (answer.isOk()) {
        const claim = { ...answer.value, sinceMs };
        if (!signal.aborted) return claim;
        await this.#release(claim);
        return null;
      }
      const { error } = answer;
      if (LeaseConflict.is(error) && error.code !== "FENCED") return null;
      if (!isTransient(error)) throw error;
      this.#failed("claim", error);
      await this.#pause(failures, error);
    }
  }

  /**
   * One claim, waited for as long as its lease could be. The end of the work breaks it off only after a while: who does not get
   * the answer cannot give the lease back.
   */
  async #claimOnce(): Promise<Result<Claim, StreamError>> {
    const { worker, signal } = this.#options;
    const { subscription } = this.#parts;
    const stop = new AbortController();
    let timer: ReturnType<typeof setTimeout> | undefined;
    const onEnd = (): void => {
      timer = setTimeout(() => stop.abort(), LAST_CLAIM_LIMIT_MS);
    };
    signal.addEventListener("abort", onEnd, { once: true });
    try {
      return await withinLimit(this.#leaseTtlMs, subscription.url, stop.signal, (limit) =>
        subscription.claimOnce(worker, limit),
      );
    } finally {
      signal.removeEventListener("abort", onEnd);
      clearTimeout(timer);
    }
  }

  /** Runs the handler under the lease. True when everything was acked. */
  async #hold(claim: HeldClaim): Promise<boolean> {
    const lost = new AbortController();
    const settled = new AbortController();
    const progress = new Progress(claim.streams);
    const job: Job = {
      subscriptionId: this.#parts.subscription.id,
      generation: claim.generation,
      streams: progress.pending,
      signal: AbortSignal.any([this.#options.signal, lost.signal]),
      stream: (name) => this.#parts.stream(name),
      processed: (path, offset) => progress.note(path, offset),
    };
    const handling = this.#handle(job).finally(() => settled.abort());
    const [isHandled] = await Promise.all([handling, this.#keepLease(claim, progress, settled.signal, lost)]);
    if (LeaseConflict.is(lost.signal.reason)) return false;
    const acks = isHandled ? progress.all() : progress.unsaid();
    const refused = isHandled || acks.length > 0 ? await this.#ack(claim, acks, isHandled) : null;
    if (isHandled && refused === null) return true;
    if (!LeaseConflict.is(refused)) await this.#release(claim);
    return false;
  }

  async #handle(job: Job): Promise<boolean> {
    try {
      await this.#options.handle(job);
      return true;
    } catch (cause) {
      // A handler that stops because it was told to did not fail.
      if (!job.signal.aborted || cause !== job.signal.reason) this.#failed("handle", cause);
      return false;
    }
  }

  /** Acks without done until the handler has settled; `lost` aborts once the lease is over, or must be taken for it. */
  async #keepLease(claim: HeldClaim, progress: Progress, settled: AbortSignal, lost: AbortController): Promise<void> {
    const beatMs = claim.leaseTtlMs / BEATS_PER_LEASE;
    const over = AbortSignal.any([settled, lost.signal]);
    let sentMs = claim.sinceMs;
    let end = this.#endOfLease(claim, sentMs, lost);
    while (await this.#passes(this.#msUntil(sentMs + beatMs), over)) {
      sentMs = this.#parts.clock.monotonicMs();
      const error = await this.#beat(claim, progress, beatMs, over);
      if (settled.aborted) break;
      if (error === null) {
        clearTimeout(end);
        end = this.#endOfLease(claim, sentMs, lost);
        continue;
      }
      this.#failed("heartbeat", error);
      if (!isTransient(error)) lost.abort(error);
    }
    clearTimeout(end);
  }

  /** Aborts `lost` when the lease may be over that the server confirmed to a request of that moment. */
  #endOfLease({ leaseTtlMs }: HeldClaim, sentMs: number, lost: AbortController): ReturnType<typeof setTimeout> {
    const { url } = this.#parts.subscription;
    const message = `the lease may be over: no heartbeat was confirmed for ${leaseTtlMs} ms`;
    const onEnd = (): void => lost.abort(new Unreachable({ message, hint: null, url, cause: null }));
    return setTimeout(onEnd, this.#msUntil(sentMs + leaseTtlMs));
  }

  #msUntil(atMs: number): number {
    return Math.max(0, atMs - this.#parts.clock.monotonicMs());
  }

  /** One heartbeat. When the server does not take the offsets, one without them: the lease does not depend on them. */
  async #beat(claim: HeldClaim, progress: Progress, limitMs: number, over: AbortSignal): Promise<StreamError | null> {
    const { subscription } = this.#parts;
    const acks = progress.unsaid().slice(0, MAX_ACKS);
    const beat = (told: readonly StreamAck[]): Promise<Result<Acked, StreamError>> =>
      withinLimit(limitMs, subscription.url, over, (signal) => subscription.ack(claim, { acks: told, signal }));
    const answer = await beat(acks);
    if (answer.isOk()) {
      progress.said(acks);
      return null;
    }
    if (acks.length === 0 || !Refused.is(answer.error) || answer.error.code !== "INVALID_OFFSET") return answer.error;
    this.#failed("ack", answer.error);
    const bare = await beat([]);
    return bare.isOk() ? null : bare.error;
  }

  /** The last ack of a claim, in as many requests as it takes; null when the server took all. */
  async #ack(claim: HeldClaim, acks: readonly StreamAck[], isDone: boolean): Promise<StreamError | null> {
    for (let at = 0; ; at += MAX_ACKS) {
      const isLast = at + MAX_ACKS >= acks.length;
      const options = { acks: acks.slice(at, at + MAX_ACKS), done: isDone && isLast };
      const refused = await this.#tell("ack", claim, (signal) =>
        this.#parts.subscription.ack(claim, { ...options, signal }),
      );
      if (refused !== null || isLast) return refused;
    }
  }

  async #release(claim: HeldClaim): Promise<void> {
    await this.#tell("release", claim, (signal) => this.#parts.subscription.release(claim, signal));
  }

  /** A last word is worth nothing once the lease is over. */
  async #tell(
    during: "ack" | "release",
    { leaseTtlMs }: HeldClaim,
    call: (signal: AbortSignal) => Promise<Result<unknown, StreamError>>,
  ): Promise<StreamError | null> {
    const answer = await withinLimit(leaseTtlMs, this.#parts.subscription.url, null, call);
    if (answer.isOk()) return null;
    this.#failed(during, answer.error);
    return answer.error;
  }

  /** True when the time has passed, false when the signal came before. */
  async #passes(delayMs: number, signal: AbortSignal): Promise<boolean> {
    try {
      await sleep(delayMs, signal);
      return true;
    } catch (cause) {
      if (signal.aborted) return false;
      throw cause;
    }
  }

  async #pause(failures: number, error: StreamError | null): Promise<void> {
    const retryAfterMs = error !== null && Refused.is(error) ? error.retryAfterMs : null;
    const delayMs = retryDelayMs(this.#parts.retry, failures, retryAfterMs, this.#parts.random());
    await sleep(delayMs, this.#options.signal);
  }

  #failed(during: WorkFailure["during"], cause: unknown): void {
    this.#options.onFailure({ during, cause });
  }
}

/** With the moment before it was asked for, on the monotonic clock: the lease cannot have begun earlier. */
interface HeldClaim extends Claim {
  readonly sinceMs: number;
}

/** How far the streams of one claim were processed, and what of it the server was told. */
class Progress {
  readonly pending: readonly ClaimedStream[];
  readonly #names: ReadonlySet<string>;
  readonly #offsets = new Map<string, string>();
  readonly #said = new Map<string, string>();

  constructor(streams: readonly ClaimedStream[]) {
    this.pending = streams.filter(({ hasPending }) => hasPending);
    this.#names = new Set(streams.map(({ path }) => path));
  }

  /** @throws TypeError for a stream that is not of the claim. */
  note(path: string, offset: string): void {
    if (!this.#names.has(path)) throw new TypeError(`${path} is no stream of this job`);
    this.#offsets.set(path, offset);
  }

  said(acks: readonly StreamAck[]): void {
    for (const { stream, offset } of acks) this.#said.set(stream, offset);
  }

  unsaid(): StreamAck[] {
    return acksOf(this.#offsets).filter(({ stream, offset }) => this.#said.get(stream) !== offset);
  }

  all(): StreamAck[] {
    const tails = this.pending.map(({ path, tailOffset }) => [path, tailOffset] as const);
    return acksOf(new Map([...tails, ...this.#offsets]));
  }
}

function acksOf(offsets: ReadonlyMap<string, string>): StreamAck[] {
  return [...offsets].map(([stream, offset]) => ({ stream, offset }));
}

/** The answer, or `Unreachable` when there is none in time or `stop` comes first. */
async function withinLimit<T>(
  limitMs: number,
  url: string,
  stop: AbortSignal | null,
  call: (signal: AbortSignal) => Promise<Result<T, StreamError>>,
): Promise<Result<T, StreamError>> {
  const late = new AbortController();
  const timer = setTimeout(() => late.abort(), limitMs);
  const signal = stop === null ? late.signal : AbortSignal.any([late.signal, stop]);
  try {
    return await call(signal);
  } catch (cause) {
    if (!signal.aborted) throw cause;
    const message = `no answer from ${url} in time`;
    return Result.err(new Unreachable({ message, hint: null, url, cause }));
  } finally {
    clearTimeout(timer);
  }
}

const decoder = new TextDecoder();

/** Whether it tells of this subscription. What cannot be read is taken for it: a claim in vain costs one request. */
function isWakeOf(subscriptionId: string, part: Uint8Array): boolean {
  let event: unknown;
  try {
    event = JSON.parse(decoder.decode(part));
  } catch (cause) {
    if (cause instanceof SyntaxError) return true;
    throw cause;
  }
  return isJsonObject(event) && event["subscription_id"] === subscriptionId;
}

/** Inside a generator errors travel by throwing; the loop around it sees the same typed error. */
function valueOrThrow<T>(result: Result<T, StreamError>): T {
  if (result.isErr()) throw result.error;
  return result.value;
}
