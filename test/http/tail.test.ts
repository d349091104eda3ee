/** `?tail=N`: the last N records, then live: the start of every "follow" that does not want history. */

import { describe, expect, test } from "bun:test";
import { sharedServer } from "../support/shared-server.ts";
import { openSse } from "../support/sse.ts";
import { call, errorOf, newStream, nextOffset } from "../support/streams.ts";

const server = sharedServer({ args: ["--long-poll-timeout", "1s"] });

describe.each([
  ["one by one", ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]],
  ["in batches", ["[0,1,2]", "[3,4,5,6]", "[7,8,9]"]],
  ["all at once", ["[0,1,2,3,4,5,6,7,8,9]"]],
])("ten records appended %s", (label, bodies) => {
  const name = `tail/${label.replaceAll(" ", "-")}`;
  test("the last N come, as many as there are", async () => {
    const stream = await newStream(server, name);
    for (const body of bodies) await stream.post(body);
    const all = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    for (const [count, expected] of [
      [1, [9]],
      [3, [7, 8, 9]],
      [5, [5, 6, 7, 8, 9]],
      [10, all],
      [11, all],
      [1_000_000, all],
    ] as const) {
      const response = await stream.get(`tail=${count}`);
      expect(response.status).toBe(200);
      expect(await response.json()).toEqual([...expected]);
      expect(nextOffset(response)).toBe(await stream.tail());
      expect(response.headers.get("stream-up-to-date")).toBe("true");
    }
  });
});

test("tail=0 is the tail itself", async () => {
  const stream = await newStream(server, "tail/zero");
  await stream.post("1");
  const response = await stream.get("tail=0");
  expect(await response.json()).toEqual([]);
  expect(nextOffset(response)).toBe(await stream.tail());
});

test("of a byte stream counts appends", async () => {
  const stream = await newStream(server, "tail/bytes", "text/plain");
  for (const text of ["one ", "two ", "three"]) await stream.post(text);
  expect(await stream.text("tail=2")).toBe("two three");
});

test("of an empty stream is empty", async () => {
  const stream = await newStream(server, "tail/empty");
  expect(await stream.records("tail=5")).toEqual([]);
});

test("is not cached: the answer moves with the stream", async () => {
  const stream = await newStream(server, "tail/moving");
  await stream.post("1");
  const first = await stream.get("tail=1");
  await stream.post("2");
  const etag = first.headers.get("etag");
  const again = await stream.get("tail=1", { headers: etag === null ? {} : { "if-none-match": etag } });
  expect(again.status).toBe(200);
  expect(await again.json()).toEqual([2]);
});

test("then live over SSE", async () => {
  const stream = await newStream(server, "tail/sse");
  await stream.post("[1,2,3]");
  const sse = await openSse(`${stream.url}?tail=2&live=sse`);
  expect(await sse.records(2)).toEqual([2, 3]);
  await stream.post("4");
  expect(await sse.records(1)).toEqual([4]);
  sse.close();
});

test("then live over long-poll", async () => {
  const stream = await newStream(server, "tail/long-poll");
  await stream.post("[1,2,3]");
  const first = await stream.get("tail=2&live=long-poll");
  expect(await first.json()).toEqual([2, 3]);
  const waiting = stream.get(`offset=${nextOffset(first)}&live=long-poll`);
  await stream.post("4");
  expect(await (await waiting).json()).toEqual([4]);
});

test("tail=0 waits for what comes next", async () => {
  const stream = await newStream(server, "tail/next");
  await stream.post("[1,2,3]");
  const sse = await openSse(`${stream.url}?tail=0&live=sse`);
  expect(await sse.nextControl()).toMatchObject({ upToDate: true, streamNextOffset: await stream.tail() });
  await stream.post("4");
  expect(await sse.records(1)).toEqual([4]);
  sse.close();
});

test.each([
  "tail=-1",
  "tail=abc",
  "tail=1e3",
  "tail=1.5",
  "tail=",
  "tail=1&tail=2",
  "tail=1&offset=-1",
  "tail=99999999999999999999",
])("refuses %s", async (query) => {
  const stream = await newStream(server, `tail/refused-${Bun.hash(query)}`);
  const refused = await call("GET", `${stream.url}?${query}`);
  expect(refused.status).toBe(400);
  await errorOf(refused);
});
