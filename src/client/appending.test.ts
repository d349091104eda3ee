/** What an append says on the wire: keys that a header carries, and values that have JSON. */

import { expect, test } from "bun:test";
import { rejection } from "../../test/support/wait.ts";
import { appendHeaders, jsonText } from "./appending.ts";
import { connect } from "./client.ts";

test("a key is what a header carries unchanged, or a TypeError that says so", async () => {
  const taken = ["a", "ann", "é", "a b", "a\tb", "\u00a0x", "ÿ", "~".repeat(256)];
  for (const key of taken) {
    const headers = new Headers(appendHeaders({ contentType: null, key }));
    expect(headers.get("stream-key")).toBe(key);
  }
  const fetch = (): Promise<Response> => Promise.reject(new Error("nothing is sent"));
  const stream = connect({ url: "http://model", fetch }).stream("s");
  const refused = ["", " ", " ann ", "ann\t", "\tann", "日本", "a\nb", "a\0b", "a\u007fb", "a\u0001", "x".repeat(257)];
  for (const key of refused) {
    for (const append of [stream.appendJson([1], { key }), stream.producer().append(1, { key })]) {
      const error = await rejection(append);
      expect([error.name, error.message]).toEqual([
        "TypeError",
        expect.stringMatching(/^a key has 1 to 256 characters/),
      ]);
    }
  }
});

test("a value has JSON text, or is a TypeError", () => {
  expect([null, [1], "a", { a: undefined }].map(jsonText)).toEqual(["null", "[1]", '"a"', "{}"]);
  const cycle: unknown[] = [];
  cycle.push(cycle);
  for (const value of [undefined, Symbol("s"), () => 1, 1n, cycle]) expect(() => jsonText(value)).toThrow(TypeError);
});
