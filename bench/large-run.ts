/**
 * Large bodies: a few connections append bodies of a fixed size to one stream, each with one request in flight, until the
 * time is up or so many bytes are stored. Then everything is read back. Invariant: what was acknowledged and is not there is
 * reported, never averaged away; a read back that did not come to its end is no proof, and says why.
 */

import { HttpConnection } from "./http-connection.ts";
import { readAll } from "./http-wire.ts";
import { LatencySamples } from "./load-client.ts";
import type { RunningServer } from "./peers.ts";
import { cpuMs, flushDisk, memoryBytes, writtenBytes } from "./process-usage.ts";
import { hexNoise, streamPath, type LargeWorkload } from "./workloads.ts";

export interface LargeFigures {
  readonly mbPerSecond: number;
  readonly seconds: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
  readonly cpuMsPerMb: number;
  readonly clientCpu: number;
  readonly rssMb: number;
  readonly peakRssMb: number;
  readonly diskBytesPerByte: number;
  readonly diskSource: string;
  /** What was not 2xx, by status. */
  readonly refused: Readonly<Record<string, number>>;
  readonly storedMb: number;
  /** Acknowledged bodies that a read does not find; null when the read back failed. */
  readonly missing: number | null;
  readonly readBackFailure: string | null;
}

const CONNECTIONS = 4;
const WARMUP_MS = 1_000;
const BACKOFF_MS = 100;
/** How long a server may move what it has acknowledged to its last place, before the bytes on disk are counted. */
const SETTLE_MS = 2_000;
const READ_BACK_MS = 60_000;
/** Bodies made before the clock starts: far more than any server compresses at once. */
const POOL = 16;

export async function measureLarge(
  { url, pid, dataDir }: RunningServer,
  workload: LargeWorkload,
  durationMs: number,
): Promise<LargeFigures> {
  const path = streamPath(0);
  await createStream(url, path, workload.contentType);
  const requests = Array.from({ length: POOL }, () => largeRequest(url, path, workload));
  await flushDisk(dataDir);
  const disk = writtenBytes(dataDir, pid);
  const load = await Load.start(url, requests, workload);
  await Bun.sleep(WARMUP_MS);
  const look = () => ({ atMs: performance.now(), server: cpuMs(pid), client: process.cpuUsage(), acked: load.acked });
  const first = look();
  load.isTimed = true;
  await Promise.race([Bun.sleep(durationMs), load.ended]);
  const last = look();
  await load.stop();
  const memory = memoryBytes(pid);
  await Bun.sleep(SETTLE_MS);
  await flushDisk(dataDir);
  const diskAfter = writtenBytes(dataDir, pid);
  const seconds = (last.atMs - first.atMs) / 1000;
  const megabytes = ((last.acked - first.acked) * workload.bodyBytes) / 1e6;
  const clientUs = last.client.user + last.client.system - first.client.user - first.client.system;
  const [p50Ms = Number.NaN, p99Ms = Number.NaN, maxMs = Number.NaN] = load.samples.quantiles(0.5, 0.99, 1);
  const storedBytes = load.acked * workload.bodyBytes;
  return {
    mbPerSecond: megabytes / seconds,
    seconds,
    p50Ms,
    p99Ms,
    maxMs,
    cpuMsPerMb: (last.server - first.server) / megabytes,
    clientCpu: clientUs / 1e6 / seconds,
    rssMb: memory.now / 1e6,
    peakRssMb: memory.peak / 1e6,
    diskBytesPerByte: (diskAfter.bytes - disk.bytes) / storedBytes,
    diskSource: disk.source,
    refused: load.refused,
    storedMb: storedBytes / 1e6,
    ...(await readBack(url, path, load.acked, workload.bodyBytes)),
  };
}

/** The connections under load. Owns them until `stop`. */
class Load {
  readonly samples = new LatencySamples();
  readonly refused: Record<string, number> = {};
  acked = 0;
  /** From here on latencies count. */
  isTimed = false;
  /** Settles when as much is stored as may be, or after `stop`. */
  readonly ended: Promise<unknown>;
  readonly #requests: readonly Uint8Array[];
  readonly #mostBodies: number;
  /** Of `acked`, those after the warm-up: a quick disk would take all there may be before the clock starts. */
  #timed = 0;
  #isStopping = false;

