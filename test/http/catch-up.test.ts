/** A catch-up read is one response, streamed: right to the last byte, with bounded memory, however slow the reader. */

import { beforeAll, expect, test } from "bun:test";
import { residentBytes } from "../support/memory.ts";
import { connectRaw, type RawConnection } from "../support/raw-socket.ts";
import { sharedServer } from "../support/shared-server.ts";
import { call, newStream, nextOffset, type StreamUnderTest } from "../support/streams.ts";
import { clockPast, until } from "../support/wait.ts";

const server = sharedServer();
const MiB = 1024 * 1024;
/** More than the server keeps in memory of unsealed records. */
const STREAM_BYTES = 96 * MiB;
const APPEND_BYTES = 4 * MiB;
const STALLED_READERS = 8;
const LEAVING_READERS = 40;
/** How long they stall. Buffering for them would cost 768 MiB; sealing and garbage collection make RSS swing by 50. */
const STALL_MS = 2000;
const MAX_GROWTH_BYTES = 160 * MiB;

let large: StreamUnderTest;
/** Hash of the whole stream, and the offset and hash after the first half. */
let whole = 0n;
let half: { readonly offset: string; readonly hash: bigint };

beforeAll(async () => {
  large = await newStream(server, "catch-up/large", "application/octet-stream");
  let middle = "";
  const bytes = new Uint8Array(STREAM_BYTES);
  for (let at = 0; at < STREAM_BYTES; at += 65_536) crypto.getRandomValues(bytes.subarray(at, at + 65_536));
  for (let at = 0; at < STREAM_BYTES; at += APPEND_BYTES) {
    const appended = await large.post(bytes.slice(at, at + APPEND_BYTES));
    if (appended.status !== 204) throw new Error(`append: ${appended.status} ${await appended.text()}`);
    if (at + APPEND_BYTES === STREAM_BYTES / 2) middle = nextOffset(appended);
  }
  whole = Bun.hash.xxHash64(bytes);
  half = { offset: middle, hash: Bun.hash.xxHash64(bytes.subarray(STREAM_BYTES / 2)) };
}, 60_000);

async function read(query: string): Promise<{ hash: bigint; length: number; response: Response }> {
  const response = await large.get(query);
  const bytes = await response.bytes();
  return { hash: Bun.hash.xxHash64(bytes), length: bytes.length, response };
}

test("all of it comes in one response, from the start and from the middle", async () => {
  const full = await read("");
  expect(full.response.status).toBe(200);
  expect(full.length).toBe(STREAM_BYTES);
  expect(full.hash).toBe(whole);
  expect(full.response.headers.get("stream-up-to-date")).toBe("true");
  expect(nextOffset(full.response)).toBe(await large.tail());
  const second = await read(`offset=${half.offset}`);
  expect(second.length).toBe(STREAM_BYTES / 2);
  expect(second.hash).toBe(half.hash);
}, 60_000);

test("readers that stall cost little memory, disturb nobody, and get every byte in the end", async () => {
  await until("the server is at rest", async () => {
    const health = (await (await call("GET", `${server.url}/health`)).json()) as { storage: { unsealedBytes: number } };
    return health.storage.unsealedBytes < 16 * MiB;
  });
  const before = await residentBytes(server.pid);
  const readers: RawConnection[] = [];
  for (let count = 0; count < STALLED_READERS; count++) {
    const reader = await connectRaw(server);
    reader.pause();
    reader.send(`GET ${large.path} HTTP/1.1\r\nhost: ${new URL(server.url).host}\r\nconnection: close\r\n\r\n`);
    readers.push(reader);
  }
  const small = await newStream(server, "catch-up/beside");
  let peak = 0;
  const started = Date.now();
  while (Date.now() - started < STALL_MS) {
    expect((await small.post("1")).status).toBe(204);
    peak = Math.max(peak, await residentBytes(server.pid));
    await clockPast(Date.now(), 20);
  }
  expect(peak - before).toBeLessThan(MAX_GROWTH_BYTES);
  for (const reader of readers) {
    reader.resume();
    await reader.wait("the end of the answer", () => reader.isClosed() || undefined, 15_000);
    expect(Bun.hash.xxHash64(bodyOf(reader))).toBe(whole);
    reader.destroy();
  }
}, 60_000);

test("what is appended during a read does not get into it", async () => {
  const reader = await connectRaw(server);
  reader.pause();
  reader.send(
    `GET ${large.path}?offset=${half.offset} HTTP/1.1\r\nhost: ${new URL(server.url).host}\r\nconnection: close\r\n\r\n`,
  );
  // The answer has begun once its head is here; its end was fixed before.
  reader.resume();
  const head = await reader.receive(/^HTTP\/1\.1 200[^]*?stream-next-offset: (\S+)[^]*?\r\n\r\n/i);
  await large.post(new Uint8Array(MiB));
  await reader.wait("the end of the answer", () => reader.isClosed() || undefined, 15_000);
  expect(Bun.hash.xxHash64(bodyOf(reader))).toBe(half.hash);
  const rest = await large.get(`offset=${String(head[1])}`);
  expect((await rest.bytes()).length).toBe(MiB);
  reader.destroy();
}, 60_000);

test("readers that leave before it is their turn are no fault of the server", async () => {
  const readers = await Promise.all(Array.from({ length: LEAVING_READERS }, () => connectRaw(server)));
  for (const reader of readers) {
    reader.send(`GET ${large.path} HTTP/1.1\r\nhost: ${new URL(server.url).host}\r\n\r\n`);
  }
  await Promise.all(readers.map((reader) => reader.receive(/^HTTP\/1\.1 200/)));
  for (const reader of readers) reader.destroy();
  // Whoever asks after them is served after them.
  await (await large.get()).bytes();
  expect(server.stderr()).not.toContain("failed");
}, 60_000);

test("one record of the largest size comes whole, beside small ones", async () => {
  const stream = await newStream(server, "catch-up/mixed");
  const big = JSON.stringify("x".repeat(8 * MiB));
  await stream.post("[1,2]");
  await stream.post(big);
  await stream.post("[3]");
  expect(await stream.text()).toBe(`[1,2,${big},3]`);
}, 60_000);

/** The body's bytes, chunked coding removed. */
function bodyOf(reader: RawConnection): Uint8Array {
  const raw = Buffer.from(reader.received(), "latin1");
  const start = raw.indexOf("\r\n\r\n") + 4;
  if (!/transfer-encoding: chunked/i.test(raw.toString("latin1", 0, start))) return raw.subarray(start);
  const pieces: Uint8Array[] = [];
  for (let at = start; ;) {
    const line = raw.indexOf("\r\n", at);
    const size = Number.parseInt(raw.toString("latin1", at, line), 16);
    if (!(size > 0)) return Buffer.concat(pieces);
    pieces.push(raw.subarray(line + 2, line + 2 + size));
    at = line + 2 + size + 2;
  }
}
