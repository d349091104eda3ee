/**
 * Backups of a server at work: each is one moment of it, restorable, and costs the server little. A backup that is killed at any point goes on
 * with the next run and never spoils the former one. What is no backup of this server is never written over.
 * `BACKUP_ROUNDS` and `BACKUP_KILLS` for longer runs.
 */

import { Database } from "bun:sqlite";
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { existsSync, statSync } from "node:fs";
import { cp, mkdir, mkdtemp, readdir, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runCommand } from "../support/command.ts";
import { runSeed, seededRandom } from "../support/random.ts";
import { LAUNCHER, startServer } from "../support/server.ts";
import { newStream, streamAt } from "../support/streams.ts";
import { until } from "../support/wait.ts";
import { BackupLoad, checkPrefix } from "./backup-load.ts";
import { fileAt, filesOf, noise } from "./large-world.ts";
import { copyDirectory, digestOf, fillServer } from "./upkeep-world.ts";

const ROUNDS = Number(process.env["BACKUP_ROUNDS"] ?? 1);
const KILLS = Number(process.env["BACKUP_KILLS"] ?? 1);
const COMMAND_LIMIT_MS = 60_000;
const WARM_UP_MS = 500;
/** From the start of a run's process to about its end. */
const MIN_KILL_MS = 50;
const KILL_SPAN_MS = 350;
/** The WAL is made this large at start; a reader in the way may let it grow by some checkpoints' worth. */
const WAL_BOUND_BYTES = 24e6 + 4 * 17e6;

interface Summary {
  readonly batches: number;
  readonly bytes: number;
  readonly streams: number;
  readonly records: number;
  readonly removedBatches: number;
  readonly lastCommit: number;
  readonly heldMs: number;
  readonly resumed: boolean;
  readonly errors: number;
  readonly warnings: number;
  readonly seconds: number;
}

let place = "";
beforeAll(async () => {
  place = await mkdtemp(join(tmpdir(), "streams-backup-"));
});
afterAll(() => rm(place, { recursive: true, force: true }));

async function command(...args: string[]): Promise<Summary> {
  const { code, stdout, stderr } = await runCommand([...args, "--json"], { deadlineMs: COMMAND_LIMIT_MS });
  if (code !== 0) throw new Error(`${args.join(" ")}: ${code}\n${stdout}\n${stderr}`);
  return JSON.parse(stdout.trim().split("\n").at(-1) ?? "") as Summary;
}

const backup = (from: string, to: string): Promise<Summary> => command("backup", "--data-dir", from, "--to", to);

async function refusal(...args: string[]): Promise<{ code: number; stderr: string }> {
  const { code, stderr } = await runCommand(args, { deadlineMs: COMMAND_LIMIT_MS });
  return { code, stderr };
}

/** Restores, has the doctor look, and serves it to `check`. */
async function restored<T>(from: string, check: (server: { url: string }) => Promise<T>): Promise<T> {
  const dataDir = join(place, `restored-${crypto.randomUUID()}`);
  await command("restore", "--from", from, "--to", dataDir);
  expect(await command("doctor", "--data-dir", dataDir)).toMatchObject({ errors: 0, warnings: 0 });
  const server = await startServer({ dataDir });
  try {
    return await check(server);
  } finally {
    await server.kill("SIGKILL");
    await rm(dataDir, { recursive: true });
  }
}

/** Largest size of a file while `work` runs. */
async function largestWhile<T>(file: string, work: Promise<T>): Promise<{ result: T; bytes: number }> {
  let bytes = 0;
  const timer = setInterval(() => (bytes = Math.max(bytes, statSync(file).size)), 5);
  try {
    return { result: await work, bytes };
  } finally {
    clearInterval(timer);
  }
}

