/**
 * One append measurement against one running server: create the streams, load for a while, look at what it cost, then count
 * what is really stored. Invariant: a record that was acknowledged and is not there is reported, never averaged away.
 */

import { HttpConnection } from "./http-connection.ts";
import { httpWire } from "./http-wire.ts";
import { runLoad, type LoadOutcome } from "./load-client.ts";
import type { Backlog, BenchServer, RunningServer } from "./peers.ts";
import { cpuMs, flushDisk, memoryBytes, writtenBytes } from "./process-usage.ts";
import type { Wire } from "./wire.ts";
import { RECORD_BYTES, simpleRequest, type AppendWorkload } from "./workloads.ts";

export interface AppendFigures {
  readonly recordsPerSecond: number;
  readonly load: LoadOutcome;
  readonly createdPerSecond: number;
  readonly cpuUsPerRecord: number;
  readonly rssMb: number;
  readonly peakRssMb: number;
  readonly diskBytesPerByte: number;
  readonly diskSource: string;
  /** Once a second; empty where the server does not tell. */
  readonly backlog: readonly Backlog[];
  /** Null where there is no backlog to judge. */
  readonly isFlat: boolean | null;
  /** Acknowledged records of the sampled streams that a read does not find. */
  readonly missing: number;
  readonly checkedRecords: number;
}

const WARMUP_MS = 1_000;
const CREATE_CONNECTIONS = 16;
/** Streams that are read back and counted. */
const CHECKED_STREAMS = 64;
/** Samples, and so seconds, in a third: fewer show no trend. */
const LEAST_THIRD = 4;
/** Below this a backlog is what one pass of background work leaves: not a trend. */
const NO_BACKLOG_BYTES = 1024 * 1024;

export async function measureAppends(
  server: BenchServer,
  running: RunningServer,
  workload: AppendWorkload,
  durationMs: number,
): Promise<AppendFigures> {
  const { url, wire } = running;
  const { connections, recordsPerRequest } = workload;
  const createdPerSecond = await createStreams(url, workload.streams, wire);
  await flushDisk(running.dataDir);
  const disk = writtenBytes(running.dataDir, running.pid);

  const acked = new Uint32Array(workload.streams);
  const writer = wire.appendWriter(url, connections, recordsPerRequest);
  const targets = new Uint32Array(connections);
  let turn = 0;
  let cpuAtStart = 0;
  let cpuUsed = 0;
  const sampler = server.hasBacklog ? await sampleBacklog(url) : null;
  const load = await runLoad({
    open: (connection) => wire.open(url, connection, recordsPerRequest),
    connections,
    warmupMs: WARMUP_MS,
    durationMs,
    nextRequest: (connection) => {
      const stream = targetOf(workload, connection, turn++);
      targets[connection] = stream;
      return writer.next(connection, stream);
    },
    onAck: (connection) => {
      const stream = targets[connection] ?? 0;
      acked[stream] = (acked[stream] ?? 0) + 1;
    },
    onWindowStart: () => {
      cpuAtStart = cpuMs(running.pid);
      sampler?.restart();
    },
    onWindowEnd: () => {
      cpuUsed = cpuMs(running.pid) - cpuAtStart;
      sampler?.stop();
    },
  });
  const memory = memoryBytes(running.pid);
  await flushDisk(running.dataDir);
  const diskAfter = writtenBytes(running.dataDir, running.pid);

  const records = load.acks * recordsPerRequest;
  const allRecords = acked.reduce((sum, count) => sum + count, 0) * recordsPerRequest;
  const backlog = sampler?.samples ?? [];
  return {
    recordsPerSecond: records / load.seconds,
    load,
    createdPerSecond,
    cpuUsPerRecord: (cpuUsed * 1000) / records,
    rssMb: memory.now / 1e6,
    peakRssMb: memory.peak / 1e6,
    diskBytesPerByte: (diskAfter.bytes - disk.bytes) / (allRecords * RECORD_BYTES),
    diskSource: disk.source,
    backlog,
    isFlat: isFlat(backlog),
    ...(await countMissing(running, acked, recordsPerRequest)),
  };
}

