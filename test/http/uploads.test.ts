/** Bodies that arrive slowly, partly or not at all hold back nobody else, and leave nothing half done. */

import { afterEach, expect, test } from "bun:test";
import { connectRaw, type RawConnection } from "../support/raw-socket.ts";
import { sharedServer } from "../support/shared-server.ts";
import { call, newStream, type StreamUnderTest } from "../support/streams.ts";
import { until, within } from "../support/wait.ts";

const server = sharedServer();
/** Default of the server. What an upload announces must not count as if it had come. */
const MAX_BODY_BYTES = 16 * 1024 * 1024;
const open: RawConnection[] = [];

afterEach(() => {
  for (const connection of open.splice(0)) connection.destroy();
});

async function connection(): Promise<RawConnection> {
  const connected = await connectRaw(server);
  open.push(connected);
  return connected;
}

function post(stream: StreamUnderTest, body: string, length = body.length): string {
  const { host } = new URL(server.url);
  return `POST ${stream.path} HTTP/1.1\r\nhost: ${host}\r\ncontent-type: application/json\r\ncontent-length: ${length}\r\n\r\n${body}`;
}

test("64 stalled uploads do not block other writers of the same stream or of others", async () => {
  const shared = await newStream(server, "uploads/shared");
  const other = await newStream(server, "uploads/other");
  for (let count = 0; count < 64; count++) (await connection()).send(post(shared, '["never', MAX_BODY_BYTES));
  const appends = Array.from({ length: 200 }, (_, index) => (index % 2 === 0 ? shared : other).post(String(index)));
  const answers = await within("200 appends beside stalled uploads", Promise.all(appends), 4000);
  expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([204]));
  expect((await shared.records()).length + (await other.records()).length).toBe(200);
});

test("a body that drips in is taken whole, after faster ones", async () => {
  const stream = await newStream(server, "uploads/drip");
  const slow = await connection();
  const body = '["s","l","o","w"]';
  slow.send(post(stream, "", body.length));
  for (const character of body) {
    slow.send(character);
    if (character === ",") expect((await stream.post('"fast"')).status).toBe(204);
  }
  await slow.receive(/^HTTP\/1\.1 204/);
  expect(await stream.records()).toEqual(["fast", "fast", "fast", "s", "l", "o", "w"]);
});

test("an upload that breaks off leaves nothing and releases its room", async () => {
  const stream = await newStream(server, "uploads/broken");
  for (let count = 0; count < 32; count++) {
    const broken = await connection();
    broken.send(post(stream, `["${"x".repeat(100_000)}`, 8_000_000));
    broken.destroy();
  }
  await until("no body bytes are held", async () => {
    const health = (await (await call("GET", `${server.url}/health`)).json()) as Record<string, unknown>;
    return health["bodyBytesInFlight"] === 0;
  });
  expect((await stream.post("1")).status).toBe(204);
  expect(await stream.records()).toEqual([1]);
});

test("pipelined appends are answered in order or refused, each done at most once", async () => {
  const stream = await newStream(server, "uploads/pipelined");
  const pipelined = await connection();
  pipelined.send(Array.from({ length: 5 }, (_, index) => post(stream, String(index))).join(""));
  const answers = (): number => pipelined.received().split("HTTP/1.1 204").length - 1;
  await pipelined.wait("five answers or the end", () => (answers() === 5 || pipelined.isClosed() ? true : undefined));
  expect(pipelined.received()).not.toMatch(/^HTTP\/1\.1 5/m);
  const answered = answers();
  const records = await until("what was taken is stored", async () => {
    const stored = (await stream.records()) as number[];
    return stored.length >= answered && stored;
  });
  expect(records).toEqual(Array.from({ length: records.length }, (_, index) => index));
  expect((await stream.post("9")).status).toBe(204);
});

test("a client that never reads its answers does not stop others", async () => {
  const stream = await newStream(server, "uploads/deaf", "text/plain");
  await stream.post("x".repeat(8 * 1024 * 1024));
  for (let count = 0; count < 16; count++) {
    const deaf = await connection();
    deaf.pause();
    deaf.send(`GET ${stream.path} HTTP/1.1\r\nhost: ${new URL(server.url).host}\r\n\r\n`);
  }
  const small = await newStream(server, "uploads/small");
  const answers = Promise.all(Array.from({ length: 50 }, (_, index) => small.post(String(index))));
  await within("50 appends beside deaf readers", answers, 4000);
  expect(await small.records()).toHaveLength(50);
});
