/** Cursors walk side by side: each gives every row once, in order, and stops where it was told to. */

import { expect, test } from "bun:test";
import { RowCursor } from "./row-cursor.ts";

function unexpected(cause: unknown): never {
  throw cause;
}

test("rows are taken in runs, and none is lost between them", () => {
  const cursor = new RowCursor([1, 1, 2, 4, 4, 4], unexpected);
  const runs = [1, 2, 3, 4, 5].map((key) => [...cursor.while((row) => row === key)]);
  expect(runs).toEqual([[1, 1], [2], [], [4, 4, 4], []]);
  expect(cursor.current).toBeNull();
});

test("nothing is read ahead of the row at hand", () => {
  let read = 0;
  function* rows(): Generator<number> {
    for (read = 1; read <= 3; read++) yield read;
  }
  const cursor = new RowCursor(rows(), unexpected);
  expect([cursor.current, read]).toEqual([1, 1]);
  cursor.advance();
  expect([cursor.current, read]).toEqual([2, 2]);
});

test("an empty table has no row at hand", () => {
  const cursor = new RowCursor<number>([], unexpected);
  expect(cursor.current).toBeNull();
  expect([...cursor.while(() => true)]).toEqual([]);
});

test("a table that cannot be read further ends there, and says so once", () => {
  function* rows(): Generator<number> {
    yield 1;
    throw new Error("a bad page");
  }
  const told: unknown[] = [];
  const cursor = new RowCursor(rows(), (cause) => told.push(cause));
  expect([cursor.current, cursor.hasFailed]).toEqual([1, false]);
  expect([...cursor.while(() => true)]).toEqual([1]);
  cursor.advance();
  expect([cursor.current, cursor.hasFailed]).toEqual([null, true]);
  expect(told).toEqual([new Error("a bad page")]);
});
