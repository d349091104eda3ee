/** Live readers in numbers: all of them get everything, those that leave are forgotten, those that stall cost little. */

import { expect, test } from "bun:test";
import { residentBytes } from "../support/memory.ts";
import { connectRaw } from "../support/raw-socket.ts";
import { sharedServer } from "../support/shared-server.ts";
import { openSse } from "../support/sse.ts";
import { call, newStream, nextOffset, type StreamUnderTest } from "../support/streams.ts";
import { until, within } from "../support/wait.ts";

const server = sharedServer({ args: ["--long-poll-timeout", "20s"] });
const MiB = 1024 * 1024;
const READERS = 100;
const APPENDS = 20;
/** As base64 events these are 512 MiB; RSS swings by 100 on its own. */
const LARGE_APPENDS = 96;
const MAX_GROWTH_MIB = 256;

async function health(): Promise<Record<string, unknown>> {
  return (await (await call("GET", `${server.url}/health`)).json()) as Record<string, unknown>;
}

async function pollUntil(stream: StreamUnderTest, count: number): Promise<unknown[]> {
  const found: unknown[] = [];
  for (let offset = "-1"; found.length < count;) {
    const response = await stream.get(`offset=${offset}&live=long-poll`);
    if (response.status === 200) found.push(...((await response.json()) as unknown[]));
    offset = nextOffset(response);
  }
  return found;
}

test("every one of many readers sees every record once, in order", async () => {
  const stream = await newStream(server, "live/many");
  const opened = await Promise.all(Array.from({ length: READERS }, () => openSse(`${stream.url}?offset=-1&live=sse`)));
  const polls = Array.from({ length: READERS }, () => pollUntil(stream, APPENDS));
  for (let number = 0; number < APPENDS; number++) expect((await stream.post(String(number))).status).toBe(204);
  const expected = Array.from({ length: APPENDS }, (_, index) => index);
  for (const found of await within("the long-polls", Promise.all(polls), 10_000)) expect(found).toEqual(expected);
  for (const reader of opened) {
    expect(await reader.records(APPENDS)).toEqual(expected);
    reader.close();
  }
}, 60_000);

test("readers that go away, at whatever moment, are forgotten", async () => {
  const stream = await newStream(server, "live/gone");
  const request = (live: string): string =>
    `GET ${stream.path}?offset=-1&live=${live} HTTP/1.1\r\nhost: ${new URL(server.url).host}\r\n\r\n`;
  for (const live of ["sse", "long-poll"]) {
    for (let count = 0; count < 50; count++) {
      const early = await connectRaw(server);
      early.send(request(live));
      early.destroy();
      const late = await connectRaw(server);
      late.send(request(live));
      if (live === "sse") await late.receive(/event: control/);
      late.destroy();
    }
  }
  const details = await call("GET", `${stream.url}/_details`);
  const etag = String(details.headers.get("etag"));
  const abort = new AbortController();
  const polls = Array.from({ length: 20 }, () =>
    call("GET", `${stream.url}/_details?live=long-poll`, { headers: { "if-none-match": etag }, signal: abort.signal }),
  );
  await until("the polls are parked", async () => Number((await health())["waiters"]) >= 20);
  abort.abort();
  await Promise.allSettled(polls);
  await until("nobody is left", async () => {
    const { liveRequests, waiters } = await health();
    return liveRequests === 0 && waiters === 0;
  });
}, 60_000);

test("text comes over SSE as it was appended, wherever its spaces and line breaks are", async () => {
  const stream = await newStream(server, "live/text", "text/plain");
  const pieces = [
    "hello",
    " world",
    "  two ",
    " ",
    "\n",
    " indented\n\n",
    "data: x\n\nevent: control\n",
    ":",
    "ü\u2028",
  ];
  for (const piece of pieces) await stream.post(piece);
  await stream.close();
  const sse = await openSse(`${stream.url}?offset=-1&live=sse`);
  let text = "";
  for (let event = await sse.next(); event !== null; event = await sse.next()) {
    if (event.event === "data") text += event.data;
  }
  expect(text).toBe(pieces.join(""));
});

test("a live reader sees a closure, and the last record before it", async () => {
  const stream = await newStream(server, "live/closed");
  const sse = await openSse(`${stream.url}?offset=-1&live=sse`);
  const polling = stream.get("offset=now&live=long-poll");
  await sse.nextControl();
  await until("the poll is parked", async () => Number((await health())["liveRequests"]) >= 2);
  expect((await stream.post('"last"', { "stream-closed": "true" })).status).toBe(204);
  const polled = await polling;
  expect(await polled.json()).toEqual(["last"]);
  expect(polled.headers.get("stream-closed")).toBe("true");
  expect(await sse.records(1)).toEqual(["last"]);
  expect(await sse.nextControl()).toMatchObject({ streamClosed: true });
  expect(await sse.next()).toBeNull();
});

test("live readers of large records cost bounded memory, whether they read or stall", async () => {
  const stream = await newStream(server, "live/large", "application/octet-stream");
  const record = crypto.getRandomValues(new Uint8Array(65_536));
  const body = new Uint8Array(4 * MiB);
  for (let at = 0; at < body.length; at += record.length) body.set(record, at);
  const append = async (): Promise<void> => expect((await stream.post(body)).status).toBe(204);
  // Fills what the server keeps of recent appends anyway.
  for (let round = 0; round < 24; round++) await append();
  const before = await residentBytes(server.pid);
  const tail = await stream.tail();
  const stalled = await connectRaw(server);
  stalled.pause();
  stalled.send(`GET ${stream.path}?offset=${tail}&live=sse HTTP/1.1\r\nhost: ${new URL(server.url).host}\r\n\r\n`);
  const reading = await openSse(`${stream.url}?offset=${tail}&live=sse`);
  await reading.nextControl();
  for (let round = 0; round < LARGE_APPENDS; round++) {
    await append();
    let event = await reading.next();
    // On a slow machine it may be told that it was behind.
    while (event?.event === "lagged") event = await reading.next();
    expect(Buffer.from(event?.data ?? "", "base64").length).toBe(body.length);
    await reading.nextControl();
  }
  const growth = (await residentBytes(server.pid)) - before;
  reading.close();
  stalled.destroy();
  expect(growth / MiB).toBeLessThan(MAX_GROWTH_MIB);
}, 180_000);
