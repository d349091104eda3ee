/** Rows of deleted and trimmed streams are freed, also when the server restarts between the delete and its sealing. */

import { Database } from "bun:sqlite";
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../src/kit/clock.ts";
import type { AppendIntent, CreateIntent } from "../../src/protocol/intents.ts";
import { SqliteStore } from "../../src/storage/sqlite/sqlite-store.ts";

const root = mkdtempSync(join(tmpdir(), "streams-freed-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const open = (directory: string) =>
  SqliteStore.open({ directory, durability: "os", acceptLoss: false, clock: systemClock });

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
  const none = { producer: null, streamSeq: null, ifMatch: null, key: null, close: false, checkedAs: null } as const;
  return { kind: "append", name, contentType: "text/plain", body: { payload, lengths: [payload.length] }, ...none };
}

function batchesIn(directory: string): number {
  const db = new Database(join(directory, "log.db"), { readonly: true });
  try {
    return db.query<{ n: number }, []>("SELECT count(*) AS n FROM batches").get()?.n ?? -1;
  } finally {
    db.close();
  }
}

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
    { kind: "trim", id: kept.id, ...point },
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
  await first.commit([{ kind: "trim", id: kept.id, retainedFrom: 3, trimmedBytes: 900_000 }]);
  await first.close();
  const second = await open(directory);
  await second.trimPoint(kept.id, { beforeMs: null, maxBytes: 300_000 });
  await second.commit([append("kept")]);
  await second.sealAll();
  await second.close();
  expect(batchesIn(directory)).toBe(2);
});
