/**
 * What `bench` measures: the table of workloads, named as users would say it, in an order in which none leaves work behind that
 * would slow down the next. Records are JSON of 256 bytes of hexadecimal noise, which compresses about two to one; large bodies do not
 * compress at all. Each workload prepares its streams and requests first, and is measured then.
 */

import { Buffer } from "node:buffer";
import { randomFillSync } from "node:crypto";
import type { RequestBody } from "../client/transport.ts";
import { type StreamHandle, Unreachable } from "../client/client.ts";
import { requestBytes, type Target } from "./bench-connection.ts";
import { type LiveFigures, type LivePlan, measureFanOut, measureWakes } from "./bench-live.ts";
import { type Refusals, runLoad } from "./bench-load.ts";

/** Where a workload works. */
export interface Ground {
  readonly target: Target;
  /** Of the workloads with many of them. */
  readonly connections: number;
  readonly warmUpMs: number;
  readonly measureMs: number;
  readonly refusals: Refusals;
  readonly signal: AbortSignal;
  /** So many more of what the workload counts. */
  readonly count: (units: number) => void;
  /** A fresh stream, and its tail. */
  readonly newStream: (contentType: string) => Promise<NewStream>;
}

export interface NewStream {
  readonly stream: StreamHandle;
  readonly offset: string;
}

/** What came of it. Latencies are NaN when nothing was measured. */
export interface Outcome {
  readonly count: number;
  readonly seconds: number;
  /** Payload, to or from the server. */
  readonly bytes: number | null;
  readonly p50Ms: number;
  readonly p99Ms: number;
  /** Deliveries that did not come. */
  readonly missing: number | null;
}

export interface Workload {
  readonly name: string;
  readonly about: (connections: number) => string;
  /** What is counted. */
  readonly unit: "records" | "wakes" | "deliveries" | "reads";
  readonly prepare: (ground: Ground) => Promise<() => Promise<Outcome>>;
}

const RECORD_BYTES = 256;
const BATCH_RECORDS = 100;
const MiB = 1024 * 1024;
const SUBSCRIBERS = 200;
const READ_STREAM_MIB = 64;
/** Beyond the measured time: for the last deliveries, and for answers that are late. */
const LIVE_PATIENCE_MS = 20_000;
const JSON_TYPE = "application/json";
const BYTES_TYPE = "application/octet-stream";

export const WORKLOADS: readonly Workload[] = [
  {
    name: "one writer",
    about: () => "1 connection, 256 B",
    unit: "records",
    prepare: appends(() => ({ connections: 1, streams: 1, records: 1 })),
  },
  {
    name: "long-poll wake",
    about: () => "1 reader, from send to received",
    unit: "wakes",
    prepare: live(measureWakes),
  },
  {
    name: "SSE fan-out",
    about: () => `${SUBSCRIBERS} subscribers, 20 messages/s`,
    unit: "deliveries",
    prepare: live((plan) => measureFanOut({ ...plan, subscribers: SUBSCRIBERS })),
  },
  {
    name: "many writers",
    about: (connections) => `${counted(connections, "connection")}, 1 stream, 256 B`,
    unit: "records",
    prepare: appends((connections) => ({ connections, streams: 1, records: 1 })),
  },
  {
    name: "many streams",
    about: (connections) => `${counted(connections, "connection")}, a stream each, 256 B`,
    unit: "records",
    prepare: appends((connections) => ({ connections, streams: connections, records: 1 })),
  },
  {
    name: "batches",
    about: () => `16 connections, ${BATCH_RECORDS} records of 256 B`,
    unit: "records",
    prepare: appends(() => ({ connections: 16, streams: 1, records: BATCH_RECORDS })),
  },
  { name: "catch-up read", about: () => `1 reader, ${READ_STREAM_MIB} MiB at a time`, unit: "reads", prepare: reads },
  { name: "large bodies", about: () => "4 connections, 1 MiB", unit: "records", prepare: largeBodies },
];

function counted(count: number, thing: string): string {
  return `${count} ${thing}${count === 1 ? "" : "s"}`;
}

interface AppendShape {
  readonly connections: number;
  readonly streams: number;
  readonly records: number;
}

