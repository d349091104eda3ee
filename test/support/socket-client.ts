/**
 * A WebSocket client for tests that believes nothing: every message of the server is checked against its schema and against what
 * the protocol promises of positions (they only grow, nothing comes after `unsubscribed`). What it finds wrong fails every
 * wait from then on, and the test that opened the socket. Every wait has a deadline.
 */

import { afterEach, expect } from "bun:test";
import type { z } from "zod";
import {
  type ClientMessage,
  type clientMessage,
  type ServerMessage,
  serverMessage,
  SOCKET_PROTOCOL,
} from "../../src/http/live/socket-messages.ts";
import { rawArrayValues } from "./json-values.ts";
import { connectRaw, type RawConnection } from "./raw-socket.ts";
import { within } from "./wait.ts";

/** Shorter than a test may take: bun ends servers together with a test that is out of time. */
const DEADLINE_MS = 20_000;

/** What a client may say, before defaults. */
export type Saying = z.input<typeof clientMessage>;
export type MessageType = ServerMessage["type"];
export type Message<T extends MessageType> = Extract<ServerMessage, { type: T }>;
/** The answer to an append. */
export type AppendAnswer = Message<"appended" | "error">;

export interface Received {
  readonly text: string;
  readonly message: ServerMessage;
}

export interface SocketClient {
  /** Subprotocol that the server chose. */
  readonly protocol: string;
  /** Everything that came, in order. */
  readonly received: readonly Received[];
  send(saying: Saying): void;
  /** Sends what need not be a message at all. */
  sendRaw(bytes: string | Uint8Array<ArrayBuffer>): void;
  /** Takes the first message of that type that was not taken yet and that matches; leaves the others for later. */
  next<T extends MessageType>(
    type: T,
    matches?: (message: Message<T>) => boolean,
    deadlineMs?: number,
  ): Promise<Message<T>>;
  /** Sends an append under a ref of its own; its answer. */
  append(saying: Omit<Extract<Saying, { type: "append" }>, "type" | "ref">): Promise<AppendAnswer>;
  /** Sends a subscribe and waits for `subscribed`; an error of that id is an error. */
  subscribe(saying: Omit<Extract<Saying, { type: "subscribe" }>, "type">): Promise<Message<"subscribed">>;
  /** Code of the error that a saying must be answered with; by its ref or id when it has one. */
  refusal(saying: Saying): Promise<Message<"error">>;
  /** Records of a JSON stream that come next for the subscription; exactly `count` must come. */
  records(id: string, count: number, deadlineMs?: number): Promise<unknown[]>;
  /** The same, each as the text that it was sent as. */
  spellings(id: string, count: number, deadlineMs?: number): Promise<string[]>;
  /** Bytes of any other stream that come next for the subscription; exactly `length` must come. */
  bytes(id: string, length: number, deadlineMs?: number): Promise<Uint8Array>;
  /** Offset of the last message of a subscription. */
  position(id: string): string;
  /** A round trip: everything sent before was heard, and answered if its answer does not wait for the disk. */
  settled(): Promise<void>;
  /** How the connection ended. */
  closed(deadlineMs?: number): Promise<{ readonly code: number; readonly reason: string }>;
  isOpen(): boolean;
  close(): void;
  /** Ends the connection without a word. */
  cut(): void;
  /** What the server did wrong so far. */
  violations(): readonly string[];
}

export interface ConnectOptions {
  readonly headers?: Readonly<Record<string, string>>;
  readonly protocols?: readonly string[];
}

/** Opens sockets that end with the test that opened them, and fails it when the server broke the protocol. Call it at the top of a file. */
export function temporarySockets(): (
  server: { readonly url: string },
  options?: ConnectOptions,
) => Promise<SocketClient> {
  const opened: SocketClient[] = [];
  afterEach(() => {
    const clients = opened.splice(0);
    for (const client of clients) client.cut();
    expect(clients.flatMap((client) => client.violations())).toEqual([]);
  });
  return async (server, options = {}) => {
    const client = await connectSocket(server, options);
    opened.push(client);
    return client;
  };
}

interface Waiter {
  /** True when it took the message. */
  offer(message: ServerMessage): boolean;
  fail(reason: Error): void;
}

