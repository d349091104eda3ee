/**
 * Backups and restores that meet damage, other servers and awkward places: each answer is a refusal or a finding in clear words, never a defect,
 * and what was there before is there afterwards. Most of it runs in this process; that each obstacle is real is shown by the same
 * call without it.
 */

import { Database } from "bun:sqlite";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  appendFileSync,
  chownSync,
  existsSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { chmod, mkdir, mkdtemp, rm, symlink } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Clock } from "../../src/kit/clock.ts";
import { systemClock } from "../../src/kit/clock.ts";
import { backUp, type BackupResult } from "../../src/storage/sqlite/backup.ts";
import type { Finding } from "../../src/storage/sqlite/finding.ts";
import { readMeta } from "../../src/storage/sqlite/meta.ts";
import { restore } from "../../src/storage/sqlite/restore.ts";
import { SqliteStore } from "../../src/storage/sqlite/sqlite-store.ts";
import { DirectoryRefused, DirectoryUnsound, holdStill } from "../../src/storage/sqlite/untouched.ts";
import { toIntent } from "../property/store-commands.ts";
import { runCommand } from "../support/command.ts";
import { LAUNCHER, startServer } from "../support/server.ts";
import { rejection } from "../support/wait.ts";
import { DAMAGES } from "./damage-table.ts";
import { copyDirectory, digestOf, fillServer } from "./upkeep-world.ts";

let place = "";
let source = "";
/** A finished backup of it. */
let good = "";

beforeAll(async () => {
  place = await mkdtemp(join(tmpdir(), "streams-backup-damage-"));
  source = join(place, "source");
  const server = await startServer({ dataDir: source });
  await fillServer(server);
  await server.stop();
  good = join(place, "good");
  expect((await backup(source, good)).inspection).toMatchObject({ errors: 0, warnings: 0 });
}, 60_000);
afterAll(() => rm(place, { recursive: true, force: true }));

let count = 0;
const fresh = (): string => join(place, `fresh-${count++}`);
const copyOf = (directory: string): Promise<string> => copyDirectory(directory, fresh());

interface Run {
  readonly findings: Finding[];
  readonly result: BackupResult;
}

async function run(from: string, target: string): Promise<Run> {
  const findings: Finding[] = [];
  const listener = { finding: (finding: Finding) => void findings.push(finding), progress: () => undefined };
  return { result: await backUp({ source: from, target, clock: systemClock, listener }), findings };
}

const backup = async (from: string, target: string): Promise<BackupResult> => (await run(from, target)).result;

function restoreTo(target: string, from = good, acceptDamage = false, clock: Clock = systemClock): void {
  restore({
    backup: from,
    target,
    acceptDamage,
    clock,
    listener: { finding: () => undefined, progress: () => undefined },
  });
}

/** What a call throws. */
function thrown(work: () => void): Error {
  try {
    work();
  } catch (cause) {
    if (cause instanceof Error) return cause;
  }
  throw new Error("nothing was thrown");
}

function nextIdOf(directory: string): number {
  const db = new Database(join(directory, "log.db"), { readonly: true });
  try {
    return readMeta(db).next_id;
  } finally {
    db.close();
  }
}

function edit(directory: string, statement: string): void {
  const db = new Database(join(directory, "log.db"), { readwrite: true });
  db.run(statement);
  db.close();
}

function plant(name: string, directory: string): void {
  const damage = DAMAGES.find((candidate) => candidate.name === name);
  if (damage === undefined) throw new Error(`no damage ${name}`);
  damage.plant(directory);
}

const PAGE_BYTES = 4096;
const INDEX_LEAF = 0x0a;

/** Changes one entry of the batches' index: the time in it, or (`at` = 6) the id behind the time. */
function flipPlace(directory: string, at: number): void {
  edit(directory, "PRAGMA wal_checkpoint(TRUNCATE)");
  const db = new Database(join(directory, "log.db"), { readonly: true });
  // SQLite stores a 1 without a byte.
  const row = db
    .query<{ id: number; ms: number }, []>("SELECT id, last_ms AS ms FROM batches WHERE id > 1 LIMIT 1")
    .get();
  db.close();
  if (row === null || row.id > 63) throw new Error("no batch");
  const needle = Buffer.alloc(7, row.id);
  needle.writeUIntBE(row.ms, 0, 6);
  const bytes = readFileSync(join(directory, "log.db"));
  let found = bytes.indexOf(needle);
  while (found !== -1 && bytes[found - (found % PAGE_BYTES)] !== INDEX_LEAF) found = bytes.indexOf(needle, found + 1);
  if (found === -1) throw new Error("no entry of the index");
  bytes[found + at] = (bytes[found + at] ?? 0) ^ 0x40;
  writeFileSync(join(directory, "log.db"), bytes);
}

