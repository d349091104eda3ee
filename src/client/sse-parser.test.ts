/** Server-sent events: fields, comments and line ends, cut anywhere. */

import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { type SseEvent, SseParser } from "./sse-parser.ts";

function parse(text: string, sizes: readonly number[] = []): SseEvent[] {
  const parser = new SseParser(10_000);
  let rest = new TextEncoder().encode(text);
  const events: SseEvent[] = [];
  for (const size of sizes) {
    events.push(...parser.push(rest.subarray(0, size)));
    rest = rest.subarray(size);
  }
  return [...events, ...parser.push(rest)];
}

test.each([
  ["event: data\ndata: hello\n\n", [{ type: "data", data: "hello" }]],
  ["data:no space\ndata: one\ndata:  two\n\n", [{ type: "message", data: "no space\none\n two" }]],
  [": a heartbeat\n\nid: 7\nretry: 1\ndata\n\n", [{ type: "message", data: "" }]],
  ["event: data\n\ndata: typeless\n\n", [{ type: "message", data: "typeless" }]],
  ["event: control\ndata: unfinished\n", []],
])("%j", (text, events) => {
  for (const lineEnd of ["\n", "\r", "\r\n"]) expect(parse(text.replaceAll("\n", lineEnd))).toEqual(events);
});

test("however it is cut, the events are the same", () => {
  const text = "event: data\r\ndata: é😀\r\n\r\n: ping\n\nevent: control\rdata: {}\r\rdata: x\n\n";
  fc.assert(fc.property(fc.array(fc.nat({ max: 5 })), (sizes) => expect(parse(text, sizes)).toEqual(parse(text))));
});

test("an event beyond the limit is refused, finished or not", () => {
  expect(() => new SseParser(10).push(new TextEncoder().encode("data: 12345678901\n"))).toThrow(RangeError);
  expect(() => new SseParser(10).push(new TextEncoder().encode("data: 12345678901"))).toThrow(RangeError);
});
