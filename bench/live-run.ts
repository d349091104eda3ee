/**
 * Live delivery: how fast and at what cost one stream reaches many subscribers, what subscribers that stall cost the server
 * and everybody else, and what an idle subscription costs. The same for every transport of `live-transport.ts`. The
 * subscribers are in a process of their own (`live-client.ts`), the publisher is in this one.
 */

import { createStreams } from "./append-run.ts";
import { HttpConnection } from "./http-connection.ts";
import { LiveProcess } from "./live-process.ts";
import { publish, type PublishOutcome } from "./live-publisher.ts";
import { liveRecord, sharedNowMs } from "./live-records.ts";
import type { OpenOrder, OpenOutcome } from "./live-subscribers.ts";
import type { RunningServer } from "./peers.ts";
import { cpuMs, memoryBytes, mostOpenFiles, tcpBytes } from "./process-usage.ts";
import {
  postRequest,
  streamPath,
  type FanOutWorkload,
  type IdleWorkload,
  type LiveWorkload,
  type StalledWorkload,
} from "./workloads.ts";

export interface FanOutFigures {
  readonly wanted: number;
  readonly subscribers: number;
  readonly published: PublishOutcome;
  readonly delivered: number;
  /** Of every acknowledged record at every subscriber that was wanted. */
  readonly missing: number;
  readonly disordered: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
  readonly cpuUsPerDelivery: number;
  /** CPU of the subscribers' process as a share of one core. */
  readonly clientCpu: number;
}

/** Appends to one stream, without the stalled readers and with them. */
export interface AppendPair {
  readonly without: PublishOutcome;
  readonly having: PublishOutcome;
}

export interface StalledFigures {
  readonly wanted: number;
  readonly readers: number;
  /** Why there are fewer readers than wanted, or null. */
  readonly stoppedBy: string | null;
  readonly rssMbBefore: number;
  readonly rssMb: number;
  readonly peakRssMb: number;
  readonly kbPerReader: number;
  readonly kernelKbPerReader: number;
  readonly otherStream: AppendPair;
  readonly sameStream: AppendPair;
  readonly woken: number;
  readonly complete: number;
  readonly disordered: number;
  /** Readers whose connection had ended by then, also those that were left to stall. */
  readonly closed: number;
  readonly drainSeconds: number;
}

export interface IdleFigures {
  readonly wanted: number;
  readonly connections: number;
  readonly stoppedBy: string | null;
  readonly kbPerConnection: number;
  readonly idleCpu: number;
  /** Connections that had ended by themselves at the end. */
  readonly closed: number;
}

/** S1. */
const MESSAGES_PER_SECOND = 20;
const MESSAGE_BYTES = 256;
const WARM_UP_MS = 2_000;
const STRAGGLERS_MS = 5_000;
/** A server may end an SSE connection after 54 s: what opening, warm-up and stragglers leave of them. */
const MAX_FAN_OUT_MS = 30_000;
/** S2. */
const RECORD_BYTES = 1_000;
const RECORDS_PER_FILL = 500;
const APPENDS_PER_SECOND = 50;
const APPEND_WARM_UP = 25;
/** A stalled reader may be cut off 90 s after it came: what opening and reading to the end leave of them. */
const MAX_STALLED_MS = 15_000;
const DRAIN_MS = 30_000;
const SETTLE_MS = 2_000;
/** A server that buffers for its readers without a bound must not take the machine with it. */
const MAX_GROWTH_BYTES = 6e9;
/** S3. */
const IDLE_MS = 5_000;
/** Files that a process has open besides its subscribers. */
const OTHER_FILES = 500;
const OPENING_MS = 30_000;
const STEPS = 20;

