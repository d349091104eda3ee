/**
 * What is measured: the table of workloads, and the bytes of their requests. Records are JSON of a fixed size whose text is
 * hexadecimal noise (compresses about 2:1), taken from a pool larger than one stored batch, so that compression finds no
 * whole record twice. Pure: no sockets.
 */

import type { HttpTransportName } from "./live-transport.ts";

export interface AppendWorkload {
  readonly kind: "append";
  readonly name: string;
  readonly title: string;
  readonly connections: number;
  readonly streams: number;
  readonly recordsPerRequest: number;
}

export interface ReadWorkload {
  readonly kind: "read";
  readonly name: string;
  readonly title: string;
  readonly megabytes: number;
  /** At once, each reads all of it. */
  readonly readers: number;
}

/** Appends of large bodies. */
export interface LargeWorkload {
  readonly kind: "large";
  readonly name: string;
  readonly title: string;
  readonly bodyBytes: number;
  readonly contentType: "application/json" | "application/octet-stream";
  /** It ends early when so much is stored, besides the warm-up. */
  readonly mostBytes: number;
}

export interface RandomReadWorkload {
  readonly kind: "random-read";
  readonly name: string;
  readonly title: string;
  readonly megabytes: number;
  readonly reads: number;
}

/** A server that nobody asks anything. */
export interface IdleServerWorkload {
  readonly kind: "idle-server";
  readonly name: string;
  readonly title: string;
  readonly starts: number;
  /** Stored in the kept directory. */
  readonly megabytes: number;
  readonly settleMs: number;
  readonly idleMs: number;
}

/** How cost grows with what is stored. */
export interface GrowthWorkload {
  readonly kind: "growth";
  readonly name: string;
  readonly title: string;
  readonly streams: number;
  readonly megabytes: number;
  readonly appendMs: number;
  readonly reads: number;
  /** Too large for the others. */
  readonly isOursOnly: boolean;
}

export interface WakeWorkload {
  readonly kind: "wake";
  readonly name: string;
  readonly title: string;
}

interface TouchWorkloadOf<K> {
  readonly kind: K;
  readonly name: string;
  readonly title: string;
  readonly waiters: number;
}

/** Live queries on touch: needs a server that speaks its routes. */
export type TouchWorkload =
  | TouchWorkloadOf<"touch-wake">
  | TouchWorkloadOf<"touch-rate">
  | TouchWorkloadOf<"touch-memory">;

interface LiveWorkloadOf<K> {
  readonly kind: K;
  readonly name: string;
  readonly title: string;
  readonly transport: HttpTransportName;
  readonly subscribers: number;
}

export type FanOutWorkload = LiveWorkloadOf<"live-fan-out">;
/** Subscribers that ask for everything and then stall. */
export interface StalledWorkload extends LiveWorkloadOf<"live-stalled"> {
  readonly megabytes: number;
}
export type IdleWorkload = LiveWorkloadOf<"live-idle">;
export type LiveWorkload = FanOutWorkload | StalledWorkload | IdleWorkload;

export type Workload =
  | AppendWorkload
  | LargeWorkload
  | ReadWorkload
  | RandomReadWorkload
  | WakeWorkload
  | TouchWorkload
  | LiveWorkload
  | IdleServerWorkload
  | GrowthWorkload;

export const RECORD_BYTES = 256;

export interface Extent {
  /** Only shows that everything runs: fewer streams, fewer megabytes. */
  readonly isQuick: boolean;
  /** With what takes many minutes and much of a disk. */
  readonly isFull: boolean;
}

export function workloads({ isQuick, isFull }: Extent): readonly Workload[] {
  const many = isQuick ? 2_000 : 100_000;
  return [
    append("A1", "1 connection, 1 stream", 1, 1),
    append("A2", "64 connections, 1 stream", 64, 1),
    append("A3", "64 connections, 64 streams", 64, 64),
    append("A4", `64 connections over ${many.toLocaleString("en")} streams`, 64, many),
    append("B1", "16 connections, 1 stream, batches of 100 records", 16, 1, 100),
    large("B2", "application/json", "JSON that compresses 2:1", isQuick),
    large("B2b", "application/octet-stream", "noise that does not compress", isQuick),
    { kind: "read", name: "C", title: "catch-up by 1 reader", megabytes: isQuick ? 20 : 200, readers: 1 },
    { kind: "read", name: "C8", title: "catch-up by 8 readers at once", megabytes: isQuick ? 20 : 200, readers: 8 },
    randomRead(isQuick),
    { kind: "wake", name: "W", title: "long-poll, 1 waiter: from ack to wake" },
    touch("touch-wake" as const, "T1", isQuick ? 100 : 1_000, "touch waits, 100 changes/s, each wakes one"),
    touch("touch-wake" as const, "T5", isQuick ? 200 : 5_000, "touch waits, 100 changes/s, each wakes one"),
    touch(
      "touch-rate",
      "TR",
      isQuick ? 100 : 1_000,
      "parked touch waits, changes in batches of 100 from 16 connections",
    ),
    touch("touch-memory" as const, "TM", isQuick ? 500 : 10_000, "touch waits against as many idle long-polls: memory"),
    ...liveWorkloads(isQuick, "sse", "S"),
    ...liveWorkloads(isQuick, "websocket", "L"),
    longPolls(isQuick ? 100 : 1_000),
    idleServer(isQuick),
    ...growthWorkloads(isQuick, isFull),
  ];
}

