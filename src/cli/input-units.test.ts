/** Cutting input into units: by its bytes, not by how they arrive. */

import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { UsageError } from "./failure.ts";
import { arrivals, checkJson, jsonInput, jsonLineValues, lines, stretches } from "./input-units.ts";

type Units = AsyncIterable<Uint8Array[]>;

/** The text in pieces of the given sizes, then the rest. */
async function* pieces(text: string, sizes: readonly number[] = []): AsyncGenerator<Uint8Array, void> {
  let rest = new TextEncoder().encode(text);
  for (const size of sizes) {
    yield rest.subarray(0, size);
    rest = rest.subarray(size);
  }
  yield rest;
}

async function texts(units: Units): Promise<string[]> {
  const found: string[] = [];
  for await (const group of units) for (const unit of group) found.push(new TextDecoder().decode(unit));
  return found;
}

async function complaint(units: Units): Promise<UsageError> {
  const cause: unknown = await texts(units).catch((error: unknown) => error);
  if (!(cause instanceof UsageError)) throw new Error("expected a usage error", { cause });
  return cause;
}

test("lines keep their ends", async () => {
  expect(await texts(lines(pieces("a\r\n\nb")))).toEqual(["a\r\n", "\n", "b"]);
  expect(await texts(lines(pieces("")))).toEqual([]);
});

test("JSON lines are checked and counted; blank ones are left out", async () => {
  expect(await texts(jsonLineValues(pieces('1\n\n {"a": 2} \r\n"x"')))).toEqual(["1\n", ' {"a": 2} \r\n', '"x"']);
  expect((await complaint(jsonLineValues(pieces("1\n\n2],[3\n")))).message).toStartWith("line 3 is not JSON");
  expect((await complaint(jsonLineValues(pieces("1,2")))).message).toStartWith("line 1 is not JSON");
});

test("what is not UTF-8 is named, and a byte order mark is no JSON", async () => {
  const bad = async function* (): AsyncGenerator<Uint8Array, void> {
    yield new Uint8Array([0x31, 0x0a, 0x22, 0xff, 0x22, 0x0a]);
  };
  expect((await complaint(jsonLineValues(bad()))).message).toBe("line 2 is not UTF-8");
  const { message, hint } = await complaint(jsonInput(bad(), true));
  expect([message, hint]).toEqual(["stdin is not UTF-8", null]);
  expect((await complaint(jsonLineValues(pieces("\uFEFF1")))).message).toStartWith("line 1 is not JSON");
  expect((await complaint(jsonInput(pieces("\uFEFF[1]"), true))).message).toStartWith("stdin is not JSON");
});

test("a JSON array gives its values, anything else is one value", async () => {
  expect(await texts(jsonInput(pieces(" \n[1, [2]]", [1, 1, 1]), true))).toEqual(["1", "[2]"]);
  expect(await texts(jsonInput(pieces('{"a": [1]}\n'), true))).toEqual(['{"a": [1]}\n']);
  expect(await texts(jsonInput(pieces(" \n"), true))).toEqual([]);
  const ndjson = await complaint(jsonInput(pieces("{}\n{}\n"), true));
  expect(ndjson.message).toStartWith("stdin is not JSON");
  expect(ndjson.hint).toContain("--lines");
  expect((await complaint(jsonInput(pieces("{}"), false))).message).toContain("expected a JSON array");
});

test("stretches have exactly the size asked for", async () => {
  expect(await texts(stretches(pieces("abcdefgh", [1, 6]), 3))).toEqual(["abc", "def", "gh"]);
  expect(await texts(stretches(pieces("abcdef", [4]), 3))).toEqual(["abc", "def"]);
});

test("arrivals are the pieces", async () => {
  expect(await texts(arrivals(pieces("abc", [1])))).toEqual(["a", "bc"]);
});

test("however the input arrives, the units are the same", async () => {
  const text = '[1,\n"é😀",\n{"a":[2]}\n]';
  await fc.assert(
    fc.asyncProperty(fc.array(fc.nat({ max: 7 })), async (sizes) => {
      expect(await texts(lines(pieces(text, sizes)))).toEqual(await texts(lines(pieces(text))));
      expect(await texts(jsonInput(pieces(text, sizes), false))).toEqual(["1", '"é😀"', '{"a":[2]}']);
      expect(await texts(stretches(pieces("abcdefghij", sizes), 4))).toEqual(["abcd", "efgh", "ij"]);
    }),
  );
});

test("checkJson names what is wrong", () => {
  expect(() => checkJson("nope", "record 2")).toThrow("record 2 is not JSON");
  checkJson('"fine"', "record 1");
});
