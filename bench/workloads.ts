/**
 * What is measured: the table of workloads, and the bytes of their requests. Records are JSON of a fixed size whose text is
 * hexadecimal noise (compresses about 2:1), taken from a pool larger than one stored batch, so that compression finds no
 * whole record twice. Pure: no sockets.
 */

import type { LiveTransportName } from "./live-transport.ts";

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
  readonly transport: LiveTransportName;
  readonly subscribers: number;
}

export type FanOutWorkload = LiveWorkloadOf<"live-fan-out">;
/** Subscribers that ask for everything and then stall. */
export interface StalledWorkload extends LiveWorkloadOf<"live-stalled"> {
  readonly megabytes: number;
}
export type IdleWorkload = LiveWorkloadOf<"live-idle">;
export type LiveWorkload = FanOutWorkload | StalledWorkload | IdleWorkload;

export type Workload = AppendWorkload | ReadWorkload | WakeWorkload | TouchWorkload | LiveWorkload;

export const RECORD_BYTES = 256;

/** The quick form only shows that everything runs: fewer streams, fewer megabytes. */
export function workloads(isQuick: boolean): readonly Workload[] {
  const many = isQuick ? 2_000 : 100_000;
  return [
    append("A1", "1 connection, 1 stream", 1, 1),
    append("A2", "64 connections, 1 stream", 64, 1),
    append("A3", "64 connections, 64 streams", 64, 64),
    append("A4", `64 connections over ${many.toLocaleString("en")} streams`, 64, many),
    append("B1", "16 connections, 1 stream, batches of 100 records", 16, 1, 100),
    { kind: "read", name: "C", title: "catch-up by 1 reader", megabytes: isQuick ? 20 : 200 },
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
  ];
}

function liveWorkloads(isQuick: boolean, transport: LiveTransportName, letter: string): readonly LiveWorkload[] {
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

const TRANSPORT_TITLES: Readonly<Record<LiveTransportName, string>> = { sse: "SSE", websocket: "WebSocket" };

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

export function streamPath(index: number): string {
  return `/v1/stream/bench-${String(index).padStart(6, "0")}`;
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
  readonly #digitsAt: number;
  readonly #bodyAt: number;
  #turn = 0;

  /** One reused buffer per connection; all requests of a writer have the same length. */
  constructor(url: string, connections: number, recordsPerRequest: number) {
    const bodyBytes = bodyLength(recordsPerRequest);
    this.#bodies = Array.from({ length: Math.ceil(POOL_BYTES / bodyBytes) }, () => randomBody(recordsPerRequest));
    const path = streamPath(0);
    const head = `POST ${path} HTTP/1.1\r\nHost: ${new URL(url).host}\r\n${JSON_BODY(bodyBytes)}`;
    this.#digitsAt = `POST ${path}`.length - 6;
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
    for (let place = 5, rest = stream; place >= 0; place--, rest = Math.floor(rest / 10)) {
      buffer[this.#digitsAt + place] = 0x30 + (rest % 10);
    }
    buffer.set(body, this.#bodyAt);
    return buffer;
  }
}

/** One record alone, or an array of them: brackets and commas around. */
function bodyLength(records: number): number {
  return records === 1 ? RECORD_BYTES : records * (RECORD_BYTES + 1) + 1;
}

function randomBody(records: number): Uint8Array {
  const all = Array.from({ length: records }, randomRecord);
  return Buffer.from(records === 1 ? (all[0] ?? "") : `[${all.join(",")}]`);
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
