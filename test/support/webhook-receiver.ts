/** The other side of a webhook, as bytes on a socket: it counts who comes, keeps what they say, and answers as a test wants. */

import { once } from "node:events";
import { createServer as createTcpServer, type Server, type Socket } from "node:net";
import { createServer as createTlsServer, TLSSocket } from "node:tls";
import type { Certificate } from "./certificates.ts";

export interface Receiver {
  readonly port: number;
  /** Connections so far, those included whose handshake failed. */
  readonly connections: number;
  readonly open: number;
  /** What came, per connection. */
  readonly requests: readonly string[];
  /** Of each handshake that succeeded; false without one. */
  readonly serverNames: readonly (string | false | null)[];
  [Symbol.asyncDispose](): Promise<void>;
}

export interface ReceiverOptions {
  readonly host?: string;
  readonly port?: number;
  readonly tls?: Certificate;
  /** Takes the connection and says nothing, not even a TLS hello. */
  readonly mute?: boolean;
  /** Takes the connection and never reads from it. */
  readonly deaf?: boolean;
  /** Said to everybody who connects, before they say anything. */
  readonly greeting?: string;
}

export const OK = 'HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\n{"done":true}';

/** `answer` is called once a request's head and body are there, as far as its content-length goes. */
export async function startReceiver(
  answer: (socket: Socket) => void = (socket) => socket.end(OK),
  { host = "127.0.0.1", port = 0, tls, mute = false, deaf = false, greeting = "" }: ReceiverOptions = {},
): Promise<Receiver> {
  const sockets = new Set<Socket>();
  const requests: string[] = [];
  const serverNames: (string | false | null)[] = [];
  let connections = 0;

  function serve(socket: Socket): void {
    const at = requests.push("") - 1;
    let isAnswered = false;
    if (greeting !== "") socket.write(greeting);
    if (socket instanceof TLSSocket)
      serverNames.push((socket as { servername?: string | false | null }).servername ?? null);
    socket.on("error", () => {
      /* The client hangs up in the middle of things: that is what is tested. */
    });
    socket.on("data", (bytes: Buffer) => {
      requests[at] += bytes.toString("latin1");
      if (isAnswered || !isWhole(requests[at] ?? "")) return;
      isAnswered = true;
      answer(socket);
    });
  }
  const server: Server = tls === undefined || mute ? createTcpServer() : createTlsServer({ ...tls }, serve);
  server.on("connection", (socket: Socket) => {
    connections++;
    sockets.add(socket);
    socket.on("close", () => sockets.delete(socket));
    if (deaf) socket.on("error", () => socket.destroy()).pause();
    else if (mute) socket.on("error", () => socket.destroy()).resume();
    else if (tls === undefined) serve(socket);
  });
  server.listen(port, host);
  await once(server, "listening");
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no port");
  return {
    port: address.port,
    get connections() {
      return connections;
    },
    get open() {
      return sockets.size;
    },
    requests,
    serverNames,
    async [Symbol.asyncDispose]() {
      for (const socket of sockets) socket.destroy();
      await new Promise((resolve) => server.close(resolve));
    },
  };
}

function isWhole(request: string): boolean {
  const head = request.indexOf("\r\n\r\n");
  const length = Number(/\r\ncontent-length: (\d+)/i.exec(request)?.[1] ?? 0);
  return head >= 0 && request.length >= head + 4 + length;
}

/** Writes `text` again and again until the other side has had enough. */
export function flood(socket: Socket, text: string, everyMs = 1): void {
  const timer = setInterval(() => {
    if (socket.destroyed) clearInterval(timer);
    else socket.write(text);
  }, everyMs);
  socket.on("close", () => clearInterval(timer));
}
