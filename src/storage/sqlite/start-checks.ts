/**
 * What has to hold of `log.db` before anything is written to it: a flipped bit in its first page can make SQLite write over
 * pages that are in use, and one in the inner pages of a tree can make rows disappear without a word. Reads only (but for undoing what a
 * killed first start left), over a connection of its own, which cannot write when it closes. Cost: grows with the number of
 * streams, not with records; 0.1 s for 100,000 streams.
 */

import { Database } from "bun:sqlite";
import { closeSync, existsSync, openSync, readSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { DamagedDatabase } from "../../protocol/faults.ts";
import { type ChainEnd, commitRowsAfter, follow, LostTail } from "./commit-chain.ts";
import { asDamage } from "./corruption.ts";
import { Highwater } from "./highwater.ts";
import { partReader } from "./large-files.ts";
import { migrate, SCHEMA_VERSION } from "./schema.ts";

/**
 * Bytes of the database header that never change, by offset. Until the first checkpoint some are still zero, and SQLite reads
 * a zero there as what we write. Source: the SQLite file format, section 1.3.
 */
const HEADER: readonly { at: number; bytes: readonly number[]; orZero: boolean; meaning: string }[] = [
  { at: 16, bytes: [0x10, 0x00], orZero: false, meaning: "page size" },
  { at: 20, bytes: [0, 64, 32, 32], orZero: false, meaning: "payload limits" },
  { at: 44, bytes: [0, 0, 0, 4], orZero: true, meaning: "schema format" },
  { at: 52, bytes: [0, 0, 0, 0], orZero: false, meaning: "auto-vacuum mark" },
  { at: 56, bytes: [0, 0, 0, 1], orZero: true, meaning: "text encoding" },
  { at: 64, bytes: [0, 0, 0, 0], orZero: false, meaning: "incremental-vacuum mark" },
];
/** Write and read version: with a WAL, or before the very first start got that far. */
const FORMATS = new Set(["2,2", "1,1"]);
const HEADER_BYTES = 100;

/** Trees whose every row counts although no chain or sequence would miss it, with the indexes that hold as many entries. */
const TREES = [
  { table: "streams", check: "quick_check", index: "streams_by_name" },
  { table: "producers", check: "quick_check", index: null },
  // Its index is believed when it says which streams have a key, so every entry is compared.
  { table: "attributes", check: "integrity_check", index: "attributes_by_key" },
] as const;

/**
 * Throws a `DamagedDatabase` that says what does not hold. A file that is new or of a newer release is left to the migration. Of an older
 * release the migration will write where the log may be damaged: a `LostTail` unless the loss is accepted.
 */
export function checkDatabase(file: string, acceptLoss = false): void {
  if (!existsSync(file) || statSync(file).size === 0) return;
  rollBack(file);
  checkHeader(file);
  try {
    // Its own connection, closed before the writing one opens: closing drops SQLite's locks in this process.
    const db = new Database(file, { readonly: true, strict: true });
    try {
      checkSize(db, file);
      const version = db.query<{ user_version: number }, []>("PRAGMA user_version").get()?.user_version;
      if (version !== SCHEMA_VERSION) {
        if (version !== undefined && version > 0 && version < SCHEMA_VERSION && !acceptLoss) checkTail(db, file);
        return;
      }
      checkSchema(db);
      for (const tree of TREES) checkTree(db, tree);
    } finally {
      db.close();
    }
  } catch (cause) {
    throw asDamage(cause);
  }
}

/** Only the very first start writes without a WAL. What it left half done has to be undone before anything is read. */
function rollBack(file: string): void {
  const journal = `${file}-journal`;
  if (!existsSync(journal) || statSync(journal).size === 0) return;
  const db = new Database(file, { readwrite: true, strict: true });
  try {
    // The first read does it.
    db.query("SELECT count(*) FROM sqlite_schema").get();
  } catch (cause) {
    throw asDamage(cause);
  } finally {
    db.close();
  }
}

/** As recovery will look at it, without the checksums that an older release did not have. */
function checkTail(db: Database, file: string): void {
  const meta = db.query<{ value: number }, [string]>("SELECT value FROM meta WHERE key = ?");
  const value = (key: string): number => meta.get(key)?.value ?? 0;
  let last: ChainEnd = { no: value("sealed_no"), crc: value("sealed_crc") };
  const highwaterNo = Highwater.read(join(dirname(file), "highwater"));
  for (const row of commitRowsAfter(db, last.no)) {
    const next = follow(row, last, partReader(dirname(file)));
    if ("problem" in next) throw new LostTail(last.no, highwaterNo, next.problem);
    last = next.commit;
  }
  if (last.no < highwaterNo) throw new LostTail(last.no, highwaterNo, "the write-ahead log ends too early");
}

function checkHeader(file: string): void {
  const header = new Uint8Array(HEADER_BYTES);
  const fd = openSync(file, "r");
  try {
    readSync(fd, header, 0, HEADER_BYTES, 0);
  } finally {
    closeSync(fd);
  }
  const format = header.subarray(18, 20).join();
  if (!FORMATS.has(format)) throw new DamagedDatabase(`its header has a wrong file format (${format})`);
  for (const { at, bytes, orZero, meaning } of HEADER) {
    const found = header.subarray(at, at + bytes.length);
    const isFresh = orZero && found.every((byte) => byte === 0);
    if (!isFresh && found.some((byte, index) => byte !== bytes[index])) {
      throw new DamagedDatabase(`its header has a wrong ${meaning}`);
    }
  }
}

/** SQLite trusts the size in the header: pages behind it would be written over, and cut off by the next checkpoint. */
function checkSize(db: Database, file: string): void {
  const { pages, bytes } = db
    .query<{ pages: number; bytes: number }, []>(
      "SELECT page_count AS pages, page_count * page_size AS bytes FROM pragma_page_count, pragma_page_size",
    )
    .get() ?? { pages: 0, bytes: 0 };
  const { size } = statSync(file);
  if (bytes < size) throw new DamagedDatabase(`its header says ${pages} pages, the file has ${size} bytes`);
}

/** The definitions of tables and indexes are text in a page like any other. */
function checkSchema(db: Database): void {
  const fresh = new Database(":memory:", { strict: true });
  try {
    migrate(fresh);
    if (definitions(fresh) !== definitions(db))
      throw new DamagedDatabase("its table definitions are not those of this release");
  } finally {
    fresh.close();
  }
}

/** Without layout and comments, in which releases may differ, and without what ANALYZE leaves behind. */
function definitions(db: Database): string {
  const rows = db
    .query("SELECT type, name, tbl_name, sql FROM sqlite_schema WHERE name NOT LIKE 'sqlite_stat%' ORDER BY name")
    .values();
  return rows
    .map((row) =>
      row
        .join(" ")
        .replace(/--[^\n]*/g, "")
        .replace(/\s+/g, ""),
    )
    .join("\n");
}

function checkTree(db: Database, { table, check, index }: (typeof TREES)[number]): void {
  const [first] = db.query<Record<string, string>, []>(`PRAGMA ${check}(${table})`).all();
  const verdict = Object.values(first ?? {})[0];
  if (verdict !== "ok") throw new DamagedDatabase(`table ${table}: ${verdict}`);
  if (index === null) return;
  const count = (from: string): number =>
    db.query<{ rows: number }, []>(`SELECT count(*) AS rows FROM ${from}`).get()?.rows ?? 0;
  const rows = count(`${table} NOT INDEXED`);
  const entries = count(`${table} INDEXED BY ${index}`);
  if (rows !== entries) throw new DamagedDatabase(`table ${table} has ${rows} rows, its index ${index} ${entries}`);
}
