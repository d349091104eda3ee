/** Catch-up reads: fill one stream, restart the server, read it whole by one reader, and again. Counts every byte. */

import { createStreams, readAll } from "./append-run.ts";
import { HttpConnection } from "./http-connection.ts";
import type { BenchServer, RunningServer } from "./peers.ts";
import { cpuMs, memoryBytes } from "./process-usage.ts";
import { RECORD_BYTES, RequestWriter, streamPath, type ReadWorkload } from "./workloads.ts";

export interface ReadFigures {
  readonly bytes: number;
  /** The first read after the restart (the page cache is not dropped), and the best of two more. */
  readonly coldMbPerSecond: number;
  readonly againMbPerSecond: number;
  readonly cpuMsPerGb: number;
  readonly peakRssMb: number;
}

const RECORDS_PER_REQUEST = 2_000;
const FILL_CONNECTIONS = 4;

export async function measureReads(server: BenchServer, dataDir: string, workload: ReadWorkload): Promise<ReadFigures> {
  const filling = await server.start(dataDir);
  const requests = Math.ceil((workload.megabytes * 1e6) / (RECORDS_PER_REQUEST * RECORD_BYTES));
  try {
    await fill(filling.url, requests);
  } finally {
    await filling.stop();
  }
  const running = await server.start(dataDir);
  try {
    return await readThrice(running, requests * RECORDS_PER_REQUEST * RECORD_BYTES);
  } finally {
    await running.stop();
  }
}

async function fill(url: string, requests: number): Promise<void> {
  await createStreams(url, 1);
  const writer = new RequestWriter(url, FILL_CONNECTIONS, RECORDS_PER_REQUEST);
  let left = requests;
  const appendSome = async (index: number): Promise<void> => {
    const connection = await HttpConnection.open(url);
    while (left > 0) {
      left--;
      const { status } = await connection.exchange(writer.next(index, 0));
      if (status === 429) {
        left++;
        await Bun.sleep(50);
      } else if (status < 200 || status > 299) throw new Error(`an append of the fill answered ${status}`);
    }
    connection.close();
  };
  await Promise.all(Array.from({ length: FILL_CONNECTIONS }, (_, index) => appendSome(index)));
}

async function readThrice(running: RunningServer, payloadBytes: number): Promise<ReadFigures> {
  const connection = await HttpConnection.open(running.url);
  const rates: number[] = [];
  let bytes = 0;
  const cpuBefore = cpuMs(running.pid);
  for (let round = 0; round < 3; round++) {
    const started = performance.now();
    bytes = await readAll(connection, running.url, streamPath(0));
    rates.push(bytes / 1e3 / (performance.now() - started));
    if (bytes < payloadBytes) throw new Error(`the read gave ${bytes} bytes, ${payloadBytes} were appended`);
  }
  connection.close();
  return {
    bytes,
    coldMbPerSecond: rates[0] ?? Number.NaN,
    againMbPerSecond: Math.max(...rates.slice(1)),
    cpuMsPerGb: (cpuMs(running.pid) - cpuBefore) / ((3 * bytes) / 1e9),
    peakRssMb: memoryBytes(running.pid).peak / 1e6,
  };
}
