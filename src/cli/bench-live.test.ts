/** Marks of the live workloads: found once each, wherever the pieces are cut, and records have the size that they say. */

import { expect, test } from "bun:test";
import { markedRecord, MarkReader } from "./bench-live.ts";

test("a record has its size and its mark, and is JSON", () => {
  const record = markedRecord(1234, 256);
  expect(record.length).toBe(256);
  expect(JSON.parse(Buffer.from(record).toString())).toMatchObject({ mark: 1234 });
});

test("every mark is found exactly once, wherever the pieces are cut", () => {
  const events = [0, 7, 1_000_000].map(
    (mark) =>
      `id:0_1\nevent: data\ndata:[${Buffer.from(markedRecord(mark, 120)).toString()}]\n\nevent: control\ndata:{}\n\n`,
  );
  const text = events.join("");
  for (let at = 0; at <= text.length; at++) {
    const reader = new MarkReader();
    const found = [text.slice(0, at), text.slice(at)].flatMap((piece) => reader.take(Buffer.from(piece)));
    expect(found).toEqual([0, 7, 1_000_000]);
  }
  const reader = new MarkReader();
  expect(Array.from(text, (char) => reader.take(Buffer.from(char))).flat()).toEqual([0, 7, 1_000_000]);
});
