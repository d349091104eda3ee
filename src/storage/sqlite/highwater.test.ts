/** The high-water file: what is raised is there after close, whatever write was under way; damage reads as nothing. */

import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Highwater } from "./highwater.ts";

const root = mkdtempSync(join(tmpdir(), "streams-highwater-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

test("closing waits for the write under way and writes the last number", async () => {
  const faults: unknown[] = [];
  for (let round = 0; round < 40; round++) {
    const path = join(root, `mark-${round}`);
    const highwater = new Highwater(path, (cause) => faults.push(cause));
    highwater.raise(1);
    // Some rounds close before the timer, some while its write is under way, some after it.
    await new Promise((resolve) => setTimeout(resolve, 8 + (round % 5)));
    highwater.raise(1_000 + round);
    await highwater.close();
    expect(Highwater.read(path)).toBe(1_000 + round);
  }
  expect(faults).toEqual([]);
});

test("a missing, short or damaged file says nothing", () => {
  const path = join(root, "mark-0");
  expect(Highwater.read(join(root, "none"))).toBe(0);
  const bytes = readFileSync(path);
  bytes[7] = (bytes[7] ?? 0) ^ 1;
  writeFileSync(path, bytes);
  expect(Highwater.read(path)).toBe(0);
  writeFileSync(path, bytes.subarray(0, 5));
  expect(Highwater.read(path)).toBe(0);
});
