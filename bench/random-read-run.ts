/**
 * Reads from random offsets of a long stream, one after the other: how long until the first byte of the body is here. The
 * offsets are those that the server gave while the stream was filled. Invariant: a read begins only when the server has
 * answered something on that connection since the last read, so that what an aborted answer left behind is not timed.
 */

import { createStreams } from "./append-run.ts";
import { HttpConnection } from "./http-connection.ts";
import { LatencySamples } from "./load-client.ts";
import { liveRecord, sharedNowMs } from "./live-records.ts";
import type { RunningServer } from "./peers.ts";
import { cpuMs } from "./process-usage.ts";
import { postRequest, simpleRequest, streamPath, type RandomReadWorkload } from "./workloads.ts";

export interface RandomReadFigures {
  readonly reads: number;
  /** From sending the GET to the first byte of the answer's body. */
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
  readonly cpuMsPerRead: number;
  /** Median of the bodies that were read to their end; NaN when none was. */
  readonly answerKb: number;
  /** Answers that went on beyond `READ_ON_BYTES` and were aborted. */
  readonly cut: number;
  readonly offsets: number;
}

const RECORD_BYTES = 1_000;
/** So a stream of 200 MB gives 2,000 offsets. */
const RECORDS_PER_FILL = 100;
/** A page is read to its end (1 MB is the largest of a peer); an answer that holds the rest of the stream is aborted after so much. */
const READ_ON_BYTES = 1_200_000;
/** A server that reads the whole stream for each answer does not get through all reads. */
const MOST_MS = 30_000;

export async function measureRandomReads(
  { url, pid }: RunningServer,
  workload: RandomReadWorkload,
): Promise<RandomReadFigures> {
  const path = streamPath(0);
  const offsets = await fillWithOffsets(url, path, workload.megabytes);
  const samples = new LatencySamples();
  const answers: number[] = [];
  let cut = 0;
  let connection = await ready(url, path);
  const cpuBefore = cpuMs(pid);
  const endMs = performance.now() + MOST_MS;
  for (let read = 0; read < workload.reads && performance.now() < endMs; read++) {
    const offset = offsets[Math.floor(Math.random() * offsets.length)] ?? "-1";
    const { firstMs, wholeBytes } = await readFrom(connection, simpleRequest("GET", url, `${path}?offset=${offset}`));
    samples.add(firstMs);
    if (wholeBytes !== null) {
      answers.push(wholeBytes / 1e3);
      continue;
    }
    cut++;
    connection.close();
    connection = await ready(url, path);
  }
  const cpuUsed = cpuMs(pid) - cpuBefore;
  connection.close();
  const [p50Ms = Number.NaN, p99Ms = Number.NaN, maxMs = Number.NaN] = samples.quantiles(0.5, 0.99, 1);
  const answerKb = answers.toSorted((left, right) => left - right)[answers.length >> 1] ?? Number.NaN;
  return {
    reads: samples.count,
    p50Ms,
    p99Ms,
    maxMs,
    cpuMsPerRead: cpuUsed / samples.count,
    answerKb,
    cut,
    offsets: offsets.length,
  };
}

interface RandomRead {
  readonly firstMs: number;
  /** Null when the body was still going on: then the connection is of no use any more. */
  readonly wholeBytes: number | null;
}

async function readFrom(connection: HttpConnection, request: Uint8Array): Promise<RandomRead> {
  const long = Promise.withResolvers<null>();
  const first = Promise.withResolvers<number>();
  const sentMs = performance.now();
  let bytes = 0;
  const answering = connection.exchange(request, (piece) => {
    if (bytes === 0) first.resolve(performance.now() - sentMs);
    bytes += piece.length;
    if (bytes > READ_ON_BYTES) long.resolve(null);
  });
  const answer = await Promise.race([answering, long.promise]);
  if (answer !== null && answer.status !== 200) throw new Error(`a read answered ${answer.status}`);
  if (bytes === 0) throw new Error("a read answered no body");
  return { firstMs: await first.promise, wholeBytes: answer === null ? null : answer.bodyBytes };
}

/** A connection on which the server has answered. */
async function ready(url: string, path: string): Promise<HttpConnection> {
  const connection = await HttpConnection.open(url);
  const { status } = await connection.exchange(simpleRequest("HEAD", url, path));
  if (status !== 200) throw new Error(`HEAD ${path} answered ${status}`);
  return connection;
}

/** The offsets before the last append: a read from each of them finds something. */
async function fillWithOffsets(url: string, path: string, megabytes: number): Promise<readonly string[]> {
  await createStreams(url, 1);
  const connection = await HttpConnection.open(url);
  const offsets = ["-1"];
  const appends = Math.ceil((megabytes * 1e6) / (RECORD_BYTES * RECORDS_PER_FILL));
  for (let append = 0; append < appends; append++) {
    const batch = Array.from({ length: RECORDS_PER_FILL }, (_, index) =>
      liveRecord({ sequence: append * RECORDS_PER_FILL + index, dueMs: sharedNowMs() }, RECORD_BYTES),
    );
    const answer = await connection.exchange(postRequest(url, path, `[${batch.join(",")}]`));
    if (answer.status < 200 || answer.status > 299) throw new Error(`an append of the fill answered ${answer.status}`);
    const next = answer.header("stream-next-offset");
    if (next === null) throw new Error("an append answered no Stream-Next-Offset");
    if (append < appends - 1) offsets.push(next);
  }
  connection.close();
  return offsets;
}