/** S1: publish steadily, and look when each message arrives at each subscriber. */
export async function measureFanOut(
  { url, pid, wire }: RunningServer,
  workload: FanOutWorkload,
  durationMs: number,
): Promise<FanOutFigures> {
  atMost("live-fan-out", durationMs, MAX_FAN_OUT_MS);
  await createStreams(url, 1, wire);
  return withClient(workload, async (client) => {
    const warmUp = (WARM_UP_MS * MESSAGES_PER_SECOND) / 1000;
    const transport = wire.follows ?? workload.transport;
    const order = { ...ordersFor(url, workload), transport, firstCounted: warmUp };
    const { opened } = await openInSteps(client, order, pid);
    let start = { atMs: 0, serverMs: 0, clientMs: 0 };
    const look = () => ({ atMs: performance.now(), serverMs: cpuMs(pid), clientMs: cpuMs(client.pid) });
    const published = await publish({
      wire,
      url,
      path: order.path,
      perSecond: MESSAGES_PER_SECOND,
      warmUp,
      count: Math.round((durationMs * MESSAGES_PER_SECOND) / 1000),
      recordBytes: MESSAGE_BYTES,
      firstSequence: 0,
      onMeasured: () => (start = look()),
    });
    const sent = look();
    const outcome = await client.settle({ records: published.acked, timeoutMs: STRAGGLERS_MS });
    return {
      wanted: workload.subscribers,
      subscribers: opened,
      published,
      delivered: outcome.delivered,
      missing: outcome.missing + (workload.subscribers - opened) * published.acked,
      disordered: outcome.disordered,
      p50Ms: outcome.p50Ms,
      p99Ms: outcome.p99Ms,
      maxMs: outcome.maxMs,
      // Until the last delivery; the client's share only while messages are sent, idle waiting would thin it.
      cpuUsPerDelivery: ((cpuMs(pid) - start.serverMs) * 1000) / outcome.delivered,
      clientCpu: (sent.clientMs - start.clientMs) / (sent.atMs - start.atMs),
    };
  });
}

/** S2: memory and appends while many readers have asked for everything and do not take it; then they do. */
export async function measureStalled(
  { url, pid, wire }: RunningServer,
  workload: StalledWorkload,
  durationMs: number,
): Promise<StalledFigures> {
  atMost("live-stalled", durationMs, MAX_STALLED_MS);
  await createStreams(url, 2);
  const [same, other] = [streamPath(0), streamPath(1)];
  let stored = await fill(url, same, Math.ceil((workload.megabytes * 1e6) / RECORD_BYTES));
  let next = stored;
  const appendToBoth = async (): Promise<{ same: PublishOutcome; other: PublishOutcome }> => {
    const count = Math.round((durationMs * APPENDS_PER_SECOND) / 1000);
    const order = {
      wire,
      url,
      perSecond: APPENDS_PER_SECOND,
      warmUp: APPEND_WARM_UP,
      count,
      recordBytes: RECORD_BYTES,
    };
    const [toSame, toOther] = await Promise.all([
      publish({ ...order, path: same, firstSequence: next }),
      publish({ ...order, path: other, firstSequence: next }),
    ]);
    next += APPEND_WARM_UP + count;
    stored += toSame.allAcked;
    return { same: toSame, other: toOther };
  };
  return withClient(workload, async (client) => {
    const without = await appendToBoth();
    const before = memoryBytes(pid);
    const tcpBefore = tcpBytes();
    const order = { ...ordersFor(url, workload), offset: "-1" as const, stalls: true };
    const { opened, stoppedBy } = await openInSteps(client, order, pid);
    await Bun.sleep(SETTLE_MS);
    const after = memoryBytes(pid);
    const tcpAfter = tcpBytes();
    const having = await appendToBoth();
    const drainStartMs = performance.now();
    await client.wake();
    const outcome = await client.settle({ records: stored, timeoutMs: DRAIN_MS });
    return {
      wanted: workload.subscribers,
      readers: opened,
      stoppedBy,
      rssMbBefore: before.now / 1e6,
      rssMb: after.now / 1e6,
      peakRssMb: memoryBytes(pid).peak / 1e6,
      kbPerReader: (after.now - before.now) / 1e3 / opened,
      kernelKbPerReader: (tcpAfter - tcpBefore) / 1e3 / opened,
      otherStream: { without: without.other, having: having.other },
      sameStream: { without: without.same, having: having.same },
      woken: opened,
      complete: outcome.complete,
      disordered: outcome.disordered,
      closed: outcome.closed,
      drainSeconds: (performance.now() - drainStartMs) / 1000,
    };
  });
}

