/**
 * Starts on what a crash, a loss or damage left: an accepted loss is whole on the disk at once, a damaged stream keeps nobody else from
 * starting, and what must not be started on is refused before anything is written. A kill is a copy of the files of an open store.
 */

import { Database } from "bun:sqlite";
import { afterAll, expect, test } from "bun:test";
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../kit/clock.ts";
import { utf8 } from "../../kit/bytes.ts";
import { DamagedStream } from "../../protocol/faults.ts";
import type { Intent } from "../../protocol/intents.ts";
import { writeBackupMark } from "./backup-mark.ts";
import { DataDirectory } from "./data-directory.ts";
import { Highwater } from "./highwater.ts";
import { idAfterLoss } from "./id-gap.ts";
import { SqliteStore } from "./sqlite-store.ts";
import { streamCrc, type StreamRow } from "./row-crc.ts";

const root = mkdtempSync(join(tmpdir(), "streams-recovery-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));
let places = 0;
const newPlace = (): string => join(root, `place-${places++}`);
/** Room for the highest number that a store wrote. */
const HIGHWATER_MS = 50;
const CACHE_BYTES = 1_000_000;

const openStore = (directory: string, acceptLoss = false): Promise<SqliteStore> =>
  SqliteStore.open({ directory, durability: "fsync", acceptLoss, clock: systemClock });

function create(name: string, retained = false): Intent {
  const none = { body: null, key: null, fork: null, close: false } as const;
  const retention = retained ? { maxAgeMs: null, maxBytes: 10 } : null;
  return { kind: "create", name, contentType: "text/plain", expiry: { kind: "never" }, retention, ...none };
}

function append(name: string, text: string): Intent {
  const none = { producer: null, streamSeq: null, ifMatch: null, key: null, close: false } as const;
  return {
    kind: "append",
    name,
    contentType: "text/plain",
    body: { payload: utf8(text), lengths: [text.length] },
    ...none,
  };
}

async function commit(store: SqliteStore, ...intents: Intent[]): Promise<void> {
  for (const { kind } of await store.commit(intents)) expect(["created", "appended", "done"]).toContain(kind);
}

/** The files as a kill leaves them. The store goes on and is closed. */
async function killed(store: SqliteStore, directory: string): Promise<string> {
  await Bun.sleep(HIGHWATER_MS);
  const copy = newPlace();
  mkdirSync(copy);
  for (const name of readdirSync(directory)) {
    if (!/lock|shm/.test(name)) cpSync(join(directory, name), join(copy, name), { recursive: true });
  }
  await store.close();
  return copy;
}

function edit<T>(directory: string, work: (db: Database) => T): T {
  const db = new Database(join(directory, "log.db"), { strict: true });
  try {
    return work(db);
  } finally {
    db.close();
  }
}

async function textOf(store: SqliteStore, name: string): Promise<string> {
  const head = (await store.byName(name)) ?? expect.unreachable(`no stream ${name}`);
  let text = "";
  for (let from = head.retainedFrom; from < head.next;) {
    const chunk = await store.read({ id: head.id, from, to: head.next, maxBytes: 1_000, key: null });
    text += chunk.parts.map((part) => new TextDecoder().decode(part)).join("");
    from = chunk.next;
  }
  return text;
}

/** Commits 1 and 2 are there; 3 to 7 were acknowledged, folded into the head, and are lost. */
async function withLostTail(): Promise<string> {
  const directory = newPlace();
  const store = await openStore(directory);
  await commit(store, create("a"));
  await commit(store, append("a", "0"));
  for (let n = 1; n < 5; n++) await commit(store, append("a", String(n)));
  await commit(store, create("late"));
  await store.list({ prefix: "", after: "", limit: 10 });
  const copy = await killed(store, directory);
  edit(copy, (db) => db.run("DELETE FROM commits WHERE no > 2"));
  return copy;
}

test("an accepted loss is on the disk at once: what is acknowledged after it survives the next kill", async () => {
  const lost = await withLostTail();
  const refusal = await openStore(lost).catch(String);
  expect(refusal).toContain("commits 3 to 7 were acknowledged");
  const store = await openStore(lost, true);
  expect(await textOf(store, "a")).toBe("0");
  await commit(store, append("a", "new"));
  await commit(store, create("b"));
  const { id } = (await store.byName("b")) ?? expect.unreachable("it was made");
  const again = await killed(store, lost);
  const second = await openStore(again);
  expect(await textOf(second, "a")).toBe("0new");
  await commit(second, append("a", "er"), create("c"));
  expect((await second.byName("c"))?.id).toBe(id + 1);
  await second.close();
});

test("killed right after the loss was accepted, the next start knows it, and gives no id out again", async () => {
  const lost = await withLostTail();
  const accepted = await killed(await openStore(lost, true), lost);
  const store = await openStore(accepted);
  await commit(store, create("b"));
  expect((await store.byName("b"))?.id).toBeGreaterThan(1_000_000);
  await store.close();
});

test("the id counter jumps by the time: the same loss accepted later gives other ids", () => {
  const nowMs = Date.UTC(2026, 5, 1);
  expect(idAfterLoss(5, nowMs + 1)).toBeGreaterThan(idAfterLoss(5, nowMs));
  expect(idAfterLoss(5, 0)).toBe(1_000_005);
  expect(Number.isSafeInteger(idAfterLoss(5, Date.UTC(2_500, 0, 1)))).toBe(true);
});

test("a head that ends before its retained start begins there after a loss", async () => {
  const directory = newPlace();
  const store = await openStore(directory);
  await commit(store, create("a", true));
  for (let n = 0; n < 5; n++) await commit(store, append("a", String(n)));
  const head = (await store.byName("a")) ?? expect.unreachable("it was made");
  await commit(store, { kind: "trim", id: head.id, retention: head.retention, retainedFrom: 4, trimmedBytes: 4 });
  await store.list({ prefix: "", after: "", limit: 10 });
  const copy = await killed(store, directory);
  edit(copy, (db) => db.run("DELETE FROM commits WHERE no > 2"));
  const lost = await openStore(copy, true);
  const { next, retainedFrom } = (await lost.byName("a")) ?? expect.unreachable("it is there");
  expect([next, retainedFrom]).toEqual([4, 4]);
  await lost.close();
});

const damages: readonly (readonly [what: string, plant: (row: StreamRow, db: Database) => void])[] = [
  ["a damaged head", (row, db) => db.run("UPDATE streams SET head = head || ' ' WHERE id = ?", [row.id])],
  [
    "a head of another time",
    ({ crc: _crc, ...row }: StreamRow & { crc?: number }, db) => {
      const older = {
        ...row,
        head: row.head.replace(/"next":\d+/, '"next":0').replace(/"lastCommit":\d+/, '"lastCommit":1'),
      };
      db.run("UPDATE streams SET head = ?, crc = ? WHERE id = ?", [older.head, streamCrc(older), row.id]);
    },
  ],
  [
    "a head that holds none",
    (row, db) => {
      db.run("UPDATE streams SET head = '{}', crc = ? WHERE id = ?", [streamCrc({ ...row, head: "{}" }), row.id]);
    },
  ],
];

for (const [what, plant] of damages) {
  test(`${what} with unsealed commits: its stream answers errors, all others go on, and are sealed`, async () => {
    const directory = newPlace();
    const first = await openStore(directory);
    await commit(first, create("a"), create("bad"), create("c"));
    for (const name of ["a", "bad", "c"]) await commit(first, append(name, "1"));
    await first.sealAll();
    for (const name of ["a", "bad", "c"]) await commit(first, append(name, "2"));
    const copy = await killed(first, directory);
    edit(copy, (db) => {
      const row = db.query<StreamRow, []>("SELECT * FROM streams WHERE name = 'bad'").get();
      plant(row ?? expect.unreachable("no row"), db);
    });
    const store = await openStore(copy);
    const outcomes = await store.commit([
      append("a", "3"),
      append("bad", "3"),
      create("bad"),
      create("d"),
      append("c", "3"),
    ]);
    expect(outcomes.map(({ kind }) => kind)).toEqual(["appended", "failed", "failed", "created", "appended"]);
    expect(await store.byName("bad").catch((cause: unknown) => cause)).toBeInstanceOf(DamagedStream);
    expect(await store.list({ prefix: "", after: "", limit: 9 }).catch((cause: unknown) => cause)).toBeInstanceOf(
      DamagedStream,
    );
    expect(await store.list({ prefix: "c", after: "", limit: 9 })).toHaveLength(1);
    await store.sealAll();
    expect([await textOf(store, "a"), await textOf(store, "c")]).toEqual(["123", "123"]);
    await store.close();
    const again = await openStore(copy);
    expect(await textOf(again, "a")).toBe("123");
    await again.close();
  });
}

test("a damaged neighbour keeps no stream from being made again at a start", async () => {
  const directory = newPlace();
  const first = await openStore(directory);
  await commit(first, create("a"));
  await first.sealAll();
  await commit(first, create("b"));
  const copy = await killed(first, directory);
  edit(copy, (db) => db.run("UPDATE streams SET head = head || ' '"));
  const store = await openStore(copy);
  expect((await store.byName("b"))?.config.name).toBe("b");
  await commit(store, create("0"), create("aa"));
  await store.close();
});

test("a backup that was never finished is refused, and left as it is", async () => {
  const directory = newPlace();
  await (await openStore(directory)).close();
  edit(directory, (db) => {
    writeBackupMark(db, { no: 0, crc: 0, sealedNo: null, atMs: 0 });
    db.run("INSERT INTO batches VALUES (7, 1, 0, 1, 1, 1, 1, 1, 0, 0, x'00', x'00', NULL)");
  });
  const refusal = await openStore(directory).catch(String);
  expect(refusal).toContain("a backup that was never finished");
  expect(edit(directory, (db) => db.query("SELECT count(*) AS n FROM batches").get())).toEqual({ n: 1 });
});

test("a very first start that was killed is undone by the next one", async () => {
  const source = newPlace();
  const directory = newPlace();
  mkdirSync(source);
  mkdirSync(directory);
  const db = new Database(join(source, "log.db"), { create: true, strict: true });
  db.run("PRAGMA page_size = 4096");
  db.run("CREATE TABLE before (x)");
  db.run("DROP TABLE before");
  db.run("PRAGMA cache_size = 1");
  db.run("BEGIN");
  db.run("CREATE TABLE half (x)");
  for (let n = 0; n < 100; n++) db.run("INSERT INTO half VALUES (randomblob(2000))");
  for (const name of ["log.db", "log.db-journal"]) copyFileSync(join(source, name), join(directory, name));
  db.run("ROLLBACK");
  db.close();
  expect(readFileSync(join(directory, "log.db-journal")).length).toBeGreaterThan(0);
  const store = await openStore(directory);
  await commit(store, create("a"));
  await store.close();
  expect(edit(directory, (log) => log.query("SELECT 1 FROM sqlite_schema WHERE name = 'half'").get())).toBeNull();
});

test("an older schema is not migrated over a log that lost its end, unless the loss is accepted", async () => {
  const lost = await withLostTail();
  // What the migration to schema 4 adds is there already: it fails if it is tried.
  edit(lost, (db) => {
    db.run("PRAGMA user_version = 3");
    db.run("PRAGMA wal_checkpoint(TRUNCATE)");
  });
  const before = readFileSync(join(lost, "log.db"));
  expect(() => DataDirectory.open(lost, CACHE_BYTES)).toThrow("commits 3 to 7 were acknowledged");
  expect(readFileSync(join(lost, "log.db")).equals(before)).toBe(true);
  expect(() => DataDirectory.open(lost, CACHE_BYTES, true)).toThrow("duplicate column");
  // Control: without a loss it is tried.
  writeFileSync(join(lost, "highwater"), "");
  expect(Highwater.read(join(lost, "highwater"))).toBe(0);
  expect(() => DataDirectory.open(lost, CACHE_BYTES)).toThrow("duplicate column");
  expect(existsSync(join(lost, "log.db-wal.refused"))).toBe(false);
});

const LARGE = "x".repeat(300_000);

/** A killed directory whose last commit, number 3, is not sealed and lies in a file; sealed is nothing. */
async function withFile(): Promise<string> {
  const directory = newPlace();
  const store = await openStore(directory);
  await commit(store, create("a"));
  await commit(store, append("a", "0"));
  await commit(store, append("a", LARGE));
  return killed(store, directory);
}

test("a file of an unsealed commit stays, whatever was noted of it before", async () => {
  const directory = await withFile();
  edit(directory, (db) => db.run("INSERT INTO freed_files VALUES (3)"));
  const store = await openStore(directory);
  await store.sealAll();
  expect(await textOf(store, "a")).toBe(`0${LARGE}`);
  await store.close();
  const again = await openStore(directory);
  expect(await textOf(again, "a")).toBe(`0${LARGE}`);
  await again.close();
});

test("a file that cannot be read is no lost commit", async () => {
  const directory = await withFile();
  const file = join(directory, "large", "3");
  const bytes = readFileSync(file);
  rmSync(file);
  symlinkSync(file, file);
  const start = openStore(directory, true);
  expect(await start.catch((cause: unknown) => String(cause))).toContain("ELOOP");
  rmSync(file);
  writeFileSync(file, bytes);
  const store = await openStore(directory);
  expect(await textOf(store, "a")).toBe(`0${LARGE}`);
  await store.close();
});

test("one that is missing is; what an accepted loss leaves is kept under another name", async () => {
  const directory = await withFile();
  const file = join(directory, "large", "3");
  const bytes = readFileSync(file);
  bytes[100_000] = 0;
  writeFileSync(file, bytes);
  expect(await openStore(directory).catch((cause: unknown) => String(cause))).toContain(
    "large/3 is missing or damaged",
  );
  const store = await openStore(directory, true);
  expect(await textOf(store, "a")).toBe("0");
  expect(readdirSync(join(directory, "large"))).toEqual(["3.lost"]);
  await commit(store, append("a", LARGE));
  expect(await textOf(store, "a")).toBe(`0${LARGE}`);
  await store.close();
});

test("files of commits that were never made are cleared, others are not", async () => {
  const directory = await withFile();
  writeFileSync(join(directory, "large", "4"), "half");
  const store = await openStore(directory);
  expect(readdirSync(join(directory, "large"))).toEqual(["3"]);
  expect(await textOf(store, "a")).toBe(`0${LARGE}`);
  await store.close();
});
