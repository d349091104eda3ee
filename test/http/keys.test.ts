/** Record keys: `Stream-Key` on append, `?key=` on reads of every kind. Keys are part of the log. */

import { describe, expect, test } from "bun:test";
import { exchangeRaw, type RawAnswer } from "../support/raw-socket.ts";
import { sharedServer, temporaryServers } from "../support/shared-server.ts";
import { openSse } from "../support/sse.ts";
import { call, errorOf, newStream, nextOffset, streamAt, type StreamUnderTest } from "../support/streams.ts";

const start = temporaryServers();
const server = sharedServer({ args: ["--long-poll-timeout", "1s"] });

/** Six records under two keys and none: `{n}` with keys a, b, none, then a batch of two under a, then b. */
async function keyed(name: string): Promise<StreamUnderTest> {
  const stream = await newStream(server, name);
  const appends: readonly (readonly [string, string | null])[] = [
    ["1", "a"],
    ["2", "b"],
    ["3", null],
    ["[4,5]", "a"],
    ["6", "b"],
  ];
  for (const [body, key] of appends) {
    const appended = await stream.post(body, key === null ? {} : { "stream-key": key });
    expect(appended.status).toBe(204);
  }
  return stream;
}

describe("reads", () => {
  test.each([
    ["a", [1, 4, 5]],
    ["b", [2, 6]],
    ["c", []],
  ])("?key=%s gives that key's records only", async (key, expected) => {
    const stream = await keyed(`keys/catch-up-${key}`);
    const response = await stream.get(`key=${key}`);
    expect(response.status).toBe(200);
    expect(await response.json()).toEqual(expected);
    expect(nextOffset(response)).toBe(await stream.tail());
    expect(response.headers.get("stream-up-to-date")).toBe("true");
    expect(await stream.records()).toEqual([1, 2, 3, 4, 5, 6]);
  });

  test("start from an offset, and resume from where they ended", async () => {
    const stream = await newStream(server, "keys/offset");
    const middle = nextOffset(await stream.post("1", { "stream-key": "a" }));
    await stream.post("2", { "stream-key": "a" });
    const response = await stream.get(`key=a&offset=${middle}`);
    expect(await response.json()).toEqual([2]);
    await stream.post("3", { "stream-key": "a" });
    expect(await stream.records(`key=a&offset=${nextOffset(response)}`)).toEqual([3]);
  });

  test("do not share an ETag with other keys", async () => {
    const stream = await keyed("keys/etag");
    const etags = await Promise.all(
      ["", "key=a", "key=b"].map(async (query) => (await stream.get(query)).headers.get("etag")),
    );
    expect(new Set(etags).size).toBe(3);
  });

  test("of byte streams give that key's bytes", async () => {
    const stream = await newStream(server, "keys/bytes", "text/plain");
    for (const [text, key] of [
      ["one ", "a"],
      ["two ", "b"],
      ["three", "a"],
    ] as const) {
      await stream.post(text, { "stream-key": key });
    }
    expect(await stream.text("key=a")).toBe("one three");
  });
});

test("a key is exact: case, spaces inside, and bytes beyond ASCII count", async () => {
  const stream = await newStream(server, "keys/exact");
  for (const key of ["Key", "key", "a b", "caf\u00e9"]) {
    expect((await stream.post(JSON.stringify(key), { "stream-key": key })).status).toBe(204);
  }
  expect(await stream.records("key=Key")).toEqual(["Key"]);
  expect(await stream.records("key=key")).toEqual(["key"]);
  expect(await stream.records("key=a%20b")).toEqual(["a b"]);
  expect(await stream.records(`key=${encodeURIComponent("caf\u00e9")}`)).toEqual(["café"]);
});

/** Headers as bytes: `fetch` and the other helpers send text only. */
async function appendRaw(stream: StreamUnderTest, header: string, value: Uint8Array, others = ""): Promise<RawAnswer> {
  const head = `POST ${stream.path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n`;
  const tail = `\r\n${others}content-length: 1\r\n\r\n1`;
  return exchangeRaw(server, Buffer.concat([Buffer.from(`${head}${header}: `), value, Buffer.from(tail)]));
}

test("a header is Latin-1: what was sent as UTF-8 is refused, for it would be another key, and another producer", async () => {
  const stream = await newStream(server, "keys/latin");
  const producer = "producer-epoch: 0\r\nproducer-seq: 0\r\n";
  const headers = [
    ["Stream-Key", "", 204, "key-invalid"],
    ["Producer-Id", producer, 200, "producer-invalid"],
    ["Stream-Seq", "", 204, "stream-seq-invalid"],
  ] as const;
  for (const [header, others, status, code] of headers) {
    for (const text of ["m\u00fcller", "\u65e5\u672c", "\u00c3\u00bc"]) {
      const refused = await appendRaw(stream, header, Buffer.from(text), others);
      expect(refused.status).toBe(400);
      expect(refused.text).toContain(code);
      expect(refused.text).toContain("Latin-1");
    }
    expect(await appendRaw(stream, header, Buffer.from("m\u00fcller", "latin1"), others)).toMatchObject({ status });
  }
  const created = streamAt(server, "keys/latin-created");
  const misread = Buffer.from("m\u00fcller").toString("latin1");
  expect((await created.put({ headers: { "stream-key": misread }, body: "1" })).status).toBe(400);
  expect((await created.head()).status).toBe(404);
  expect(await stream.records()).toEqual([1, 1, 1]);
  expect(await stream.records(`key=${encodeURIComponent("m\u00fcller")}`)).toEqual([1]);
});

test("live readers get their key only", async () => {
  const stream = await newStream(server, "keys/live");
  const start = await stream.tail();
  const sse = await openSse(`${stream.url}?offset=${start}&live=sse&key=a`);
  for (const [body, key] of [
    ["1", "b"],
    ["2", "a"],
    ["3", "b"],
    ["4", "a"],
  ] as const) {
    await stream.post(body, { "stream-key": key });
  }
  expect(await sse.records(2)).toEqual([2, 4]);
  sse.close();

  const found: unknown[] = [];
  let offset = start;
  while (found.length < 2) {
    const response = await stream.get(`offset=${offset}&live=long-poll&key=a`);
    expect([200, 204]).toContain(response.status);
    if (response.status === 200) found.push(...((await response.json()) as unknown[]));
    offset = nextOffset(response);
  }
  expect(found).toEqual([2, 4]);
});

test("keys survive kill -9", async () => {
  const first = await start();
  const before = await newStream(first, "keys/durable");
  await before.post("[1,2]", { "stream-key": "a" });
  await before.post("3", { "stream-key": "b" });
  await first.kill("SIGKILL");
  const second = await start({ dataDir: first.dataDir });
  expect(await streamAt(second, "keys/durable").records("key=a")).toEqual([1, 2]);
  expect(await streamAt(second, "keys/durable").records("key=b")).toEqual([3]);
}, 60_000);

test("refuses keys it cannot hold", async () => {
  const stream = await newStream(server, "keys/refused");
  for (const key of ["x".repeat(257), "x".repeat(4000)]) {
    const refused = await stream.post("1", { "stream-key": key });
    expect(refused.status).toBe(400);
    await errorOf(refused);
  }
  for (const query of ["key=", "key=a&key=b", `key=${"x".repeat(4000)}`]) {
    const refused = await call("GET", `${stream.url}?${query}`);
    expect(refused.status).toBe(400);
    await errorOf(refused);
  }
  expect(await stream.records()).toEqual([]);
});
