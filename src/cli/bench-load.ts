/**
 * The closed loop: so many connections, each with one request under way, the next one sent when the answer is here. Owns its
 * connections. Invariants: only 2xx answers inside the measured window count; everything else is counted by status, holds its
 * connection back for a moment, and ends the run when no later answer can be better.
 */

import { QuantileSketch } from "../kit/quantile-sketch.ts";
import { sleep } from "../client/retry-policy.ts";
import { type Refused, refusal, type StreamError, Unreachable } from "../client/stream-error.ts";
import { BenchConnection, isAck, type Target } from "./bench-connection.ts";

export interface LoadPlan {
  readonly target: Target;
  /** What each connection sends, in turns. */
  readonly requests: readonly (readonly Uint8Array[])[];
  readonly warmUpMs: number;
  readonly measureMs: number;
  readonly refusals: Refusals;
  readonly signal: AbortSignal;
  /** Told of every answer that counts, and of the bytes of its body as they come. */
  readonly onAnswers: (answers: number, bodyBytes: number) => void;
}

export interface LoadFigures {
  readonly answers: number;
  /** Bodies of answers, as received. */
  readonly bodyBytes: number;
  readonly seconds: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

const BACKOFF_MS = 100;
const MAX_RECONNECTS = 100;
/** After the window: how long the last answers may take. */
const LAST_ANSWERS_MS = 10_000;
const LOOK_MS = 1;
/** Not this caller, not this stream, no room: to ask again is pointless. */
const FINAL_STATUSES: ReadonlySet<number> = new Set([400, 401, 403, 404, 405, 410, 413, 415, 507]);

/** What was not answered with 2xx in one workload: how often, and what the server said the first time. */
export class Refusals {
  /** By status; `lost` for connections that broke. */
  readonly counts: Record<string, number> = {};
  /** The first of each kind, as an error. */
  readonly errors: StreamError[] = [];

  /** The error to give up with, when there is no point in going on. */
  note(status: number, reason: string, url: string): StreamError | null {
    const kind = status === 0 ? "lost" : String(status);
    const isFirst = this.counts[kind] === undefined;
    this.counts[kind] = (this.counts[kind] ?? 0) + 1;
    if (!isFirst) return null;
    const error = status === 0 ? lost(reason, url) : spoken(status, reason);
    this.errors.push(error);
    return FINAL_STATUSES.has(status) ? error : null;
  }

  get total(): number {
    return Object.values(this.counts).reduce((sum, count) => sum + count, 0);
  }
}

function spoken(status: number, body: string): Refused {
  return refusal(new Response(null, { status: status >= 200 && status <= 599 ? status : 500 }), body, Date.now());
}

function lost(reason: string, url: string): Unreachable {
  return new Unreachable({ message: `a connection to ${url} was lost: ${reason}`, hint: null, url, cause: null });
}

/** Rejects with the signal's reason, or with a `StreamError` that makes going on pointless. */
export async function runLoad(plan: LoadPlan): Promise<LoadFigures> {
  const run = new LoadRun(plan);
  try {
    return await run.measure();
  } finally {
    run.close();
  }
}

class LoadRun {
  readonly plan: LoadPlan;
  readonly #latencies = new QuantileSketch();
  readonly #failure = new AbortController();
  readonly #lanes: Lane[] = [];
  #isMeasuring = false;
  #answers = 0;
  #bodyBytes = 0;
  #reconnects = 0;
  isEnding = false;

  constructor(plan: LoadPlan) {
    this.plan = plan;
  }

  async measure(): Promise<LoadFigures> {
    const { target, requests, warmUpMs, measureMs } = this.plan;
    const signal = AbortSignal.any([this.plan.signal, this.#failure.signal]);
    for (const own of requests) {
      signal.throwIfAborted();
      this.#lanes.push(new Lane(this, await BenchConnection.open(target), own));
    }
    for (const lane of this.#lanes) lane.send();
    await sleep(warmUpMs, signal);
    const startMs = performance.now();
    this.#isMeasuring = true;
    await sleep(measureMs, signal);
    // A large answer may take longer than that: one is waited for.
    const lastMs = performance.now() + LAST_ANSWERS_MS;
    while (this.#isSilent && performance.now() < lastMs) await sleep(LOOK_MS, signal);
    this.#isMeasuring = false;
    const seconds = (performance.now() - startMs) / 1000;
    this.isEnding = true;
    await Promise.race([Promise.all(this.#lanes.map(({ ended }) => ended)), sleep(LAST_ANSWERS_MS, signal)]);
    return {
      answers: this.#answers,
      bodyBytes: this.#bodyBytes,
      seconds,
      p50Ms: this.#latencies.quantile(0.5),
      p99Ms: this.#latencies.quantile(0.99),
    };
  }

  close(): void {
    this.isEnding = true;
    for (const lane of this.#lanes) lane.close();
  }

  get #isSilent(): boolean {
    return this.#answers === 0 && this.plan.refusals.total === 0;
  }

  answered(ms: number): void {
    if (!this.#isMeasuring) return;
    this.#answers++;
    this.#latencies.add(ms);
    this.plan.onAnswers(1, 0);
  }

  received(bytes: number): void {
    if (!this.#isMeasuring) return;
    this.#bodyBytes += bytes;
    this.plan.onAnswers(0, bytes);
  }

  /** Resolves when the lane may go on; to false when it may not. */
  async refused(status: number, reason: string): Promise<boolean> {
    const { refusals, target, signal } = this.plan;
    const final = refusals.note(status, reason, target.url);
    if (final !== null) this.fail(final);
    if (status === 0 && ++this.#reconnects > MAX_RECONNECTS) this.fail(lost(reason, target.url));
    if (this.isEnding || signal.aborted) return false;
    await Bun.sleep(BACKOFF_MS);
    return !this.isEnding;
  }

  fail(cause: unknown): void {
    this.isEnding = true;
    this.#failure.abort(cause);
  }
}

/** One connection and the requests it sends. */
class Lane {
  readonly #run: LoadRun;
  readonly #requests: readonly Uint8Array[];
  readonly #end = Promise.withResolvers<void>();
  #connection: BenchConnection;
  #turn = 0;
  #sentMs = 0;
  readonly ended = this.#end.promise;

  constructor(run: LoadRun, connection: BenchConnection, requests: readonly Uint8Array[]) {
    this.#run = run;
    this.#connection = connection;
    this.#requests = requests;
  }

  send(): void {
    const request = this.#requests[this.#turn++ % this.#requests.length];
    if (this.#run.isEnding || request === undefined) return this.close();
    this.#sentMs = performance.now();
    this.#connection.send(request, this.#answered, this.#received);
  }

  close(): void {
    this.#connection.close();
    this.#end.resolve();
  }

  readonly #answered = (status: number): void => {
    if (!isAck(status)) return void this.#refused(status);
    this.#run.answered(performance.now() - this.#sentMs);
    this.send();
  };

  readonly #received = (piece: Buffer): void => {
    this.#run.received(piece.length);
  };

  async #refused(status: number): Promise<void> {
    try {
      if (!(await this.#run.refused(status, this.#connection.reason))) return this.close();
      if (this.#connection.broken !== null) this.#connection = await BenchConnection.open(this.#run.plan.target);
      this.send();
    } catch (cause) {
      this.#run.fail(cause);
      this.close();
    }
  }
}
