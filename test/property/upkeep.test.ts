/**
 * Doctor and backup over random lives of a store: after commits, seals and crashes the doctor finds nothing in the files as a kill would
 * leave them, and one backup, taken again and again, holds exactly what the store says and is clean itself.
 * The control: a stream's end that is wrong by one record is found in the same directories.
 */

import { Database } from "bun:sqlite";
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import * as fc from "fast-check";
import type { Clock } from "../../src/kit/clock.ts";
import type { StreamHead } from "../../src/protocol/stream.ts";
import type { Chunk } from "../../src/storage/port.ts";
import { backUp } from "../../src/storage/sqlite/backup.ts";
import type { Finding } from "../../src/storage/sqlite/finding.ts";
import { inspect } from "../../src/storage/sqlite/inspection.ts";
import { restore } from "../../src/storage/sqlite/restore.ts";
import { streamCrc, type StreamRow } from "../../src/storage/sqlite/row-crc.ts";
import { SqliteStore } from "../../src/storage/sqlite/sqlite-store.ts";
import { type Command, commands, toIntent } from "./store-commands.ts";

const RUNS = Number(process.env["FC_RUNS"] ?? 4);
const seed = Number(process.env["FC_SEED"] ?? Date.now() % 2 ** 31);
const root = mkdtempSync(join(tmpdir(), "streams-upkeep-"));

afterAll(() => rmSync(root, { recursive: true, force: true }));

test(`a sound directory is found sound, and its backup is the same (seed ${seed}, ${RUNS} runs)`, async () => {
  const seen = { backups: 0, batches: 0, records: 0, planted: 0 };
  await fc.assert(
    fc.asyncProperty(commands, async (steps) => {
      await runSteps(steps, seen);
    }),
    { seed, numRuns: RUNS, endOnFailure: true },
  );
  console.log(`upkeep property: ${JSON.stringify(seen)}`);
  expect(seen.backups).toBeGreaterThan(RUNS);
  expect(seen.records).toBeGreaterThan(RUNS);
  expect(seen.planted).toBe(RUNS);
}, 240_000);

interface Seen {
  backups: number;
  batches: number;
  records: number;
  planted: number;
}

async function runSteps(steps: readonly Command[], seen: Seen): Promise<void> {
  const time = { nowMs: 1_700_000_000_000 };
  const clock: Clock = { nowMs: () => time.nowMs, monotonicMs: () => performance.now() };
  let directory = mkdtempSync(join(root, "run-"));
  const target = join(root, `backup-${crypto.randomUUID()}`);
  const openStore = (): Promise<SqliteStore> =>
    SqliteStore.open({ directory, durability: "os", acceptLoss: false, clock });
  let store = await openStore();
  try {
    for (const [index, step] of steps.entries()) {
      if (step.kind === "commit") {
        const intents = await Promise.all(step.intents.map((wish) => toIntent(store, wish, time.nowMs)));
        await store.commit(intents);
      } else if (step.kind === "seal") {
        await store.sealAll();
      } else if (step.kind === "crash") {
        directory = await copyAsCrashed(directory);
        await store.close();
        store = await openStore();
      } else {
        time.nowMs += step.ms;
      }
      if (step.kind !== "seal" && index % 5 !== 0) continue;
      const copy = await copyAsCrashed(directory);
      expect(findingsOf(copy)).toEqual([]);
      const made = await backUp({ source: copy, target, clock, listener: { finding: fail, progress: ignore } });
      expect(made.inspection.errors).toBe(0);
      seen.backups++;
      seen.batches += made.batches;
      rmSync(copy, { recursive: true });
    }
    const own = { kind: "create", name: "own", json: true, records: [1, 2], close: false } as const;
    await store.commit([await toIntent(store, own, time.nowMs)]);
    await store.sealAll();
    const last = await copyAsCrashed(directory);
    await backUp({ source: last, target, clock, listener: { finding: fail, progress: ignore } });
    seen.records += await compareRestored(store, target, clock);
    seen.planted += plant(last, (await store.byName(own.name))?.id ?? 0);
  } finally {
    await store.close();
    rmSync(target, { recursive: true, force: true });
  }
}

const ignore = (): void => undefined;

function fail(finding: Finding): never {
  throw new Error(`found in a sound directory: ${JSON.stringify(finding)}`);
}

/** What is not repaired by the next start: rows that wait to be removed are no finding here. */
function findingsOf(directory: string): Finding[] {
  const found: Finding[] = [];
  inspect(directory, { finding: (finding) => found.push(finding), progress: ignore });
  return found.filter(({ check }) => check !== "leftover");
}

/** The restored backup has every stream and record of the store. */
async function compareRestored(store: SqliteStore, backup: string, clock: Clock): Promise<number> {
  const directory = join(root, `restored-${crypto.randomUUID()}`);
  restore({ backup, target: directory, acceptDamage: false, clock, listener: { finding: fail, progress: ignore } });
  expect(findingsOf(directory)).toEqual([]);
  const restored = await SqliteStore.open({ directory, durability: "os", acceptLoss: false, clock });
  let records = 0;
  try {
    const all = { prefix: "", after: "", limit: 100 };
    const [wanted, found] = [await store.list(all), await restored.list(all)];
    expect(found.map(asFolded)).toEqual(wanted.map(asFolded));
    for (const head of wanted) {
      const from = Math.max(head.retainedFrom, head.config.from);
      const bytes = await bytesOf(store, head.id, from, head.next);
      expect(await bytesOf(restored, head.id, from, head.next)).toEqual(bytes);
      expect(await restored.attributes(head.id)).toEqual(await store.attributes(head.id));
      records += head.next - from;
    }
  } finally {
    await restored.close();
    rmSync(directory, { recursive: true });
  }
  return records;
}

/** A head without the producers that happen to be in memory. */
function asFolded(head: StreamHead): StreamHead {
  return { ...head, producers: new Map() };
}

async function bytesOf(store: SqliteStore, id: number, from: number, to: number): Promise<Uint8Array[]> {
  const parts: Uint8Array[] = [];
  for (let next = from; next < to;) {
    // One record a read: the stores may hold them in other pieces.
    const chunk: Chunk = await store.read({ id, from: next, to: next + 1, maxBytes: 1, key: null });
    expect(chunk.next).toBe(next + 1);
    parts.push(...chunk.parts);
    next = chunk.next;
  }
  return parts;
}

/** Moves the end of a stream, with a right checksum; returns 1 when the damage was found. */
function plant(directory: string, id: number): number {
  const db = new Database(join(directory, "log.db"), { readwrite: true });
  const columns = "id, name, deletion, deadline_ms, retained, head";
  const row = db.query<StreamRow, [number]>(`SELECT ${columns} FROM streams WHERE id = ?`).get(id);
  if (row === null) throw new Error(`no row of stream ${id}`);
  const stored = JSON.parse(row.head) as { next: number };
  const head = JSON.stringify({ ...stored, next: stored.next + 1 });
  const update = db.query<never, [string, number, number]>("UPDATE streams SET head = ?, crc = ? WHERE id = ?");
  update.run(head, streamCrc({ ...row, head }), id);
  db.close();
  return findingsOf(directory).some(({ check, streamId }) => check === "sequence" && streamId === id) ? 1 : 0;
}

/** The files as a kill would leave them. Another process copies: SQLite's locks die with any descriptor closed in ours. */
async function copyAsCrashed(directory: string): Promise<string> {
  const copy = mkdtempSync(join(root, "crash-"));
  expect(await Bun.spawn(["cp", "-a", `${directory}/.`, copy]).exited).toBe(0);
  return copy;
}
