/**
 * An HTTP proxy that harms what passes, by a seeded choice for each request. Owns its listening port, the connections of its
 * clients and the requests it sends on. It answers each request on a connection of its own, counts a fault when it really
 * happened, and keeps what it could not do as an error. WebSockets pass through byte by byte, until some are cut. Bodies
 * are small in tests: no backpressure.
 * The faults of appends and of reads come from two sequences, so that those of one do not depend on the pace of the other.
 */

import { connect, createServer, type Socket } from "node:net";
import { type SeededRandom, seededRandom } from "./random.ts";

/** How an answer is broken off. */
const CUTS = [
  /** Anywhere, with a reset. */
  "reset",
  /** Inside the body, with a regular end of the connection: fewer bytes than `Content-Length` said. */
  "truncate-length",
  /** The same with chunks: inside one, or without the last. */
  "truncate-chunk",
] as const;
type Cut = (typeof CUTS)[number];

export const FAULTS = [
  ...CUTS,
  /** The connection closes; the server never hears of the request. */
  "drop-before",
  /** The request was done, but its answer never arrives. */
  "drop-after",
  /** The connection closes first, and the request reaches the server later, perhaps after its repeat. */
  "late",
  "delay",
  /** The server gets the request twice; the client gets one of the answers. */
  "duplicate",
  /** 5xx, and the server never hears of the request. */
  "refuse-before",
  /** 5xx although the request was done. */
  "refuse-after",
  /** A WebSocket breaks off while it is open. */
  "cut-socket",
] as const;
export type Fault = (typeof FAULTS)[number];

export interface ChaosProxy {
  readonly url: string;
  /** How often each fault has happened. */
  readonly injected: Readonly<Record<Fault, number>>;
  /** What went wrong in the proxy itself; empty unless the server failed. */
  readonly errors: readonly unknown[];
  /** Connections and requests that are not over yet. */
  open(): number;
  close(): void;
}

interface ProxiedRequest {
  readonly method: string;
  readonly path: string;
  readonly headers: Headers;
  readonly body: Buffer<ArrayBuffer>;
  /** All of it, as it came. */
  readonly raw: Buffer;
}

/** One request in the proxy. */
interface Scene {
  readonly origin: string;
  readonly request: ProxiedRequest;
  readonly client: Socket;
  readonly random: SeededRandom;
  /** Sends it on; ends with the client unless it is to outlive it. */
  readonly forward: (outlive?: "outlive") => Promise<Response>;
}

/** What a fault does; false when there was nothing to harm. */
type Injection = (scene: Scene) => Promise<boolean>;

const INJECTIONS: Readonly<Record<Fault, Injection>> = {
  reset: async (scene) => relay(scene, await scene.forward(), "reset"),
  "truncate-length": async (scene) => relay(scene, await scene.forward(), "truncate-length"),
  "truncate-chunk": async (scene) => relay(scene, await scene.forward(), "truncate-chunk"),
  "drop-before": ({ client }) => {
    client.destroy();
    return Promise.resolve(true);
  },
  "drop-after": async ({ client, forward }) => {
    await drain(await forward());
    client.destroy();
    return true;
  },
  late: async ({ client, random, forward }) => {
    client.destroy();
    await pause(random);
    await drain(await forward("outlive"));
    return true;
  },
  delay: async (scene) => {
    await pause(scene.random);
    const answer = await scene.forward();
    await pause(scene.random);
    await relay(scene, answer, null);
    return true;
  },
  duplicate: async (scene) => {
    const first = scene.forward();
    if (scene.random.below(2) === 0) await first;
    const answers = await Promise.all([first, scene.forward()]);
    const [told, other] = scene.random.below(2) === 0 ? answers : answers.toReversed();
    if (told === undefined || other === undefined) return false;
    await drain(other);
    await relay(scene, told, null);
    return true;
  },
  "refuse-before": ({ client, random }) => {
    client.end(refusal(random));
    return Promise.resolve(true);
  },
  "refuse-after": async ({ client, random, forward }) => {
    await drain(await forward());
    client.end(refusal(random));
    return true;
  },
  "cut-socket": (scene) => tunnel(scene, scene.random.below(800)),
};

/** What can happen to each kind of request. Reads are cut more often, for only some of their answers have a body, and so are sockets, of which there are few. */
const KINDS = {
  socket: ["cut-socket", "cut-socket", "cut-socket", "drop-before", "refuse-before"],
  // Answers to appends have no body that could be cut.
  append: FAULTS.filter((fault) => !fault.startsWith("truncate") && fault !== "cut-socket"),
  read: [...FAULTS.filter((fault) => fault !== "cut-socket"), ...CUTS, ...CUTS],
} satisfies Record<string, readonly Fault[]>;

