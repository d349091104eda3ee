/**
 * One large record for many live readers that do not read: the server holds it for a few at a time, whatever they follow it by. Those who
 * read get it at once, and the others when they read.
 */

import { connect } from "node:net";
import { expect, test } from "bun:test";
import { residentBytes } from "../support/memory.ts";
import type { TestServer } from "../support/server.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { maskedFrame } from "../support/socket-client.ts";
import { newStream } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const MiB = 1024 * 1024;
const READERS = 60;
const RECORD_BYTES = 8 * MiB;
const RECORD = new Uint8Array(RECORD_BYTES).fill(7);

const start = temporaryServers();

/** A connection that counts what comes, and keeps none of it. */
async function countingConnection(url: string, hello: string, opened: string, then?: Uint8Array, begun = opened) {
  const { hostname, port } = new URL(url);
  const socket = connect({ host: hostname, port: Number(port) });
  const seen = { bytes: 0, head: "", isClosed: false };
  socket.on("data", (data) => {
    seen.bytes += data.length;
    if (seen.head.length < 2_000) seen.head += data.toString("latin1");
  });
  // A reset is one way to be cut off.
  for (const end of ["error", "close"]) socket.on(end, () => (seen.isClosed = true));
  socket.write(hello);
  if (opened !== "") await until("it is open", () => seen.head.includes(opened));
  if (then !== undefined) socket.write(then);
  if (begun !== "") await until("it follows", () => seen.head.includes(begun));
  return {
    seen,
    pause: (): void => void socket.pause(),
    resume: (): void => void socket.resume(),
    end: (): void => void socket.destroy(),
  };
}

type Reader = Awaited<ReturnType<typeof countingConnection>>;

const get = (path: string, headers = ""): string => `GET ${path} HTTP/1.1\r\nHost: localhost\r\n${headers}\r\n`;
const UPGRADE =
  "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
  "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: streams.v1\r\n";
const SUBSCRIBE = maskedFrame(1, Buffer.from('{"type":"subscribe","stream":"large","offset":"now"}'));

const readers: Readonly<Record<string, (url: string) => Promise<Reader>>> = {
  "server-sent events": (url) =>
    countingConnection(url, get("/v1/stream/large?offset=now&live=sse"), "streamNextOffset"),
  WebSockets: (url) => countingConnection(url, get("/v1/ws", UPGRADE), "connected", SUBSCRIBE, '"subscribed"'),
};

async function world() {
  const server = await start({ args: ["--durability", "os", "--no-live-metrics", "--memory-limit", "256MiB"] });
  return { server, stream: await newStream(server, "large", "application/octet-stream") };
}

/** The most that it was while `act` went on and for two seconds after. */
async function mostBytesWhile(pid: number, act: () => Promise<unknown>): Promise<number> {
  let most = await residentBytes(pid);
  const done = act();
  for (let look = 0; look < 40; look++) {
    await Bun.sleep(50);
    most = Math.max(most, await residentBytes(pid));
  }
  await done;
  return most;
}

test.each(Object.entries(readers))(
  "%s: readers that stall do not cost a copy each, and none of them misses it",
  async (_, open) => {
    const { server, stream } = await world();
    const [quick, ...stalled] = await Promise.all(Array.from({ length: READERS }, () => open(server.url)));
    for (const reader of stalled) reader.pause();
    const before = await residentBytes(server.pid);
    const most = await mostBytesWhile(server.pid, async () => expect((await stream.post(RECORD)).status).toBe(204));
    // Unbounded it is 60 times 11 MB, less what the kernel takes.
    expect((most - before) / MiB).toBeLessThan(150);
    for (const reader of stalled) reader.resume();
    const hasAll = ({ seen }: Reader): boolean => seen.bytes > RECORD_BYTES;
    const all = quick === undefined ? stalled : [quick, ...stalled];
    await until(
      "all have it that were not cut off",
      () => all.every((one) => hasAll(one) || one.seen.isClosed),
      30_000,
    );
    // Who held it while others waited had ten seconds.
    expect(all.filter(hasAll).length).toBe(READERS);
    for (const { end } of all) end();
  },
  60_000,
);

/** So many long-polls that wait for the next record, and read nothing until they are resumed. */
async function stalledPolls(server: TestServer, count: number): Promise<readonly Reader[]> {
  const poll = get("/v1/stream/large?offset=now&live=long-poll");
  const polls = await Promise.all(Array.from({ length: count }, () => countingConnection(server.url, poll, "")));
  await until("all of them wait", async () => (await waiting(server)) === count);
  for (const one of polls) one.pause();
  return polls;
}

async function waiting(server: TestServer): Promise<number> {
  return ((await (await fetch(`${server.url}/health`)).json()) as { liveRequests: number }).liveRequests;
}

const statusOf = ({ seen }: Reader): string | undefined => /^HTTP\/1\.1 (\d+)/.exec(seen.head)?.[1];

test("long-polls: those that find no room are told to come back", async () => {
  const { server, stream } = await world();
  const polls = await stalledPolls(server, READERS);
  const before = await residentBytes(server.pid);
  const most = await mostBytesWhile(server.pid, async () => expect((await stream.post(RECORD)).status).toBe(204));
  expect((most - before) / MiB).toBeLessThan(150);
  for (const one of polls) one.resume();
  await until("each is answered", () => polls.every(({ seen }) => seen.bytes > 0));
  expect(new Set(polls.map(statusOf))).toEqual(new Set(["200", "429"]));
  for (const one of polls) one.end();
}, 60_000);

test("long-polls give their room back when they have read, and when they go away", async () => {
  const server = await start({ args: ["--durability", "os", "--no-live-metrics"] });
  const stream = await newStream(server, "large", "application/octet-stream");
  for (let round = 0; round < 4; round++) {
    // Six fit into three quarters of 64 MiB.
    const polls = await stalledPolls(server, 7);
    expect((await stream.post(RECORD)).status).toBe(204);
    await until("none waits", async () => (await waiting(server)) === 0);
    const [gone, others] = [polls.slice(0, 3), polls.slice(3)];
    for (const one of gone) one.end();
    for (const one of others) one.resume();
    const isAnswered = (one: Reader): boolean => one.seen.bytes > RECORD_BYTES || statusOf(one) === "429";
    await until("the others are answered", () => others.every(isAnswered));
    expect([round, ...others.map(statusOf)]).toEqual([round, "200", "200", "200", "429"]);
    for (const one of others) one.end();
  }
}, 60_000);
