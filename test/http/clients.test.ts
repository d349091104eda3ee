/** `/health/clients`, its metrics and its log lines, with real connections: one that reads and one that has stopped to. */

import { expect, test } from "bun:test";
import type { ClientHealth } from "../../src/http/live/clients.ts";
import { connectRaw } from "../support/raw-socket.ts";
import { sharedServer } from "../support/shared-server.ts";
import { openSse } from "../support/sse.ts";
import { call, errorOf, newStream } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const server = sharedServer();

interface Page {
  readonly clients: readonly ClientHealth[];
  readonly cursor: string | null;
}

async function page(query = ""): Promise<Page> {
  const answer = await call("GET", `${server.url}/health/clients${query}`);
  expect([answer.status, answer.headers.get("cache-control")]).toEqual([200, "no-store"]);
  return (await answer.json()) as Page;
}

async function clientsOf(stream: string): Promise<ClientHealth[]> {
  const { clients } = await page();
  return clients.filter(({ streams }) => streams.some((one) => one.stream === stream));
}

async function gauge(name: string): Promise<number> {
  const text = await (await call("GET", `${server.url}/metrics`)).text();
  return Number(new RegExp(`^${name} (\\S+)$`, "m").exec(text)?.[1]);
}

async function openSocket(streams: readonly string[]): Promise<WebSocket> {
  const socket = new WebSocket(`${server.url.replace("http", "ws")}/v1/ws`, ["streams.v1"]);
  await new Promise((resolve, reject) => {
    socket.addEventListener("open", resolve);
    socket.addEventListener("close", reject);
  });
  for (const stream of streams) socket.send(JSON.stringify({ type: "subscribe", stream, offset: "-1" }));
  return socket;
}

test("every live connection is there while it lasts, with its streams and its offset", async () => {
  const [one, two] = [await newStream(server, "clients/one"), await newStream(server, "clients/two")];
  await one.post("[1,2,3]");
  const sse = await openSse(`${one.url}?offset=-1&live=sse&overflow=disconnect`);
  await sse.records(3);
  const socket = await openSocket([one.name, two.name]);
  const tail = await one.tail();
  await until("both are there", async () => (await clientsOf("clients/one")).length === 2);
  await until("both have caught up", async () =>
    (await clientsOf("clients/one")).every(({ lag }) => lag.records === 0),
  );
  const [first, second] = await clientsOf("clients/one");
  expect(first).toMatchObject({ kind: "sse", healthy: true, streams: [{ offset: tail, overflow: "disconnect" }] });
  expect(second).toMatchObject({ kind: "websocket", healthy: true, metrics: { buffered: 0, dropped: 0 } });
  expect(second?.streams.map(({ id, overflow }) => [id, overflow])).toEqual([
    ["clients/one", "resume"],
    ["clients/two", "resume"],
  ]);
  expect([await gauge("streams_sse_clients"), await gauge("streams_websocket_clients")]).toEqual([1, 1]);
  sse.close();
  socket.close();
  await until("both are gone", async () => (await page()).clients.length === 0);
  expect([await gauge("streams_sse_clients"), await gauge("streams_websocket_clients")]).toEqual([0, 0]);
});

test("pages, and a wrong limit or cursor", async () => {
  const stream = await newStream(server, "clients/pages");
  const opened = [];
  for (let count = 0; count < 5; count++) opened.push(await openSse(`${stream.url}?offset=now&live=sse`));
  const ids: string[] = [];
  let query = "?limit=2";
  for (let pages = 0; pages < 3; pages++) {
    const { clients, cursor } = await page(query);
    ids.push(...clients.map(({ clientId }) => clientId));
    query = `?limit=2&cursor=${cursor}`;
    if (cursor === null) break;
  }
  expect([ids.length, new Set(ids).size]).toEqual([5, 5]);
  for (const sse of opened) sse.close();
  for (const [wrong, code] of [
    ["limit=0", "limit-invalid"],
    ["limit=x", "limit-invalid"],
    ["cursor=1", "cursor-invalid"],
    ["cursor=c1&cursor=c2", "parameter-repeated"],
  ]) {
    const answer = await call("GET", `${server.url}/health/clients?${wrong}`);
    expect([answer.status, (await errorOf(answer)).code]).toEqual([400, code ?? ""]);
  }
});

test("a reader that stops reading is told apart, logged once, and hears where it was when it goes on", async () => {
  const stream = await newStream(server, "clients/stalled", "text/plain");
  const stalled = await connectRaw(server);
  const { host } = new URL(server.url);
  stalled.send(`GET ${stream.path}?offset=now&live=sse HTTP/1.1\r\nhost: ${host}\r\n\r\n`);
  await stalled.receive(/event: control/);
  stalled.pause();
  const record = `${"x".repeat(1023)}\n`.repeat(512);
  const records = 32;
  for (let sent = 0; sent < records; sent++) await stream.post(record);
  const slow = await until("it counts as slow", async () => {
    const [client] = await clientsOf(stream.name);
    return client?.healthy === false && client;
  });
  expect(slow.lag.records).toBeGreaterThan(0);
  expect(slow.lag.bytes).toBe(slow.lag.records * record.length);
  expect(slow.stalledMs).toBeGreaterThanOrEqual(1_000);
  expect(await gauge("streams_slow_clients")).toBe(1);
  const lines = (): string[] =>
    server
      .stderr()
      .split("\n")
      .filter((line) => line.includes(slow.clientId));
  const logged = await until("the log says so", () => lines().length > 0 && lines());
  expect(logged.length).toBe(1);
  expect(logged[0]).toContain("is slow");
  const tail = await stream.tail();
  stalled.resume();
  await stalled.receive(new RegExp(`"streamNextOffset":"${tail}"`), 15_000);
  const [, lagged] = /event: lagged\ndata:(\{[^\n]*\})/.exec(stalled.received()) ?? [];
  expect(JSON.parse(lagged ?? "null")).toMatchObject({ fromOffset: expect.any(String), toOffset: tail });
  expect(stalled.received().split("x".repeat(1023)).length - 1).toBe(512 * records);
  await until("it is healthy again", async () => (await clientsOf(stream.name))[0]?.healthy);
  stalled.destroy();
}, 60_000);
