/**
 * A TCP proxy that cuts connections in mid-flight, by a seeded choice. Owns the listening port and both ends of each
 * connection. A cut falls into one of three places: inside the request, after the request reached the server but before
 * its answer got back (the client cannot know whether it was done), or inside the answer.
 */

import { connect, createServer, type Socket } from "node:net";
import type { SeededRandom } from "./random.ts";

export interface FlakyProxy {
  readonly url: string;
  /** Connections cut so far. */
  cuts(): number;
  /** Stops cutting; open connections live on. */
  heal(): void;
  close(): void;
}

/** Where the bytes of a connection end, counted from its start: that many towards the server, or towards the client. */
interface Cut {
  readonly side: "request" | "answer";
  readonly afterBytes: number;
}

/** Listens on a free loopback port and forwards to `target`. About `cutPercent` % of the connections are cut. */
export async function startFlakyProxy(
  target: { readonly url: string },
  random: SeededRandom,
  cutPercent = 60,
): Promise<FlakyProxy> {
  const upstream = new URL(target.url);
  const open = new Set<Socket>();
  let cuts = 0;
  let healed = false;
  const listener = createServer((client) => {
    const server = connect({ host: upstream.hostname, port: Number(upstream.port) });
    const cut = chooseCut(random, cutPercent);
    const end = (): void => {
      for (const socket of [client, server]) {
        socket.destroy();
        open.delete(socket);
      }
    };
    for (const socket of [client, server]) {
      open.add(socket);
      socket.on("error", end).on("close", end);
    }
    const forward = (from: Socket, to: Socket, side: Cut["side"]): void => {
      let passed = 0;
      from.on("data", (data) => {
        const chunk = typeof data === "string" ? Buffer.from(data) : data;
        const left = cut?.side === side && !healed ? cut.afterBytes - passed : Infinity;
        passed += chunk.length;
        if (chunk.length < left) return void to.write(chunk);
        cuts += 1;
        // Destroying at once would also drop what was passed on: the last bytes must reach the other side.
        to.end(chunk.subarray(0, left), end);
      });
    };
    forward(client, server, "request");
    forward(server, client, "answer");
  });
  await new Promise<void>((resolve) => listener.listen(0, "127.0.0.1", resolve));
  const address = listener.address();
  if (address === null || typeof address === "string") throw new Error("the proxy has no port");
  return {
    url: `http://127.0.0.1:${address.port}`,
    cuts: () => cuts,
    heal: () => (healed = true),
    close: () => {
      listener.close();
      for (const socket of open) socket.destroy();
    },
  };
}

function chooseCut(random: SeededRandom, cutPercent: number): Cut | null {
  if (random.below(100) >= cutPercent) return null;
  // An answer cut after 0..15 bytes has no complete status line: the request was done, the client does not know.
  if (random.below(2) === 0)
    return { side: "answer", afterBytes: random.below(2) === 0 ? random.below(16) : random.below(2000) };
  return { side: "request", afterBytes: 1 + random.below(4000) };
}
