/** Long-poll latency: one reader waits at the tail, one writer appends; how long until the reader has the record. */

import { createStreams } from "./append-run.ts";
import { HttpConnection } from "./http-connection.ts";
import type { RunningServer } from "./peers.ts";
import { RequestWriter, simpleRequest, streamPath } from "./workloads.ts";

export interface WakeFigures {
  readonly wakes: number;
  /** From the ack at the writer to the answer at the reader; 0 when the reader was first. */
  readonly ackToWakeP50Ms: number;
  readonly ackToWakeP99Ms: number;
  readonly sendToWakeP50Ms: number;
  readonly sendToWakeP99Ms: number;
}

/** Enough for the waiter to be parked before the append leaves. */
const PARK_MS = 3;

export async function measureWakes(running: RunningServer, durationMs: number): Promise<WakeFigures> {
  const { url } = running;
  await createStreams(url, 1);
  const path = streamPath(0);
  const reader = await HttpConnection.open(url);
  const appender = await HttpConnection.open(url);
  const writer = new RequestWriter(url, 1, 1);
  let offset = (await appender.exchange(simpleRequest("HEAD", url, path))).header("stream-next-offset");
  const ackToWake: number[] = [];
  const sendToWake: number[] = [];
  const end = performance.now() + durationMs;
  while (performance.now() < end) {
    const target = `${path}?offset=${offset ?? "-1"}&live=long-poll`;
    let wokenAt = 0;
    const waiting = reader.exchange(simpleRequest("GET", url, target)).then((answer) => {
      wokenAt = performance.now();
      return answer;
    });
    await Bun.sleep(PARK_MS);
    const sentAt = performance.now();
    const ack = await appender.exchange(writer.next(0, 0));
    const ackedAt = performance.now();
    if (ack.status < 200 || ack.status > 299) throw new Error(`an append answered ${ack.status}`);
    const woken = await waiting;
    if (woken.status !== 200) throw new Error(`the long-poll answered ${woken.status}`);
    offset = woken.header("stream-next-offset");
    ackToWake.push(Math.max(0, wokenAt - ackedAt));
    sendToWake.push(wokenAt - sentAt);
  }
  reader.close();
  appender.close();
  return {
    wakes: ackToWake.length,
    ackToWakeP50Ms: quantile(ackToWake, 0.5),
    ackToWakeP99Ms: quantile(ackToWake, 0.99),
    sendToWakeP50Ms: quantile(sendToWake, 0.5),
    sendToWakeP99Ms: quantile(sendToWake, 0.99),
  };
}

function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.min(sorted.length - 1, Math.floor(q * sorted.length))] ?? Number.NaN;
}
