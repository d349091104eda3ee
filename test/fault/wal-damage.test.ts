/**
 * Damage to the stored bytes is noticed, never served and never silently skipped. A write-ahead log that lost its tail, or
 * in which a bit flipped, keeps the server from starting until the operator accepts the loss; a flipped bit in sealed data
 * is an error for exactly that range.
 */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { cp, mkdtemp, open, readdir, rm, truncate } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runCommand } from "../support/command.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { call, errorOf, newStream, streamAt } from "../support/streams.ts";
import { clockPast, until } from "../support/wait.ts";
import { walFrames } from "./wal-file.ts";

const WAL = "log.db-wal";
const RECORDS = 200;
/** The durable number is written down a few milliseconds after the ack. */
const HIGH_WATER_MARGIN_MS = 200;

let place = "";
beforeAll(async () => {
  place = await mkdtemp(join(tmpdir(), "streams-damage-"));
});
afterAll(() => rm(place, { recursive: true, force: true }));

describe("a damaged write-ahead log", () => {
  let original = "";
  beforeAll(async () => {
    original = join(place, "original");
    const server = await startServer({ dataDir: original });
    for (const name of ["one", "two"]) {
      const stream = await newStream(server, name);
      for (let n = 0; n < RECORDS; n++) expect((await stream.post(JSON.stringify({ n, of: name }))).status).toBe(204);
    }
    await clockPast(Date.now(), HIGH_WATER_MARGIN_MS);
    await server.kill("SIGKILL");
  }, 60_000);

  test("undamaged, it has everything", async () => {
    const server = await startServer({ dataDir: await copyOf(original, "undamaged") });
    expect(await numbersOf(server, "one")).toHaveLength(RECORDS);
    expect(await numbersOf(server, "two")).toHaveLength(RECORDS);
    await server.stop();
  }, 60_000);

  test("a lost tail: refuses to start, names the range and the flag; with the flag serves the rest", async () => {
    const damaged = await copyOf(original, "truncated");
    const frames = await walFrames(join(damaged, WAL));
    expect(frames.count).toBeGreaterThan(40);
    await truncate(join(damaged, WAL), frames.start(frames.count - 20));
    await expectRefusalThenTheRest(damaged);
  }, 60_000);

  test("a flipped bit in a late frame: the same", async () => {
    const damaged = await copyOf(original, "flipped");
    const frames = await walFrames(join(damaged, WAL));
    await flipBit(join(damaged, WAL), frames.page(frames.count - 20) + frames.pageBytes / 2);
    await expectRefusalThenTheRest(damaged);
  }, 60_000);

  test("a flipped bit in a commit that left the log for the database: the same", async () => {
    const damaged = await copyOf(original, "checkpointed");
    const server = await startServer({ dataDir: damaged });
    await server.stop();
    const marker = Buffer.from(JSON.stringify({ n: RECORDS - 20, of: "two" }));
    expect(await flipWhere(damaged, marker)).toBeGreaterThan(0);
    await expectRefusalThenTheRest(damaged);
  }, 60_000);
});

describe("a flipped bit in sealed data", () => {
  /** Above what makes the sealer start, several times, so that the first records are sealed and checkpointed. */
  const COUNT = 200;
  const RECORD_BYTES = 128 * 1024;
  const DAMAGED = 10;
  let original = "";
  let records: Uint8Array<ArrayBuffer>[] = [];
  /** Offset before each record. */
  const offsets: string[] = [];

  beforeAll(async () => {
    original = join(place, "sealed");
    // Noise does not compress: the stored bytes are the sent ones and can be found again in the file.
    records = Array.from({ length: COUNT }, () => randomBytes(RECORD_BYTES));
    const server = await startServer({ dataDir: original });
    const stream = await newStream(server, "damaged", "application/octet-stream");
    const sound = await newStream(server, "sound");
    for (const record of records) {
      offsets.push(await stream.tail());
      await until("the append is taken", async () => (await stream.post(record)).status === 204);
    }
    for (let n = 0; n < 10; n++) await sound.post(JSON.stringify({ n }));
    await until(
      "the first records are sealed",
      async () => (await unsealedBytes(server)) < COUNT * RECORD_BYTES * 0.5,
      20_000,
    );
    await server.stop();
  }, 60_000);

  test("reading that range is an error that names the seqs; the rest and other streams are served", async () => {
    const damaged = await copyOf(original, "sealed-flipped");
    const marker = records[DAMAGED]?.subarray(5_000, 5_032);
    if (marker === undefined) throw new Error("no such record");
    const flipped = await flipWhere(damaged, Buffer.from(marker));
    expect(flipped).toBeGreaterThan(0);

    const server = await startServer({ dataDir: damaged });
    const atDamage = await streamAt(server, "damaged").get(`offset=${offsets[DAMAGED]}`);
    expect(atDamage.status).toBe(500);
    const error = await errorOf(atDamage);
    expect(error.message).toMatch(/seq|record/i);
    expect(namedRange(error.message, DAMAGED)).toBe(true);

    // A read from the start may already be under way when it meets the damage: then it breaks off. What came is right.
    const before = await readAsFarAsPossible(server, "damaged", "-1");
    expect(before.isWhole).toBe(false);
    expect(before.bytes.equals(Buffer.concat(records).subarray(0, before.bytes.length))).toBe(true);
    // The last records are in another batch.
    const after = await readAsFarAsPossible(server, "damaged", offsets[COUNT - 5] ?? "");
    expect(after.isWhole).toBe(true);
    expect(after.bytes.equals(Buffer.concat(records.slice(COUNT - 5)))).toBe(true);
    expect(await numbersOf(server, "sound")).toEqual(Array.from({ length: 10 }, (_, n) => n));
    expect((await streamAt(server, "sound").post(`{"n":10}`)).status).toBe(204);
    await server.stop();
  }, 60_000);
});

