/** Lists over many deleted rows: complete, in order, a bounded part of them in each turn, and damaged only where they show damage. */

import { Database } from "bun:sqlite";
import { expect, test } from "bun:test";
import { DamagedStream } from "../../protocol/faults.ts";
import { newHead } from "../../protocol/stream.ts";
import { HeadTables } from "./head-tables.ts";
import { Heads } from "./heads.ts";
import { migrate } from "./schema.ts";
import { encodeHead } from "./stored-head.ts";

const ROWS = 5_000;
const IDLE_HEADS = 1_000;
const nameOf = (id: number): string => `s/${String(id).padStart(6, "0")}`;
/** One of a thousand is left. */
const isLeft = (id: number): boolean => id % 1_000 === 0;

function filled(): Database {
  const db = new Database(":memory:", { strict: true });
  migrate(db);
  const tables = new HeadTables(db);
  const config = { contentType: "text/plain", expiry: { kind: "never" }, fork: null, createdMs: 1, from: 0 } as const;
  db.transaction(() => {
    for (let id = 1; id <= ROWS; id++) {
      const head = newHead(id, { ...config, name: nameOf(id) });
      if (!isLeft(id)) head.deletion = "hard";
      tables.put(encodeHead(head));
    }
  })();
  return db;
}

test("a list passes over deleted rows and gives way to others meanwhile", async () => {
  const heads = new Heads(filled(), IDLE_HEADS);
  let turns = 0;
  let isListing = true;
  const count = (): void => {
    turns++;
    if (isListing) setImmediate(count);
  };
  setImmediate(count);
  const first = await heads.list({ prefix: "s/", after: "", limit: 3 });
  const rest = await heads.list({ prefix: "s/", after: nameOf(3_000), limit: 10 });
  isListing = false;
  expect([first, rest].map((found) => found.map(({ id }) => id))).toEqual([
    [1_000, 2_000, 3_000],
    [4_000, 5_000],
  ]);
  expect(turns).toBeGreaterThan(15);
});

test("damage behind what a list shows is not its", async () => {
  const db = filled();
  db.run("UPDATE streams SET head = head || ' ' WHERE id = 1500");
  const heads = new Heads(db, IDLE_HEADS);
  expect(await heads.list({ prefix: "s/", after: "", limit: 1 })).toHaveLength(1);
  const meets = await heads.list({ prefix: "s/", after: "", limit: 2 }).catch((cause: unknown) => cause);
  expect(meets).toBeInstanceOf(DamagedStream);
});

test("a damaged row is the fault of its stream, not of those beside it", () => {
  const db = filled();
  const tables = new HeadTables(db);
  for (const stream of [1_000, 2_000, 3_000]) tables.putAttribute({ stream, key: "k", value: "v" });
  db.run("UPDATE streams SET head = head || ' ' WHERE id = 2000");
  db.run("UPDATE attributes SET value = 'x' WHERE stream = 2000");
  const heads = new Heads(db, IDLE_HEADS);
  expect(() => heads.byName(nameOf(2_000))).toThrow(DamagedStream);
  expect(() => heads.byId(2_000)).toThrow(DamagedStream);
  expect(() => heads.attributes(2_000)).toThrow(DamagedStream);
  expect([heads.byName(`${nameOf(2_000)}x`), heads.byId(ROWS + 1)]).toEqual([undefined, undefined]);
  expect([1_000, 1_999, 2_001, 3_000].map((id) => heads.attributes(id).size)).toEqual([1, 0, 0, 1]);
  expect(heads.annotated("k", 0, 10)).toEqual([1_000, 2_000, 3_000]);
});
