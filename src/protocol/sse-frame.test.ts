/** SSE frames against a parser written from the specification: what goes in comes out, and never as another event. */

import { expect, test } from "bun:test";
import { utf8 } from "../kit/bytes.ts";
import { encodeControlEvent, encodeDataEvent, SSE_COMMENT } from "./sse-frame.ts";

/** The events of an SSE body, as the specification reads them. */
function parse(bytes: Uint8Array): { event: string; id: string; data: string }[] {
  const events: { event: string; id: string; data: string }[] = [];
  let event = "";
  let id = "";
  let data: string[] = [];
  for (const line of new TextDecoder().decode(bytes).split(/\r\n|\r|\n/)) {
    const value = line.slice(line.indexOf(":") + 1).replace(/^ /, "");
    if (line.startsWith("event:")) event = value;
    else if (line.startsWith("id:")) id = value;
    else if (line.startsWith("data:")) data.push(value);
    else if (line === "" && data.length > 0) {
      events.push({ event, id, data: data.join("\n") });
      data = [];
    }
  }
  return events;
}

test.each([
  ["text", ["hello"], "hello"],
  ["text", ["hello", " world"], "hello world"],
  ["text", [" indented\n  more"], " indented\n  more"],
  ["text", ["a\r\nb\rc\nd"], "a\nb\nc\nd"],
  ["text", ["a\r", "\nb"], "a\nb"],
  ["text", ["x\n\nevent: control\ndata: {}\n\n"], "x\n\nevent: control\ndata: {}\n\n"],
  ["text", ["\n"], "\n"],
  ["json", ['{"a":1}', "2,3"], '[{"a":1},2,3]'],
  ["json", ['{\n "a": 1\n}'], '[{\n "a": 1\n}]'],
  ["base64", ["ab", "c"], "YWJj"],
] as const)("%s %j", (encoding, parts, expected) => {
  const frame = encodeDataEvent(parts.map(utf8), encoding, "1_9");
  expect(parse(frame)).toEqual([{ event: "data", id: "1_9", data: expected }]);
});

test("a control event is JSON", () => {
  const control = { streamNextOffset: "1_2", streamCursor: "7", upToDate: true } as const;
  const [event] = parse(encodeControlEvent(control));
  expect([event?.event, event?.id]).toEqual(["control", "1_2"]);
  expect(JSON.parse(event?.data ?? "")).toEqual(control);
});

test("a comment is no event", () => {
  expect(parse(SSE_COMMENT)).toEqual([]);
});