function appends(shapeFor: (connections: number) => AppendShape): Workload["prepare"] {
  return async (ground) => {
    const { connections, streams, records } = shapeFor(ground.connections);
    const made = await Promise.all(Array.from({ length: streams }, () => ground.newStream(JSON_TYPE)));
    const body = (): Uint8Array<ArrayBuffer> => jsonBody(records);
    const requests = appendRequests(ground.target, made, connections, JSON_TYPE, body);
    return () => appending(ground, requests, records, RECORD_BYTES);
  };
}

async function largeBodies(ground: Ground): Promise<() => Promise<Outcome>> {
  const made = await ground.newStream(BYTES_TYPE);
  const body = (): Uint8Array<ArrayBuffer> => randomFillSync(new Uint8Array(MiB));
  const requests = appendRequests(ground.target, [made], 4, BYTES_TYPE, body);
  return () => appending(ground, requests, 1, MiB);
}

async function appending(
  ground: Ground,
  requests: readonly (readonly Uint8Array[])[],
  records: number,
  recordBytes: number,
): Promise<Outcome> {
  const onAnswers = (answers: number): void => ground.count(answers * records);
  const { answers, seconds, p50Ms, p99Ms } = await runLoad({ ...ground, requests, onAnswers });
  const count = answers * records;
  return { count, seconds, bytes: count * recordBytes, p50Ms, p99Ms, missing: null };
}

/** Different bodies, so that what the server compresses together has no record twice. */
const POOL_BYTES = MiB;

/** For each connection, the requests it sends in turns; connections share out the streams. */
function appendRequests(
  target: Target,
  streams: readonly NewStream[],
  connections: number,
  contentType: string,
  body: () => Uint8Array,
): Uint8Array[][] {
  return Array.from({ length: connections }, (_, connection) => {
    const url = streams[connection % streams.length]?.stream.url ?? "";
    const request = (): Uint8Array => requestBytes(target, { method: "POST", url, contentType, body: body() });
    const first = request();
    const more = Math.floor(POOL_BYTES / connections / first.length);
    return [first, ...Array.from({ length: more }, request)];
  });
}

/** One record, or an array of them. */
export function jsonBody(records: number): Uint8Array<ArrayBuffer> {
  const all = Array.from({ length: records }, () => {
    const head = '{"kind":"bench","noise":"';
    const chars = RECORD_BYTES - head.length - 2;
    return `${head}${randomFillSync(Buffer.alloc(Math.ceil(chars / 2)))
      .toString("hex")
      .slice(0, chars)}"}`;
  });
  return new TextEncoder().encode(records === 1 ? all[0] : `[${all.join(",")}]`);
}

async function reads(ground: Ground): Promise<() => Promise<Outcome>> {
  const { target, signal } = ground;
  const { stream } = await ground.newStream(JSON_TYPE);
  const body: RequestBody = jsonBody(Math.floor(MiB / (RECORD_BYTES + 1)));
  for (let appended = 0; appended < READ_STREAM_MIB; appended++) {
    const answer = await stream.append(body, { contentType: JSON_TYPE, signal });
    if (answer.isErr()) throw answer.error;
  }
  const requests = [[requestBytes(target, { method: "GET", url: stream.url })]];
  return async () => {
    const { answers, bodyBytes, ...times } = await runLoad({ ...ground, requests, onAnswers: ground.count });
    return { ...times, count: answers, bytes: bodyBytes, missing: null };
  };
}

function live(measure: (plan: LivePlan) => Promise<LiveFigures>): Workload["prepare"] {
  return async (ground) => {
    const { stream, offset } = await ground.newStream(JSON_TYPE);
    return async () => {
      const onReceived = (): void => ground.count(1);
      const late = AbortSignal.timeout(ground.measureMs + LIVE_PATIENCE_MS);
      const signal = AbortSignal.any([ground.signal, late]);
      const plan = { ...ground, signal, stream, offset, recordBytes: RECORD_BYTES, onReceived };
      const { received, missing, ...times } = await measure(plan).catch((cause: unknown) => {
        if (cause !== late.reason) throw cause;
        const message = "a live reader had no answer in time";
        throw new Unreachable({ message, hint: null, url: stream.url, cause });
      });
      return { ...times, count: received, bytes: null, missing };
    };
  };
}