  private constructor(
    connections: readonly HttpConnection[],
    requests: readonly Uint8Array[],
    { mostBytes, bodyBytes }: LargeWorkload,
  ) {
    this.#requests = requests;
    this.#mostBodies = Math.floor(mostBytes / bodyBytes);
    this.ended = Promise.all(connections.map((connection, index) => this.#append(connection, index)));
  }

  static async start(url: string, requests: readonly Uint8Array[], workload: LargeWorkload): Promise<Load> {
    const opening = Array.from({ length: CONNECTIONS }, () => HttpConnection.open(url));
    return new Load(await Promise.all(opening), requests, workload);
  }

  async stop(): Promise<void> {
    this.#isStopping = true;
    await this.ended;
  }

  async #append(connection: HttpConnection, index: number): Promise<void> {
    for (let turn = index; !this.#isStopping && this.#timed < this.#mostBodies; turn += CONNECTIONS) {
      const request = this.#requests[turn % this.#requests.length];
      if (request === undefined) throw new Error("there are requests");
      const sentMs = performance.now();
      const { status } = await connection.exchange(request);
      if (status === 0) throw new Error("the connection broke during an append");
      if (status >= 200 && status <= 299) {
        this.acked++;
        if (this.isTimed && !this.#isStopping) {
          this.#timed++;
          this.samples.add(performance.now() - sentMs);
        }
        continue;
      }
      this.refused[status] = (this.refused[status] ?? 0) + 1;
      await Bun.sleep(BACKOFF_MS);
    }
    connection.close();
  }
}

async function createStream(url: string, path: string, contentType: string): Promise<void> {
  const connection = await HttpConnection.open(url);
  const { status } = await connection.exchange(Buffer.from(headOf("PUT", url, path, contentType, 0)));
  connection.close();
  if (status !== 200 && status !== 201) throw new Error(`PUT ${path} answered ${status}`);
}

function headOf(method: "PUT" | "POST", url: string, path: string, contentType: string, bytes: number): string {
  const { host } = new URL(url);
  return `${method} ${path} HTTP/1.1\r\nHost: ${host}\r\nContent-Type: ${contentType}\r\nContent-Length: ${bytes}\r\n\r\n`;
}

function largeRequest(url: string, path: string, { contentType, bodyBytes }: LargeWorkload): Uint8Array {
  const body = contentType === "application/json" ? jsonNoise(bodyBytes) : noise(bodyBytes);
  return Buffer.concat([Buffer.from(headOf("POST", url, path, contentType, bodyBytes)), body]);
}

/** One record: half of its bits are noise. */
function jsonNoise(bytes: number): Uint8Array {
  const [start, end] = ['{"noise":"', '"}'];
  return Buffer.from(`${start}${hexNoise(bytes - start.length - end.length)}${end}`);
}

/** Does not compress. The system gives 64 KiB of noise at a time. */
function noise(bytes: number): Uint8Array {
  const all = new Uint8Array(bytes);
  for (let at = 0; at < bytes; at += 65_536) crypto.getRandomValues(all.subarray(at, at + 65_536));
  return all;
}

/** By length: every body is as long as the others, and what stands between records is far shorter than one. */
async function readBack(
  url: string,
  path: string,
  acked: number,
  bodyBytes: number,
): Promise<Pick<LargeFigures, "missing" | "readBackFailure">> {
  const connection = await HttpConnection.open(url);
  const late = Promise.withResolvers<never>();
  const timer = setTimeout(() => late.reject(new Error(`not done in ${READ_BACK_MS / 1000} s`)), READ_BACK_MS);
  try {
    const bytes = await Promise.race([readAll(connection, url, path), late.promise]);
    return { missing: Math.max(0, acked - Math.floor(bytes / bodyBytes)), readBackFailure: null };
  } catch (cause) {
    return { missing: null, readBackFailure: cause instanceof Error ? cause.message : String(cause) };
  } finally {
    clearTimeout(timer);
    connection.close();
  }
}
