/** Rows of deleted and trimmed streams are freed, also when the server restarts between the delete and its sealing. */

import { Database } from "bun:sqlite";
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../src/kit/clock.ts";
import type { AppendIntent, CreateIntent } from "../../src/protocol/intents.ts";
import { HARD, HeadTables } from "../../src/storage/sqlite/head-tables.ts";
import { idAfterLoss } from "../../src/storage/sqlite/id-gap.ts";
import { readMeta, writeMeta } from "../../src/storage/sqlite/meta.ts";
import type { StreamRow } from "../../src/storage/sqlite/row-crc.ts";
import { SqliteStore } from "../../src/storage/sqlite/sqlite-store.ts";
import { until } from "../support/wait.ts";

const root = mkdtempSync(join(tmpdir(), "streams-freed-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const open = (directory: string, maxStoredBytes: number | null = null) =>
  SqliteStore.open({ directory, durability: "os", acceptLoss: false, clock: systemClock, maxStoredBytes });

function create(name: string): CreateIntent {
  const none = { body: null, key: null, fork: null, close: false } as const;
  return {
    kind: "create",
    name,
    contentType: "text/plain",
    expiry: { kind: "never" },
    retention: { maxAgeMs: null, maxBytes: 10 },
    ...none,
  };
}

function append(name: string): AppendIntent {
  const payload = crypto.getRandomValues(new Uint8Array(300_000));
  const none = { producer: null, streamSeq: null, ifMatch: null, key: null, close: false } as const;
  return { kind: "append", name, contentType: "text/plain", body: { payload, lengths: [payload.length] }, ...none };
}

function inDatabase<T>(directory: string, work: (db: Database) => T): T {
  const db = new Database(join(directory, "log.db"), { readwrite: true, strict: true });
  try {
    return work(db);
  } finally {
    db.close();
  }
}

function rowsIn(directory: string, table: "batches" | "streams"): number {
  return inDatabase(
    directory,
    (db) => db.query<{ n: number }, []>(`SELECT count(*) AS n FROM ${table}`).get()?.n ?? -1,
  );
}

const batchesIn = (directory: string): number => rowsIn(directory, "batches");

/** As a pass leaves the streams that `change` names when the process dies right before it frees: sealed, folded, all rows there. */
function plantUnfreed(directory: string, change: (row: StreamRow) => StreamRow | null): void {
  inDatabase(directory, (db) => {
    const tables = new HeadTables(db);
    for (const row of db.query<StreamRow, []>("SELECT * FROM streams").all()) {
      const changed = change(row);
      if (changed !== null) tables.put(changed);
    }
  });
}

async function fill(directory: string, names: readonly string[], appends: number): Promise<void> {
  const store = await open(directory);
  await store.commit(names.map(create));
  // One commit each: what is committed together lies in one file.
  for (let turn = 0; turn < appends; turn++) for (const name of names) await store.commit([append(name)]);
  await store.sealAll();
  await store.close();
}

/** Less than is stored, more than is left when the rows are freed. */
const ROOM_BYTES = 1_300_000;
const isOpen = (store: SqliteStore): boolean => store.status().refusal === null;

test("a restart forgets neither what was deleted nor what was trimmed", async () => {
  const directory = mkdtempSync(join(root, "run-"));
  const first = await open(directory);
  await first.commit([create("gone"), create("kept")]);
  for (let turn = 0; turn < 4; turn++) await first.commit([append("gone"), append("kept")]);
  await first.sealAll();
  const kept = (await first.byName("kept")) ?? expect.unreachable("the stream is there");
  const point = await first.trimPoint(kept.id, { beforeMs: null, maxBytes: 300_000 });
  expect(point.retainedFrom).toBe(3);
  await first.commit([
    { kind: "delete", name: "gone" },
    { kind: "trim", id: kept.id, retention: kept.retention, ...point },
  ]);
  await first.close();
  expect(batchesIn(directory)).toBeGreaterThan(2);

  const second = await open(directory);
  await second.sealAll();
  await second.close();
  expect(batchesIn(directory)).toBe(1);
});

test("what was trimmed and sealed but not freed is found by the next look of retention", async () => {
  const directory = mkdtempSync(join(root, "run-"));
  const first = await open(directory);
  await first.commit([create("kept")]);
  for (let turn = 0; turn < 4; turn++) await first.commit([append("kept")]);
  await first.sealAll();
  const kept = (await first.byName("kept")) ?? expect.unreachable("the stream is there");
  await first.commit([
    { kind: "trim", id: kept.id, retention: kept.retention, retainedFrom: 3, trimmedBytes: 900_000 },
  ]);
  await first.close();
  const second = await open(directory);
  await second.trimPoint(kept.id, { beforeMs: null, maxBytes: 300_000 });
  await second.commit([append("kept")]);
  await second.sealAll();
  await second.close();
  expect(batchesIn(directory)).toBe(2);
});

test("a start with no room left frees what a pass before it left, and takes payload again", async () => {
  const directory = mkdtempSync(join(root, "run-"));
  await fill(directory, ["gone", "kept"], 3);
  plantUnfreed(directory, (row) => (row.name === "gone" ? { ...row, deletion: HARD } : null));
  const store = await open(directory, ROOM_BYTES);
  await until("there is room", () => isOpen(store), 20_000);
  await store.close();
  expect([batchesIn(directory), rowsIn(directory, "streams")]).toEqual([3, 1]);
}, 30_000);

test("what retention finds unfreed while there is no room is freed without anything to seal", async () => {
  const directory = mkdtempSync(join(root, "run-"));
  await fill(directory, ["kept"], 5);
  plantUnfreed(directory, (row) => ({
    ...row,
    head: JSON.stringify({ ...JSON.parse(row.head), retainedFrom: 4, trimmedBytes: 1_200_000 }),
  }));
  const store = await open(directory, ROOM_BYTES);
  expect(store.status().refusal).toEqual({ kind: "storage-full" });
  const { id } = (await store.byName("kept")) ?? expect.unreachable("the stream is there");
  await store.trimPoint(id, { beforeMs: null, maxBytes: 10 });
  await until("there is room", () => isOpen(store), 20_000);
  await store.close();
  expect(batchesIn(directory)).toBe(1);
}, 30_000);

test("streams with the ids of a restored directory are freed like any others", async () => {
  const directory = mkdtempSync(join(root, "run-"));
  await (await open(directory)).close();
  inDatabase(directory, (db) => writeMeta(db, { ...readMeta(db), next_id: idAfterLoss(1, Date.UTC(2026, 10, 22)) }));
  await fill(directory, ["gone/1", "kept", "gone/2"], 1);
  plantUnfreed(directory, (row) => (row.name === "kept" ? null : { ...row, deletion: HARD }));
  const store = await open(directory);
  await store.commit([append("kept")]);
  await store.sealAll();
  await store.close();
  expect([batchesIn(directory), rowsIn(directory, "streams")]).toEqual([2, 1]);
});
