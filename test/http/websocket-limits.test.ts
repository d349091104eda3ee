/** The bounds of a WebSocket: what is too much is refused or ends the connection, and never the server. */

import { describe, expect, test } from "bun:test";
import { residentBytes } from "../support/memory.ts";
import { sharedServer, temporaryServers } from "../support/shared-server.ts";
import { maskedFrame, openRawSocket, type SocketClient, temporarySockets } from "../support/socket-client.ts";
import { call, newStream, streamAt } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const server = sharedServer();
const start = temporaryServers();
const connect = temporarySockets();
const MiB = 1024 * 1024;

const numbers = (count: number): number[] => Array.from({ length: count }, (_, at) => at);

/** Whether the server still serves: over HTTP, and on a new socket. */
async function isWell(): Promise<void> {
  expect((await call("GET", `${server.url}/health`)).status).toBe(200);
  await (await connect(server)).settled();
}

/** Messages of a type, or errors of a code. */
function count({ received }: SocketClient, what: string): number {
  return received.filter(({ message }) => (message.type === "error" ? message.error.code : message.type) === what)
    .length;
}

describe("one message", () => {
  /** A ping of exactly so many bytes. */
  const ping = (bytes: number): string => '{"type":"ping"}'.padEnd(bytes, " ");

  test("of 1 MiB is heard", async () => {
    const client = await connect(server);
    client.sendRaw(ping(MiB));
    await client.next("pong");
  });

  test("of more ends the connection with 1009", async () => {
    const client = await connect(server);
    client.sendRaw(ping(MiB + 1));
    expect((await client.closed()).code).toBe(1009);
    await isWell();
  });

  test("that is binary ends it with 1003", async () => {
    const client = await connect(server);
    client.sendRaw(new TextEncoder().encode('{"type":"ping"}'));
    expect(await client.closed()).toEqual({ code: 1003, reason: expect.stringMatching(/./) });
    expect(count(client, "pong")).toBe(0);
    await isWell();
  });

  test("may come in fragments, with a ping between them", async () => {
    const socket = await openRawSocket(server);
    const text = Buffer.from('{"type":"ping","ref":"é"}');
    const cut = text.indexOf("é") + 1;
    socket.connection.send(maskedFrame(1, text.subarray(0, cut), 0x01));
    socket.connection.send(maskedFrame(9, Buffer.from("are you there")));
    socket.connection.send(maskedFrame(0, text.subarray(cut)));
    expect(await socket.wait("pong")).toEqual({ type: "pong", ref: "é" });
    expect(socket.connection.received()).toContain("are you there");
    socket.connection.destroy();
  });

  test.each([
    ["that is no UTF-8", maskedFrame(1, Uint8Array.of(0x22, 0xff, 0x22))],
    ["that is not masked", Buffer.from([0x81, 0x02, 0x7b, 0x7d])],
    ["of an unknown kind", maskedFrame(3, Buffer.from("{}"))],
    ["with a reserved bit", maskedFrame(1, Buffer.from("{}"), 0xc1)],
    ["that continues nothing", maskedFrame(0, Buffer.from("{}"))],
    ["of control that is too long", maskedFrame(9, Buffer.alloc(126))],
    ["that announces 2^63 bytes", Buffer.from([0x81, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0])],
  ])("%s ends the connection", async (_, frame) => {
    const socket = await openRawSocket(server);
    socket.connection.send(frame);
    await socket.connection.wait("the end", () => socket.connection.isClosed() || undefined);
    expect(socket.messages()).toHaveLength(1);
    await isWell();
  });
});

describe("subscriptions", () => {
  const stream = { name: "limits/followed" };

  test("there are 256; one that ends makes room for another", async () => {
    await newStream(server, stream.name);
    const client = await connect(server);
    for (const n of numbers(256)) await client.subscribe({ stream: stream.name, id: String(n), offset: "now" });
    const one = { type: "subscribe", stream: stream.name, id: "one more", offset: "now" } as const;
    expect((await client.refusal(one)).error.code).toBe("too-many-subscriptions");
    client.send({ type: "unsubscribe", id: "7" });
    await client.next("unsubscribed");
    await client.subscribe({ stream: stream.name, id: "one more", offset: "now" });
    expect((await client.refusal({ ...one, id: "and another" })).error.code).toBe("too-many-subscriptions");
  });

  test("also when a thousand are asked for at once, by the first to ask for those streams", async () => {
    const first = await start();
    await Promise.all(numbers(300).map((n) => newStream(first, `limits/cold/${n}`)));
    await first.stop();
    const second = await start({ dataDir: first.dataDir });
    const client = await connect(second);
    for (const n of numbers(1000)) {
      client.send({ type: "subscribe", stream: `limits/cold/${n % 300}`, id: String(n), offset: "now" });
    }
    await until("each is answered", () => client.received.length === 1001);
    expect(count(client, "subscribed")).toBeLessThanOrEqual(256);
    expect(count(client, "subscribed")).toBeGreaterThan(0);
    expect(count(client, "too-many-subscriptions") + count(client, "overloaded")).toBe(
      1000 - count(client, "subscribed"),
    );
  }, 60_000);

  test("are given back with the connection", async () => {
    const clients = async (): Promise<number> => {
      const metrics = await (await call("GET", `${server.url}/metrics`)).text();
      return Number(/^streams_live_requests (\d+)$/m.exec(metrics)?.[1] ?? expect.unreachable("no such figure"));
    };
    const before = await clients();
    const client = await connect(server);
    for (const n of numbers(100)) await client.subscribe({ stream: stream.name, id: String(n), offset: "now" });
    expect(await clients()).toBe(before + 101);
    client.cut();
    await until("they are free again", async () => (await clients()) === before);
  });
});

