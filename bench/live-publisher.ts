/**
 * Appends at a steady rate through one keep-alive connection. Every append has a time it is due, and its latency counts from
 * that time: when an answer is late, what waits behind it is late as well, and shows it (no coordinated omission).
 */

import { LatencySamples } from "./load-client.ts";
import { liveRecord } from "./live-records.ts";
import type { Wire, WireConnection } from "./wire.ts";

export interface PublishOrder {
  readonly wire: Wire;
  readonly url: string;
  readonly path: string;
  readonly perSecond: number;
  /** Appends before the measured ones: at the same rate, not timed; what of them does not fit into their time is left out. */
  readonly warmUp: number;
  readonly count: number;
  readonly recordBytes: number;
  /** Of the first warm-up append; each append takes the next number. */
  readonly firstSequence: number;
  readonly onMeasured?: () => void;
}

export interface PublishOutcome {
  /** Measured appends that were answered 2xx. */
  readonly acked: number;
  /** The other measured ones, by status; `not sent` where the answers before them took too long. */
  readonly unacked: Readonly<Record<string, number>>;
  /** Warm-up included. */
  readonly allAcked: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
}

/** How long after its time the last append may still be sent, and how long an answer may take. */
const LATE_MS = 5_000;
const ANSWER_TIMEOUT_MS = 15_000;

export async function publish(order: PublishOrder): Promise<PublishOutcome> {
  const { wire, url, path, warmUp, count, perSecond } = order;
  const connection = await wire.open(url, 0, 1);
  const latencies = new LatencySamples();
  const unacked: Record<string, number> = {};
  let allAcked = 0;
  const sendAt = async (dueMs: number, sequence: number): Promise<number> => {
    await sleepUntil(dueMs);
    const record = liveRecord({ sequence, dueMs: performance.timeOrigin + dueMs }, order.recordBytes);
    const status = await answerOf(connection, wire.appendRequest(url, path, record));
    if (status === 0) throw new Error("the connection of the publisher broke");
    if (isAck(status)) allAcked++;
    return status;
  };
  try {
    const warmUpMs = performance.now();
    const startMs = warmUpMs + (warmUp * 1000) / perSecond;
    for (let turn = 0; turn < warmUp && performance.now() < startMs; turn++) {
      await sendAt(warmUpMs + (turn * 1000) / perSecond, order.firstSequence + turn);
    }
    await sleepUntil(startMs);
    order.onMeasured?.();
    // A slow answer to the warm-up moves the schedule: it is not the lateness of what is measured.
    const dueFromMs = Math.max(startMs, performance.now());
    const lastMs = dueFromMs + (count * 1000) / perSecond + LATE_MS;
    for (let turn = 0; turn < count; turn++) {
      const dueMs = dueFromMs + (turn * 1000) / perSecond;
      const isSent = performance.now() < lastMs;
      const status = isSent ? await sendAt(dueMs, order.firstSequence + warmUp + turn) : 0;
      if (isAck(status)) latencies.add(performance.now() - dueMs);
      else addOne(unacked, isSent ? String(status) : "not sent");
    }
  } finally {
    connection.close();
  }
  const [p50Ms = Number.NaN, p99Ms = Number.NaN] = latencies.quantiles(0.5, 0.99);
  return { acked: latencies.count, unacked, allAcked, p50Ms, p99Ms };
}

function isAck(status: number): boolean {
  return status >= 200 && status <= 299;
}

function addOne(counts: Record<string, number>, reason: string): void {
  counts[reason] = (counts[reason] ?? 0) + 1;
}

/** A timer may fire up to a millisecond early: what is sent before its time would look too fast. */
async function sleepUntil(dueMs: number): Promise<void> {
  await Bun.sleep(Math.max(0, dueMs - performance.now()));
  while (performance.now() < dueMs) await new Promise((resolve) => setImmediate(resolve));
}

async function answerOf(connection: WireConnection, request: Uint8Array): Promise<number> {
  const answer = Promise.withResolvers<number>();
  const timer = setTimeout(
    () => answer.reject(new Error(`an append had no answer in ${ANSWER_TIMEOUT_MS} ms`)),
    ANSWER_TIMEOUT_MS,
  );
  try {
    connection.start(request, answer.resolve);
    return await answer.promise;
  } finally {
    clearTimeout(timer);
  }
}
