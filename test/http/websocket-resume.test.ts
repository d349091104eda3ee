/** Coming back to a WebSocket: after any end of the connection the offsets that a client has kept lead on without a gap. */

import { expect, test } from "bun:test";
import { seededRandom } from "../support/random.ts";
import { connectRaw, exchangeRaw } from "../support/raw-socket.ts";
import { sharedServer, temporaryServers } from "../support/shared-server.ts";
import { openRawSocket, type SocketClient, temporarySockets } from "../support/socket-client.ts";
import { call, newStream, nextOffset, streamAt } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const server = sharedServer();
const start = temporaryServers();
const connect = temporarySockets();
const seed = Number(process.env["FC_SEED"] ?? Date.now() % 1e6);

const numbers = (count: number): number[] => Array.from({ length: count }, (_, at) => at);

/** Records that a client was sent, by subscription. */
function recordsIn({ received }: SocketClient, id: string): unknown[] {
  return received.flatMap(({ message }) =>
    message.type === "records" && message.id === id ? (message.records ?? []) : [],
  );
}

test("cut after any message, a client that says its last offsets gets each record once", async () => {
  const random = seededRandom(seed);
  const names = ["a", "b", "c"].map((name) => `resume/${name}`);
  const streams = await Promise.all(names.map((name) => newStream(server, name)));
  const total = 300;
  const writing = Promise.all(
    streams.map(async (stream) => {
      for (let at = 0; at < total; at += 3) await stream.post(`[${at},${at + 1},${at + 2}]`);
    }),
  );
  const seen = new Map(names.map((name) => [name, [] as unknown[]]));
  const offsets = new Map(names.map((name) => [name, "-1"]));
  let connections = 0;
  while ([...seen.values()].some((records) => records.length < total)) {
    const client = await connect(server);
    connections++;
    for (const stream of names) client.send({ type: "subscribe", stream, offset: offsets.get(stream) ?? "" });
    const enough = 2 + random.below(12);
    const isOver = (): boolean => names.every((name) => recordsIn(client, name).length + count(seen, name) >= total);
    await until("some messages came", () => client.received.length >= enough || isOver());
    client.cut();
    // What arrives after the cut is not kept, nor is its offset.
    for (const name of names) {
      if (client.received.every(({ message }) => !("id" in message) || message.id !== name)) continue;
      seen.get(name)?.push(...recordsIn(client, name));
      offsets.set(name, client.position(name));
    }
  }
  await writing;
  expect(connections).toBeGreaterThan(5);
  for (const name of names) expect([seed, name, seen.get(name)]).toEqual([seed, name, numbers(total)]);
}, 60_000);

function count(seen: ReadonlyMap<string, readonly unknown[]>, name: string): number {
  return seen.get(name)?.length ?? 0;
}

test("an append that was cut off can be sent again by its producer", async () => {
  const stream = await newStream(server, "resume/producer");
  let next = 0;
  for (let round = 0; next < 200; round++) {
    const client = await connect(server);
    const [begin, end] = [next, Math.min(next + 50, 200)];
    for (let seq = begin; seq < end; seq++) {
      const producer = { id: "p", epoch: 0, seq };
      client.send({ type: "append", ref: seq, stream: stream.name, body: `[${seq}]`, producer });
    }
    await until("some answers came", () => client.received.length > Math.min(10, end - begin));
    client.cut();
    for (const { message } of client.received) {
      expect(message.type).not.toBe("error");
      if (message.type === "appended") next = Math.max(next, Number(message.ref) + 1);
    }
    expect([round, next > begin]).toEqual([round, true]);
  }
  expect(await stream.records()).toEqual(numbers(200));
}, 60_000);