describe("a backup", () => {
  test.each([
    ["the time", 5],
    ["the id", 6],
  ])(
    "a wrong entry in the source's index of batches (%s): goes on, keeps every batch, and says so",
    async (_name, at) => {
      const damaged = await copyOf(source);
      flipPlace(damaged, at);
      const target = await copyOf(good);
      const { findings, result } = await run(damaged, target);
      expect(result.inspection.errors).toBe(1);
      expect(findings.map(({ message }) => message)).toEqual([expect.stringContaining("entries of the index")]);
      expect(result.removedBatches).toBe(0);
      // The next one from a sound source finds nothing wrong with it.
      expect(await run(source, target)).toMatchObject({ findings: [], result: { batches: 0, removedBatches: 0 } });
    },
    60_000,
  );

  test("another server, with more commits, all of them sealed", async () => {
    const stranger = fresh();
    const store = await SqliteStore.open({
      directory: stranger,
      durability: "os",
      acceptLoss: false,
      clock: systemClock,
    });
    for (let n = 0; n < 300; n++) {
      const wish = { kind: "create", name: `s${n}`, json: true, records: [n], close: false } as const;
      await store.commit([await toIntent(store, wish, 0)]);
    }
    await store.sealAll();
    await store.close();
    const target = await copyOf(good);
    const refused = await rejection(backup(stranger, target));
    expect(refused.message).toMatch(/does not continue the history .*batch 1 is another one/);
    // Without batches to compare, the streams tell.
    edit(stranger, "DELETE FROM batches");
    expect((await rejection(backup(stranger, target))).message).toMatch(/\d+ streams of the same id are others/);
    expect((await backup(source, target)).removedBatches).toBe(0);
  }, 60_000);

  test("a server that only sealed the backup is named", async () => {
    const target = await copyOf(good);
    const store = await SqliteStore.open({
      directory: target,
      durability: "os",
      acceptLoss: false,
      clock: systemClock,
    });
    await store.sealAll();
    await store.close();
    const refused = await rejection(backup(source, target));
    expect(refused).toBeInstanceOf(DirectoryRefused);
    expect(refused.message).toContain("a server was started on the backup");
  }, 60_000);

  test("a target in use, of a newer release, or damaged: exit code 2 and no stack", async () => {
    const held = await startServer({ dataDir: await copyOf(good) });
    const newer = await copyOf(good);
    edit(newer, "PRAGMA user_version = 1000");
    const damaged = await copyOf(good);
    plant("the root page of meta", damaged);
    const garbled = await copyOf(good);
    plant("the root page of attributes", garbled);
    try {
      for (const [target, says] of [
        [held.dataDir, "in use"],
        [newer, "newer release"],
        [damaged, "cannot be read"],
        [garbled, "damaged"],
      ] as const) {
        const { code, stderr, stdout } = await runCommand(["backup", "--data-dir", source, "--to", target, "--json"]);
        expect({ target, code, stderr }).toEqual({ target, code: 2, stderr: expect.stringContaining(says) });
        expect(stderr).not.toMatch(/\n\s+at /);
        expect(JSON.parse(stdout.trim().split("\n").at(-1) ?? "")).toMatchObject({
          kind: "summary",
          outcome: "refused",
        });
      }
    } finally {
      await held.stop();
    }
  }, 60_000);

  test("into directories that do not exist, and over a file", async () => {
    const deep = join(fresh(), "in", "here");
    expect((await backup(source, deep)).inspection.errors).toBe(0);
    const file = fresh();
    writeFileSync(file, "mine");
    expect(thrown(() => restoreTo(join(file, "below")))).toBeInstanceOf(DirectoryRefused);
    expect(await rejection(backup(source, file))).toBeInstanceOf(DirectoryRefused);
    expect(readFileSync(file, "utf8")).toBe("mine");
  });
});