test(
  `${ROUNDS} backups under load: each is a moment of the server, and what is new is all that is copied`,
  async () => {
    const server = await startServer();
    const target = join(place, "under-load");
    const load = new BackupLoad(server);
    try {
      await load.start();
      const quietFromMs = performance.now();
      await Bun.sleep(WARM_UP_MS);
      const quiet = load.latency(quietFromMs, performance.now());
      let copied = 0;
      for (let round = 0; round < ROUNDS; round++) {
        const least = load.acked();
        const fromMs = performance.now();
        const wal = join(server.dataDir, "log.db-wal");
        const { result: made, bytes: walBytes } = await largestWhile(wal, backup(server.dataDir, target));
        const during = load.latency(fromMs, performance.now());
        expect(made).toMatchObject({ errors: 0, warnings: 0 });
        expect(walBytes).toBeLessThan(WAL_BOUND_BYTES);
        const { problem, records } = await restored(target, (other) => checkPrefix(other, least));
        expect({ round, problem }).toEqual({ round, problem: null });
        expect(records).toBeGreaterThan(least.reduce((sum, count) => sum + count, 0) / 2);
        const { batches, removedBatches, streams, lastCommit, heldMs, seconds } = made;
        const figures = { batches, removedBatches, streams, lastCommit, records, heldMs: Math.round(heldMs), seconds };
        console.log(
          `backup ${round}: ${JSON.stringify(figures)}; WAL at most ${(walBytes / 1e6).toFixed(1)} MB; append ${JSON.stringify(during)}`,
        );
        copied += batches;
        await until("more is sealed", async () => (await batchesIn(server.dataDir)) > 0, 20_000);
      }
      console.log(`append without a backup: ${JSON.stringify(quiet)}; streams deleted meanwhile: ${load.deleted}`);
      expect(load.deleted).toBeGreaterThan(0);
      await load.stop();
      const least = load.acked();
      await server.stop();
      // Nothing changes any more: the last run takes the rest, the one after it nothing.
      const rest = await backup(server.dataDir, target);
      copied += rest.batches;
      expect(copied).toBeGreaterThan(0);
      expect(await backup(server.dataDir, target)).toMatchObject({
        batches: 0,
        bytes: 0,
        removedBatches: 0,
        resumed: false,
      });
      await restored(target, async (other) => {
        expect(await checkPrefix(other, least)).toMatchObject({ problem: null });
        // The control: the check misses a record that the backup cannot have.
        const more = least.map((count) => count + 1);
        expect((await checkPrefix(other, more)).problem).toContain("were acknowledged before");
      });
    } catch (cause) {
      console.error(server.stderr());
      throw cause;
    } finally {
      await load.stop();
      await server.kill("SIGKILL");
      await server.remove();
    }
  },
  60_000 + ROUNDS * 60_000,
);

/** Asked from another process, as everybody must. */
async function batchesIn(directory: string): Promise<number> {
  const script = `import { Database } from "bun:sqlite"; const db = new Database(process.argv[1], { readonly: true });
    console.log(db.query("SELECT count(*) AS n FROM batches").get().n)`;
  const child = Bun.spawn([process.execPath, "-e", script, join(directory, "log.db")], { stdout: "pipe" });
  return Number(await child.stdout.text());
}