const SOCKET_FAULT_PERCENT = 70;

/** Listens on a free loopback port and forwards to `target`. About `faultPercent` % of the requests are harmed. */
export async function startChaosProxy(
  target: { readonly url: string },
  seed: number,
  faultPercent = 40,
): Promise<ChaosProxy> {
  const injected = Object.fromEntries(FAULTS.map((fault) => [fault, 0])) as Record<Fault, number>;
  const errors: unknown[] = [];
  const clients = new Set<Socket>();
  const ending = new AbortController();
  const reads = seededRandom(seed ^ 0x5bd1e995);
  const choices = { append: seededRandom(seed), read: reads, socket: reads };
  let serving = 0;

  async function serve(client: Socket, request: ProxiedRequest): Promise<void> {
    const gone = new AbortController();
    client.once("close", () => gone.abort());
    const kind = request.headers.has("upgrade") ? "socket" : request.method === "POST" ? "append" : "read";
    const random = choices[kind];
    const kinds: readonly Fault[] = KINDS[kind];
    const fault =
      random.below(100) < (kind === "socket" ? SOCKET_FAULT_PERCENT : faultPercent)
        ? kinds[random.below(kinds.length)]
        : undefined;
    const forward = (outlive?: "outlive"): Promise<Response> =>
      send(target.url, request, outlive === undefined ? AbortSignal.any([gone.signal, ending.signal]) : ending.signal);
    const scene: Scene = { origin: target.url, request, client, random, forward };
    try {
      if (fault !== undefined) injected[fault] += (await INJECTIONS[fault](scene)) ? 1 : 0;
      else if (kind === "socket") await tunnel(scene, Infinity);
      else await relay(scene, await forward(), null);
    } catch (cause) {
      // A client that went away takes its request with it.
      if (!gone.signal.aborted && !ending.signal.aborted) errors.push(cause);
      client.destroy();
    }
  }

  const listener = createServer((client) => {
    clients.add(client);
    client.on("close", () => clients.delete(client));
    // A connection that breaks is what this is about; `close` follows.
    client.on("error", () => client.destroy());
    onRequest(client, (request) => {
      serving++;
      void serve(client, request).finally(() => serving--);
    });
  });
  await new Promise<void>((resolve) => listener.listen(0, "127.0.0.1", resolve));
  const address = listener.address();
  if (address === null || typeof address === "string") throw new Error("the proxy has no port");
  return {
    url: `http://127.0.0.1:${address.port}`,
    injected,
    errors,
    open: () => clients.size + serving,
    close: () => {
      ending.abort();
      listener.close();
      for (const client of clients) client.destroy();
    },
  };
}

/** Calls back once, with the first request of the connection. */
function onRequest(client: Socket, callback: (request: ProxiedRequest) => void): void {
  let received = Buffer.alloc(0);
  let isDone = false;
  client.on("data", (data) => {
    if (isDone) return;
    received = Buffer.concat([received, typeof data === "string" ? Buffer.from(data) : data]);
    const headEnd = received.indexOf("\r\n\r\n");
    if (headEnd === -1) return;
    const [line = "", ...fields] = received.toString("latin1", 0, headEnd).split("\r\n");
    const headers = new Headers(
      fields.map((field) => [field.slice(0, field.indexOf(":")), field.slice(field.indexOf(":") + 1)]),
    );
    const bodyEnd = headEnd + 4 + Number(headers.get("content-length") ?? 0);
    if (received.length < bodyEnd) return;
    isDone = true;
    const [method = "", path = ""] = line.split(" ");
    callback({ method, path, headers, body: received.subarray(headEnd + 4, bodyEnd), raw: received });
  });
}

function send(origin: string, { method, path, headers, body }: ProxiedRequest, signal: AbortSignal): Promise<Response> {
  const passed = new Headers(headers);
  for (const name of ["host", "connection", "content-length"]) passed.delete(name);
  passed.set("accept-encoding", "identity");
  return fetch(origin + path, { method, headers: passed, body: body.length === 0 ? null : body, signal });
}

