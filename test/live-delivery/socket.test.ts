/** One WebSocket connection on a socket of the test's own, which takes what the test lets it take. */

import { expect, test } from "bun:test";
import { SOCKET_HEARTBEAT_MS, SOCKET_MESSAGES_PER_SECOND } from "../../src/protocol/limits.ts";
import { ClientLimits } from "../../src/http/client-limits.ts";
import { FakeSocket } from "./fake-socket.ts";
import { liveWorld, turns } from "./live-world.ts";

async function following(...streams: readonly string[]) {
  const world = liveWorld();
  for (const stream of streams) await world.create(stream);
  const socket = new FakeSocket(world);
  for (const stream of streams) socket.say({ type: "subscribe", stream, offset: "-1" });
  await turns(5);
  return { world, socket };
}

test("a full socket is given one message, not more, however much is appended; drained, it gets all of it in order", async () => {
  const { world, socket } = await following("a", "b");
  socket.room = 0;
  const before = socket.sent.length;
  for (let record = 0; record < 50; record++) {
    for (const stream of ["a", "b"]) await world.append(stream, [record]);
    await turns(2);
  }
  expect(socket.sent.length).toBe(before + 1);
  socket.drain(Infinity);
  await turns(10);
  const all = Array.from({ length: 50 }, (_, record) => record);
  expect([socket.records("a"), socket.records("b")]).toEqual([all, all]);
});

test("a drain that leaves bytes behind is none", async () => {
  const { world, socket } = await following("a");
  socket.room = 0;
  await world.append("a", [1]);
  await turns(5);
  await world.append("a", [2]);
  await turns(5);
  const before = socket.sent.length;
  socket.connection.drained();
  await turns(5);
  expect(socket.sent.length).toBe(before);
  socket.drain(Infinity);
  await turns(5);
  expect(socket.records("a")).toEqual([1, 2]);
});

test("subscriptions take turns when room is scarce: none waits for another to finish", async () => {
  const { world, socket } = await following("a", "b", "c");
  socket.room = 0;
  const rounds = 30;
  for (let round = 0; round < rounds; round++) {
    for (const stream of ["a", "b", "c"]) await world.append(stream, [round]);
    await turns(2);
    socket.drain(1);
    await turns(2);
  }
  for (let drained = 0; drained < 200; drained++) {
    socket.drain(0);
    await turns(2);
  }
  const firsts = ["a", "b", "c"].map((id) => socket.sent.findIndex((one) => one.type === "records" && one.id === id));
  expect(Math.max(...firsts) - Math.min(...firsts)).toBeLessThan(8);
  for (const id of ["a", "b", "c"]) expect(socket.records(id).length).toBe(rounds);
});

test("a client that does not read its answers is ended without a word, and leaves nothing", async () => {
  const { world, socket } = await following("a");
  socket.room = 0;
  socket.say({ type: "ping" });
  socket.dropping = true;
  socket.say({ type: "ping" });
  await turns(5);
  expect([socket.ended, world.engine.liveRequests.used, world.engine.waiters.size]).toEqual(["terminated", 0, 0]);
});

test("a heartbeat after half a minute of silence, and not when something was said", async () => {
  const { world, socket } = await following("a");
  await world.pass(SOCKET_HEARTBEAT_MS - 1);
  expect(socket.ofType("heartbeat")).toEqual([]);
  await world.pass(1);
  expect(socket.ofType("heartbeat").length).toBe(1);
  await world.pass(SOCKET_HEARTBEAT_MS / 2);
  await world.append("a", [1]);
  await turns(5);
  await world.pass(SOCKET_HEARTBEAT_MS / 2);
  expect(socket.ofType("heartbeat").length).toBe(1);
  await world.pass(SOCKET_HEARTBEAT_MS / 2);
  expect(socket.ofType("heartbeat").length).toBe(2);
});

test("a client of which nothing is heard, not even pongs, is closed after a minute, a minute and a half at most", async () => {
  const { world, socket } = await following("a");
  for (let minute = 0; minute < 5; minute++) await world.pass(60_000);
  expect([socket.ended, socket.pings > 4]).toEqual([null, true]);
  socket.isDead = true;
  for (let second = 0; second < 59; second++) await world.pass(1_000);
  expect(socket.ended).toBeNull();
  for (let second = 0; second < 31; second++) await world.pass(1_000);
  expect([socket.ended, world.engine.liveRequests.used]).toEqual(["4002", 0]);
});

test("answers that are not read are bounded, whatever the frame before them was", async () => {
  const { world, socket } = await following("a");
  socket.room = 0;
  await world.append("a", ["x".repeat(3_000_000)]);
  await turns(5);
  const ping = { type: "ping", ref: "r".repeat(1_000) };
  for (let count = 0; count < 1_000; count++) socket.say(ping);
  expect(socket.ended).toBeNull();
  for (let count = 0; count < 100; count++) socket.say(ping);
  expect(socket.ended).toBe("terminated");
});

test("nothing is held for a full socket, however many streams it follows", async () => {
  const { world, socket } = await following("a", "b", "c");
  socket.room = 0;
  await world.append("a", [0]);
  await turns(5);
  for (const stream of ["a", "b", "c"]) await world.append(stream, [1]);
  await turns(5);
  const { clients } = await world.clients.page(null, 10);
  expect(clients[0]?.streams.map(({ lag }) => lag.records)).toEqual([1, 1, 1]);
  socket.drain(Infinity);
  await turns(10);
  expect(["a", "b", "c"].map((id) => socket.records(id))).toEqual([[0, 1], [1], [1]]);
});

