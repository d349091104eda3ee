/**
 * The live workloads: how long a long-poll takes to be woken, and how long until each of many SSE subscribers has a message.
 * Sender and receivers are in this process and share its clock. Owns its connections. Invariants: a delivery counts from the time
 * its message was sent, or was due when an answer before it came late; only acknowledged messages can be missing.
 */

import { QuantileSketch } from "../kit/quantile-sketch.ts";
import { sleep } from "../client/retry-policy.ts";
import type { StreamHandle } from "../client/client.ts";
import { BenchConnection, isAck, requestBytes, type Target } from "./bench-connection.ts";
import type { Refusals } from "./bench-load.ts";

export interface LivePlan {
  readonly target: Target;
  readonly stream: StreamHandle;
  /** The stream's tail. */
  readonly offset: string;
  readonly recordBytes: number;
  readonly measureMs: number;
  readonly refusals: Refusals;
  readonly signal: AbortSignal;
  /** Told of every wake or delivery. */
  readonly onReceived: () => void;
}

export interface LiveFigures {
  readonly received: number;
  readonly missing: number;
  readonly seconds: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

/** Enough for a long-poll to be parked before the append leaves. */
const PARK_MS = 3;
const MESSAGES_PER_SECOND = 20;
const OPENING_AT_ONCE = 32;
/** How long after the last message a delivery may come. */
const LAST_DELIVERIES_MS = 5_000;
const LOOK_MS = 5;

/** One JSON record that begins with its number. */
export function markedRecord(mark: number, bytes: number): Uint8Array {
  const head = `{"mark":${mark},"pad":"`;
  return Buffer.from(`${head}${"x".repeat(Math.max(0, bytes - head.length - 2))}"}`);
}

/** Longer than any mark with its key. */
const MARK_CHARS = 32;

/** Finds the marks of one subscriber's records, also where a piece ends inside one. */
export class MarkReader {
  #rest = "";

  take(piece: Buffer): number[] {
    const text = this.#rest + piece.toString("latin1");
    const marks: number[] = [];
    let end = 0;
    for (const match of text.matchAll(/"mark":(\d{1,15}),/g)) {
      marks.push(Number(match[1]));
      end = match.index + match[0].length;
    }
    this.#rest = text.slice(Math.max(end, text.length - MARK_CHARS));
    return marks;
  }
}

/** One reader waits, one writer appends; again and again. */
export async function measureWakes(plan: LivePlan): Promise<LiveFigures> {
  const { target, stream, refusals, signal } = plan;
  const reader = await BenchConnection.open(target);
  const writer = await BenchConnection.open(target);
  const latencies = new QuantileSketch();
  const startMs = performance.now();
  let offset = plan.offset;
  try {
    for (let mark = 0; performance.now() - startMs < plan.measureMs; mark++) {
      const waiting = wake(reader, target, `${stream.url}?offset=${encodeURIComponent(offset)}&live=long-poll`);
      await sleep(PARK_MS, signal);
      const append = appendBytes(plan, mark);
      const sentMs = performance.now();
      const status = await raced(writer.exchange(append), signal);
      if (!isAck(status)) return await refuse(refusals, writer, status, target);
      const woken = await raced(waiting, signal);
      if (woken.status !== 200) return await refuse(refusals, reader, woken.status, target);
      offset = woken.offset ?? offset;
      latencies.add(woken.atMs - sentMs);
      plan.onReceived();
    }
  } finally {
    reader.close();
    writer.close();
  }
  return figures(latencies, 0, startMs);
}

interface Woken {
  readonly status: number;
  readonly atMs: number;
  readonly offset: string | null;
}

function wake(reader: BenchConnection, target: Target, url: string): Promise<Woken> {
  return new Promise((resolve) =>
    reader.send(requestBytes(target, { method: "GET", url }), (status) =>
      resolve({ status, atMs: performance.now(), offset: reader.header("stream-next-offset") }),
    ),
  );
}

/** The promise, or the signal's reason. */
function raced<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  const aborted = Promise.withResolvers<never>();
  const abort = (): void => aborted.reject(signal.reason);
  if (signal.aborted) abort();
  signal.addEventListener("abort", abort, { once: true });
  return Promise.race([promise, aborted.promise]).finally(() => signal.removeEventListener("abort", abort));
}

/** Ends a live workload: without this answer there is nothing to measure. */
async function refuse(
  refusals: Refusals,
  connection: BenchConnection,
  status: number,
  target: Target,
): Promise<LiveFigures> {
  const final = refusals.note(status, connection.reason, target.url);
  if (final !== null) throw final;
  return { received: 0, missing: 0, seconds: 0, p50Ms: NaN, p99Ms: NaN };
}

