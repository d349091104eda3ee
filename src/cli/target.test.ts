/** From arguments and environment to a stream. */

import { afterEach, beforeEach, expect, test } from "bun:test";
import { UsageError } from "./failure.ts";
import { streamFor, streamName } from "./target.ts";

let before: string | undefined;
beforeEach(() => {
  before = process.env["STREAM_URL"];
  delete process.env["STREAM_URL"];
});
afterEach(() => {
  if (before === undefined) delete process.env["STREAM_URL"];
  else process.env["STREAM_URL"] = before;
});

test("a name is looked for at --url, then STREAM_URL, then the default", () => {
  expect(streamFor("a/b c", {}).url).toBe("http://127.0.0.1:4437/v1/stream/a/b%20c");
  process.env["STREAM_URL"] = "https://streams.example/base/";
  expect(streamFor("a", {}).url).toBe("https://streams.example/base/v1/stream/a");
  expect(streamFor("a", { url: "http://other:1" }).url).toBe("http://other:1/v1/stream/a");
});

test("a full URL names server and stream", () => {
  const stream = streamFor("http://other:1/base/v1/stream/a/b%2Fc", {});
  expect(stream.name).toBe("a/b/c");
  expect(stream.url).toBe("http://other:1/base/v1/stream/a/b/c");
  expect(streamName("http://other:1/v1/stream/x")).toBe("x");
  expect(streamName("x")).toBe("x");
});

test.each([
  "http://other:1/x",
  "http://other/v1/stream/a?offset=1",
  "http://other/v1/stream/%ff",
  "http://other/v1/stream/",
  "a//b",
  "..",
])("%s is refused", (argument) => {
  expect(() => streamFor(argument, {})).toThrow(UsageError);
});

test("a base URL that is none is refused", () => {
  expect(() => streamFor("a", { url: "127.0.0.1:4437" })).toThrow(UsageError);
});