/** S3: what a subscription costs that nothing happens on. */
export async function measureIdle({ url, pid }: RunningServer, workload: IdleWorkload): Promise<IdleFigures> {
  await createStreams(url, 1);
  return withClient(workload, async (client) => {
    const order = ordersFor(url, workload);
    // Warm first: the heap and the code it grows for at first are not the cost of a connection.
    const warm = await openInSteps(client, { ...order, count: Math.ceil(order.count / 10) }, pid);
    await Bun.sleep(SETTLE_MS);
    const before = memoryBytes(pid).now;
    const { opened, stoppedBy } = await openInSteps(client, order, pid);
    await Bun.sleep(SETTLE_MS);
    const cpuBefore = cpuMs(pid);
    const idleFromMs = performance.now();
    await Bun.sleep(IDLE_MS);
    const idleCpu = (cpuMs(pid) - cpuBefore) / (performance.now() - idleFromMs);
    const after = memoryBytes(pid).now;
    const { closed } = await client.settle({ records: 0, timeoutMs: 0 });
    return {
      wanted: workload.subscribers,
      connections: opened,
      stoppedBy: stoppedBy ?? warm.stoppedBy,
      kbPerConnection: (after - before) / 1e3 / opened,
      idleCpu,
      closed,
    };
  });
}

async function withClient<T>(workload: LiveWorkload, measure: (client: LiveProcess) => Promise<T>): Promise<T> {
  const needed = Math.ceil(workload.subscribers * 1.1) + OTHER_FILES;
  if (mostOpenFiles() < needed) {
    throw new Error(
      `${workload.name} needs ${needed} open files in one process and the hard limit is ${mostOpenFiles()}: raise it (ulimit -H -n)`,
    );
  }
  const client = new LiveProcess();
  try {
    return await measure(client);
  } finally {
    await client.stop();
  }
}

function atMost(kind: string, durationMs: number, mostMs: number): void {
  if (durationMs <= mostMs) return;
  throw new Error(
    `${kind} measures at most ${mostMs / 1000} s (--burst-seconds): servers end live connections after a while`,
  );
}

/** All subscribers of the workload, who read on from now. */
function ordersFor(url: string, { transport, subscribers }: LiveWorkload): OpenOrder {
  return { url, path: streamPath(0), transport, offset: "now", count: subscribers, stalls: false, firstCounted: 0 };
}

interface Opened extends OpenOutcome {
  /** Why there are fewer than wanted, or null. */
  readonly stoppedBy: string | null;
}

/** Opens the subscribers a part at a time, and stops when it takes too long, too much memory, or is refused. */
async function openInSteps(client: LiveProcess, order: OpenOrder, serverPid: number): Promise<Opened> {
  const startMs = performance.now();
  const startBytes = memoryBytes(serverPid).now + tcpBytes();
  let opened = 0;
  let refused: OpenOutcome["refused"] = {};
  const stopReason = (): string | null => {
    const [reason] = Object.entries(refused);
    if (reason !== undefined) return `${reason[1]}× ${reason[0]}`;
    if (performance.now() - startMs > OPENING_MS) return `opening took ${OPENING_MS / 1000} s`;
    const grownBytes = memoryBytes(serverPid).now + tcpBytes() - startBytes;
    return grownBytes > MAX_GROWTH_BYTES ? `${(grownBytes / 1e9).toFixed(1)} GB of memory` : null;
  };
  while (opened < order.count) {
    const stoppedBy = stopReason();
    if (stoppedBy !== null) {
      if (opened === 0) throw new Error(`no subscription was opened: ${stoppedBy}`);
      return { opened, refused, stoppedBy };
    }
    const count = Math.min(Math.ceil(order.count / STEPS), order.count - opened);
    const outcome = await client.open({ ...order, count });
    opened += outcome.opened;
    refused = outcome.refused;
  }
  return { opened, refused, stoppedBy: null };
}

/** Records 0, 1, 2, … in batches; how many there are. */
async function fill(url: string, path: string, records: number): Promise<number> {
  const connection = await HttpConnection.open(url);
  for (let from = 0; from < records; from += RECORDS_PER_FILL) {
    const batch = Array.from({ length: Math.min(RECORDS_PER_FILL, records - from) }, (_, index) =>
      liveRecord({ sequence: from + index, dueMs: sharedNowMs() }, RECORD_BYTES),
    );
    const { status } = await connection.exchange(postRequest(url, path, `[${batch.join(",")}]`));
    if (status < 200 || status > 299) throw new Error(`an append of the fill answered ${status}`);
  }
  connection.close();
  return records;
}
