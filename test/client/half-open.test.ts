/**
 * Connections that only seem to be there: behind a proxy that carries no byte any more and closes nothing, followers and live views over
 * server-sent events give them up when the server has said nothing for too long, and lose nothing.
 */

import { afterAll, expect, test } from "bun:test";
import { connect as dial, createServer, type Socket } from "node:net";
import { connect } from "../../src/client/client.ts";
import { sharedServer } from "../support/shared-server.ts";
import { newStream } from "../support/streams.ts";
import { until, within } from "../support/wait.ts";

const server = sharedServer();
const EVENT_SILENCE_LIMIT_MS = 500;
/** Well below the limit of every other answer, which is 150 s. */
const NOTICED_MS = 15_000;

const sockets = new Set<Socket>();
/** Connections that are held up; later ones pass. */
const frozen = new Set<Socket>();
const proxy = createServer((client) => {
  const upstream = dial({ host: "127.0.0.1", port: Number(new URL(server.url).port) });
  for (const [from, to] of [
    [client, upstream],
    [upstream, client],
  ] as const) {
    sockets.add(from);
    from.on("data", (data) => {
      if (!frozen.has(client)) to.write(data);
    });
    from.on("error", () => to.destroy()).on("close", () => to.destroy());
  }
});
const listening = new Promise<void>((resolve) => proxy.listen(0, "127.0.0.1", resolve));

async function clientBehindProxy(): Promise<ReturnType<typeof connect>> {
  await listening;
  const address = proxy.address();
  if (address === null || typeof address === "string") throw new Error("the proxy has no port");
  return connect({ url: `http://127.0.0.1:${address.port}`, eventSilenceLimitMs: EVENT_SILENCE_LIMIT_MS });
}

function freeze(): void {
  for (const socket of sockets) frozen.add(socket);
}

afterAll(() => {
  for (const socket of sockets) socket.destroy();
  proxy.close();
});

test("a follower comes back and gets each record once", async () => {
  const stream = await newStream(server, "half-open/records");
  const client = await clientBehindProxy();
  const got: unknown[] = [];
  const following = (async () => {
    for await (const { values } of client.stream("half-open/records").json().follow({ live: "sse" })) {
      got.push(...values);
    }
  })();
  await stream.post("[1]");
  await until("the first record is there", () => got.length === 1);
  freeze();
  await stream.post("[2]");
  await until("the second record is there", () => got.length === 2, NOTICED_MS);
  await stream.post("[3]", { "stream-closed": "true" });
  await within("the end", following, NOTICED_MS);
  expect(got).toEqual([1, 2, 3]);
}, 60_000);

test("a live view comes back and shows what changed meanwhile", async () => {
  const stream = await newStream(server, "half-open/rows");
  const change = (key: string): Promise<Response> =>
    stream.post(JSON.stringify([{ type: "row", key, value: { key }, headers: { operation: "upsert" } }]));
  const client = await clientBehindProxy();
  (await client.stream("half-open/rows").setProfile({ kind: "state-protocol" })).unwrap();
  await change("a");
  const view = client.stream("half-open/rows").liveView();
  (await view.ready()).unwrap();
  freeze();
  await change("b");
  await until("the second row is there", () => view.rows().length === 2, NOTICED_MS);
  await view.close();
}, 60_000);