async function copyOf(directory: string, name: string): Promise<string> {
  const copy = join(place, name);
  await cp(directory, copy, { recursive: true });
  return copy;
}

async function expectRefusalThenTheRest(dataDir: string): Promise<void> {
  const refused = await runCommand(["serve", "--port", "0", "--data-dir", dataDir], { deadlineMs: 8_000 });
  expect(refused.stdout).not.toContain("listening");
  expect(refused.code).toBeGreaterThan(0);
  expect(refused.stderr).toContain("--accept-loss");
  expect(refused.stderr).toMatch(/commits?\D+\d+\D+\d+/);
  // Refusing changes nothing: it refuses again.
  const again = await runCommand(["serve", "--port", "0", "--data-dir", dataDir], { deadlineMs: 8_000 });
  expect(again.stderr).toContain("--accept-loss");

  const server = await startServer({ dataDir, args: ["--accept-loss"] });
  expect(await numbersOf(server, "one")).toEqual(Array.from({ length: RECORDS }, (_, n) => n));
  const rest = await numbersOf(server, "two");
  expect(rest).toEqual(Array.from({ length: rest.length }, (_, n) => n));
  expect(rest.length).toBeGreaterThan(RECORDS / 2);
  expect(rest.length).toBeLessThan(RECORDS);
  expect((await streamAt(server, "two").post(`{"n":-1}`)).status).toBe(204);
  await server.stop();

  // The loss was accepted once: from now on it starts as usual.
  const usual = await startServer({ dataDir });
  expect(await numbersOf(usual, "two")).toEqual([...rest, -1]);
  await usual.stop();
}

async function numbersOf(server: TestServer, name: string): Promise<number[]> {
  const records = (await streamAt(server, name).records("offset=-1")) as { n: number }[];
  return records.map((record) => record.n);
}

async function unsealedBytes(server: TestServer): Promise<number> {
  const health = (await (await call("GET", `${server.url}/health`)).json()) as { storage: { unsealedBytes: number } };
  return health.storage.unsealedBytes;
}

async function readAsFarAsPossible(
  server: TestServer,
  name: string,
  offset: string,
): Promise<{ isWhole: boolean; bytes: Buffer }> {
  const response = await streamAt(server, name).get(`offset=${offset}`);
  const chunks: Uint8Array[] = [];
  if (response.status !== 200) return { isWhole: false, bytes: Buffer.alloc(0) };
  try {
    for await (const chunk of response.body ?? []) chunks.push(chunk);
  } catch (cause) {
    if (!(cause instanceof Error)) throw cause;
    return { isWhole: false, bytes: Buffer.concat(chunks) };
  }
  return { isWhole: true, bytes: Buffer.concat(chunks) };
}

/** Whether the message names a range of numbers that holds `seq`. */
function namedRange(message: string, seq: number): boolean {
  const numbers = [...message.matchAll(/\d+/g)].map(Number);
  return numbers.some((first) => first <= seq) && numbers.some((last) => last >= seq);
}

function randomBytes(length: number): Uint8Array<ArrayBuffer> {
  const bytes = new Uint8Array(length);
  for (let at = 0; at < length; at += 65_536) crypto.getRandomValues(bytes.subarray(at, at + 65_536));
  return bytes;
}

async function flipBit(file: string, at: number): Promise<void> {
  const handle = await open(file, "r+");
  try {
    const { buffer } = await handle.read(Buffer.alloc(1), 0, 1, at);
    await handle.write(Buffer.of((buffer[0] ?? 0) ^ 0x10), 0, 1, at);
  } finally {
    await handle.close();
  }
}

/** Flips a bit wherever these bytes are stored, stale copies included. Returns how often. */
async function flipWhere(directory: string, marker: Uint8Array): Promise<number> {
  let flipped = 0;
  for (const entry of await readdir(directory, { recursive: true, withFileTypes: true })) {
    if (!entry.isFile() || entry.name === WAL) continue;
    const file = join(entry.parentPath, entry.name);
    const bytes = Buffer.from(await Bun.file(file).arrayBuffer());
    for (let at = bytes.indexOf(marker); at !== -1; at = bytes.indexOf(marker, at + 1)) {
      await flipBit(file, at);
      flipped++;
    }
  }
  return flipped;
}