describe("too much at once", () => {
  test("more than 256 appends under way: the rest hear overloaded, and what is answered is there", async () => {
    const stream = await newStream(server, "limits/appends");
    const client = await connect(server);
    for (const ref of numbers(5000)) client.send({ type: "append", ref, stream: stream.name, body: String(ref) });
    await until("each is answered", () => client.received.length === 5001, 10_000);
    const answers = client.received.map(({ message }) => message);
    const appended = answers.flatMap((answer) => (answer.type === "appended" ? [answer.ref] : []));
    const refused = answers.flatMap((answer) => (answer.type === "error" ? [answer] : []));
    expect(await stream.records()).toEqual(appended);
    expect(appended.length).toBeGreaterThanOrEqual(256);
    expect(refused.length).toBeGreaterThan(0);
    expect(refused.every(({ error, headers }) => error.code === "overloaded" && headers?.["Retry-After"] === "1")).toBe(
      true,
    );
    expect(new Set([...appended, ...refused.map(({ ref }) => ref)]).size).toBe(5000);
  }, 60_000);

  test("20,000 messages end the connection with 1008", async () => {
    const client = await connect(server);
    for (let sent = 0; sent < 20_000; sent++) client.sendRaw('{"type":"ping"}');
    expect(await client.closed()).toEqual({ code: 1008, reason: expect.stringMatching(/./) });
    expect(count(client, "pong")).toBeGreaterThanOrEqual(10_000);
    expect(count(client, "pong")).toBeLessThan(20_000);
    await isWell();
  });

  test("10,000 are heard", async () => {
    const client = await connect(server);
    for (let sent = 0; sent < 9_999; sent++) client.sendRaw('{"type":"ping"}');
    await client.settled();
    expect(count(client, "pong")).toBe(10_000);
  });

  test("messages that are none count as well", async () => {
    const client = await connect(server);
    for (let sent = 0; sent < 20_000; sent++) client.sendRaw("{");
    expect((await client.closed()).code).toBe(1008);
    await isWell();
  });

  test("appends that were under way when the connection ended are there or not, and the server goes on", async () => {
    const stream = await newStream(server, "limits/cut");
    const client = await connect(server);
    for (const n of numbers(200)) client.send({ type: "append", stream: stream.name, body: String(n) });
    client.sendRaw(Uint8Array.of(1));
    expect((await client.closed()).code).toBe(1003);
    const answered = count(client, "appended");
    await isWell();
    const kept = await stream.records();
    expect(kept.length).toBeGreaterThanOrEqual(answered);
    expect(kept).toEqual(numbers(kept.length));
  });
});

describe("a frame larger than any buffer of Bun's", () => {
  test("comes whole, and so do the answers behind it", async () => {
    const stream = streamAt(server, "limits/huge", "text/plain");
    expect((await stream.put()).status).toBe(201);
    // Each of these becomes six characters of JSON: 90 MB.
    expect((await stream.post(new Uint8Array(15 * MiB).fill(1))).status).toBe(204);
    const socket = await openRawSocket(server);
    const { connection } = socket;
    connection.pause();
    socket.send({ type: "subscribe", stream: stream.name, offset: "-1" });
    const isFull = async (): Promise<boolean> =>
      /"stalledMs":[1-9]/.test(await (await call("GET", `${server.url}/health/clients`)).text());
    await until("the frame is under way", isFull);
    for (const ref of [1, 2, 3]) socket.send({ type: "ping", ref });
    await call("GET", `${server.url}/health`);
    connection.resume();
    await connection.wait(
      "the last answer",
      () => (connection.received().endsWith('"ref":3}') ? true : undefined),
      30_000,
    );
    const records = socket.messages().find((message) => message.type === "records");
    expect(records?.text?.length).toBe(15 * MiB);
    expect(socket.messages().filter(({ type }) => type === "pong")).toEqual(
      [1, 2, 3].map((ref) => ({ type: "pong", ref })),
    );
    connection.destroy();
  }, 60_000);
});

describe("a client that asks and never reads", () => {
  test("is cut off, and costs the server no memory to speak of", async () => {
    const before = await residentBytes(server.pid);
    let most = before;
    // Each answer is 6 KB, each burst 3 MB: more than the sockets of any system hold long before it is too many messages.
    const ping = maskedFrame(1, Buffer.from(JSON.stringify({ type: "ping", ref: "\u0001".repeat(1000) })));
    const burst = Buffer.concat(numbers(500).map(() => ping));
    for (let round = 0; round < 4; round++) {
      const socket = await openRawSocket(server);
      socket.connection.pause();
      for (let sent = 0; sent < 18; sent++) {
        socket.connection.send(burst);
        await call("GET", `${server.url}/health`);
        most = Math.max(most, await residentBytes(server.pid));
      }
      const isGone = async (): Promise<boolean> =>
        !(await (await call("GET", `${server.url}/health/clients`)).text()).includes('"websocket"');
      await until("it was cut off", isGone);
      socket.connection.resume();
      await socket.connection.wait("the end", () => socket.connection.isClosed() || undefined);
      // 9,000 messages are allowed: it was the answers that were too much, without another word.
      expect([socket.messages().length < 9000, socket.closeCode()]).toEqual([true, null]);
    }
    expect((most - before) / MiB).toBeLessThan(64);
    await isWell();
  }, 60_000);
});
