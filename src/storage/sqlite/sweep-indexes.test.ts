/** An entry that was changed in an index of the sweeps is made again from its row; sound indexes are left alone. */

import { Database } from "bun:sqlite";
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { HeadTables } from "./head-tables.ts";
import { migrate } from "./schema.ts";
import { mendSweepIndexes } from "./sweep-indexes.ts";

const root = mkdtempSync(join(tmpdir(), "streams-sweeps-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const PAGE_BYTES = 4096;
/** First byte of a page that is a leaf of an index. */
const INDEX_LEAF = 0x0a;
const DEADLINE_MS = 0x0197_1234_5678;

test("an expiry that the index lost is found again", () => {
  const file = join(root, "log.db");
  const made = new Database(file, { create: true, strict: true });
  migrate(made);
  const tables = new HeadTables(made);
  for (let id = 1; id <= 9; id++)
    tables.put({ id, name: `s${id}`, deletion: 0, deadline_ms: DEADLINE_MS + id, retained: 1, head: "{}" });
  made.close();
  const bytes = readFileSync(file);
  const entry = Buffer.alloc(6);
  entry.writeUIntBE(DEADLINE_MS + 5, 0, 6);
  let at = bytes.indexOf(entry);
  while (at !== -1 && bytes[at - (at % PAGE_BYTES)] !== INDEX_LEAF) at = bytes.indexOf(entry, at + 1);
  expect(at).toBeGreaterThan(0);
  // Far in the future.
  bytes[at] = 0x40;
  writeFileSync(file, bytes);

  const db = new Database(file, { strict: true });
  const due = (): number[] => new HeadTables(db).pastDeadline(DEADLINE_MS + 100, 20);
  expect(due()).not.toContain(5);
  mendSweepIndexes(db);
  expect(due()).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 9]);
  const version = (): unknown => db.query("PRAGMA schema_version").get();
  const before = [version(), readFileSync(file)];
  mendSweepIndexes(db);
  expect([version(), readFileSync(file)]).toEqual(before);
  expect(new HeadTables(db).withRetention(0, 20)).toHaveLength(9);
  db.close();
});
