/** Record keys: `Stream-Key` on append, `?key=` on reads of every kind. Keys are part of the log. */

import { describe, expect, test } from "bun:test";
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