test("requests under way are answered before a shutdown ends the connection; new ones are refused", async () => {
  const { world, socket } = await following("a");
  socket.say({ type: "append", ref: 1, stream: "a", body: "[1]" });
  world.engine.beginDrain();
  expect(socket.ended).toBeNull();
  socket.say({ type: "append", ref: 2, stream: "a", body: "[2]" });
  await turns(10);
  expect(socket.ofType("appended")).toMatchObject([{ ref: 1 }]);
  expect(socket.ofType("error")).toMatchObject([{ ref: 2, error: { code: "closing" } }]);
  expect(socket.ended).toBe("1012");
});

test("messages have a rate: what was saved up at once, then so many a second, then 1008", async () => {
  const { world, socket } = await following();
  const send = (count: number): void => {
    for (let sent = 0; sent < count; sent++) socket.say({ type: "ping" });
  };
  send(2 * SOCKET_MESSAGES_PER_SECOND);
  await world.pass(1_000);
  send(SOCKET_MESSAGES_PER_SECOND);
  expect(socket.ended).toBeNull();
  send(1);
  expect(socket.ended).toBe("1008");
});

test("a shutdown says so, and gives everything back", async () => {
  const { world, socket } = await following("a", "b");
  world.engine.beginDrain();
  await turns(5);
  expect([socket.ended, world.engine.liveRequests.used, world.faults]).toEqual(["1012", 0, []]);
});

test("subscriptions take places of their client, and give them back however they end", async () => {
  const world = liveWorld();
  for (const stream of ["a", "b"]) await world.create(stream);
  const rates = { requestsPerSecond: 1e6, bytesPerSecond: 1e9, live: 10, streams: Infinity };
  const limits = new ClientLimits(rates, world.engine.clock, null, { liveRequests: 8, bodyBytes: 1e9 });
  const [first, second] = [new FakeSocket(world, limits.of("x")), new FakeSocket(world, limits.of("x"))];
  const subscribe = async (socket: FakeSocket, stream: string, id: string): Promise<string | undefined> => {
    socket.say({ type: "subscribe", stream, id, offset: "now" });
    await turns(5);
    const last = socket.sent.at(-1);
    return last?.type === "error" ? last.error.code : last?.type;
  };
  expect(await subscribe(first, "a", "1")).toBe("subscribed");
  expect(await subscribe(first, "nowhere", "2")).toBe("not-found");
  expect(await subscribe(second, "b", "2")).toBe("subscribed");
  expect(await subscribe(second, "b", "3")).toBe("too-many-live");
  expect(await subscribe(new FakeSocket(world, limits.of("y")), "b", "3")).toBe("subscribed");
  await world.engine.delete("a");
  await turns(5);
  expect(await subscribe(second, "b", "4")).toBe("subscribed");
  second.connection.closed();
  for (const id of ["5", "6"]) expect(await subscribe(first, "b", id)).toBe("subscribed");
  expect(await subscribe(first, "b", "7")).toBe("too-many-live");
});

test("who goes away in the middle leaves nothing behind", async () => {
  const { world, socket } = await following("a", "b");
  socket.room = 0;
  for (const stream of ["a", "b"]) await world.append(stream, [1]);
  socket.say({ type: "subscribe", stream: "a", id: "late", offset: "-1" });
  socket.say({ type: "append", stream: "a", body: "[2]" });
  socket.connection.closed();
  await turns(10);
  expect([world.engine.liveRequests.used, world.engine.waiters.size, world.engine.bodyBytes.used]).toEqual([0, 0, 0]);
  expect([world.metric("streams_websocket_clients"), world.faults]).toEqual([0, []]);
  const head = await world.engine.find("a", "look");
  expect("next" in head && head.next).toBe(2);
});

test("a connection that its heartbeat ends has nothing due any more", async () => {
  const { world, socket } = await following("a");
  socket.dropping = true;
  await world.pass(SOCKET_HEARTBEAT_MS);
  expect(socket.ended).toBe("4001");
  await world.pass(10 * SOCKET_HEARTBEAT_MS);
  expect([socket.pings, world.engine.deadlines.size]).toEqual([1, liveWorld().engine.deadlines.size]);
});

test("who is told something between two pings has no less time to answer them", async () => {
  const { world, socket } = await following("a");
  socket.isDead = true;
  // Each shifts the next heartbeat, so that the two fall apart.
  for (let second = 1; second < 60; second++) {
    await world.pass(1_000);
    if (second === 29 || second === 31) {
      await world.append("a", [second]);
      await turns(5);
    }
  }
  expect([socket.ended, socket.pings]).toEqual([null, 1]);
});

test("a frame whose turn it was when an answer filled the socket is no answer that was not read", async () => {
  const { world, socket } = await following("a");
  await world.append("a", ["x".repeat(3_000_000)]);
  await turns(5);
  world.store.beforeNextRead(() => {
    socket.room = 0;
    socket.say({ type: "ping" });
  });
  socket.say({ type: "subscribe", stream: "a", id: "late", offset: "-1" });
  await turns(10);
  expect(socket.ended).toBeNull();
  socket.drain(Infinity);
  await turns(10);
  expect(["a", "late"].map((id) => socket.records(id).length)).toEqual([1, 1]);
});
