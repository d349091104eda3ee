/** Every kept row is given back as it was saved, or all of the stream is made again: with any bit of the file flipped. */

import { afterAll, expect, test } from "bun:test";
import { copyFileSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { DerivedStates, type KeptRow } from "./derived.ts";

const root = mkdtempSync(join(tmpdir(), "streams-derived-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const ROWS = 150;
const FLIPS = 400;
const STREAMS = [5, 9];

function fill(file: string): void {
  const store = DerivedStates.open(file, "boot");
  for (const stream of STREAMS) {
    const rows = Array.from({ length: ROWS }, (_, row): [string, string] => [
      `row${row}`,
      `{"n":${row},"of":${stream}}`,
    ]);
    store.save(stream, rows);
    // One changes and one goes: the sum follows.
    store.save(stream, [
      ["row7", "changed"],
      ["row8", null],
    ]);
    store.checkpoint(stream, 1_000 + stream);
  }
  store.close();
}

/** All pages of a stream, as a start reads them; null when it has to begin with the log. */
function readAll(store: DerivedStates, stream: number): { seq: number; rows: readonly KeptRow[] } | null {
  try {
    const seq = store.checkpointOf(stream);
    if (seq === null) return null;
    const rows: KeptRow[] = [];
    for (let after = "", more = true; more;) {
      const page = store.page(stream, after, 40);
      for (const { id, text } of page) rows.push({ id, text });
      after = page.at(-1)?.id ?? "";
      more = page.length === 40;
    }
    return { seq, rows };
  } catch (cause) {
    expect(cause).toBeInstanceOf(Error);
    return null;
  }
}

function readFile(file: string): ReturnType<typeof readAll>[] {
  const store = DerivedStates.open(file, "boot");
  const found = STREAMS.map((stream) => readAll(store, stream));
  store.close();
  return found;
}

test("a flipped bit costs a stream's rows at most", () => {
  const original = join(root, "original.db");
  fill(original);
  const copy = join(root, "copy.db");
  copyFileSync(original, copy);
  const expected = readFile(copy);
  expect(expected.map((found) => found?.rows.length)).toEqual([ROWS - 1, ROWS - 1]);
  expect(expected[0]?.rows.find(({ id }) => id === "row7")?.text).toBe("changed");
  const bytes = readFileSync(original);
  const used = [...bytes.entries()].filter(([, byte]) => byte !== 0).map(([at]) => at);
  let lost = 0;
  for (let flip = 0; flip < FLIPS; flip++) {
    const at = used[Math.floor((flip * used.length) / FLIPS)] ?? 0;
    const damaged = Buffer.from(bytes);
    damaged[at] = (damaged[at] ?? 0) ^ (1 << (flip % 8));
    DerivedStates.remove(copy);
    writeFileSync(copy, damaged);
    const found = readFile(copy);
    for (const [index, state] of found.entries()) {
      if (state === null) lost++;
      else expect({ at, bit: flip % 8, state }).toEqual({ at, bit: flip % 8, state: expected[index] ?? state });
    }
  }
  expect(lost).toBeGreaterThan(FLIPS / 4);
}, 60_000);

test("after damage was met the next start begins without that stream, and keeps the other", () => {
  const file = join(root, "again.db");
  fill(file);
  const bytes = readFileSync(file);
  const at = bytes.indexOf(`{"n":100,"of":9}`);
  bytes[at + 5] = (bytes[at + 5] ?? 0) ^ 1;
  writeFileSync(file, bytes);
  expect(readFile(file).map((found) => found?.rows.length)).toEqual([ROWS - 1, undefined]);
  const store = DerivedStates.open(file, "boot");
  expect([store.checkpointOf(5), store.checkpointOf(9), store.streams()]).toEqual([1_005, null, [5, 9]]);
  store.close();
});
