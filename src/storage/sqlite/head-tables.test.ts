/**
 * Every bit of a page flipped, one at a time: a look-up finds the row as it was written or throws, and never says that
 * it is not there. Done on whole pages of each table and index, so that cells, pointers and headers are all hit.
 */

import { Database } from "bun:sqlite";
import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Damage } from "../../protocol/faults.ts";
import { HeadTables } from "./head-tables.ts";
import { migrate } from "./schema.ts";
import { checkDatabase } from "./start-checks.ts";

const root = mkdtempSync(join(tmpdir(), "streams-tables-"));
const original = join(root, "original.db");
const PAGE_BYTES = 4096;
const STREAMS = 120;
/** Each look-up opens a damaged copy: so many flips of each page, spread over its bytes in use. `PAGE_FLIPS` for long runs. */
const FLIPS_PER_PAGE = Number(process.env["PAGE_FLIPS"] ?? 40);
let bytes = Buffer.alloc(0);

const nameOf = (id: number): string => `stream/${String(id * 7).padStart(4, "0")}`;

beforeAll(() => {
  const db = new Database(original, { create: true, strict: true });
  migrate(db);
  const tables = new HeadTables(db);
  db.transaction(() => {
    for (let id = 1; id <= STREAMS; id++) {
      tables.put({ id, name: nameOf(id), deletion: 0, deadline_ms: null, retained: 0, head: `{"next":${id}}` });
      for (const producer of ["a", "b", "c"]) tables.putProducer({ stream: id, producer, epoch: 0, last_seq: id });
      for (const key of ["k", "l"]) tables.putAttribute({ stream: id, key, value: `${key}${id}` });
    }
  })();
  db.close();
  bytes = readFileSync(original);
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

/** Everything there is, through every kind of look-up. */
function lookUp(db: Database): unknown[] {
  const tables = new HeadTables(db);
  const found: unknown[] = [
    [...tables.page({ name: "", skip: 0, isEnd: false }, "", STREAMS + 10)].length,
    tables.annotated("k", 0, STREAMS + 10),
  ];
  for (let id = 1; id <= STREAMS; id++) {
    found.push(
      tables.byName(nameOf(id))?.head,
      tables.byId(id)?.head,
      tables.attributes(id).map((row) => row.value),
    );
    for (const producer of ["a", "b", "c"]) found.push(tables.producer(id, producer)?.last_seq);
    tables.verifyProducerCount(id, 3);
  }
  return found;
}

/** Null when the damage was noticed. */
function lookUpIn(file: string): unknown[] | null {
  try {
    checkDatabase(file);
    const db = new Database(file, { readonly: true, strict: true });
    try {
      return lookUp(db);
    } finally {
      db.close();
    }
  } catch (cause) {
    if (cause instanceof Damage) return null;
    throw cause;
  }
}

test("what is found is right, or the damage is noticed", () => {
  const expected = lookUpIn(original);
  expect(expected?.slice(0, 2)).toEqual([STREAMS, Array.from({ length: STREAMS }, (_, index) => index + 1)]);
  const file = join(root, "flipped.db");
  let noticed = 0;
  let flips = 0;
  for (let page = 0; page < bytes.length / PAGE_BYTES; page++) {
    const used = [...bytes.subarray(page * PAGE_BYTES, (page + 1) * PAGE_BYTES).entries()].filter(
      ([, byte]) => byte !== 0,
    );
    for (let flip = 0; flip < Math.min(FLIPS_PER_PAGE, used.length); flip++) {
      // The heads of pages are looked at closely, the rest in strides.
      const place = flip < 12 ? flip : Math.floor((flip / FLIPS_PER_PAGE) * used.length);
      const byte = page * PAGE_BYTES + (used[place]?.[0] ?? 0);
      const bit = flip % 8;
      const damaged = Buffer.from(bytes);
      damaged[byte] = (damaged[byte] ?? 0) ^ (1 << bit);
      writeFileSync(file, damaged);
      const found = lookUpIn(file);
      flips++;
      if (found === null) noticed++;
      else if (JSON.stringify(found) !== JSON.stringify(expected)) {
        const at = found.findIndex((value, index) => JSON.stringify(value) !== JSON.stringify(expected?.[index]));
        const [wrong, right] = [found, expected].map((list) => JSON.stringify(list?.[at]));
        throw new Error(`bit ${bit} of byte ${byte} (page ${page + 1}): look-up ${at} found ${wrong}, not ${right}`);
      }
    }
  }
  console.log(`${noticed} of ${flips} flips noticed, the others changed nothing`);
  expect(noticed).toBeGreaterThan(flips / 2);
}, 600_000);
