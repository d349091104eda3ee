/** Offsets of plain streams and of forks: order, round trip, and what never was one. */

import { describe, expect, test } from "bun:test";
import { encodeOffset, type Lineage, offsetAt, parseOffset, resolveOffset } from "./offset.ts";

const plain: Lineage = [{ epoch: 3, from: 0, to: 10 }];
const fork: Lineage = [
  { epoch: 3, from: 0, to: 4 },
  { epoch: 8, from: 4, to: 6 },
  { epoch: 9, from: 6, to: 9 },
];

function resolve(lineage: Lineage, text: string) {
  const token = parseOffset(text);
  if (token === null) throw new Error(`${text} is no offset`);
  const position = resolveOffset(lineage, token);
  return position.kind === "seq" ? position.seq : position.kind;
}

test.each([
  ["-1", "start"],
  ["now", "now"],
  ["0000000000000000_0000000000000000", "start"],
  ["0000000000000003_0000000000000004", "at"],
])("%s is a %s", (text, kind) => expect(parseOffset(text)?.kind as string).toBe(kind));

test.each([
  "",
  "0",
  "-2",
  "NOW",
  "3_4",
  "9999999999999999_9999999999999999",
  "0000000000000000_0000000000000001",
  "0000000000000003_000000000000000x",
  " 0000000000000003_0000000000000004",
])("%p is none", (text) => expect(parseOffset(text)).toBeNull());

describe.each([
  ["a plain stream", plain],
  ["a fork of a fork", fork],
] as const)("%s", (_name, lineage) => {
  const tail = lineage[lineage.length - 1]?.to ?? 0;
  const offsets = Array.from({ length: tail + 1 }, (_, seq) => offsetAt(lineage, seq));
  test("every position comes back", () =>
    expect(offsets.map((text) => resolve(lineage, text))).toEqual(offsets.map((_, seq) => seq)));
  test("text order is position order", () => expect([...offsets].sort()).toEqual(offsets));
});

test.each([
  ["of a former stream", encodeOffset(2, 1), "gone"],
  ["of a later stream", encodeOffset(12, 1), "invalid"],
  ["past the tail", encodeOffset(9, 10), "invalid"],
  ["of the source, past the fork point", encodeOffset(3, 5), "invalid"],
  ["of the fork, before it began", encodeOffset(9, 5), "invalid"],
] as const)("%s", (_name, text, kind) => expect(resolve(fork, text)).toBe(kind));