/** Opens a socket and waits for `connected`; throws when the server refuses. */
async function connectSocket(server: { readonly url: string }, options: ConnectOptions): Promise<SocketClient> {
  const { headers = {}, protocols = [SOCKET_PROTOCOL] } = options;
  const url = `${server.url.replace(/^http/, "ws")}/v1/ws`;
  const socket = new WebSocket(url, { headers: { ...headers }, protocols: [...protocols] });
  const received: Received[] = [];
  const inbox: Received[] = [];
  const waiters = new Set<Waiter>();
  const order = new ProtocolOrder();
  const violations: string[] = [];
  const ended = Promise.withResolvers<{ readonly code: number; readonly reason: string }>();
  let over: Error | null = null;
  let refs = 0;

  function end(reason: Error): void {
    over ??= reason;
    for (const waiter of waiters) waiter.fail(over);
    waiters.clear();
  }
  function violated(what: string): void {
    violations.push(what.slice(0, 1000));
    end(new Error(`the server broke the protocol: ${what.slice(0, 1000)}`));
  }
  socket.onmessage = ({ data }: MessageEvent<unknown>) => {
    if (typeof data !== "string") return violated("a message that is not text");
    // A number past what a double holds is JSON, although the schema of values has no word for it.
    const value: unknown = JSON.parse(data, (_, part: unknown) => (part === Infinity || part === -Infinity ? 0 : part));
    const parsed = serverMessage.safeParse(value);
    if (!parsed.success) return violated(`${data.slice(0, 500)}: ${JSON.stringify(parsed.error.issues)}`);
    const message = JSON.parse(data) as ServerMessage;
    const wrong = order.check(message);
    if (wrong !== null) violated(`${wrong}: ${data.slice(0, 500)}`);
    received.push({ text: data, message });
    for (const waiter of waiters) {
      if (!waiter.offer(message)) continue;
      waiters.delete(waiter);
      return;
    }
    inbox.push({ text: data, message });
  };
  socket.onclose = ({ code, reason }) => {
    ended.resolve({ code, reason });
    end(new Error(`the socket was closed: ${code} ${reason}`));
  };

  async function take<M extends ServerMessage>(
    what: string,
    fits: (message: ServerMessage) => message is M,
    deadlineMs = DEADLINE_MS,
  ): Promise<M> {
    const at = inbox.findIndex(({ message }) => fits(message));
    const taken = at < 0 ? undefined : inbox.splice(at, 1)[0]?.message;
    if (violations.length === 0 && taken !== undefined && fits(taken)) return taken;
    if (over !== null) throw over;
    const { promise, resolve, reject } = Promise.withResolvers<M>();
    const waiter: Waiter = {
      offer: (message) => {
        const isWanted = fits(message);
        if (isWanted) resolve(message);
        return isWanted;
      },
      fail: reject,
    };
    waiters.add(waiter);
    return within(what, promise, deadlineMs).finally(() => waiters.delete(waiter));
  }
  const next: SocketClient["next"] = (type, matches = () => true, deadlineMs = DEADLINE_MS) =>
    take(
      `a message of type ${type}`,
      (message): message is Message<typeof type> => message.type === type && matches(message as Message<typeof type>),
      deadlineMs,
    );
  const say = (saying: Saying): void => socket.send(JSON.stringify(saying));
  /** Messages of a subscription until `count` units have come. */
  async function collect<P>(
    id: string,
    count: number,
    of: (received: Message<"records">) => readonly P[],
    deadlineMs: number,
  ): Promise<P[]> {
    const found: P[] = [];
    while (found.length < count) {
      const message = await next("records", (candidate) => candidate.id === id, deadlineMs);
      for (const unit of of(message)) found.push(unit);
    }
    if (found.length > count) throw new Error(`${found.length} came for ${id}, ${count} were expected`);
    return found;
  }
  const textOf = (message: ServerMessage): string => received.find((one) => one.message === message)?.text ?? "";

  const client: SocketClient = {
    get protocol() {
      return socket.protocol;
    },
    received,
    send: say,
    sendRaw: (bytes) => socket.send(bytes),
    next,
    append: async (saying) => {
      const ref = `append ${++refs}`;
      say({ type: "append", ref, ...saying });
      const isAnswer = (message: ServerMessage): message is AppendAnswer =>
        (message.type === "appended" || message.type === "error") && message.ref === ref;
      return take(`the answer to ${ref}`, isAnswer);
    },
    subscribe: async (saying) => {
      const id = saying.id ?? saying.stream;
      say({ type: "subscribe", ...saying });
      const isAnswer = (message: ServerMessage): message is Message<"subscribed" | "error"> =>
        (message.type === "subscribed" || message.type === "error") && message.id === id;
      const answer = await take(`the answer to subscribe ${id}`, isAnswer);
      if (answer.type === "error") throw new Error(`${saying.stream}: ${answer.error.code}: ${answer.error.message}`);
      return answer;
    },
    refusal: (saying) => {
      say(saying);
      return next("error", (message) => isAbout(message, saying));
    },
    records: (id, count, deadlineMs = DEADLINE_MS) => collect(id, count, ({ records = [] }) => records, deadlineMs),
    spellings: (id, count, deadlineMs = DEADLINE_MS) =>
      collect(id, count, (message) => rawArrayValues(textOf(message).split('"records":')[1] ?? ""), deadlineMs),
    bytes: async (id, length, deadlineMs = DEADLINE_MS) =>
      Uint8Array.from(await collect(id, length, (message) => [...bytesOf(message)], deadlineMs)),
    position: (id) => order.position(id) ?? expect.unreachable(`no position of ${id}`),
    settled: async () => {
      const ref = `settled ${++refs}`;
      say({ type: "ping", ref });
      await next("pong", (message) => message.ref === ref);
    },
    closed: (deadlineMs = DEADLINE_MS) => within("the end of the socket", ended.promise, deadlineMs),
    isOpen: () => socket.readyState === WebSocket.OPEN,
    close: () => socket.close(),
    cut: () => socket.terminate(),
    violations: () => violations,
  };
  try {
    await next("connected");
    return client;
  } catch (cause) {
    socket.terminate();
    throw cause;
  }
}

