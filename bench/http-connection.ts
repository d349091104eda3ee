/**
 * One HTTP/1.1 keep-alive connection over a raw socket, as cheap as the load client needs it. One request at a time, never
 * pipelined. It understands status, `Content-Length` and chunked bodies; bodies are counted, and handed on only when
 * asked for. Invariant: exactly one call of `done` per `start`, also when the connection breaks (status 0).
 */

import { WireSocket } from "./wire-socket.ts";
import type { WireConnection } from "./wire.ts";

export interface Answer {
  /** 0 when the connection broke before the whole answer was here. */
  readonly status: number;
  readonly bodyBytes: number;
  /** The first value of a header, or null. */
  header(name: string): string | null;
}

type Phase = "idle" | "head" | "sized-body" | "chunk-size" | "chunk-data" | "chunk-end" | "trailer" | "closed";

const CR = 0x0d;
const NEWLINE = 0x0a;
const HEAD_END = Buffer.from("\r\n\r\n");
const MAX_HEAD_BYTES = 64 * 1024;
const NOTHING: Buffer = Buffer.alloc(0);

export class HttpConnection implements WireConnection {
  #socket: WireSocket | null = null;
  #phase: Phase = "idle";
  #held: Buffer = NOTHING;
  #head: Buffer = NOTHING;
  #headEnd = 0;
  #status = 0;
  #left = 0;
  #line = "";
  #bodyBytes = 0;
  #done: (status: number) => void = () => {};
  #onBody: ((bytes: Uint8Array) => void) | null = null;

  private constructor() {}

  static async open(url: string): Promise<HttpConnection> {
    const connection = new HttpConnection();
    connection.#socket = await WireSocket.open(url, {
      received: (bytes) => connection.#receive(bytes),
      ended: () => connection.#break(),
    });
    return connection;
  }

  get isClosed(): boolean {
    return this.#phase === "closed";
  }

  get bodyBytes(): number {
    return this.#bodyBytes;
  }

  /** Sends one request; `request` must stay untouched until `done`. For the load loop: no promise, no allocation. */
  start(request: Uint8Array, done: (status: number) => void): void {
    if (this.#phase === "closed") return done(0);
    if (this.#phase !== "idle") throw new Error("a request is already under way on this connection");
    this.#phase = "head";
    this.#bodyBytes = 0;
    this.#done = done;
    if (this.#socket?.send(request) === false) this.#break();
  }

  /** Sends one request and waits for its whole answer; `onBody` sees the body as it comes. */
  exchange(request: Uint8Array, onBody?: (bytes: Uint8Array) => void): Promise<Answer> {
    this.#onBody = onBody ?? null;
    return new Promise((resolve) => {
      this.start(request, (status) => {
        this.#onBody = null;
        const head = status === 0 ? "" : this.#head.toString("latin1", 0, this.#headEnd);
        resolve({ status, bodyBytes: this.#bodyBytes, header: (name) => headerOf(head, name) });
      });
    });
  }

  close(): void {
    this.#socket?.end();
    this.#break();
  }

  #break(): void {
    const wasWaiting = this.#phase !== "idle" && this.#phase !== "closed";
    this.#phase = "closed";
    this.#socket?.cut();
    if (wasWaiting) this.#done(0);
  }

  #finish(): void {
    this.#phase = "idle";
    this.#done(this.#status);
  }

  #receive(bytes: Buffer): void {
    let at = 0;
    while (at < bytes.length) {
      if (this.#phase === "head") at = this.#readHead(bytes, at);
      else if (this.#phase === "sized-body" || this.#phase === "chunk-data") at = this.#readBody(bytes, at);
      else if (this.#phase === "idle" || this.#phase === "closed") return this.#break();
      else at = this.#readLine(bytes, at);
    }
  }

  #readHead(bytes: Buffer, from: number): number {
    const fresh = from === 0 ? bytes : bytes.subarray(from);
    const seen = this.#held.length === 0 ? fresh : Buffer.concat([this.#held, fresh]);
    const end = seen.indexOf(HEAD_END);
    if (end === -1) {
      this.#held = seen;
      if (seen.length > MAX_HEAD_BYTES) this.#break();
      return bytes.length;
    }
    const next = from + end + HEAD_END.length - this.#held.length;
    this.#held = NOTHING;
    this.#head = seen;
    this.#headEnd = end;
    this.#status = statusOf(this.#head);
    this.#enterBody();
    return next;
  }

  #enterBody(): void {
    // Most answers to an append: no body, so the headers need not be looked at.
    if (this.#status === 204 || this.#status === 304) return this.#finish();
    const head = this.#head.toString("latin1", 0, this.#headEnd);
    if (headerOf(head, "transfer-encoding") === "chunked") {
      this.#line = "";
      this.#phase = "chunk-size";
      return;
    }
    this.#left = Number(headerOf(head, "content-length") ?? 0);
    if (this.#left === 0) return this.#finish();
    this.#phase = "sized-body";
  }

  #readBody(bytes: Buffer, from: number): number {
    const taken = Math.min(this.#left, bytes.length - from);
    this.#bodyBytes += taken;
    this.#left -= taken;
    this.#onBody?.(bytes.subarray(from, from + taken));
    if (this.#left === 0) {
      if (this.#phase === "sized-body") this.#finish();
      else this.#phase = "chunk-end";
    }
    return from + taken;
  }

  /** The lines around chunks: a size, the end of a chunk's data, or what follows the last chunk. */
  #readLine(bytes: Buffer, from: number): number {
    const end = bytes.indexOf(NEWLINE, from);
    const to = end === -1 ? bytes.length : end;
    for (let at = from; at < to; at++) if (bytes[at] !== CR) this.#line += String.fromCharCode(bytes[at] ?? 0);
    if (end === -1) return bytes.length;
    const line = this.#line;
    this.#line = "";
    if (this.#phase === "chunk-size") {
      this.#left = Number.parseInt(line, 16);
      this.#phase = this.#left === 0 ? "trailer" : "chunk-data";
    } else if (this.#phase === "chunk-end") this.#phase = "chunk-size";
    else if (line === "") this.#finish();
    return end + 1;
  }
}

/** `HTTP/1.1 204 …`: three digits at 9. */
function statusOf(head: Uint8Array): number {
  const digit = (at: number): number => (head[at] ?? 0x30) - 0x30;
  return digit(9) * 100 + digit(10) * 10 + digit(11);
}

/** The first value of a header in a head without its end, or null. */
export function headerOf(head: string, name: string): string | null {
  const lines = head.toLowerCase();
  const key = `\r\n${name.toLowerCase()}:`;
  const at = lines.indexOf(key);
  if (at === -1) return null;
  const end = head.indexOf("\r\n", at + key.length);
  return head.slice(at + key.length, end === -1 ? head.length : end).trim();
}