function large(name: string, contentType: LargeWorkload["contentType"], what: string, isQuick: boolean): LargeWorkload {
  const title = `4 connections, 1 stream, bodies of 1 MiB: ${what}`;
  return { kind: "large", name, title, bodyBytes: 1024 * 1024, contentType, mostBytes: isQuick ? 200e6 : 12e9 };
}

function randomRead(isQuick: boolean): RandomReadWorkload {
  const [megabytes, reads] = isQuick ? [10, 100] : [200, 2_000];
  const title = `1 connection, ${reads.toLocaleString("en")} reads from random offsets of ${megabytes} MB: first body byte`;
  return { kind: "random-read", name: "R", title, megabytes, reads };
}

function idleServer(isQuick: boolean): IdleServerWorkload {
  const [starts, megabytes] = isQuick ? [2, 2] : [20, 20];
  const [settleMs, idleMs] = isQuick ? [500, 1_000] : [5_000, 10_000];
  const title = `${starts} starts on empty directories and on one of ${megabytes} MB; then nothing for ${idleMs / 1000} s`;
  return { kind: "idle-server", name: "IDLE", title, starts, megabytes, settleMs, idleMs };
}

function growthWorkloads(isQuick: boolean, isFull: boolean): readonly GrowthWorkload[] {
  const growth = (name: string, streams: number, megabytes: number, isOursOnly: boolean): GrowthWorkload => ({
    kind: "growth",
    name,
    title: `appends as A2 on the empty server, beside ${streams.toLocaleString("en")} streams, beside ${megabytes.toLocaleString("en")} MB`,
    streams,
    megabytes,
    appendMs: isQuick ? 500 : 5_000,
    reads: isQuick ? 50 : 500,
    isOursOnly,
  });
  if (isQuick) return [growth("GROW", 500, 20, false)];
  const standard = growth("GROW", 10_000, 1_000, false);
  return isFull ? [standard, growth("GROWS", 1_000_000, 0, true), growth("GROWB", 10_000, 10_000, true)] : [standard];
}

function liveWorkloads(isQuick: boolean, transport: HttpTransportName, letter: string): readonly LiveWorkload[] {
  const live = <K>(kind: K, number: number, subscribers: number, title: string): LiveWorkloadOf<K> => ({
    kind,
    name: `${letter}${number}`,
    transport,
    subscribers,
    title: `${subscribers.toLocaleString("en")} ${TRANSPORT_TITLES[transport]} ${title}`,
  });
  const megabytes = isQuick ? 2 : 8;
  const some = isQuick ? 100 : 1_000;
  return [
    live("live-fan-out", 1, some, "subscribers of one stream, 20 messages/s"),
    { ...live("live-stalled", 2, some, `subscribers that stall on a stream of ${megabytes} MB`), megabytes },
    live("live-idle", 3, isQuick ? 500 : 10_000, "idle subscribers"),
  ];
}

function longPolls(subscribers: number): FanOutWorkload {
  const title = `${subscribers.toLocaleString("en")} ${TRANSPORT_TITLES["long-poll"]} of one stream, 20 messages/s`;
  return { kind: "live-fan-out", name: "LP1", transport: "long-poll", subscribers, title };
}

const TRANSPORT_TITLES: Readonly<Record<HttpTransportName, string>> = {
  sse: "SSE",
  websocket: "WebSocket",
  "long-poll": "long-polls",
};

function touch<K>(kind: K, name: string, waiters: number, title: string): TouchWorkloadOf<K> {
  return { kind, name, waiters, title: `${waiters.toLocaleString("en")} ${title}` };
}

