/**
 * An idempotent producer: appends values one after the other, each stored exactly once, in the order of the calls.
 *
 * Batches form by themselves: while one request is under way, what is appended meanwhile becomes the next. One request at a
 * time, so that seqs arrive in order. A request with an unclear outcome is repeated with the same producer seq, which the
 * server recognises. When it has to be given up, the next request takes a new producer epoch: what is still on its way
 * from the old one is refused from then on, so that no seq ever means two things.
 *
 * A given id may have been used before, also in the epoch that would be ours: then our first requests would pass for
 * repeats and be dropped in silence. So the server is asked first, by a request that it can only refuse, and the epoch is
 * a random step higher: of two that start at once, the higher one fences the other.
 *
 * Bounds: records and bytes per request; time to keep trying; the queue, where `ready` waits, and at some times as much appends fail.
 */

import { Result } from "better-result";
import { utf8 } from "../kit/bytes.ts";
import type { Clock } from "../kit/clock.ts";
import { Ring } from "../kit/ring.ts";
import { isJson } from "../protocol/content-type.ts";
import {
  type Appended,
  appendHeaders,
  type AppendPlan,
  checkKey,
  checkLimits,
  jsonText,
  readAppended,
} from "./appending.ts";
import type { EpochStore } from "./producer-epochs.ts";
import { notAStream } from "./reading.ts";
import { DEFAULT_GIVE_UP_AFTER_MS, retryDelayMs, sleep } from "./retry-policy.ts";
import { Refused, type StreamError, Unreachable } from "./stream-error.ts";
import { isTransient, randomId, type RequestBody, type Transport } from "./transport.ts";

export interface ProducerOptions {
  /** The stream's own; default `application/json`. Only JSON values share requests: other records are what one append brings. */
  readonly contentType?: string;
  /** Names this producer across restarts: a new one with the same id fences the old one. Default: random, for one life. */
  readonly id?: string;
  /** Keeps the epoch of a given `id`. */
  readonly epochs?: EpochStore;
  /** How long a batch that is not full waits for more. Default 0: what comes while a request is under way is the next. */
  readonly lingerMs?: number;
  /** Per request; default 1,000. */
  readonly maxBatchRecords?: number;
  /** Per request, default 240 KiB: what is larger the server does not pack. One larger record travels alone. */
  readonly maxBatchBytes?: number;
  /** While so much waits or is under way, `ready` waits; at eight times as much `append` fails. Default 16 MiB. */
  readonly maxQueueBytes?: number;
  /** How long one request is repeated while its outcome is unclear or the server asks for patience. Default 5 minutes. */
  readonly giveUpAfterMs?: number;
  /** Aborting ends everything that waits with the signal's reason. */
  readonly signal?: AbortSignal;
}

/** One append on its way. */
interface Item {
  /** JSON text or bytes; null closes the stream. */
  readonly body: string | Uint8Array<ArrayBuffer> | null;
  readonly bytes: number;
  readonly key: string | undefined;
  readonly resolve: (acked: Result<Appended, StreamError>) => void;
  readonly reject: (thrown: Error) => void;
}

/** Why appends failed: what the caller is told, or what it is thrown (an abort's reason, a failing `auth` or epoch store). */
type Failure = { readonly error: StreamError } | { readonly thrown: Error };

interface Sent {
  readonly answer: Result<Appended, StreamError>;
  /** Some attempt may have reached the server, or may still reach it. */
  readonly unclear: boolean;
}

/** Of two producers that take an epoch of the same id at the same moment, both get the same one once in a million times. */
const MAX_EPOCH_STEP = 2 ** 20;
/** Refused by every rule for seqs, whatever the server knows of the producer. */
const IMPOSSIBLE_SEQ = Number.MAX_SAFE_INTEGER;
/** What a record takes besides its bytes, in the queue: of small ones there are not too many either. */
const QUEUED_RECORD_BYTES = 200;
/** Of `maxQueueBytes`: who waits for room never comes near, who appends whatever is at hand without waiting may. */
const FULL_AT = 8;
/** Refusals of single records: the others of the batch may pass without them. */
const BAD_RECORD = new Set(["record-invalid", "json-invalid", "json-too-deep"]);