/** A socket spoken to in frames, for what a WebSocket client will not do: stop reading, break the rules of RFC 6455. */
export interface RawSocket {
  readonly connection: RawConnection;
  send(saying: Saying): void;
  /** What came so far; throws when the server broke the protocol. */
  messages(): readonly ServerMessage[];
  /** Waits until a message that matches has come. */
  wait<T extends MessageType>(type: T, matches?: (message: Message<T>) => boolean): Promise<Message<T>>;
  /** Code of the close frame; null when none has come. */
  closeCode(): number | null;
}

export async function openRawSocket(server: { readonly url: string }): Promise<RawSocket> {
  const connection = await connectRaw(server);
  connection.send(
    `GET /v1/ws HTTP/1.1\r\nhost: ${new URL(server.url).host}\r\nconnection: upgrade\r\nupgrade: websocket\r\n` +
      "sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
      `sec-websocket-protocol: ${SOCKET_PROTOCOL}\r\n\r\n`,
  );
  await connection.receive(/^HTTP\/1\.1 101 [^]*?\r\n\r\n/);
  const order = new ProtocolOrder();
  const said: ServerMessage[] = [];
  let code: number | null = null;
  let at = connection.received().indexOf("\r\n\r\n") + 4;

  function messages(): readonly ServerMessage[] {
    const all = connection.received();
    for (let frame = frameAt(all, at); frame !== null; frame = frameAt(all, at)) {
      at = frame.end;
      if (frame.opcode === 8) code = frame.payload.readUInt16BE(0);
      if (frame.opcode !== 1) continue;
      const message = serverMessage.parse(JSON.parse(frame.payload.toString()));
      const wrong = order.check(message);
      if (wrong !== null)
        throw new Error(`the server broke the protocol: ${wrong}: ${JSON.stringify(message).slice(0, 500)}`);
      said.push(message);
    }
    return said;
  }
  const raw: RawSocket = {
    connection,
    send: (saying) => connection.send(maskedFrame(1, Buffer.from(JSON.stringify(saying)))),
    messages,
    wait: (type, matches = () => true) =>
      connection.wait(`a message of type ${type}`, () =>
        messages().find(
          (message): message is Message<typeof type> =>
            message.type === type && matches(message as Message<typeof type>),
        ),
      ),
    closeCode: () => {
      messages();
      return code;
    },
  };
  await raw.wait("connected");
  return raw;
}

