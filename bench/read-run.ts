/** Catch-up reads: fill one stream, restart the server, read it whole by each reader at once, and again. Counts every byte. */

import { createStreams } from "./append-run.ts";
import { httpWire } from "./http-wire.ts";
import type { BenchServer, RunningServer } from "./peers.ts";
import { cpuMs, memoryBytes } from "./process-usage.ts";
import type { Wire } from "./wire.ts";
import { RECORD_BYTES, type ReadWorkload } from "./workloads.ts";

export interface ReadFigures {
  /** Of all readers together, as the rates. */
  readonly bytes: number;
  /** The first read after the restart (the page cache is not dropped), and the best of two more. */
  readonly coldMbPerSecond: number;
  readonly againMbPerSecond: number;
  readonly cpuMsPerGb: number;
  /** CPU of this client as a share of one core. */
  readonly clientCpu: number;
  readonly peakRssMb: number;
}

const RECORDS_PER_REQUEST = 2_000;
const REQUEST_PAYLOAD_BYTES = RECORDS_PER_REQUEST * RECORD_BYTES;
const FILL_CONNECTIONS = 4;

export async function measureReads(server: BenchServer, dataDir: string, workload: ReadWorkload): Promise<ReadFigures> {
  const filling = await server.start(dataDir);
  try {
    await fill(filling.url, 0, workload.megabytes, filling.wire);
  } finally {
    await filling.stop();
  }
  const running = await server.start(dataDir);
  try {
    return await readThrice(running, workload.readers, fillRequests(workload.megabytes) * REQUEST_PAYLOAD_BYTES);
  } finally {
    await running.stop();
  }
}

function fillRequests(megabytes: number): number {
  return Math.ceil((megabytes * 1e6) / REQUEST_PAYLOAD_BYTES);
}

/** Appends so much to one stream, in bodies of 512 kB. */
export async function fill(url: string, stream: number, megabytes: number, wire: Wire = httpWire): Promise<void> {
  await createStreams(url, stream + 1, wire);
  const writer = wire.appendWriter(url, FILL_CONNECTIONS, RECORDS_PER_REQUEST);
  let left = fillRequests(megabytes);
  const appendSome = async (index: number): Promise<void> => {
    const connection = await wire.open(url, index, RECORDS_PER_REQUEST);
    while (left > 0) {
      left--;
      const request = writer.next(index, stream);
      const status = await new Promise<number>((resolve) => connection.start(request, resolve));
      if (status === 429) {
        left++;
        await Bun.sleep(50);
      } else if (status < 200 || status > 299) throw new Error(`an append of the fill answered ${status}`);
    }
    connection.close();
  };
  await Promise.all(Array.from({ length: FILL_CONNECTIONS }, (_, index) => appendSome(index)));
}

async function readThrice(running: RunningServer, count: number, payloadBytes: number): Promise<ReadFigures> {
  const { url, wire } = running;
  const readers = await Promise.all(Array.from({ length: count }, (_, index) => wire.openReader(url, index)));
  const rates: number[] = [];
  let bytes = 0;
  const cpuBefore = cpuMs(running.pid);
  const clientBefore = process.cpuUsage();
  const startMs = performance.now();
  for (let round = 0; round < 3; round++) {
    const roundMs = performance.now();
    const read = await Promise.all(readers.map((reader) => reader.readAll(0)));
    bytes = read.reduce((sum, one) => sum + one, 0);
    rates.push(bytes / 1e3 / (performance.now() - roundMs));
    const least = Math.min(...read);
    if (least < payloadBytes) throw new Error(`a read gave ${least} bytes, ${payloadBytes} were appended`);
  }
  const client = process.cpuUsage(clientBefore);
  const clientCpu = (client.user + client.system) / 1e3 / (performance.now() - startMs);
  for (const reader of readers) reader.close();
  return {
    bytes,
    coldMbPerSecond: rates[0] ?? Number.NaN,
    againMbPerSecond: Math.max(...rates.slice(1)),
    clientCpu,
    cpuMsPerGb: (cpuMs(running.pid) - cpuBefore) / ((3 * bytes) / 1e9),
    peakRssMb: memoryBytes(running.pid).peak / 1e6,
  };
}
