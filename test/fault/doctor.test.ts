/**
 * `doctor` finds every kind of damage by name, finds nothing in sound directories, and never changes a byte. The table of damages stands
 * in `damage-table.ts`; that each was really planted is shown by the sound copy beside it, in which nothing is found.
 */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Finding } from "../../src/storage/sqlite/finding.ts";
import { inspect, type Inspection } from "../../src/storage/sqlite/inspection.ts";
import { holdStill } from "../../src/storage/sqlite/untouched.ts";
import { runCommand } from "../support/command.ts";
import { startServer } from "../support/server.ts";
import { streamAt } from "../support/streams.ts";
import { clockPast, rejection } from "../support/wait.ts";
import { DAMAGES } from "./damage-table.ts";
import { copyDirectory, digestOf, fillServer } from "./upkeep-world.ts";
import { walFrames } from "./wal-file.ts";

/** The durable number is written down a few milliseconds after the ack. */
const HIGH_WATER_MARGIN_MS = 200;

let place = "";
/** The same directory after kill -9, and after a start and SIGTERM. */
let killed = "";
let stopped = "";

beforeAll(async () => {
  place = await mkdtemp(join(tmpdir(), "streams-doctor-"));
  killed = join(place, "killed");
  const server = await startServer({ dataDir: killed });
  await fillServer(server);
  await server.kill("SIGKILL");
  stopped = await copyDirectory(killed, join(place, "stopped"));
  const again = await startServer({ dataDir: stopped });
  await again.stop();
}, 60_000);
afterAll(() => rm(place, { recursive: true, force: true }));

let copies = 0;
const copyOf = (directory: string): Promise<string> => copyDirectory(directory, join(place, `copy-${copies++}`));

function findingsIn(directory: string): { findings: Finding[]; inspection: Inspection } {
  const findings: Finding[] = [];
  const inspection = inspect(directory, { finding: (finding) => findings.push(finding), progress: () => undefined });
  return { findings, inspection };
}

describe("a sound directory", () => {
  test("after SIGTERM: nothing is found, and everything was looked at", async () => {
    const { code, stdout, stderr } = await runCommand(["doctor", "--data-dir", stopped, "--json"]);
    expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
    const summary = JSON.parse(stdout) as Inspection;
    expect(summary).toMatchObject({ kind: "summary", errors: 0, warnings: 0 });
    expect(summary.batches).toBeGreaterThan(20);
    expect(summary.commits).toBeGreaterThan(20);
    expect(summary.streams).toBeGreaterThan(6);
    expect(summary.bytes).toBeGreaterThan(8e6);
  });

  test("after kill -9: no error, and no warning but rows that the next start removes", () => {
    const { findings, inspection } = findingsIn(killed);
    expect(findings.filter(({ check }) => check !== "leftover")).toEqual([]);
    expect(inspection.errors).toBe(0);
    expect(inspection.commits).toBeGreaterThan(20);
  });

  test.each(["killed", "stopped"] as const)(
    "is not changed by a byte (%s)",
    async (which) => {
      const directory = await copyOf(which === "killed" ? killed : stopped);
      for (const scratch of ["log.db-shm", "derived.db-shm"]) await rm(join(directory, scratch), { force: true });
      const before = await digestOf(directory);
      expect(Object.keys(before)).toContain("log.db-wal");
      expect((await runCommand(["doctor", "--data-dir", directory])).code).toBe(0);
      expect(await digestOf(directory)).toEqual(before);
      // The control: one more look by a server changes something.
      await (await startServer({ dataDir: directory })).stop();
      expect(await digestOf(directory)).not.toEqual(before);
    },
    60_000,
  );
});

