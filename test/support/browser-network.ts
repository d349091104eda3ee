/**
 * The network between a browser and a server: a TCP proxy on loopback that a test takes down and brings back. Owns the
 * listening port and both ends of each connection. Unlike the flaky proxy it goes down for all connections at once, and
 * stays down: what connects meanwhile is hung up on.
 */

import { connect, createServer, type Socket } from "node:net";

export interface BrowserNetwork {
  readonly url: string;
  /** Heads of the requests that went through, in order. */
  requests(): readonly string[];
  isDown(): boolean;
  /** Connections that were hung up on because the network was down. */
  refused(): number;
  /** Ends every connection and takes no new ones. */
  goDown(): void;
  /** Goes down once this many more bytes of answers, at least one, have passed: anywhere in an answer. */
  goDownAfter(answerBytes: number): void;
  comeBack(): void;
  close(): void;
}

const REQUEST_HEAD = /^[A-Z]+ \S+ HTTP\/1\.1\r\n[^]*?\r\n\r\n/;

/** Listens on a free loopback port and forwards to `target`. */
export async function startNetwork(target: { readonly url: string }): Promise<BrowserNetwork> {
  const upstream = new URL(target.url);
  const open = new Set<Socket>();
  const requests: string[] = [];
  let down = false;
  let refused = 0;
  let answerBytesLeft = Infinity;

  function goDown(): void {
    down = true;
    // Soon, not at once: what was passed on before must reach the other side.
    for (const socket of open) socket.destroySoon();
  }
  function passAnswer(chunk: Uint8Array, client: Socket): void {
    client.write(chunk.subarray(0, answerBytesLeft));
    answerBytesLeft -= Math.min(chunk.length, answerBytesLeft);
    if (answerBytesLeft === 0) goDown();
  }
  const listener = createServer((client) => {
    if (down) {
      refused += 1;
      return void client.destroy();
    }
    const server = connect({ host: upstream.hostname, port: Number(upstream.port) });
    own(open, client, server);
    own(open, server, client);
    client.on("data", (data) => {
      if (server.writableEnded) return;
      const head = REQUEST_HEAD.exec(data.toString("latin1"))?.[0];
      if (head !== undefined) requests.push(head);
      server.write(data);
    });
    server.on("data", (data) => {
      if (!client.writableEnded) passAnswer(typeof data === "string" ? Buffer.from(data) : data, client);
    });
  });
  await new Promise<void>((resolve) => listener.listen(0, "127.0.0.1", resolve));
  const address = listener.address();
  if (address === null || typeof address === "string") throw new Error("the network has no port");
  return {
    url: `http://127.0.0.1:${address.port}`,
    requests: () => requests,
    isDown: () => down,
    refused: () => refused,
    goDown,
    goDownAfter: (answerBytes) => (answerBytesLeft = answerBytes),
    comeBack: () => {
      down = false;
      answerBytesLeft = Infinity;
    },
    close: () => {
      listener.close();
      for (const socket of open) socket.destroy();
    },
  };
}

/** Keeps the socket among the open ones until it closes, and ends the other side with it. */
function own(open: Set<Socket>, socket: Socket, otherSide: Socket): void {
  open.add(socket);
  const end = (): void => {
    socket.destroy();
    otherSide.destroySoon();
    open.delete(socket);
  };
  socket.on("error", end).on("close", end);
}
