/**
 * A start finds streams that were deleted and not freed yet: all of them are freed by what it seals later, however many they are
 * (`DELETED_STREAMS`, 2,000 by default, over far more ids than one pass looks at), in bounded turns, and none that lives,
 * nor one whose row is damaged: what says that it is deleted may be the damage.
 * The rows are put there by the test: a server would have to be killed at the right moment many thousand times.
 */

import { Database } from "bun:sqlite";
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { HARD, HeadTables } from "../../src/storage/sqlite/head-tables.ts";
import { readMeta, writeMeta } from "../../src/storage/sqlite/meta.ts";
import { SqliteStore } from "../../src/storage/sqlite/sqlite-store.ts";
import { longestLag } from "./loop-lag.ts";

const DELETED = Number(process.env["DELETED_STREAMS"] ?? 2_000);
/** The last ones lie behind what a pass looks at. */
const ID_STEP = Math.max(1, Math.ceil(250_000 / DELETED));
const PASSES = 10;
const KEPT = ["alive", "flipped"];
const LAG_LIMIT_MS = 250;

const directory = mkdtempSync(join(tmpdir(), "streams-deleted-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

async function openStore() {
  const clock = { nowMs: () => 1_800_000_000_000, monotonicMs: () => 0 };
  const store = await SqliteStore.open({ directory, durability: "os", acceptLoss: false, clock });
  const create = (name: string) =>
    store.commit([
      {
        kind: "create",
        name,
        contentType: "text/plain",
        expiry: { kind: "never" },
        retention: null,
        close: false,
        body: { payload: new Uint8Array(3), lengths: [3] },
        key: null,
        fork: null,
      },
    ]);
  return { store, create };
}

function withDatabase<T>(work: (db: Database) => T): T {
  const db = new Database(join(directory, "log.db"), { readwrite: true, strict: true });
  try {
    return work(db);
  } finally {
    db.close();
  }
}

/** As if they had been deleted, sealed, and the server killed before it freed them. */
function plantDeleted(db: Database): void {
  const tables = new HeadTables(db);
  const alive = db.query<{ head: string }, []>("SELECT head FROM streams LIMIT 1").get();
  const head = JSON.stringify({ ...JSON.parse(alive?.head ?? ""), lastCommit: 0 });
  const { next_id, ...meta } = readMeta(db);
  const rest = { deletion: HARD, deadline_ms: null, retained: 0, head };
  db.transaction(() => {
    for (let at = 0; at < DELETED; at++) tables.put({ id: next_id + at * ID_STEP, name: `dead/${at}`, ...rest });
    db.run("UPDATE streams SET deletion = ? WHERE name = 'flipped'", [HARD]);
    writeMeta(db, { ...meta, next_id: next_id + DELETED * ID_STEP });
  })();
}

const streamNames = (db: Database): unknown[] => db.query("SELECT name FROM streams ORDER BY id").values().flat();

test(
  `${DELETED} deleted streams are found at start: all are freed without another one`,
  async () => {
    const first = await openStore();
    await first.create("alive");
    await first.create("flipped");
    await first.store.sealAll();
    await first.store.close();
    withDatabase(plantDeleted);
    expect(withDatabase(streamNames).length).toBe(DELETED + KEPT.length);

    const { store, create } = await openStore();
    const lag = await longestLag(async () => {
      for (let pass = 0; pass < PASSES; pass++) {
        await create(`new/${pass}`);
        await store.sealAll();
      }
    });
    await store.close();
    const left = withDatabase(streamNames);
    expect({ freed: DELETED + KEPT.length + PASSES - left.length }).toEqual({ freed: DELETED });
    expect(left).toEqual([...KEPT, ...Array.from({ length: PASSES }, (_, pass) => `new/${pass}`)]);
    console.log(`deleted rows: ${DELETED} freed; longest lag ${lag.longestMs.toFixed(1)} ms (limit ${LAG_LIMIT_MS})`);
    expect(lag.longestMs).toBeLessThan(LAG_LIMIT_MS + lag.machineMs);
  },
  60_000 + DELETED,
);