test("SIGTERM says come back, and the offsets lead on in the next server", async () => {
  const first = await start();
  const streams = await Promise.all(numbers(20).map((n) => newStream(first, `resume/restart/${n}`)));
  const client = await connect(first);
  for (const stream of streams) {
    const { name } = stream;
    await stream.post("[1,2]");
    await client.subscribe({ stream: name, offset: "-1" });
    expect(await client.records(name, 2)).toEqual([1, 2]);
  }
  const lastWord = await client.append({ stream: "resume/restart/0", body: "3" });
  expect(await client.records("resume/restart/0", 1)).toEqual([3]);
  const exit = first.kill("SIGTERM");
  expect(await client.closed()).toEqual({ code: 1012, reason: expect.stringContaining("offset") });
  expect(await exit).toBe(0);
  // The socket itself says it: no subscription ends for that reason.
  expect(client.received.map(({ message }) => message.type)).not.toContain("unsubscribed");

  const second = await start({ dataDir: first.dataDir });
  const again = await connect(second);
  for (const { name } of streams) {
    const begun = await again.subscribe({ stream: name, offset: client.position(name) });
    expect(begun).toMatchObject({ offset: client.position(name), upToDate: true });
    await streamAt(second, name).post('"later"');
    expect(await again.records(name, 1)).toEqual(["later"]);
  }
  if (lastWord.type === "appended") expect(client.position("resume/restart/0")).toBe(lastWord.offset);
}, 60_000);

test("SIGTERM in the midst of appends loses none that was answered", async () => {
  const first = await start();
  await newStream(first, "resume/drain");
  const client = await connect(first);
  let sent = 0;
  const sending = (async () => {
    while (client.isOpen()) {
      for (let burst = 0; burst < 20; burst++) {
        client.send({ type: "append", ref: sent, stream: "resume/drain", body: String(sent++) });
      }
      await until("they are answered", () => client.received.length > sent || !client.isOpen());
    }
  })();
  await until("some are answered", () => client.received.length > 200);
  expect(await first.kill("SIGTERM")).toBe(0);
  await sending;
  expect((await client.closed()).code).toBe(1012);
  const answered = client.received.filter(({ message }) => message.type === "appended").length;
  const second = await start({ dataDir: first.dataDir });
  const kept = await streamAt(second, "resume/drain").records();
  expect(kept.length).toBeGreaterThanOrEqual(answered);
  expect(kept).toEqual(numbers(kept.length));
}, 60_000);

test("a server that shuts down opens no more sockets, and says so", async () => {
  const first = await start();
  const stream = await newStream(first, "resume/closing");
  const client = await connect(first);
  const { host } = new URL(first.url);
  // An upload that has begun keeps the server up for a while.
  const upload = await connectRaw(first);
  upload.send(
    `POST ${stream.path} HTTP/1.1\r\nhost: ${host}\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n1`,
  );
  for (let trip = 0; trip < 3; trip++) await client.settled();
  const exit = first.kill("SIGTERM");
  expect((await client.closed()).code).toBe(1012);
  const answer = await exchangeRaw(
    first,
    `GET /v1/ws HTTP/1.1\r\nhost: ${host}\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n` +
      "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-protocol: streams.v1\r\n\r\n",
  );
  expect([answer.status, answer.text]).toEqual([503, expect.stringContaining('"code":"closing"')]);
  upload.send("2");
  await upload.receive(/^HTTP\/1\.1 204/);
  expect(await exit).toBe(0);
}, 60_000);

test("a subscription that ends while its socket is full says the offset behind what was sent, not behind what waits", async () => {
  const [big, small] = [await newStream(server, "resume/big"), await newStream(server, "resume/small")];
  const socket = await openRawSocket(server);
  socket.send({ type: "subscribe", stream: big.name, offset: "now" });
  socket.send({ type: "subscribe", stream: small.name, offset: "now" });
  const { offset } = await socket.wait("subscribed", ({ id }) => id === small.name);
  socket.connection.pause();
  const record = JSON.stringify("x".repeat(1_000_000));
  const stalled = async (): Promise<boolean> => {
    const { clients } = (await (await call("GET", `${server.url}/health/clients`)).json()) as {
      clients: { stalledMs: number; streams: { id: string }[] }[];
    };
    return clients.some(({ stalledMs, streams }) => stalledMs > 100 && streams.some(({ id }) => id === big.name));
  };
  for (let sent = 0; sent < 16; sent++) await big.post(record);
  await until("the socket is full", stalled);
  const tail = nextOffset(await small.post('"waits"'));
  for (let trip = 0; trip < 3; trip++) await call("GET", `${server.url}/health`);
  socket.send({ type: "unsubscribe", id: small.name });
  for (let trip = 0; trip < 3; trip++) await call("GET", `${server.url}/health`);
  socket.connection.resume();
  const ended = await socket.wait("unsubscribed");
  const wasSent = socket.messages().some((message) => message.type === "records" && message.id === small.name);
  expect(ended).toMatchObject({ id: small.name, offset: wasSent ? tail : offset });
  socket.connection.destroy();
}, 60_000);
