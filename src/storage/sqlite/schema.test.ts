/** Databases of released versions: what schema 3 wrote is read as it was, and its rows are checked from then on. */

import { Database } from "bun:sqlite";
import { afterEach, expect, test } from "bun:test";
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../kit/clock.ts";
import { newHead } from "../../protocol/stream.ts";
import { SCHEMA_VERSION } from "./schema.ts";
import { SqliteStore } from "./sqlite-store.ts";

const root = mkdtempSync(join(tmpdir(), "streams-schema-"));
afterEach(() => rmSync(root, { recursive: true, force: true }));

/** The tables as release 3 made them. */
const SCHEMA_3 = `
  CREATE TABLE commits (no INTEGER PRIMARY KEY, crc INTEGER NOT NULL, hdr BLOB NOT NULL, data BLOB NOT NULL);
  CREATE TABLE batches (
    id INTEGER PRIMARY KEY, stream INTEGER NOT NULL, first_seq INTEGER NOT NULL, count INTEGER NOT NULL, bytes INTEGER NOT NULL,
    first_ms INTEGER NOT NULL, last_ms INTEGER NOT NULL, raw INTEGER NOT NULL, codec INTEGER NOT NULL, crc INTEGER NOT NULL,
    shape BLOB NOT NULL, frame BLOB NOT NULL
  );
  CREATE INDEX batches_by_stream ON batches (stream, first_seq, count, bytes, last_ms);
  CREATE TABLE streams (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, deletion INTEGER NOT NULL, deadline_ms INTEGER, retained INTEGER NOT NULL,
    head TEXT NOT NULL
  );
  CREATE INDEX streams_by_name ON streams (name, id);
  CREATE INDEX streams_by_deadline ON streams (deadline_ms) WHERE deadline_ms IS NOT NULL;
  CREATE INDEX streams_retained ON streams (id) WHERE retained = 1;
  CREATE TABLE producers (
    stream INTEGER NOT NULL, producer TEXT NOT NULL, epoch INTEGER NOT NULL, last_seq INTEGER NOT NULL, PRIMARY KEY (stream, producer)
  ) WITHOUT ROWID;
  CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
  INSERT INTO meta VALUES ('sealed_no', 0), ('sealed_crc', 0), ('sealed_batch', 0), ('next_id', 1), ('checkpoints', 0);
  CREATE TABLE attributes (stream INTEGER NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (stream, key)) WITHOUT ROWID;
  CREATE INDEX attributes_by_key ON attributes (key, stream);
  PRAGMA user_version = 3;
`;
const STREAMS = 2_500;

function nameOf(id: number): string {
  return `s/${String(id).padStart(5, "0")}`;
}

function writeSchema3(file: string): void {
  const db = new Database(file, { create: true, strict: true });
  db.run("PRAGMA page_size = 4096");
  db.run("PRAGMA journal_mode = WAL");
  db.run(SCHEMA_3);
  db.transaction(() => {
    const put = db.query(
      "INSERT INTO streams (id, name, deletion, deadline_ms, retained, head) VALUES (?, ?, 0, ?, 0, ?)",
    );
    for (let id = 1; id <= STREAMS; id++) {
      const config = { name: nameOf(id), contentType: "text/plain", expiry: { kind: "never" }, fork: null } as const;
      const {
        id: _id,
        producers: _producers,
        deletion: _deletion,
        ...stored
      } = newHead(id, {
        ...config,
        createdMs: 1,
        from: 0,
      });
      put.run(id, config.name, null, JSON.stringify({ ...stored, producerCount: 1 }));
      db.query("INSERT INTO producers VALUES (?, 'p', 3, ?)").run(id, id);
      db.query("INSERT INTO attributes VALUES (?, 'k', ?)").run(id, `v${id}`);
    }
    db.run(`UPDATE meta SET value = ${STREAMS + 1} WHERE key = 'next_id'`);
  })();
  db.close();
}

async function openStore(directory: string): Promise<SqliteStore> {
  return SqliteStore.open({ directory, durability: "os", acceptLoss: false, clock: systemClock });
}

test("a database of schema 3 is read as it was; a row that changes afterwards is noticed", async () => {
  const directory = join(root, "old");
  mkdirSync(directory);
  const file = join(directory, "log.db");
  writeSchema3(file);
  const store = await openStore(directory);
  const listed = await store.list({ prefix: "", after: "", limit: STREAMS + 1 });
  expect(listed.map((head) => head.config.name)).toEqual(
    Array.from({ length: STREAMS }, (_, index) => nameOf(index + 1)),
  );
  expect([...(await store.attributes(STREAMS))]).toEqual([["k", `v${STREAMS}`]]);
  const body = { payload: new TextEncoder().encode("x"), lengths: [1] };
  const [outcome] = await store.commit([
    {
      kind: "append",
      name: nameOf(7),
      contentType: "text/plain",
      body,
      key: null,
      producer: { id: "p", epoch: 3, seq: 8 },
      streamSeq: null,
      ifMatch: null,
      close: false,
    },
  ]);
  expect(outcome?.kind).toBe("appended");
  await store.close();

  const db = new Database(file, { strict: true });
  expect(db.query("PRAGMA user_version").get()).toEqual({ user_version: SCHEMA_VERSION });
  db.run("UPDATE streams SET head = replace(head, '\"bytes\":0', '\"bytes\":1') WHERE id = 9");
  db.close();
  const again = await openStore(directory);
  expect((await again.byName(nameOf(8)))?.config.name).toBe(nameOf(8));
  const refused = await again.byName(nameOf(9)).catch((cause: unknown) => String(cause));
  expect(refused).toContain('the head of stream "s/00009"');
  await again.close();
});

test("streams that an older release deleted and did not free are found by the index that it did not have", async () => {
  const directory = join(root, "deleted");
  mkdirSync(directory, { recursive: true });
  const file = join(directory, "log.db");
  writeSchema3(file);
  const old = new Database(file, { strict: true });
  old.run("UPDATE streams SET deletion = 2 WHERE id % 2 = 0");
  old.close();
  const store = await openStore(directory);
  // Waits for what the start goes on with.
  await store.sealAll();
  await store.close();
  const db = new Database(file, { strict: true });
  const count = (table: string): unknown => db.query(`SELECT count(*) AS n FROM ${table}`).get();
  for (const table of ["streams", "producers", "attributes"]) expect(count(table)).toEqual({ n: STREAMS / 2 });
  db.close();
});