/** A few connections over few streams keep to their own; many streams are visited in a scattered, repeatable order. */
function targetOf(workload: AppendWorkload, connection: number, turn: number): number {
  if (workload.streams <= workload.connections) return connection % workload.streams;
  return (Math.imul(turn, 2_654_435_761) >>> 0) % workload.streams;
}

/** Streams created per second, NaN where appends make them; an answer that is not 2xx is an error. */
export async function createStreams(url: string, count: number, wire: Wire = httpWire): Promise<number> {
  let next = 0;
  let made = 0;
  const started = performance.now();
  const create = async (index: number): Promise<void> => {
    const connection = await wire.open(url, index, 1);
    while (next < count) {
      const stream = next++;
      const request = wire.createRequest(url, stream, index);
      if (request === null) continue;
      const status = await new Promise<number>((resolve) => connection.start(request, resolve));
      made++;
      if (status < 200 || status > 299) throw new Error(`making stream ${stream} answered ${status}`);
    }
    connection.close();
  };
  await Promise.all(Array.from({ length: Math.min(CREATE_CONNECTIONS, count) }, (_, index) => create(index)));
  return made === 0 ? Number.NaN : (made * 1000) / (performance.now() - started);
}

interface BacklogSampler {
  readonly samples: Backlog[];
  /** Forgets what the warm-up showed. */
  restart(): void;
  stop(): void;
}

async function sampleBacklog(url: string): Promise<BacklogSampler> {
  const samples: Backlog[] = [];
  const connection = await HttpConnection.open(url);
  const request = simpleRequest("GET", url, "/health");
  let isBusy = false;
  const sample = async (): Promise<void> => {
    if (isBusy) return;
    isBusy = true;
    const body: Uint8Array[] = [];
    const { status } = await connection.exchange(request, (bytes) => body.push(bytes.slice()));
    isBusy = false;
    if (status !== 200) return;
    const health = JSON.parse(Buffer.concat(body).toString()) as { storage?: Partial<Backlog> };
    const { unsealedBytes = 0, unsealedRanges = 0, walBytes = 0 } = health.storage ?? {};
    samples.push({ unsealedBytes, unsealedRanges, walBytes });
  };
  const timer = setInterval(() => void sample(), 1000);
  return {
    samples,
    restart: () => void samples.splice(0),
    stop: () => {
      clearInterval(timer);
      connection.close();
    },
  };
}

/** Flat: the last third's mean is not above 1.5 times the middle third's. */
export function isFlat(samples: readonly Backlog[]): boolean | null {
  const third = Math.floor(samples.length / 3);
  if (third < LEAST_THIRD) return null;
  const mean = (from: number, to: number): number =>
    samples.slice(from, to).reduce((sum, sample) => sum + sample.unsealedBytes, 0) / (to - from);
  const middle = mean(third, 2 * third);
  const last = mean(2 * third, samples.length);
  return last <= 1.5 * Math.max(middle, NO_BACKLOG_BYTES);
}

async function countMissing(
  { url, wire }: RunningServer,
  acked: Uint32Array,
  recordsPerRequest: number,
): Promise<{ missing: number; checkedRecords: number }> {
  const reader = await wire.openReader(url, 0);
  const step = Math.max(1, Math.floor(acked.length / CHECKED_STREAMS));
  let missing = 0;
  let checkedRecords = 0;
  for (let stream = 0; stream < acked.length; stream += step) {
    const expected = (acked[stream] ?? 0) * recordsPerRequest;
    missing += Math.max(0, expected - (await reader.count(stream)));
    checkedRecords += expected;
  }
  reader.close();
  return { missing, checkedRecords };
}
