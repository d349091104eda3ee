/**
 * The end of a keep-alive connection: a client that goes on sending while the server stops hears that it closes (503, `Connection: close`),
 * and is not cut off with a request on its way, of which it could not know what came of it.
 */

import { expect, test } from "bun:test";
import { connectRaw } from "../support/raw-socket.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { newStream, streamAt } from "../support/streams.ts";

const start = temporaryServers();
const CLIENTS = 4;
const ANSWERS_BEFORE = 20;
/** A head; no answer but the last has a body. */
const HEADS = /HTTP\/1\.1 (\d{3})[^]*?\r\n\r\n/g;

test("every client that is in the middle of sending is told that the server closes", async () => {
  const server = await start();
  const stream = await newStream(server, "last/call");
  const { host } = new URL(server.url);
  const request =
    `POST ${stream.path} HTTP/1.1\r\nhost: ${host}\r\ncontent-type: application/json\r\n` +
    `content-length: 1\r\n\r\n1`;
  const counts = { acknowledged: 0 };
  const exits: Promise<number | null>[] = [];
  const clients = Array.from({ length: CLIENTS }, async () => {
    const connection = await connectRaw(server);
    for (let answers = 1; ; answers++) {
      connection.send(request);
      const answer = await connection.wait(`answer ${answers}`, () => {
        const found = [...connection.received().matchAll(HEADS)][answers - 1];
        return found ?? (connection.isClosed() ? "cut off" : null);
      });
      const [head, status] = answer === "cut off" ? [answer, answer] : answer;
      if (status !== "204") {
        connection.destroy();
        return {
          status,
          closes: /^connection: close\r$/im.test(head),
          retryAfter: /^retry-after: \d+\r$/im.test(head),
        };
      }
      counts.acknowledged++;
      if (answers === ANSWERS_BEFORE && exits.length === 0) exits.push(server.kill("SIGTERM"));
    }
  });
  expect(await Promise.all(clients)).toEqual(
    Array.from({ length: CLIENTS }, () => ({ status: "503", closes: true, retryAfter: true })),
  );
  expect(await Promise.all(exits)).toEqual([0]);
  const next = await start({ dataDir: server.dataDir });
  const stored = await streamAt(next, "last/call").records();
  expect(stored.length).toBe(counts.acknowledged);
}, 60_000);