function append(
  name: string,
  title: string,
  connections: number,
  streams: number,
  recordsPerRequest = 1,
): AppendWorkload {
  return { kind: "append", name, title, connections, streams, recordsPerRequest };
}

const STREAM_DIGITS = 6;

export function streamName(index: number): string {
  return `bench-${String(index).padStart(STREAM_DIGITS, "0")}`;
}

export function streamPath(index: number): string {
  return `/v1/stream/${streamName(index)}`;
}

/** The name in a path. */
export function streamNameOf(path: string): string {
  return path.slice(path.lastIndexOf("/") + 1);
}

export function simpleRequest(method: "GET" | "PUT" | "HEAD", url: string, target: string): Uint8Array {
  const head = `${method} ${target} HTTP/1.1\r\nHost: ${new URL(url).host}\r\n`;
  return Buffer.from(method === "PUT" ? `${head}${JSON_BODY(0)}` : `${head}\r\n`);
}

/** One append, or any other JSON body; for the requests that need not be cheap. */
export function postRequest(url: string, target: string, body: string): Buffer {
  const head = `POST ${target} HTTP/1.1\r\nHost: ${new URL(url).host}\r\n`;
  return Buffer.from(`${head}${JSON_BODY(Buffer.byteLength(body))}${body}`);
}

const JSON_BODY = (bytes: number): string => `Content-Type: application/json\r\nContent-Length: ${bytes}\r\n\r\n`;

/** Bodies in the pool: 1 MiB of them, four times the largest batch a server compresses at once. */
const POOL_BYTES = 1024 * 1024;

export class RequestWriter {
  readonly #bodies: readonly Uint8Array[];
  readonly #buffers: readonly Buffer[];
  readonly #digitsEnd: number;
  readonly #bodyAt: number;
  #turn = 0;

  /** One reused buffer per connection; all requests of a writer have the same length. */
  constructor(url: string, connections: number, recordsPerRequest: number) {
    const bodyBytes = bodyLength(recordsPerRequest);
    this.#bodies = randomRecords(recordsPerRequest).map(jsonBody);
    const path = streamPath(0);
    const head = `POST ${path} HTTP/1.1\r\nHost: ${new URL(url).host}\r\n${JSON_BODY(bodyBytes)}`;
    this.#digitsEnd = `POST ${path}`.length;
    this.#bodyAt = head.length;
    this.#buffers = Array.from({ length: connections }, () => {
      const buffer = Buffer.alloc(head.length + bodyBytes);
      buffer.write(head, "latin1");
      return buffer;
    });
  }

  /** An append to `stream` with the next body of the pool; valid until the connection's next request. */
  next(connection: number, stream: number): Uint8Array {
    const buffer = this.#buffers[connection];
    const body = this.#bodies[this.#turn++ % this.#bodies.length];
    if (buffer === undefined || body === undefined) throw new Error(`no connection ${connection}`);
    writeStreamDigits(buffer, this.#digitsEnd, stream);
    buffer.set(body, this.#bodyAt);
    return buffer;
  }
}

/** One record alone, or an array of them: brackets and commas around. */
function bodyLength(records: number): number {
  return records === 1 ? RECORD_BYTES : records * (RECORD_BYTES + 1) + 1;
}

function jsonBody(records: readonly string[]): Uint8Array {
  const [only = ""] = records;
  return Buffer.from(records.length === 1 ? only : `[${records.join(",")}]`);
}

/** The records of as many requests as the pool has room for. */
export function randomRecords(perRequest: number): readonly (readonly string[])[] {
  const requests = Math.ceil(POOL_BYTES / (perRequest * RECORD_BYTES));
  return Array.from({ length: requests }, () => Array.from({ length: perRequest }, randomRecord));
}

/** Over the number that ends a stream's name, `end` bytes into the buffer. */
export function writeStreamDigits(buffer: Uint8Array, end: number, stream: number): void {
  for (let place = 1, rest = stream; place <= STREAM_DIGITS; place++, rest = Math.floor(rest / 10)) {
    buffer[end - place] = 0x30 + (rest % 10);
  }
}

/** Exactly one `{` in each record: that is how stored records are counted. */
function randomRecord(): string {
  const head = '{"kind":"sensor.reading","at":1763676000000,"noise":"';
  return `${head}${hexNoise(RECORD_BYTES - head.length - 2)}"}`;
}

export function hexNoise(chars: number): string {
  const bytes = crypto.getRandomValues(new Uint8Array(Math.ceil(chars / 2)));
  return Buffer.from(bytes).toString("hex").slice(0, chars);
}