describe("a backup that is killed", () => {
  const RECORDS = 600;
  /** Into batches, and into files of their own. */
  const RECORD_BYTES = 60_000;
  const LARGE_RECORDS = 24;
  const LARGE_BYTES = 1024 * 1024;
  let source = "";

  beforeAll(async () => {
    source = join(place, "source");
    const server = await startServer({ dataDir: source });
    const stream = await newStream(server, "bulk", "application/octet-stream");
    for (let n = 0; n < RECORDS; n++)
      await until("the append is taken", async () => (await stream.post(noise(RECORD_BYTES))).status === 204);
    for (let n = 0; n < LARGE_RECORDS; n++)
      await until("the append is taken", async () => (await stream.post(noise(LARGE_BYTES))).status === 204);
    await server.stop();
  }, 60_000);

  /** Kills a run when `isTime`; false when it was over before. */
  async function killed(target: string, isTime: () => boolean): Promise<boolean> {
    const child = Bun.spawn([LAUNCHER, "backup", "--data-dir", source, "--to", target], {
      stdout: "ignore",
      stderr: "ignore",
    });
    await until("it is time to kill, or too late", () => isTime() || child.exitCode !== null, COMMAND_LIMIT_MS);
    child.kill("SIGKILL");
    return (await child.exited) !== 0;
  }

  const sizeOf = (file: string): number => (existsSync(file) ? statSync(file).size : 0);

  test.each<[what: string, isFar: (target: string) => boolean]>([
    ["batches", (target) => sizeOf(join(target, "log.db")) > 4e6],
    ["large files", (target) => filesOf(target).length > 2],
  ])(
    "in the midst of the first copy of %s: it cannot be restored, and the next run goes on",
    async (what, isFar) => {
      const target = join(place, `killed-first-${what}`);
      expect(await killed(target, () => isFar(target))).toBe(true);
      const refused = await refusal("restore", "--from", target, "--to", join(place, "never"));
      expect(refused).toMatchObject({ code: 2, stderr: expect.stringContaining("never finished") });
      expect((await refusal("doctor", "--data-dir", target)).code).toBe(1);
      const whole = await backup(source, join(place, `whole-${what}`));
      const rest = await backup(source, target);
      expect(rest).toMatchObject({ resumed: true, errors: 0, warnings: 0, lastCommit: whole.lastCommit });
      expect(rest.batches).toBeLessThan(whole.batches);
      expect(rest.bytes).toBeLessThan(whole.bytes);
      expect(rest.bytes).toBeGreaterThan(0);
      expect(filesOf(target)).toEqual(filesOf(source));
      expect(sizeOf(join(target, "log.db"))).toBeLessThan(sizeOf(join(source, "log.db")) + 24e6);
    },
    60_000,
  );

  test("in the midst of a later copy of large files: the former backup is restored, with its own files only", async () => {
    const target = join(place, "killed-later");
    const first = await backup(source, target);
    const before = filesOf(target);
    const server = await startServer({ dataDir: source });
    const stream = streamAt(server, "bulk", "application/octet-stream");
    for (let n = 0; n < LARGE_RECORDS; n++)
      await until("it is taken", async () => (await stream.post(noise(LARGE_BYTES))).status === 204);
    await server.stop();
    expect(await killed(target, () => filesOf(target).length > before.length + 1)).toBe(true);
    const { lastCommit } = await restored(target, async () => backup(source, target));
    expect(lastCommit).toBeGreaterThan(first.lastCommit);
    expect(filesOf(target)).toEqual(filesOf(source));
  }, 60_000);

  test(
    `at ${KILLS} random points: the former backup or the new one can be restored, and the next run completes`,
    async () => {
      const random = seededRandom(runSeed());
      const target = join(place, "killed-often");
      const first = await backup(source, target);
      let kills = 0;
      for (let attempt = 0; kills < KILLS; attempt++) {
        expect(attempt).toBeLessThan(10 * KILLS);
        const server = await startServer({ dataDir: source });
        const stream = streamAt(server, "bulk", "application/octet-stream");
        for (let n = 0; n < 12; n++)
          await until("it is taken", async () => (await stream.post(noise(LARGE_BYTES))).status === 204);
        await server.stop();
        const startMs = performance.now();
        const afterMs = MIN_KILL_MS + random.below(KILL_SPAN_MS);
        if (await killed(target, () => performance.now() - startMs > afterMs)) kills++;
        const { lastCommit } = await restored(target, async () => backup(source, target));
        expect(lastCommit).toBeGreaterThan(first.lastCommit);
      }
      expect(await command("doctor", "--data-dir", target)).toMatchObject({ errors: 0, warnings: 0 });
      console.log(`backup killed at ${kills} random points (seed ${random.seed})`);
    },
    60_000 + KILLS * 20_000,
  );
});