export class StreamProducer {
  readonly id: string;
  readonly #transport: Transport;
  readonly #clock: Clock;
  readonly #url: string;
  readonly #options: ProducerOptions;
  readonly #contentType: string;
  readonly #json: boolean;
  readonly #maxBatchRecords: number;
  readonly #maxBatchBytes: number;
  readonly #maxQueueBytes: number;
  readonly #queue = new Ring<Item>();
  /** Bytes in the queue and under way. */
  #waitingBytes = 0;
  /** Records in the next request: the bound, or less while a bad record is looked for. */
  #batchRecords: number;
  #isRunning = false;
  /** Resolves when the last append so far was told its outcome. */
  #lastTold: Promise<void> = Promise.resolve();
  /** The first failure that `flush` has not told yet. */
  #untold: Failure | null = null;
  /** No request will succeed any more. */
  #dead: Failure | null = null;
  #closed = false;
  #flushes = 0;
  #endLinger: () => void = () => undefined;
  #waitingForRoom: (() => void)[] = [];
  /** Our epoch, and the seq of the next request in it; null before the first request and after one that was given up. */
  #place: { readonly epoch: number; seq: number } | null = null;
  /** The lowest epoch that can be ours; null before anything is known of a given id. */
  #lowestEpoch: number | null;

  /** @throws TypeError when the options make no sense. */
  constructor(transport: Transport, clock: Clock, url: string, options: ProducerOptions) {
    const { maxBatchRecords = 1_000, maxBatchBytes = 240 * 1024, maxQueueBytes = 16 * 1024 * 1024 } = options;
    checkLimits({ maxBatchRecords, maxBatchBytes, maxQueueBytes });
    if (options.epochs !== undefined && options.id === undefined) throw new TypeError("epochs are kept for a given id");
    this.id = options.id ?? randomId();
    if (!/^[!-~]{1,256}$/.test(this.id)) throw new TypeError("a producer id has 1 to 256 visible ASCII characters");
    this.#transport = transport;
    this.#clock = clock;
    this.#url = url;
    this.#options = options;
    this.#contentType = options.contentType ?? "application/json";
    this.#json = isJson(this.#contentType);
    this.#maxBatchRecords = maxBatchRecords;
    this.#maxBatchBytes = maxBatchBytes;
    this.#maxQueueBytes = maxQueueBytes;
    this.#batchRecords = maxBatchRecords;
    this.#lowestEpoch = options.id === undefined ? 0 : null;
  }

  /**
   * Appends one record: a value in JSON, or text or bytes. Resolves when it is durable, or failed for good; failures are also
   * told by `flush`, so that nobody has to wait for each append. Rejects with a TypeError when there is nothing to append
   * (no JSON, a key that no header carries, a closed producer), with a RangeError when the queue is full, with the signal's reason,
   * or with what `auth` or the epoch store threw.
   */
  append(value: unknown, options: { readonly key?: string } = {}): Promise<Result<Appended, StreamError>> {
    try {
      if (this.#closed) throw new TypeError("the producer is closed");
      checkKey(options.key);
      return this.#enqueue(this.#json ? jsonText(value) : bytesOf(value), options.key);
    } catch (cause) {
      return this.#enqueue(null, undefined, { thrown: asError(cause) });
    }
  }

  /** Resolves when there is room in the queue: for callers that append without waiting for each to be durable. */
  ready(): Promise<void> {
    if (this.#hasRoom) return Promise.resolve();
    return new Promise((resolve) => this.#waitingForRoom.push(resolve));
  }

  /** Waits until all appends so far are durable. An error when any append failed since the last call; rejects when one rejected. */
  async flush(): Promise<Result<void, StreamError>> {
    this.#flushes++;
    this.#endLinger();
    await this.#lastTold;
    this.#flushes--;
    const failure = this.#untold;
    this.#untold = null;
    if (failure === null) return Result.ok();
    if ("thrown" in failure) throw failure.thrown;
    return Result.err(failure.error);
  }

  /** Takes no more, and flushes. When that went well and `closeStream` is true, the stream is closed, too. */
  async close(options: { readonly closeStream?: boolean } = {}): Promise<Result<void, StreamError>> {
    this.#closed = true;
    const flushed = await this.flush();
    if (flushed.isErr() || options.closeStream !== true) return flushed;
    void this.#enqueue(null, undefined);
    return this.flush();
  }

  /** Closes the producer, not the stream. @throws what `flush` tells. */
  async [Symbol.asyncDispose](): Promise<void> {
    const closed = await this.close();
    if (closed.isErr()) throw closed.error;
  }

  get #hasRoom(): boolean {
    return this.#queuedBytes < this.#maxQueueBytes;
  }

  get #isFull(): boolean {
    return this.#queuedBytes >= FULL_AT * this.#maxQueueBytes;
  }

  get #queuedBytes(): number {
    return this.#waitingBytes + this.#queue.length * QUEUED_RECORD_BYTES;
  }