/** Passes the answer on, whole or cut; whether it was cut. */
async function relay(scene: Scene, answer: Response, cut: Cut | null): Promise<boolean> {
  if (answer.headers.get("content-type")?.startsWith("text/event-stream") === true)
    return relayLive(scene, answer, cut);
  const { client, random } = scene;
  const body = Buffer.from(await answer.arrayBuffer());
  const isBare = answer.status === 204 || answer.status === 304;
  const chunked = cut === "truncate-chunk";
  const framing = isBare ? [] : [chunked ? "transfer-encoding: chunked" : `content-length: ${body.length}`];
  const head = headOf(answer, framing);
  const raw = Buffer.concat([head, chunked ? Buffer.concat([chunkOf(body), LAST_CHUNK]) : body]);
  const intact = cut === "reset" ? 0 : head.length;
  if (cut === null || intact === raw.length) {
    client.end(raw);
    return false;
  }
  const last = await trickle(client, raw.subarray(0, intact + random.below(raw.length - intact)), random);
  endAt(client, last, cut);
  return true;
}

/** Server-sent events: each piece as it comes. */
async function relayLive({ client, random }: Scene, answer: Response, cut: Cut | null): Promise<boolean> {
  const limit = cut === null ? Infinity : random.below(random.below(2) === 0 ? 600 : 6000);
  const chunked = cut !== "truncate-length";
  client.write(headOf(answer, [chunked ? "transfer-encoding: chunked" : "content-length: 1000000"]));
  let passed = 0;
  for await (const piece of answer.body ?? []) {
    const frame = chunked ? chunkOf(piece) : Buffer.from(piece);
    if (passed + frame.length > limit) {
      endAt(client, frame.subarray(0, limit - passed), cut);
      return true;
    }
    client.write(frame);
    passed += frame.length;
  }
  client.end(chunked ? LAST_CHUNK : "");
  return cut === "truncate-length";
}

/** Both directions of a WebSocket until one side ends; whether it was cut, after so many bytes from the server. */
async function tunnel({ origin, request, client }: Scene, limitBytes: number): Promise<boolean> {
  const { hostname, port } = new URL(origin);
  const upstream = connect({ host: hostname, port: Number(port) });
  let left = limitBytes;
  upstream.on("data", (data) => {
    const bytes = typeof data === "string" ? Buffer.from(data) : data;
    if (left <= 0) return;
    if (bytes.length < left) client.write(bytes);
    else endAt(client, bytes.subarray(0, left), "reset");
    left -= bytes.length;
  });
  client.on("data", (data) => upstream.write(data));
  upstream.write(request.raw);
  await new Promise<void>((resolve) => {
    client.on("close", () => upstream.destroy());
    // Whatever ends one side ends the other; `close` follows an error.
    upstream.on("error", () => client.destroy());
    upstream.on("close", () => {
      client.end();
      resolve();
    });
  });
  return left <= 0;
}

/** Writes in a few pieces, so that the client has taken some when the last, which is given back, breaks off. */
async function trickle(client: Socket, bytes: Buffer, random: SeededRandom): Promise<Buffer> {
  let rest = bytes;
  for (let pieces = random.below(4); pieces > 0; pieces--) {
    const size = random.below(rest.length + 1);
    client.write(rest.subarray(0, size));
    rest = rest.subarray(size);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  return rest;
}

const LAST_CHUNK = Buffer.from("0\r\n\r\n");

function chunkOf(bytes: Uint8Array): Buffer {
  // A chunk without bytes would be the last one.
  if (bytes.length === 0) return Buffer.alloc(0);
  return Buffer.concat([Buffer.from(`${bytes.length.toString(16)}\r\n`), bytes, Buffer.from("\r\n")]);
}

/** The last bytes of a connection. */
function endAt(client: Socket, bytes: Uint8Array, cut: Cut | null): void {
  if (cut === "reset") client.write(bytes, () => client.resetAndDestroy());
  else client.end(bytes);
}

function headOf(answer: Response, framing: readonly string[]): Buffer {
  const kept = [...answer.headers].filter(
    ([name]) => !["connection", "keep-alive", "content-length", "transfer-encoding"].includes(name),
  );
  const lines = kept.map(([name, value]) => `${name}: ${value}`);
  const status = `HTTP/1.1 ${answer.status} ${answer.statusText}`;
  return Buffer.from([status, ...lines, ...framing, "connection: close", "", ""].join("\r\n"), "latin1");
}

function refusal(random: SeededRandom): string {
  const status = [500, 502, 503, 504][random.below(4)] ?? 500;
  const page = "<h1>Something is wrong</h1>";
  return `HTTP/1.1 ${status} Trouble\r\ncontent-type: text/html\r\ncontent-length: ${page.length}\r\nconnection: close\r\n\r\n${page}`;
}

/** Lets the server finish with a request whose answer nobody gets. */
async function drain(answer: Response): Promise<void> {
  if (answer.headers.get("content-type")?.startsWith("text/event-stream") === true) await answer.body?.cancel();
  else await answer.arrayBuffer();
}

function pause(random: SeededRandom): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, 1 + random.below(20)));
}
