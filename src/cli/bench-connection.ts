/**
 * One keep-alive connection of the load client, over a raw socket: `fetch` costs it twice the CPU per request,
 * and then it is the client that is measured. One request at a time. Invariant: exactly one `done` per `send`, with status 0 when
 * the connection broke or the answer made no sense.
 */

import { checkServerIdentity, type PeerCertificate } from "node:tls";
import type { Socket, SocketHandler } from "bun";
import { Unreachable } from "../client/stream-error.ts";
import { AnswerParser } from "./bench-answer.ts";

/** The server, as sockets need it. */
export interface Target {
  /** Without a slash at its end; may have a path. */
  readonly url: string;
  readonly auth?: string;
}

export interface RequestParts {
  readonly method: "GET" | "POST";
  /** Of a stream: its whole URL, with a query. */
  readonly url: string;
  readonly contentType?: string;
  readonly body?: Uint8Array;
}

/** The bytes of one request. */
export function requestBytes(target: Target, { method, url, contentType, body }: RequestParts): Uint8Array {
  const { host, pathname, search } = new URL(url);
  const lines = [`${method} ${pathname}${search} HTTP/1.1`, `Host: ${host}`];
  if (target.auth !== undefined) lines.push(`Authorization: ${target.auth}`);
  if (contentType !== undefined) lines.push(`Content-Type: ${contentType}`);
  if (body !== undefined) lines.push(`Content-Length: ${body.length}`);
  return Buffer.concat([Buffer.from(`${lines.join("\r\n")}\r\n\r\n`), body ?? NOTHING]);
}

const NOTHING: Buffer = Buffer.alloc(0);
const CONNECT_DEADLINE_MS = 10_000;
const MAX_SAID_CHARS = 2_000;
const ignored = (): void => undefined;

export function isAck(status: number): boolean {
  return status >= 200 && status <= 299;
}

export class BenchConnection {
  readonly #parser = new AnswerParser();
  readonly #opened = Promise.withResolvers<void>();
  readonly #hostname: string;
  readonly #tls: boolean;
  #socket: Socket<BenchConnection> | null = null;
  #said = "";
  #isClosed = false;
  #isWaiting = false;
  #unsent: Uint8Array = NOTHING;
  #done: (status: number) => void = ignored;
  #onBody: (piece: Buffer) => void = ignored;
  /** Why it broke; null while it has not. */
  broken: string | null = null;

  private constructor(hostname: string, tls: boolean) {
    this.#hostname = hostname;
    this.#tls = tls;
  }

  /** @throws Unreachable */
  static async open(target: Target): Promise<BenchConnection> {
    const { protocol, hostname, port } = new URL(target.url);
    const tls = protocol === "https:";
    const name = hostname.replace(/^\[|\]$/g, "");
    const connection = new BenchConnection(name, tls);
    const late = setTimeout(() => connection.#break("no connection in time"), CONNECT_DEADLINE_MS);
    try {
      await Bun.connect({
        hostname: name,
        port: Number(port) || (tls ? 443 : 80),
        data: connection,
        socket: HANDLERS,
        ...(tls ? { tls: { serverName: name } } : {}),
      });
      await connection.#opened.promise;
      return connection;
    } catch (cause) {
      const message = `cannot connect to ${target.url}: ${cause instanceof Error ? cause.message : String(cause)}`;
      throw new Unreachable({ message, hint: null, url: target.url, cause });
    } finally {
      clearTimeout(late);
    }
  }

  /** Why it broke, or what the last answer said that was not 2xx. */
  get reason(): string {
    return this.broken ?? this.#said;
  }

  /** Of the last answer; valid inside `done`. */
  header(name: string): string | null {
    return this.#parser.header(name);
  }

  /**
   * Sends one request, whose bytes must stay as they are until `done`. `onBody` is given what a 2xx answer brings. No promise: the load
   * loop lives on it.
   */
  send(request: Uint8Array, done: (status: number) => void, onBody: (piece: Buffer) => void = ignored): void {
    if (this.#isClosed) return done(0);
    this.#parser.begin();
    this.#isWaiting = true;
    this.#done = done;
    this.#onBody = onBody;
    if (this.#said !== "") this.#said = "";
    this.#unsent = request;
    this.flush();
  }

  /** Sends one request and waits for its whole answer, whose status it gives. */
  exchange(request: Uint8Array): Promise<number> {
    return new Promise((resolve) => this.send(request, resolve));
  }

  /** An answer under way is not waited for. */
  close(): void {
    this.#isWaiting = false;
    this.#break("closed");
  }

  // What the socket tells, from here on.

  connected(socket: Socket<BenchConnection>): void {
    this.#socket = socket;
    socket.setNoDelay(true);
    if (!this.#tls) this.#opened.resolve();
  }

  /** The chain was judged by Bun; the name is judged here. */
  shaken(socket: Socket<BenchConnection>, problem: Error | null): void {
    const certificate: PeerCertificate = socket.getPeerCertificate();
    const reason = problem ?? checkServerIdentity(this.#hostname, certificate) ?? null;
    if (reason === null) this.#opened.resolve();
    else this.#break(reason.message);
  }

  receive(bytes: Buffer): void {
    try {
      if (!this.#parser.take(bytes, this.#bodyPiece)) return;
    } catch (cause) {
      if (!(cause instanceof RangeError)) throw cause;
      return this.#break(cause.message);
    }
    this.#isWaiting = false;
    this.#done(this.#parser.status);
  }

  readonly #bodyPiece = (piece: Buffer): void => {
    if (isAck(this.#parser.status)) this.#onBody(piece);
    else if (this.#said.length < MAX_SAID_CHARS) this.#said += piece.toString();
  };

  flush(): void {
    if (this.#unsent.length === 0 || this.#socket === null) return;
    const written = this.#socket.write(this.#unsent);
    if (written < 0) return this.#break("the connection is closed");
    this.#unsent = written === this.#unsent.length ? NOTHING : this.#unsent.subarray(written);
  }

  ended(reason: string): void {
    this.#break(reason);
  }

  #break(reason: string): void {
    if (this.#isClosed) return;
    this.#isClosed = true;
    this.broken = reason;
    this.#socket?.terminate();
    this.#opened.reject(new Error(reason));
    // Nobody may wait for it any more.
    this.#opened.promise.catch(ignored);
    if (!this.#isWaiting) return;
    this.#isWaiting = false;
    this.#done(0);
  }
}

/** One object for all sockets: each finds its connection in `socket.data`. */
const HANDLERS: SocketHandler<BenchConnection> = {
  open: (socket) => socket.data.connected(socket),
  handshake: (socket, success, problem) =>
    socket.data.shaken(socket, problem ?? (success ? null : new Error("the TLS handshake failed"))),
  data: (socket, bytes) => socket.data.receive(bytes),
  drain: (socket) => socket.data.flush(),
  close: (socket) => socket.data.ended("the server closed the connection"),
  error: (socket, cause) => socket.data.ended(cause.message),
  connectError: (socket, cause) => socket.data.ended(cause.message),
};
