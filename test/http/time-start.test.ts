/** `?from=`: reads that start at a time, by append time: RFC 3339 or a duration back from now. */

import { beforeAll, expect, test } from "bun:test";
import { sharedServer } from "../support/shared-server.ts";
import { openSse } from "../support/sse.ts";
import { call, errorOf, newStream, nextOffset, type StreamUnderTest } from "../support/streams.ts";
import { clockPast } from "../support/wait.ts";

const server = sharedServer();
let stream: StreamUnderTest;
/** A time between the second and the third record, a few milliseconds from both. */
let middle: Date;

beforeAll(async () => {
  stream = await newStream(server, "from/some");
  await stream.post("1");
  await stream.post("2");
  middle = new Date((await clockPast(Date.now(), 20)) - 5);
  await clockPast(middle.getTime(), 20);
  await stream.post("[3,4]");
});

test("starts at the first record appended at or after the time", async () => {
  expect(await stream.records(`from=${middle.toISOString()}`)).toEqual([3, 4]);
});

test.each([
  ["-15m", [1, 2, 3, 4]],
  ["-1h", [1, 2, 3, 4]],
  ["-7d", [1, 2, 3, 4]],
  ["-3600s", [1, 2, 3, 4]],
  ["1999-01-01T00:00:00Z", [1, 2, 3, 4]],
  ["1999-01-01T00:00:00.5%2B02:00", [1, 2, 3, 4]],
  ["2999-01-01T00:00:00Z", []],
])("from=%s", async (from, expected) => {
  const response = await stream.get(`from=${from}`);
  expect(response.status).toBe(200);
  expect(await response.json()).toEqual(expected);
  expect(nextOffset(response)).toBe(await stream.tail());
});

test("understands time zones", async () => {
  const local = new Date(middle.getTime() + 2 * 3_600_000).toISOString().replace("Z", "+02:00");
  expect(await stream.records(`from=${encodeURIComponent(local)}`)).toEqual([3, 4]);
});

test("goes on live", async () => {
  const growing = await newStream(server, "from/live");
  await growing.post("1");
  const sse = await openSse(`${growing.url}?from=-1h&live=sse`);
  await growing.post("2");
  expect(await sse.records(2)).toEqual([1, 2]);
  sse.close();
  const polled = await growing.get("from=-1h&live=long-poll");
  expect(await polled.json()).toEqual([1, 2]);
});

test.each([
  "yesterday",
  "15m",
  "-15x",
  "-",
  "",
  "-99999999999999999999d",
  "2026-13-01T00:00:00Z",
  "2026-01-01",
  "2026-01-01T00:00:00",
  "%00",
])("refuses from=%s", async (from) => {
  const refused = await call("GET", `${stream.url}?from=${from}`);
  expect(refused.status).toBe(400);
  await errorOf(refused);
});

test.each(["from=-1h&from=-2h", "from=-1h&offset=-1", "from=-1h&tail=1"])(
  "refuses %s: one start, please",
  async (query) => {
    const refused = await call("GET", `${stream.url}?${query}`);
    expect(refused.status).toBe(400);
    await errorOf(refused);
  },
);