  /** `wrong`: why this append fails at once. */
  #enqueue(body: Item["body"], key: string | undefined, wrong?: Failure): Promise<Result<Appended, StreamError>> {
    const bytes = body === null ? 0 : typeof body === "string" ? utf8(body).length : body.length;
    const failure = wrong ?? this.#dead ?? (body !== null && this.#isFull ? queueFull() : null);
    const acked = new Promise<Result<Appended, StreamError>>((resolve, reject) => {
      const item = { body, bytes, key, resolve, reject };
      this.#waitingBytes += bytes;
      if (failure === null) this.#queue.push(item);
      else this.#fail([item], failure);
    });
    // A rejection that nobody waits for is told by `flush`.
    const told = acked.then(nothing, nothing);
    if (failure !== null) return acked;
    this.#lastTold = told;
    if (this.#isBatchFull) this.#endLinger();
    if (!this.#isRunning) void this.#run();
    return acked;
  }

  /** Sends until the queue is empty. Never rejects: whatever fails is told to those who wait. */
  async #run(): Promise<void> {
    this.#isRunning = true;
    while (this.#queue.length > 0) {
      // Also without a linger time what is appended in the same turn goes together.
      await this.#linger();
      const batch = this.#take();
      try {
        this.#options.signal?.throwIfAborted();
        this.#settle(batch, await this.#deliver(batch));
      } catch (cause) {
        this.#leaveEpoch();
        this.#fail(batch, { thrown: asError(cause) });
        this.#failWaiting({ thrown: asError(cause) });
      }
      if (this.#hasRoom) for (const enter of this.#waitingForRoom.splice(0)) enter();
    }
    this.#isRunning = false;
  }

  /** Or no more of it will come: who waits for room waits for its end. */
  get #isBatchFull(): boolean {
    return this.#queue.length >= this.#batchRecords || this.#waitingBytes >= this.#maxBatchBytes || !this.#hasRoom;
  }

  #linger(): Promise<void> {
    const { lingerMs = 0, signal } = this.#options;
    if (lingerMs === 0 || this.#flushes > 0 || this.#isBatchFull || signal?.aborted === true) return Promise.resolve();
    return new Promise((resolve) => {
      const end = (): void => {
        clearTimeout(timer);
        signal?.removeEventListener("abort", end);
        resolve();
      };
      const timer = setTimeout(end, lingerMs);
      signal?.addEventListener("abort", end);
      this.#endLinger = end;
    });
  }

  /** The next request's appends: as many as may travel together. */
  #take(): Item[] {
    const batch: Item[] = [];
    let bytes = 0;
    for (let next = this.#queue.peek(); next !== undefined; next = this.#queue.peek()) {
      const first = batch[0];
      bytes += next.bytes + 1;
      if (first !== undefined) {
        const isFull = batch.length >= this.#batchRecords || bytes > this.#maxBatchBytes;
        if (isFull || !this.#json || next.body === null || next.key !== first.key) break;
      }
      batch.push(next);
      this.#queue.shift();
    }
    return batch;
  }