function appendBytes({ target, stream, recordBytes }: LivePlan, mark: number): Uint8Array {
  const body = markedRecord(mark, recordBytes);
  return requestBytes(target, { method: "POST", url: stream.url, contentType: "application/json", body });
}

function figures(latencies: QuantileSketch, missing: number, startMs: number): LiveFigures {
  return {
    received: latencies.added,
    missing,
    seconds: (performance.now() - startMs) / 1000,
    p50Ms: latencies.quantile(0.5),
    p99Ms: latencies.quantile(0.99),
  };
}

/** Many subscribers of one stream, messages at a steady rate. */
export async function measureFanOut(plan: LivePlan & { readonly subscribers: number }): Promise<LiveFigures> {
  const fanOut = new FanOut(plan);
  try {
    return await fanOut.run(plan.subscribers);
  } finally {
    fanOut.close();
  }
}

class FanOut {
  readonly #plan: LivePlan;
  readonly #connections: BenchConnection[] = [];
  readonly #latencies = new QuantileSketch();
  /** By mark. */
  readonly #sentMs: number[] = [];
  #isClosed = false;

  constructor(plan: LivePlan) {
    this.#plan = plan;
  }

  async run(subscribers: number): Promise<LiveFigures> {
    const { target, measureMs, signal } = this.#plan;
    let left = subscribers;
    let subscribed = 0;
    const openSome = async (): Promise<void> => {
      while (left-- > 0 && !this.#isClosed) if (await this.#subscribe()) subscribed++;
    };
    await Promise.all(Array.from({ length: OPENING_AT_ONCE }, openSome));
    signal.throwIfAborted();
    const writer = await BenchConnection.open(target);
    this.#connections.push(writer);
    const startMs = performance.now();
    const acked = await this.#publish(writer, Math.max(1, Math.round((measureMs / 1000) * MESSAGES_PER_SECOND)));
    const expected = acked * subscribed;
    const lastMs = performance.now() + LAST_DELIVERIES_MS;
    while (this.#latencies.added < expected && performance.now() < lastMs) await sleep(LOOK_MS, signal);
    return figures(this.#latencies, Math.max(0, expected - this.#latencies.added), startMs);
  }

  close(): void {
    this.#isClosed = true;
    for (const connection of this.#connections) connection.close();
  }

  /** True once the server has begun to answer. */
  async #subscribe(): Promise<boolean> {
    const { target, stream, refusals, signal } = this.#plan;
    const connection = await BenchConnection.open(target);
    this.#connections.push(connection);
    if (this.#isClosed) this.close();
    const marks = new MarkReader();
    const accepted = Promise.withResolvers<boolean>();
    const ended = async (status: number): Promise<void> => {
      if (this.#isClosed) return;
      // An SSE answer that ends on its own has failed its subscriber, whatever its status was.
      const wrong = isAck(status) ? 0 : status;
      const final = refusals.note(wrong, connection.reason || "the answer ended", target.url);
      if (final === null) accepted.resolve(false);
      else accepted.reject(final);
    };
    connection.send(
      requestBytes(target, { method: "GET", url: `${stream.url}?offset=now&live=sse` }),
      (status) => void ended(status),
      (piece) => {
        const atMs = performance.now();
        accepted.resolve(true);
        for (const mark of marks.take(piece)) this.#delivered(mark, atMs);
      },
    );
    return raced(accepted.promise, signal);
  }

  #delivered(mark: number, atMs: number): void {
    const sentMs = this.#sentMs[mark];
    if (sentMs === undefined) return;
    this.#latencies.add(atMs - sentMs);
    this.#plan.onReceived();
  }

  /** How many of the messages were acknowledged: all, or those before the first that was not. */
  async #publish(writer: BenchConnection, messages: number): Promise<number> {
    const { target, refusals, signal } = this.#plan;
    const startMs = performance.now();
    for (let mark = 0; mark < messages; mark++) {
      const request = appendBytes(this.#plan, mark);
      const dueMs = startMs + (mark * 1000) / MESSAGES_PER_SECOND;
      const isLate = performance.now() > dueMs;
      await sleep(Math.max(0, dueMs - performance.now()), signal);
      this.#sentMs.push(isLate ? dueMs : performance.now());
      const status = await raced(writer.exchange(request), signal);
      if (isAck(status)) continue;
      await refuse(refusals, writer, status, target);
      return mark;
    }
    return messages;
  }
}