describe("what is refused, and left as it is", () => {
  let source = "";
  let good = "";

  beforeAll(async () => {
    source = join(place, "small");
    const server = await startServer({ dataDir: source });
    await fillServer(server);
    await server.stop();
    good = join(place, "good");
    await backup(source, good);
  }, 60_000);

  let copies = 0;
  const copyOf = (directory: string): Promise<string> => copyDirectory(directory, join(place, `copy-${copies++}`));

  async function append(dataDir: string, body: string): Promise<void> {
    const server = await startServer({ dataDir });
    expect((await streamAt(server, "json/orders").post(body)).status).toBe(204);
    await server.stop();
  }

  test("a target that is a server's directory, that holds other files, or that is the source", async () => {
    const other = await copyOf(source);
    const before = await digestOf(other);
    expect(await refusal("backup", "--data-dir", source, "--to", other)).toMatchObject({
      code: 2,
      stderr: expect.stringContaining("not a backup"),
    });
    expect(await digestOf(other)).toEqual(before);
    const foreign = join(place, "foreign");
    await mkdir(foreign);
    await writeFile(join(foreign, "notes.txt"), "mine");
    expect((await refusal("backup", "--data-dir", source, "--to", foreign)).code).toBe(2);
    expect(await readdir(foreign)).toEqual(["notes.txt"]);
    expect((await refusal("backup", "--data-dir", source, "--to", source)).code).toBe(2);
  }, 60_000);

  test("a backup that a server has written to", async () => {
    const used = await copyOf(good);
    await append(used, "[1]");
    const refused = await refusal("backup", "--data-dir", source, "--to", used);
    expect(refused).toMatchObject({ code: 2, stderr: expect.stringContaining("a server was started on the backup") });
  }, 60_000);

  test("an older state, and a state that went another way", async () => {
    const older = await copyOf(source);
    const newer = await copyOf(source);
    await append(newer, "[1]");
    const target = await copyOf(good);
    await backup(newer, target);
    const before = await digestOf(target);
    await append(older, "[2]");
    for (const from of [source, older]) {
      const refused = await refusal("backup", "--data-dir", from, "--to", target);
      expect(refused).toMatchObject({ code: 2, stderr: expect.stringContaining("does not continue the history") });
    }
    expect((await digestOf(target))["highwater"]).toBe(before["highwater"]);
    expect(await restored(target, (server) => streamAt(server, "json/orders").records("offset=-1"))).toContainEqual(1);
  }, 60_000);

  test("a source that lost commits: exit code 1, and the backup is still the former one", async () => {
    const lost = await copyOf(source);
    await append(lost, "[1]");
    edit(lost, "DELETE FROM commits WHERE no = (SELECT max(no) FROM commits)");
    const target = await copyOf(good);
    const refused = await refusal("backup", "--data-dir", lost, "--to", target);
    expect(refused).toMatchObject({ code: 1, stderr: expect.stringContaining("lost acknowledged commits") });
    expect(await command("doctor", "--data-dir", target)).toMatchObject({ errors: 0 });
  }, 60_000);

  test("a damaged batch is copied, named, and needs --accept-damage to be restored", async () => {
    const damaged = await copyOf(source);
    edit(damaged, "UPDATE batches SET frame = zeroblob(length(frame)) WHERE id = (SELECT min(id) FROM batches)");
    const target = join(place, "of-damaged");
    const made = await runCommand(["backup", "--data-dir", damaged, "--to", target], { deadlineMs: COMMAND_LIMIT_MS });
    expect(made.code).toBe(1);
    expect(made.stdout).toMatch(/error \[batch\] records? .* of stream \d+ \(.+\): wrong checksum/);
    const dataDir = join(place, "of-damaged-restored");
    const restore = ["restore", "--from", target, "--to", dataDir];
    expect(await refusal(...restore)).toMatchObject({ code: 1, stderr: expect.stringContaining("--accept-damage") });
    expect(existsSync(dataDir)).toBe(false);
    expect((await refusal(...restore, "--accept-damage")).code).toBe(0);
    const server = await startServer({ dataDir });
    expect((await streamAt(server, "json/orders").head()).status).toBe(200);
    await server.stop();
  }, 60_000);

  test("a file that is missing at the source is named, and is not missed where the backup has it", async () => {
    const damaged = await copyOf(source);
    const [file = expect.unreachable("a large file")] = filesOf(damaged);
    await rm(fileAt(damaged, file));
    const before = await copyOf(good);
    expect(await backup(damaged, before)).toMatchObject({ errors: 0, warnings: 0 });
    const target = join(place, "of-missing");
    const made = await runCommand(["backup", "--data-dir", damaged, "--to", target], { deadlineMs: COMMAND_LIMIT_MS });
    expect(made.code).toBe(1);
    expect(made.stdout).toMatch(
      new RegExp(`error \\[batch\\] record.* of stream .*: its file large/${file} is missing`),
    );
    const restore = ["restore", "--from", target, "--to", join(place, "of-missing-restored")];
    expect(await refusal(...restore)).toMatchObject({ code: 1, stderr: expect.stringContaining("--accept-damage") });
    expect((await refusal(...restore, "--accept-damage")).code).toBe(0);
  }, 60_000);

  test("a file that a killed run left, of a commit that the source then lost: the next commit of that number has another", async () => {
    const other = await copyOf(source);
    await appendLarge(other, []);
    const file = Math.max(...filesOf(other));
    const target = await copyOf(good);
    expect(filesOf(target)).not.toContain(file);
    await cp(fileAt(other, file), fileAt(target, file));
    edit(other, "DELETE FROM commits WHERE no = (SELECT max(no) FROM commits)");
    await appendLarge(other, ["--accept-loss"]);
    expect(Math.max(...filesOf(other))).toBe(file);
    const made = await runCommand(["backup", "--data-dir", other, "--to", target], { deadlineMs: COMMAND_LIMIT_MS });
    expect(made).toMatchObject({ code: 0, stdout: expect.not.stringContaining("error [") });
  }, 60_000);

  async function appendLarge(dataDir: string, args: readonly string[]): Promise<void> {
    const server = await startServer({ dataDir, args });
    const stream = streamAt(server, "bytes/large", "application/octet-stream");
    expect((await stream.post(noise(300_000))).status).toBe(204);
    await server.stop();
  }

  test("a restore over something; one that was interrupted starts over, and keys do not come back", async () => {
    const full = join(place, "full");
    await mkdir(full);
    await writeFile(join(full, "notes.txt"), "mine");
    expect((await refusal("restore", "--from", good, "--to", full)).code).toBe(2);
    expect((await refusal("restore", "--from", source, "--to", join(place, "unmarked"))).code).toBe(2);
    const withKeys = await copyOf(good);
    await writeFile(join(withKeys, "keys.json"), "{}");
    const dataDir = join(place, "restored-here");
    await mkdir(`${dataDir}.restoring`);
    await writeFile(join(`${dataDir}.restoring`, "log.db"), "half");
    await command("restore", "--from", withKeys, "--to", dataDir);
    expect(existsSync(`${dataDir}.restoring`)).toBe(false);
    expect(await readdir(dataDir)).not.toContain("keys.json");
  }, 60_000);

  test("a restored server gives no id again that the lost time may have given", async () => {
    const dataDir = join(place, "ids");
    await command("restore", "--from", good, "--to", dataDir);
    const server = await startServer({ dataDir });
    const tail = await (await newStream(server, "after")).tail();
    expect(Number(tail.split("_")[0])).toBeGreaterThan(1_000_000);
    await server.stop();
    // It is a server's directory now, and goes on with the same backup.
    expect((await refusal("restore", "--from", dataDir, "--to", join(place, "no"))).code).toBe(2);
    expect(await backup(dataDir, good)).toMatchObject({ errors: 0, resumed: false });
  }, 60_000);
});

function edit(directory: string, statement: string): void {
  const db = new Database(join(directory, "log.db"), { readwrite: true });
  db.run(statement);
  db.close();
}
