/**
 * The high-water file: what is raised is there after close, whatever write was under way; damage reads as nothing; a full disk only
 * makes it lag, and any other error is told.
 */

import { afterAll, expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, symlinkSync, write, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { until } from "../../../test/support/wait.ts";
import { Highwater, type WriteMark } from "./highwater.ts";

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

/** Writes that fail with `code` while the disk is `broken`, counted. */
function brokenDisk(code: string) {
  const disk = { broken: true, failed: 0 };
  const writeMark: WriteMark = (fd, mark, done) => {
    if (!disk.broken) return write(fd, mark, 0, mark.length, 0, done);
    disk.failed++;
    queueMicrotask(() => done(Object.assign(new Error(code), { code })));
  };
  return { disk, writeMark };
}

test("a full disk is no fault: the mark follows once there is room", async () => {
  const path = join(root, "full");
  const faults: unknown[] = [];
  const { disk, writeMark } = brokenDisk("ENOSPC");
  const highwater = new Highwater(path, (cause) => faults.push(cause), writeMark);
  highwater.set(1);
  highwater.raise(2);
  await until("a write failed", () => disk.failed > 0);
  highwater.raise(3);
  expect(Highwater.read(path)).toBe(1);
  disk.broken = false;
  await until("the mark is there", () => Highwater.read(path) === 3);
  // It waited between its attempts.
  expect(disk.failed).toBeLessThan(5);
  await highwater.close();
  expect(faults).toEqual([]);
});

test("any other error is told, and closing does not wait for it", async () => {
  const faults: unknown[] = [];
  const { disk, writeMark } = brokenDisk("EIO");
  const highwater = new Highwater(join(root, "broken"), (cause) => faults.push(cause), writeMark);
  highwater.raise(1);
  await until("it was told", () => faults.length > 0);
  expect(faults).toEqual([expect.objectContaining({ code: "EIO" })]);
  expect(disk.failed).toBe(1);
  await highwater.close();
});

test.if(existsSync("/dev/full"))("a disk that stays full from start to close is survived", async () => {
  const path = join(root, "always-full");
  symlinkSync("/dev/full", path);
  const faults: unknown[] = [];
  const highwater = new Highwater(path, (cause) => faults.push(cause));
  highwater.set(1);
  highwater.raise(2);
  await Bun.sleep(30);
  await highwater.close();
  expect(faults).toEqual([]);
});