describe("damage is found by name", () => {
  for (const { name, severity, check, says, plant } of DAMAGES) {
    test(
      name,
      async () => {
        const directory = await copyOf(stopped);
        plant(directory);
        const { findings, inspection } = findingsIn(directory);
        const told = findings.filter((finding) => finding.check === check && says.test(finding.message));
        expect(told.length > 0 ? told[0] : findings).toMatchObject({ severity, check });
        expect(inspection.errors > 0).toBe(severity === "error");
        await rm(directory, { recursive: true });
      },
      20_000,
    );
  }

  test("a truncated write-ahead log: the exit code is 1, and the lost commits are named", async () => {
    const directory = await copyOf(stopped);
    const server = await startServer({ dataDir: directory });
    const orders = streamAt(server, "json/orders");
    for (let n = 0; n < 40; n++) expect((await orders.post(`{"late":${n}}`)).status).toBe(204);
    await clockPast(Date.now(), HIGH_WATER_MARGIN_MS);
    await server.kill("SIGKILL");
    const frames = await walFrames(join(directory, "log.db-wal"));
    expect(frames.count).toBeGreaterThan(20);
    await truncate(join(directory, "log.db-wal"), frames.start(frames.count >> 2));
    const { code, stdout, stderr } = await runCommand(["doctor", "--data-dir", directory]);
    expect(code).toBe(1);
    expect(stdout).toMatch(/error \[highwater\] commits \d+ to \d+ were acknowledged and cannot be read/);
    expect(stderr).toContain("the data directory is damaged");
  });

  test("pages that cannot be read: exit code 1, every check that still can is done, and a summary", async () => {
    for (const tree of ["commits", "producers"]) {
      const directory = await copyOf(stopped);
      DAMAGES.find(({ name }) => name === `the root page of ${tree}`)?.plant(directory);
      const { code, stdout, stderr } = await runCommand(["doctor", "--data-dir", directory, "--json"]);
      expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining("the data directory is damaged") });
      expect(stderr).not.toMatch(/\n\s+at /);
      const lines = stdout
        .trim()
        .split("\n")
        .map((line) => JSON.parse(line) as { check?: string; batches?: number });
      expect(lines.at(-1)).toMatchObject({ kind: "summary", warnings: 0 });
      expect(lines.at(-1)?.batches).toBeGreaterThan(20);
      // What one table hides is not held against the streams.
      expect(lines.filter(({ check }) => check === "producer").length).toBeLessThan(2);
    }
  }, 60_000);

  test("a finding as JSON names the stream, its id and the records", async () => {
    const directory = await copyOf(stopped);
    DAMAGES.find(({ name }) => name === "a batch without its row")?.plant(directory);
    const { code, stdout } = await runCommand(["doctor", "--data-dir", directory, "--json"]);
    const lines = stdout.trim().split("\n");
    expect(code).toBe(1);
    expect(JSON.parse(lines[0] ?? "")).toMatchObject({
      severity: "error",
      check: "sequence",
      stream: "bytes/noise",
      streamId: expect.any(Number),
      from: expect.any(Number),
      to: expect.any(Number),
    });
    expect(JSON.parse(lines.at(-1) ?? "")).toMatchObject({ kind: "summary", errors: 1, warnings: 0 });
  });
});

describe("what is refused, with exit code 2", () => {
  test("a directory that a server runs on; and no server starts while one looks", async () => {
    const server = await startServer();
    try {
      const { code, stderr } = await runCommand(["doctor", "--data-dir", server.dataDir]);
      expect({ code, stderr }).toEqual({ code: 2, stderr: expect.stringContaining("in use by a server") });
    } finally {
      await server.stop();
      await server.remove();
    }
    const directory = await copyOf(stopped);
    const held = holdStill(directory);
    expect((await rejection(startServer({ dataDir: directory }))).message).toContain("in use");
    held.release();
    await (await startServer({ dataDir: directory })).stop();
  }, 60_000);

  test("a first start that was interrupted is left to the next one", async () => {
    const directory = await copyOf(stopped);
    await writeFile(join(directory, "log.db-journal"), "something to undo");
    const before = await digestOf(directory);
    const { code, stderr } = await runCommand(["doctor", "--data-dir", directory]);
    expect({ code, stderr }).toEqual({
      code: 2,
      stderr: expect.stringContaining("first start of a server was interr"),
    });
    expect(await digestOf(directory)).toEqual(before);
  });

  test("no directory, no data directory, another schema", async () => {
    const missing = await runCommand(["doctor", "--data-dir", join(place, "nowhere")]);
    expect({ ...missing, stdout: "" }).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("there is no directory"),
    });
    const foreign = await mkdtemp(join(place, "foreign-"));
    await writeFile(join(foreign, "notes.txt"), "mine");
    const refused = await runCommand(["doctor", "--data-dir", foreign]);
    expect(refused).toMatchObject({ code: 2, stderr: expect.stringContaining("is no data directory") });
    const newer = await copyOf(stopped);
    const { Database } = await import("bun:sqlite");
    const db = new Database(join(newer, "log.db"));
    db.run("PRAGMA user_version = 1000");
    db.close();
    const tooNew = await runCommand(["doctor", "--data-dir", newer]);
    expect(tooNew).toMatchObject({ code: 2, stderr: expect.stringContaining("newer release") });
  });
});