  /** Sends one batch in our epoch, which it takes first if need be. */
  async #deliver(batch: readonly Item[]): Promise<Sent> {
    const refused = this.#place === null ? await this.#takeEpoch() : null;
    if (refused !== null) return { answer: Result.err(refused), unclear: false };
    const { epoch = 0, seq = 0 } = this.#place ?? {};
    const [first] = batch;
    const closes = first?.body === null;
    const body =
      this.#json && !closes ? `[${batch.map((item) => String(item.body)).join(",")}]` : (first?.body ?? null);
    return this.#send(body, {
      contentType: closes ? null : this.#contentType,
      key: first?.key,
      producer: { id: this.id, epoch, seq },
      close: closes,
    });
  }

  #settle(batch: readonly Item[], { answer, unclear }: Sent): void {
    if (answer.isOk()) {
      if (this.#place !== null) this.#place.seq++;
      this.#batchRecords = Math.min(this.#batchRecords * 2, this.#maxBatchRecords);
      for (const item of batch) {
        this.#waitingBytes -= item.bytes;
        item.resolve(answer);
      }
      return;
    }
    const { error } = answer;
    if (unclear) this.#leaveEpoch();
    // No attempt stored any of it: repeats are recognised before their records are judged, and were never smaller.
    if (batch.length > 1 && isBadRecord(error)) return this.#halve(batch);
    this.#fail(batch, { error });
    if (isFinal(error)) this.#dead = { error };
    if (!isAboutBatch(error)) this.#failWaiting({ error });
  }

  /** Sends a refused batch again in smaller ones, until the bad record is alone. */
  #halve(batch: readonly Item[]): void {
    this.#batchRecords = Math.ceil(batch.length / 2);
    for (const item of batch.toReversed()) this.#queue.unshift(item);
  }

  #failWaiting(failure: Failure): void {
    const items = [...this.#queue.values()];
    this.#queue.clear();
    this.#fail(items, failure);
  }

  #fail(items: readonly Item[], failure: Failure): void {
    for (const item of items) {
      this.#untold ??= failure;
      this.#waitingBytes -= item.bytes;
      if ("thrown" in failure) item.reject(failure.thrown);
      else item.resolve(Result.err(failure.error));
    }
  }

  #leaveEpoch(): void {
    if (this.#place === null) return;
    this.#lowestEpoch = this.#place.epoch + 1;
    this.#place = null;
  }

  /** Makes an epoch ours, or says why not. A higher one that was there before we began is overtaken; a later one fences us. */
  async #takeEpoch(): Promise<StreamError | null> {
    const { id, epochs } = this.#options;
    let epoch = this.#lowestEpoch ?? 0;
    if (id !== undefined) {
      const isFirst = this.#lowestEpoch === null;
      if (isFirst) epoch = ((await epochs?.load(id)) ?? -1) + 1;
      const { answer } = await this.#send(this.#json ? "[]" : " ", {
        contentType: this.#contentType,
        producer: { id, epoch, seq: IMPOSSIBLE_SEQ },
      });
      if (answer.isOk()) return notAStream(this.#url, "takes the seqs of a producer in any order");
      const known = knownEpoch(answer.error, epoch);
      if (known === null || (!isFirst && known >= epoch)) return answer.error;
      epoch = known + 1 + Math.floor(this.#transport.random() * MAX_EPOCH_STEP);
      await epochs?.save(id, epoch);
    }
    this.#lowestEpoch = epoch;
    this.#place = { epoch, seq: 0 };
    return null;
  }

  /** Sends until the outcome is clear, the server says no, or it took too long. Rejects with the signal's reason. */
  async #send(body: RequestBody | null, plan: AppendPlan): Promise<Sent> {
    const { signal, giveUpAfterMs = DEFAULT_GIVE_UP_AFTER_MS } = this.#options;
    const { retry, random } = this.#transport;
    const headers = appendHeaders(plan);
    const sinceMs = this.#clock.monotonicMs();
    let unclear = false;
    for (let failures = 1; ; failures++) {
      const sent = await this.#transport.sendOnce({
        method: "POST",
        url: this.#url,
        headers,
        body,
        repeatable: true,
        signal,
      });
      const answer = sent.andThen((response) => readAppended(response, true));
      if (answer.isOk()) return { answer, unclear };
      const { error } = answer;
      unclear ||= !Refused.is(error) || error.status >= 500;
      if (!mayPass(error) || this.#clock.monotonicMs() - sinceMs >= giveUpAfterMs) return { answer, unclear };
      await sleep(
        retryDelayMs(retry, failures, Refused.is(error) ? error.retryAfterMs : null, random()),
        signal ?? null,
      );
    }
  }
}

/** The highest epoch the server knows of the producer, at least the one before `asked`; null when the refusal is another. */
function knownEpoch(error: StreamError, asked: number): number | null {
  if (!Refused.is(error)) return null;
  if (error.status === 403) return error.producerEpoch;
  if (error.expectedSeq !== null) return error.expectedSeq === 0 ? asked - 1 : asked;
  return error.code === "producer-epoch-start" ? asked - 1 : null;
}

/** Whether the same request may succeed later. Too many producers will not become fewer. */
function mayPass(error: StreamError): boolean {
  if (!Refused.is(error)) return Unreachable.is(error);
  if (error.code === "too-many-producers") return false;
  return isTransient(error) || error.status === 408 || error.retryAfterMs !== null;
}

/** Fenced, or the stream is closed, gone or another one. */
function isFinal(error: StreamError): boolean {
  if (!Refused.is(error)) return false;
  const { status, producerEpoch } = error;
  return status === 404 || status === 409 || status === 410 || (status === 403 && producerEpoch !== null);
}

/** What is wrong is in the batch: the next one may pass. */
function isAboutBatch(error: StreamError): boolean {
  return Refused.is(error) && (error.status === 400 || error.status === 413);
}

function isBadRecord(error: StreamError): boolean {
  return Refused.is(error) && (error.status === 413 || BAD_RECORD.has(error.code));
}

/** A copy, so that the caller may use its bytes again. */
function bytesOf(value: unknown): string | Uint8Array<ArrayBuffer> {
  if (typeof value === "string") return value;
  if (value instanceof Uint8Array) return new Uint8Array(value);
  throw new TypeError("a stream that is not JSON takes text or bytes");
}

function asError(cause: unknown): Error {
  return cause instanceof Error ? cause : new Error(String(cause));
}

function queueFull(): Failure {
  return { thrown: new RangeError("the producer's queue is full: wait for `append` or `ready` before the next") };
}

function nothing(): void {}
