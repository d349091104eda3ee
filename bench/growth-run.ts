/**
 * How cost grows with what a server holds: the same appends to one stream on the empty server, beside many streams, and beside
 * many bytes; what a stream takes in memory; how long it takes to start again with all of it, after a crash and after an
 * orderly end; and reads of random streams then. One directory for all of it.
 */

import { statfsSync } from "node:fs";
import { measureAppends } from "./append-run.ts";
import { HttpConnection } from "./http-connection.ts";
import { LatencySamples } from "./load-client.ts";
import type { BenchServer, RunningServer } from "./peers.ts";
import { memoryBytes } from "./process-usage.ts";
import { fill } from "./read-run.ts";
import { killHard, startTimed } from "./timed-start.ts";
import { simpleRequest, streamPath, type AppendWorkload, type GrowthWorkload } from "./workloads.ts";

export interface GrowthFigures {
  readonly streams: number;
  /** Appends a second: on the empty server, with all streams, and with all bytes; null where none were to be stored. */
  readonly appendsEmpty: number;
  readonly appendsBesideStreams: number;
  readonly appendsFilled: number | null;
  readonly missing: number;
  readonly createsPerSecond: number;
  readonly fillMbPerSecond: number | null;
  /** Resident memory: after the first start, before and after the streams were made, and after the last start. */
  readonly rssFreshMb: number;
  readonly rssBeforeStreamsMb: number;
  readonly rssAfterStreamsMb: number;
  readonly rssEndMb: number;
  readonly rssRestartedMb: number;
  readonly killedStartMs: number;
  readonly endedStartMs: number;
  /** After the last start: reads of streams at random, each to its end. */
  readonly readP50Ms: number;
  readonly readP99Ms: number;
}

/** As A2. */
const APPENDS: AppendWorkload = {
  kind: "append",
  name: "A2",
  title: "64 connections, 1 stream",
  connections: 64,
  streams: 1,
  recordsPerRequest: 1,
};
const CREATE_CONNECTIONS = 64;
/** The stream of the appends is 0, and this one holds the bytes. */
const FILLED = 1;
const SETTLE_MS = 2_000;
/** A disk must have so many times as much free as is to be stored: the log holds it for a while as well. */
const ROOM = 2;

export async function measureGrowth(
  server: BenchServer,
  dataDir: string,
  workload: GrowthWorkload,
): Promise<GrowthFigures> {
  demandRoom(dataDir, workload.megabytes * 1e6);
  const first = streamPath(0);
  let { running } = await startTimed(server, dataDir, first, 404);
  try {
    const append = () => measureAppends(server, running, APPENDS, workload.appendMs);
    const rssFreshMb = await settledMb(running);
    const empty = await append();
    const rssBeforeStreamsMb = await settledMb(running);
    const createsPerSecond = await createMany(running.url, workload.streams);
    const rssAfterStreamsMb = await settledMb(running);
    const beside = await append();
    const isFilled = workload.megabytes > 0;
    const fillMbPerSecond = isFilled ? await timedFill(running, workload.megabytes) : null;
    const filled = isFilled ? await append() : null;
    const rssEndMb = await settledMb(running);

    await killHard(running);
    const killed = await startTimed(server, dataDir, first, 200);
    ({ running } = killed);
    await running.stop();
    const ended = await startTimed(server, dataDir, first, 200);
    ({ running } = ended);
    const rssRestartedMb = await settledMb(running);
    return {
      streams: workload.streams,
      appendsEmpty: empty.recordsPerSecond,
      appendsBesideStreams: beside.recordsPerSecond,
      appendsFilled: filled?.recordsPerSecond ?? null,
      missing: empty.missing + beside.missing + (filled?.missing ?? 0),
      createsPerSecond,
      fillMbPerSecond,
      rssFreshMb,
      rssBeforeStreamsMb,
      rssAfterStreamsMb,
      rssEndMb,
      rssRestartedMb,
      killedStartMs: killed.readyMs,
      endedStartMs: ended.readyMs,
      ...(await readAtRandom(running.url, workload)),
    };
  } catch (cause) {
    const words = await running.lastWords();
    throw new Error(`${String(cause)}; the server's last words: ${words}`, { cause });
  } finally {
    await running.stop();
  }
}

function demandRoom(directory: string, bytes: number): void {
  const { bavail, bsize } = statfsSync(directory);
  const free = bavail * bsize;
  if (free >= ROOM * bytes) return;
  const [needed, there] = [(ROOM * bytes) / 1e9, free / 1e9];
  throw new Error(`${needed.toFixed(0)} GB must be free in ${directory} and ${there.toFixed(0)} are: use --dir`);
}

async function settledMb(running: RunningServer): Promise<number> {
  await Bun.sleep(SETTLE_MS);
  return memoryBytes(running.pid).now / 1e6;
}

/** How many a second. */
async function createMany(url: string, count: number): Promise<number> {
  let made = 0;
  const startMs = performance.now();
  const create = async (): Promise<void> => {
    const connection = await HttpConnection.open(url);
    while (made < count) {
      const path = grownPath(made++);
      const { status } = await connection.exchange(simpleRequest("PUT", url, path));
      if (status !== 201) throw new Error(`PUT ${path} answered ${status}`);
    }
    connection.close();
  };
  await Promise.all(Array.from({ length: CREATE_CONNECTIONS }, create));
  return (count * 1000) / (performance.now() - startMs);
}

function grownPath(index: number): string {
  return `/v1/stream/grown-${index}`;
}

async function timedFill({ url }: RunningServer, megabytes: number): Promise<number> {
  const startMs = performance.now();
  await fill(url, FILLED, megabytes);
  return (megabytes * 1000) / (performance.now() - startMs);
}

/** The streams are empty: what is timed is finding them. */
async function readAtRandom(
  url: string,
  { streams, reads }: GrowthWorkload,
): Promise<Pick<GrowthFigures, "readP50Ms" | "readP99Ms">> {
  const connection = await HttpConnection.open(url);
  const samples = new LatencySamples();
  for (let read = 0; read < reads; read++) {
    const path = grownPath(Math.floor(Math.random() * streams));
    const sentMs = performance.now();
    const { status } = await connection.exchange(simpleRequest("GET", url, `${path}?offset=-1`));
    if (status !== 200) throw new Error(`GET ${path} answered ${status}`);
    samples.add(performance.now() - sentMs);
  }
  connection.close();
  const [readP50Ms = Number.NaN, readP99Ms = Number.NaN] = samples.quantiles(0.5, 0.99);
  return { readP50Ms, readP99Ms };
}
