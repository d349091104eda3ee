/**
 * Lifetimes across restarts: after a kill, which loses the reads of the last seconds, no stream with a TTL ends sooner than its TTL after
 * the start; after a clean end each goes on to the moment. On a clock of the test's own. A kill is a copy of the files of an open store.
 */

import { afterAll, afterEach, expect, test } from "bun:test";
import { cpSync, existsSync, mkdtempSync, readdirSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { AppendQueue } from "../../src/engine/append-queue.ts";
import { Engine } from "../../src/engine/engine.ts";
import { Sweeper } from "../../src/engine/sweeper.ts";
import { utf8 } from "../../src/kit/bytes.ts";
import { Deadlines } from "../../src/kit/deadlines.ts";
import { Metrics } from "../../src/kit/metrics.ts";
import { memoryBudget } from "../../src/protocol/budget.ts";
import type { Outcome } from "../../src/protocol/intents.ts";
import { MAX_IDLE_HEADS } from "../../src/protocol/limits.ts";
import { SqliteStore } from "../../src/storage/sqlite/sqlite-store.ts";
import { until } from "../support/wait.ts";

const TTL_SECONDS = 20;
const STREAM = "mortal";

const root = mkdtempSync(join(tmpdir(), "streams-lifetimes-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
const newPlace = (): string => mkdtempSync(join(root, "place-"));

const state = { nowMs: 1_800_000_000_000 };
const clock = { nowMs: () => state.nowMs, monotonicMs: () => state.nowMs };
const pass = (seconds: number): void => void (state.nowMs += seconds * 1_000);

const openEngines = new Set<Engine>();
afterEach(async () => {
  for (const engine of openEngines) await engine.close();
  openEngines.clear();
});

interface Life {
  readonly engine: Engine;
  readonly store: SqliteStore;
  readonly directory: string;
}

const openStore = (directory: string, acceptLoss = false, idleHeads = MAX_IDLE_HEADS): Promise<SqliteStore> =>
  SqliteStore.open({ directory, durability: "os", acceptLoss, clock, budget: { ...memoryBudget(null), idleHeads } });

async function start(directory: string, idleHeads?: number): Promise<Life> {
  const store = await openStore(directory, false, idleHeads);
  const onFault = (operation: string, cause: unknown): never => expect.unreachable(`${operation}: ${String(cause)}`);
  const engine = new Engine({ store, clock, random: () => 0.5, profiles: [], onFault });
  openEngines.add(engine);
  return { engine, store, directory };
}

async function end({ engine, directory }: Life): Promise<string> {
  openEngines.delete(engine);
  await engine.close();
  return directory;
}

/** The files as a kill leaves them, elsewhere. */
async function kill(life: Life): Promise<string> {
  const { durableCommit } = life.store.status();
  const highwater = join(life.directory, "highwater");
  const copy = newPlace();
  await until("the high-water mark is written", () => existsSync(highwater) && durableCommit > 0);
  for (const name of readdirSync(life.directory)) {
    if (!/lock|shm/.test(name)) cpSync(join(life.directory, name), join(copy, name), { recursive: true });
  }
  await end(life);
  return copy;
}

function ensure({ engine }: Life, name: string, source: string | null = null): Promise<Outcome> {
  const fork = source === null ? null : { sourceName: source, offset: null, subOffset: 0 };
  const none = { retention: null, close: false, key: null, fork };
  const expiry = { kind: "ttl", seconds: TTL_SECONDS } as const;
  return engine.create({ name, contentType: "text/plain", expiry, body: utf8("precious"), ...none });
}

async function create(life: Life, name = STREAM): Promise<void> {
  expect((await ensure(life, name)).kind).toBe("created");
}

async function isThere({ engine }: Life, access: "read" | "look" = "look"): Promise<boolean> {
  return "config" in (await engine.find(STREAM, access));
}

/** Lists are of the tables: then a start finds the head there, and not in the commits. */
const fold = ({ store }: Life): Promise<unknown> => store.list({ prefix: "", after: "", limit: 1 });
const seal = async (life: Life): Promise<void> => {
  await life.store.sealAll();
  await fold(life);
};

/** Made now, read 14 s later, killed 2 s after that, with nobody to have written the read. */
async function readAndKilled(how: (life: Life) => Promise<unknown>): Promise<string> {
  const life = await start(newPlace());
  await create(life);
  await how(life);
  pass(14);
  expect(await isThere(life, "read")).toBe(true);
  pass(2);
  return kill(life);
}

test.each([
  ["in its commit", async () => undefined],
  ["folded, and in its commit", fold],
  ["sealed", seal],
] as const)("a kill takes nothing from a stream that was read in the last seconds: its head is %s", async (_, how) => {
  const directory = await readAndKilled(how);
  const second = await start(directory);
  // Whoever looks, also a list: the last read was 2 s before the kill.
  pass(12);
  expect(await isThere(second)).toBe(true);
  pass(7.999);
  expect(await isThere(second)).toBe(true);
  pass(0.001);
  expect(await isThere(second)).toBe(false);
});

test("a clean end keeps the last read to the moment, and the time while nothing runs counts", async () => {
  const first = await start(newPlace());
  await create(first);
  await seal(first);
  pass(14);
  expect(await isThere(first, "read")).toBe(true);
  pass(2);
  const directory = await end(first);
  pass(17.999);
  const second = await start(directory);
  expect(await isThere(second)).toBe(true);
  pass(0.001);
  expect(await isThere(second)).toBe(false);
});

test("a read that is known to memory alone counts, also when the head is read from its table again", async () => {
  const life = await start(newPlace(), 1);
  await create(life);
  await create(life, "other");
  await seal(life);
  pass(19);
  expect(await isThere(life, "read")).toBe(true);
  /** Room is for one idle head. */
  const driveOut = async (): Promise<void> => {
    await fold(life);
    await life.store.byName("other");
    expect(life.store.peek(STREAM)).toBeUndefined();
  };
  pass(2);
  await driveOut();
  expect(await ensure(life, "fork", STREAM)).toMatchObject({ kind: "created" });
  await driveOut();
  expect(await ensure(life, STREAM)).toMatchObject({ kind: "exists" });
  await driveOut();
  const none = { producer: null, streamSeq: null, ifMatch: null, key: null, close: false };
  const appended = life.engine.append({ name: STREAM, contentType: "text/plain", body: utf8("x"), ...none });
  expect(await appended).toMatchObject({ kind: "appended", next: 2 });
});

test("a server that is restarted more often than a TTL still ends its streams", async () => {
  let life = await start(newPlace());
  await create(life);
  for (let restart = 0; restart < 4; restart++) {
    pass(5);
    life = await start(await end(life));
    expect(await isThere(life)).toBe(restart < 3);
  }
});

test("what a kill granted holds over clean ends after it", async () => {
  let life = await start(await readAndKilled(seal));
  // Twenty seconds from here on.
  for (let restart = 0; restart < 4; restart++) {
    pass(5);
    life = await start(await end(life));
    expect(await isThere(life)).toBe(restart < 3);
  }
});

test("a mark of a clean end is good for one start", async () => {
  const first = await start(newPlace());
  await create(first);
  await seal(first);
  const second = await start(await end(first));
  pass(14);
  expect(await isThere(second, "read")).toBe(true);
  const third = await start(await kill(second));
  pass(19.999);
  expect(await isThere(third)).toBe(true);
});

test.each([
  ["torn", (file: string) => truncateSync(file, 7)],
  ["damaged", (file: string) => writeFileSync(file, new Uint8Array(20))],
  ["missing", (file: string) => rmSync(file)],
] as const)("a mark that is %s counts as a kill", async (_, spoil) => {
  const first = await start(newPlace());
  await create(first);
  await seal(first);
  const directory = await end(first);
  spoil(join(directory, "accesses"));
  pass(19);
  const second = await start(directory);
  pass(19.999);
  expect(await isThere(second)).toBe(true);
});

test("a mark counts for nothing when a loss is accepted", async () => {
  const first = await start(newPlace());
  await create(first);
  await seal(first);
  const directory = await end(first);
  pass(19);
  const store = await openStore(directory, true);
  expect((await store.byName(STREAM))?.accessedMs).toBe(state.nowMs);
  await store.close();
});

test("an end that could not write all accesses counts as a kill", async () => {
  const store = await openStore(newPlace());
  await store.close(false);
  // The files of a store that holds nothing: only the mark is of interest.
  const directory = newPlace();
  const unmarked = await openStore(directory);
  await unmarked.close(false);
  expect(existsSync(join(directory, "accesses"))).toBe(false);
  const marked = await openStore(directory);
  await marked.close(true);
  expect(existsSync(join(directory, "accesses"))).toBe(true);
});

test("streams that a kill lets live on do not keep others from ending", async () => {
  const STREAMS = 1_000;
  const first = await start(newPlace());
  for (let at = 0; at < STREAMS; at++) await create(first, `lives-on/${at}`);
  pass(5);
  const expiry = { kind: "at", raw: "soon", atMs: state.nowMs + 30_000 } as const;
  const none = { retention: null, close: false, key: null, fork: null };
  await first.engine.create({ name: STREAM, contentType: null, expiry, body: new Uint8Array(), ...none });
  await seal(first);
  const directory = await kill(first);
  const store = await openStore(directory);
  const metrics = new Metrics();
  const queue = new AppendQueue(store.log, clock, metrics, null);
  const faults: unknown[] = [];
  const parts = { store, queue, clock: { ...clock, monotonicMs: () => 0 }, deadlines: new Deadlines(clock), metrics };
  const sweeper = new Sweeper(parts, (_, cause) => faults.push(cause));
  pass(19);
  expect(await store.pastDeadline(state.nowMs, 2 * STREAMS)).toHaveLength(STREAMS);
  await sweeper.tick();
  // They are written with the time that holds for them.
  expect(await store.pastDeadline(state.nowMs, 2 * STREAMS)).toEqual([]);
  pass(11);
  await sweeper.tick();
  expect([await store.byName(STREAM), await store.pastDeadline(state.nowMs, 1), faults]).toEqual([undefined, [], []]);
  await sweeper.stop();
  await queue.close();
  parts.deadlines.close();
  await store.close();
});