describe("a restore", () => {
  test.each(["a missing counter", "counters with a wrong checksum", "the root page of streams", "a page too many"])(
    "%s: refused in clear words although damage is accepted, and nothing is left behind",
    async (name) => {
      const damaged = await copyOf(good);
      plant(name, damaged);
      const target = fresh();
      await mkdir(target);
      const refused = thrown(() => restoreTo(target, damaged, true));
      expect(refused).toBeInstanceOf(DirectoryUnsound);
      expect(refused.message).toContain("no server could start on what this backup holds");
      expect(readdirSync(target)).toEqual([]);
      expect(existsSync(`${target}.restoring`)).toBe(false);
    },
    60_000,
  );

  test("a damaged batch is restored when that is accepted", async () => {
    const damaged = await copyOf(good);
    plant("a flipped bit in a batch", damaged);
    const target = fresh();
    expect(thrown(() => restoreTo(target, damaged))).toBeInstanceOf(DirectoryUnsound);
    restoreTo(target, damaged, true);
    expect(existsSync(join(target, "log.db"))).toBe(true);
  }, 60_000);

  test("an empty directory keeps its owner and its mode", async () => {
    const target = fresh();
    await mkdir(target);
    await chmod(target, 0o750);
    if (process.getuid?.() === 0) chownSync(target, 12_345, 12_346);
    const before = statSync(target);
    restoreTo(target);
    const { ino, uid, gid, mode } = statSync(target);
    expect({ ino, uid, gid, mode }).toEqual({ ino: before.ino, uid: before.uid, gid: before.gid, mode: before.mode });
    // One that was interrupted had moved it already.
    rmSync(target, { recursive: true });
    await mkdir(`${target}.restoring`);
    await chmod(`${target}.restoring`, 0o750);
    restoreTo(target);
    expect(statSync(target).mode).toBe(before.mode);
  });

  test("a symbolic link is refused, and says where it leads", async () => {
    const [target, link] = [fresh(), fresh()];
    await mkdir(target);
    await symlink(target, link);
    const refused = thrown(() => restoreTo(link));
    expect(refused).toBeInstanceOf(DirectoryRefused);
    expect(refused.message).toMatch(/is a symbolic link; use --to .*fresh-/);
  });

  test.skipIf(process.getuid?.() !== 0)("a mount point is refused before anything is copied", async () => {
    const target = fresh();
    await mkdir(target);
    expect(await Bun.spawn(["mount", "-t", "tmpfs", "tmpfs", target]).exited).toBe(0);
    try {
      const refused = thrown(() => restoreTo(target));
      expect(refused).toBeInstanceOf(DirectoryRefused);
      expect(refused.message).toContain("mount point");
      expect(readdirSync(target)).toEqual([]);
      expect(existsSync(`${target}.restoring`)).toBe(false);
      restoreTo(join(target, "inside"));
    } finally {
      expect(await Bun.spawn(["umount", target]).exited).toBe(0);
    }
  });

  test("the same backup restored twice gives other ids", () => {
    const nowMs = Date.UTC(2026, 0, 1);
    const ids = [0, 1_000].map((laterMs) => {
      const target = fresh();
      restoreTo(target, good, false, { ...systemClock, nowMs: () => nowMs + laterMs });
      return nextIdOf(target);
    });
    expect(ids[0]).toBeGreaterThan(nextIdOf(good) + 999_999);
    expect(ids[1]).toBeGreaterThan(ids[0] ?? Infinity);
  });
});

describe("a directory without a lock", () => {
  test("is held all the same", async () => {
    const directory = await copyOf(source);
    rmSync(join(directory, "lock.db"));
    const held = holdStill(directory);
    expect((await rejection(startServer({ dataDir: directory }))).message).toContain("in use");
    held.release();
    await (await startServer({ dataDir: directory })).stop();
  }, 60_000);

  test("a look leaves nothing else behind, also without a write-ahead log", async () => {
    const directory = await copyOf(source);
    edit(directory, "PRAGMA wal_checkpoint(TRUNCATE)");
    for (const name of ["lock.db", "derived.db-shm"]) rmSync(join(directory, name), { force: true });
    const before = await digestOf(directory);
    expect(Object.keys(before)).not.toContain("log.db-wal");
    expect((await runCommand(["doctor", "--data-dir", directory])).code).toBe(0);
    const { "lock.db": lock, ...after } = await digestOf(directory);
    expect(lock).toBeDefined();
    expect(after).toEqual(before);
  });

  test("a lock that cannot be read is not taken for one in use", async () => {
    const directory = await copyOf(source);
    appendFileSync(join(directory, "lock.db"), "not a database, and longer than its header".repeat(200));
    const refused = thrown(() => holdStill(directory));
    expect(refused).toBeInstanceOf(DirectoryRefused);
    expect(refused.message).not.toContain("in use");
  });
});

/** The exit code of a command whose reader goes away before the first line. */
function codeUnheard(args: readonly string[]): Promise<number> {
  return Bun.spawn(["bash", "-c", '"$@" | true; exit ${PIPESTATUS[0]}', "bash", LAUNCHER, ...args]).exited;
}

describe("a reader that goes away", () => {
  test.each(["", "--json"])(
    "does not end the work, nor make its exit code another %s",
    async (flag) => {
      const flags = flag === "" ? [] : [flag];
      const damaged = await copyOf(good);
      plant("a flipped bit in a batch", damaged);
      expect(await codeUnheard(["doctor", "--data-dir", damaged, ...flags])).toBe(1);
      expect(await codeUnheard(["backup", "--data-dir", damaged, "--to", fresh(), ...flags])).toBe(1);
      const target = fresh();
      expect(await codeUnheard(["restore", "--from", damaged, "--to", target, ...flags])).toBe(1);
      expect(await codeUnheard(["restore", "--accept-damage", "--from", damaged, "--to", target, ...flags])).toBe(0);
      expect(existsSync(join(target, "log.db"))).toBe(true);
      expect(await codeUnheard(["doctor", "--data-dir", good, ...flags])).toBe(0);
    },
    60_000,
  );
});

test("a disk too full for the report does not end the work, and is told", async () => {
  const target = fresh();
  const args = ["restore", "--from", good, "--to", target];
  const shell = Bun.spawn(["sh", "-c", '"$0" "$@" > /dev/full', LAUNCHER, ...args], { stderr: "pipe" });
  expect(await shell.stderr.text()).toMatch(/^streams-server: cannot write to stdout: ENOSPC.*\n$/);
  expect(await shell.exited).toBe(1);
  expect(existsSync(join(target, "log.db"))).toBe(true);
}, 60_000);
