/**
 * SIGTERM: not ready at once, live readers end with what they need to resume, appends in flight are finished, exit 0,
 * and nothing that was acknowledged is missing after the next start.
 */

import { expect, test } from "bun:test";
import { connectRaw, type RawConnection } from "../support/raw-socket.ts";
import type { TestServer } from "../support/server.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { openSse } from "../support/sse.ts";
import { call, newStream, nextOffset, streamAt, type StreamUnderTest } from "../support/streams.ts";
import { until, within } from "../support/wait.ts";

const start = temporaryServers();

/** Starts an upload of `body` and holds back its second half; `finish` sends it. */
async function halfUpload(server: TestServer, stream: StreamUnderTest, body: string) {
  const connection: RawConnection = await connectRaw(server);
  const half = body.length / 2;
  connection.send(
    `POST ${stream.path} HTTP/1.1\r\nhost: ${new URL(server.url).host}\r\n` +
      `content-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n${body.slice(0, half)}`,
  );
  return { connection, finish: () => connection.send(body.slice(half)) };
}

/** One round trip: what other connections sent before has reached the server. */
async function settled(server: TestServer): Promise<void> {
  for (let trip = 0; trip < 3; trip++) expect((await call("GET", `${server.url}/health`)).status).toBe(200);
}

test("drains: readers resume, the append in flight is finished, exit 0", async () => {
  const server = await start({ args: ["--long-poll-timeout", "20s"] });
  const stream = await newStream(server, "shutdown/drain");
  await stream.post("[1,2]");
  const tail = await stream.tail();
  const polling = stream.get(`offset=${tail}&live=long-poll`);
  const sse = await openSse(`${stream.url}?offset=${tail}&live=sse`);
  await sse.nextControl();
  const upload = await halfUpload(server, stream, '["in","flight"]');
  await settled(server);

  const exit = server.kill("SIGTERM");
  await until("/ready said 503", async () => (await call("GET", `${server.url}/ready`)).status === 503);

  const polled = await within("the long-poll", polling);
  expect([200, 204]).toContain(polled.status);
  expect(nextOffset(polled)).toBe(tail);
  let last = await sse.nextControl();
  for (let control = last; control !== null; control = await sse.nextControl()) last = control;
  if (last !== null) expect(last.streamNextOffset).toBe(tail);

  upload.finish();
  const answer = await upload.connection.receive(/^HTTP\/1\.1 (\d+)[^]*?stream-next-offset: (\S+)/i);
  expect(answer[1]).toBe("204");
  expect(await exit).toBe(0);

  const next = await start({ dataDir: server.dataDir });
  const resumed = await streamAt(next, "shutdown/drain").get(`offset=${tail}`);
  expect(await resumed.json()).toEqual(["in", "flight"]);
  expect(nextOffset(resumed)).toBe(String(answer[2]));
}, 60_000);

test("neither an upload that never ends nor a reader that does not read can hold it up", async () => {
  const server = await start();
  const stalled = await newStream(server, "shutdown/stalled");
  const upload = await halfUpload(server, stalled, '["never","ends"]');
  const large = await newStream(server, "shutdown/unread", "application/octet-stream");
  for (let round = 0; round < 4; round++) await large.post(new Uint8Array(8 * 1024 * 1024));
  const reader = await connectRaw(server);
  reader.pause();
  reader.send(`GET ${large.path} HTTP/1.1\r\nhost: ${new URL(server.url).host}\r\n\r\n`);
  await settled(server);
  expect(await within("the shutdown", server.kill("SIGTERM"), 15_000)).toBe(0);
  for (const connection of [upload.connection, reader]) connection.destroy();
  const next = await start({ dataDir: server.dataDir });
  expect(await streamAt(next, "shutdown/stalled").records()).toEqual([]);
}, 60_000);

test("a browser's EventSource that comes back meanwhile is told to come again later, never that it is over", async () => {
  const page = "https://page.example";
  const server = await start({ args: ["--cors-origin", page] });
  const stream = await newStream(server, "shutdown/event-source");
  const upload = await halfUpload(server, stream, '["in","flight"]');
  await settled(server);
  const exit = server.kill("SIGTERM");
  await until("/ready said 503", async () => (await call("GET", `${server.url}/ready`)).status === 503);

  const events = { headers: { accept: "text/event-stream", origin: page } };
  const live = `${stream.url}?offset=now&live=sse`;
  const told = await call("GET", live, events);
  expect([told.status, told.headers.get("content-type")]).toEqual([200, "text/event-stream"]);
  expect(told.headers.get("access-control-allow-origin")).toBe(page);
  expect(await told.text()).toBe("retry:3000\n\n");
  const view = await call("GET", `${stream.url}/_view?live=sse`, events);
  expect([view.status, await view.text()]).toEqual([200, "retry:3000\n\n"]);
  // Who asks by hand sees why, and after how long to come back.
  const plain = await call("GET", live);
  expect([plain.status, plain.headers.get("retry-after")]).toEqual([503, "2"]);

  upload.finish();
  // Also while the last of all are sent away, until there is no port any more.
  const statuses = await until("nobody is answered", async () => {
    const seen = new Set<number>();
    for (;;) {
      const answer = await call("GET", live, events).catch((cause: unknown) => cause);
      if (!(answer instanceof Response)) return seen;
      seen.add(answer.status);
      expect(answer.headers.get("access-control-allow-origin")).toBe(page);
    }
  });
  expect([...statuses]).toEqual([200]);
  expect(await exit).toBe(0);
}, 60_000);

test.each(["SIGTERM", "SIGINT"] as const)(
  "idle connections do not delay %s",
  async (signal) => {
    const server = await start();
    const idle = await connectRaw(server);
    const host = new URL(server.url).host;
    idle.send(`GET /health HTTP/1.1\r\nhost: ${host}\r\n\r\n`);
    await idle.receive(/^HTTP\/1\.1 200/);
    expect(await within("the shutdown", server.kill(signal), 3000)).toBe(0);
    idle.destroy();
    await server.remove();
  },
  60_000,
);

test("under load: what was acknowledged is there, what was refused is not", async () => {
  const server = await start();
  const stream = await newStream(server, "shutdown/load");
  const acknowledged: number[] = [];
  let sent = 0;
  const writer = async (): Promise<void> => {
    for (;;) {
      const number = sent++;
      const response = await stream.post(String(number)).catch((cause: unknown) => cause);
      if (!(response instanceof Response)) return;
      if (response.status !== 204) return expect(response.status).toBe(503);
      acknowledged.push(number);
    }
  };
  const writers = Promise.all(Array.from({ length: 16 }, writer));
  await until("the load ran", () => acknowledged.length > 200);
  expect(await server.kill("SIGTERM")).toBe(0);
  await within("the writers", writers);
  const next = await start({ dataDir: server.dataDir });
  const stored = (await streamAt(next, "shutdown/load").records()) as number[];
  const unique = new Set(stored);
  expect(stored.length).toBe(unique.size);
  expect(acknowledged.filter((number) => !unique.has(number))).toEqual([]);
}, 60_000);