/** One whole frame from a client, masked with zeros. */
export function maskedFrame(opcode: number, payload: Uint8Array, first = 0x80 | opcode): Buffer {
  const { length } = payload;
  const head = length < 126 ? [first, 0x80 | length] : [first, 0xfe, length >> 8, length & 0xff];
  if (length > 0xffff) throw new Error("a frame that long is not needed");
  return Buffer.concat([Uint8Array.from([...head, 0, 0, 0, 0]), payload]);
}

/** The server's frame that begins there, one character per byte; null when it has not come whole. */
function frameAt(
  bytes: string,
  at: number,
): { readonly opcode: number; readonly payload: Buffer; readonly end: number } | null {
  const head = Buffer.from(bytes.slice(at, at + 10), "latin1");
  if (head.length < 2) return null;
  const short = head.readUInt8(1);
  const size = short === 126 ? 4 : short === 127 ? 10 : 2;
  if (head.length < size) return null;
  const length = short === 126 ? head.readUInt16BE(2) : short === 127 ? Number(head.readBigUInt64BE(2)) : short;
  const end = at + size + length;
  if (bytes.length < end) return null;
  return { opcode: head.readUInt8(0) & 0x0f, payload: Buffer.from(bytes.slice(at + size, end), "latin1"), end };
}

/** What a records message carries, as bytes. */
export function bytesOf({ text, base64 }: Message<"records">): Uint8Array {
  return base64 === undefined ? new TextEncoder().encode(text ?? "") : Uint8Array.fromBase64(base64);
}

function isAbout({ ref, id }: Message<"error">, saying: ClientMessage | Saying): boolean {
  if (saying.type === "append" || saying.type === "ping") return ref === saying.ref;
  return id === (saying.type === "subscribe" ? (saying.id ?? saying.stream) : saying.id);
}

/** What the protocol promises of the order of messages. */
class ProtocolOrder {
  readonly #positions = new Map<string, string>();
  readonly #open = new Set<string>();
  #begun = false;

  position(id: string): string | undefined {
    return this.#positions.get(id);
  }

  /** What is wrong with a message that came now; null = nothing. */
  check(message: ServerMessage): string | null {
    const isFirst = !this.#begun;
    this.#begun = true;
    if ((message.type === "connected") !== isFirst) return "connected comes first, and once";
    switch (message.type) {
      case "subscribed":
        if (this.#open.has(message.id)) return "subscribed twice";
        this.#open.add(message.id);
        this.#positions.set(message.id, message.offset);
        return message.closed === true && message.upToDate !== true ? "closed, but not all was sent" : null;
      case "rows": {
        const at = this.#positions.get(message.id);
        if (!this.#open.has(message.id) || at === undefined) return "not subscribed";
        this.#positions.set(message.id, message.offset);
        return message.offset < at ? `goes back from ${at}` : null;
      }
      case "records":
      case "position":
      case "lagged":
      case "gap":
      case "unsubscribed":
        return this.#open.has(message.id) ? this.#follows(message) : "not subscribed";
      default:
        return null;
    }
  }

  #follows(message: Message<"records" | "position" | "lagged" | "gap" | "unsubscribed">): string | null {
    const at = this.#positions.get(message.id) ?? "";
    if (message.type === "lagged" || message.type === "gap") {
      if (message.fromOffset !== at) return `begins elsewhere than at ${at}`;
      if (message.toOffset < at) return "goes back";
      if (message.type === "gap") this.#positions.set(message.id, message.toOffset);
      return null;
    }
    if (message.type === "unsubscribed") {
      this.#open.delete(message.id);
      if (message.offset !== at) return `ends elsewhere than at ${at}`;
      return (message.reason === "error") === (message.error !== undefined) ? null : "error and reason differ";
    }
    this.#positions.set(message.id, message.offset);
    if (message.closed === true && message.upToDate !== true) return "closed, but not all was sent";
    if (message.type === "position") return message.offset < at ? `goes back from ${at}` : null;
    const payloads = [message.records, message.text, message.base64].filter((payload) => payload !== undefined);
    if (payloads.length !== 1 || payloads[0]?.length === 0) return "records come in one form, and not empty";
    return message.offset > at ? null : `goes back from ${at}`;
  }
}
