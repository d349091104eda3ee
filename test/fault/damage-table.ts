/**
 * Damage that the doctor has to find, one entry each: what is done to a copy of a sound data directory, and the finding it must give.
 * Most of it carries right checksums, so that the check behind them is what finds it.
 */

import { Database } from "bun:sqlite";
import { appendFileSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { crc32 } from "../../src/kit/crc32.ts";
import { type BatchRow, batchCrc } from "../../src/storage/sqlite/batches.ts";
import { commitCrc } from "../../src/storage/sqlite/commit-codec.ts";
import type { Check, Severity } from "../../src/storage/sqlite/finding.ts";
import { readMeta, writeMeta } from "../../src/storage/sqlite/meta.ts";
import { attributeCrc, producerCrc, streamCrc, type StreamRow } from "../../src/storage/sqlite/row-crc.ts";

export interface Damage {
  readonly name: string;
  readonly severity: Severity;
  readonly check: Check;
  readonly says: RegExp;
  readonly plant: (directory: string) => void;
}

/** Opens the log for an edit; closing it moves the write-ahead log into the database. */
function edit(work: (db: Database) => void): (directory: string) => void {
  return (directory) => {
    const db = new Database(join(directory, "log.db"), { readwrite: true, strict: true });
    try {
      work(db);
    } finally {
      db.close();
    }
  };
}

type Stored = { next: number; forks: number; config: { name: string; from: number; fork: object | null } };

/** Changes a head, and gives its row a right checksum. */
function head(
  name: string,
  change: (stored: Stored) => void,
  row: Partial<StreamRow> = {},
): (directory: string) => void {
  return edit((db) => {
    const columns = "id, name, deletion, deadline_ms, retained, head";
    const found = db.query<StreamRow, [string]>(`SELECT ${columns} FROM streams WHERE name = ?`).get(name);
    if (found === null) throw new Error(`no stream ${name}`);
    const stored = JSON.parse(found.head) as Stored;
    change(stored);
    const changed = { ...found, head: JSON.stringify(stored), ...row };
    db.query("UPDATE streams SET name = ?, head = ?, crc = ? WHERE id = ?").run(
      changed.name,
      changed.head,
      streamCrc(changed),
      found.id,
    );
  });
}

const NOISE = "SELECT id FROM streams WHERE name = 'bytes/noise'";

/** The `index`-th batch of the byte stream, changed; with a right checksum unless said otherwise. */
function batch(index: number, change: (row: BatchRow) => Partial<BatchRow>, seal = true): (directory: string) => void {
  return edit((db) => {
    const select = `SELECT * FROM batches WHERE stream = (${NOISE}) ORDER BY first_seq LIMIT 1 OFFSET ${index}`;
    const row = db.query<BatchRow & { id: number }, []>(select).get();
    if (row === null) throw new Error(`no batch ${index}`);
    const next = { ...row, ...change(row) };
    const crc = seal ? batchCrc(next, next.shape, next.frame) : row.crc;
    db.query("UPDATE batches SET first_seq = ?, count = ?, bytes = ?, raw = ?, frame = ?, crc = ? WHERE id = ?").run(
      next.first_seq,
      next.count,
      next.bytes,
      next.raw,
      next.frame,
      crc,
      row.id,
    );
  });
}

function flipped(bytes: Uint8Array): Uint8Array {
  const copy = bytes.slice();
  const at = copy.length >> 1;
  copy[at] = (copy[at] ?? 0) ^ 4;
  return copy;
}

const sql = (statement: string): ((directory: string) => void) => edit((db) => void db.run(statement));

const PAST_THE_MIDDLE = "(SELECT (min(no) + max(no)) / 2 FROM commits)";

const PAGE_BYTES = 4096;
/** First byte of a page that is a leaf of an index. */
const INDEX_LEAF = 0x0a;

/** All pages are in the file, and there is no write-ahead log. */
const checkpointed = edit((db) => void db.run("PRAGMA wal_checkpoint(TRUNCATE)"));

/** Changes a name where an index holds it; in the table it stays as it was. */
function renameInIndex(name: string): (directory: string) => void {
  return (directory) => {
    checkpointed(directory);
    const file = join(directory, "log.db");
    const bytes = readFileSync(file);
    let renamed = 0;
    for (let at = bytes.indexOf(name); at !== -1; at = bytes.indexOf(name, at + 1)) {
      if (bytes[at - (at % PAGE_BYTES)] !== INDEX_LEAF) continue;
      bytes[at + 1] = (bytes[at + 1] ?? 0) ^ 1;
      renamed++;
    }
    if (renamed === 0) throw new Error(`no index holds ${name}`);
    writeFileSync(file, bytes);
  };
}

/** The kind of the page where a tree begins; SQLite cannot make sense of the tree any more. */
function rootPage(tree: string): (directory: string) => void {
  return (directory) => {
    let page = 0;
    edit((db) => {
      page =
        db.query<{ page: number }, [string]>("SELECT rootpage AS page FROM sqlite_schema WHERE name = ?").get(tree)
          ?.page ?? 0;
    })(directory);
    if (page === 0) throw new Error(`no tree ${tree}`);
    checkpointed(directory);
    flipByte(join(directory, "log.db"), (page - 1) * PAGE_BYTES);
  };
}

function flipByte(file: string, at: number): void {
  const bytes = readFileSync(file);
  bytes[at] = (bytes[at] ?? 0) ^ 0xff;
  writeFileSync(file, bytes);
}

/** Every table and index: what the doctor says of each, besides what SQLite says. */
const TREES: readonly (readonly [tree: string, check: Check, says: RegExp])[] = [
  ["meta", "meta", /the counters cannot be read to the end/],
  ["commits", "commit", /the commits after \d+ cannot be read to the end/],
  ["batches", "batch", /the batches cannot be read to the end/],
  ["batches_by_stream", "sequence", /the places of the batches cannot be read to the end/],
  ["streams", "head", /the streams cannot be read to the end/],
  ["streams_by_name", "name", /the names cannot be read to the end/],
  ["producers", "producer", /the producers cannot be read to the end/],
  ["attributes", "attribute", /the attributes cannot be read to the end/],
];

function highwaterOf(no: number): Uint8Array {
  const bytes = new Uint8Array(12);
  const view = new DataView(bytes.buffer);
  view.setBigUint64(0, BigInt(no));
  view.setUint32(8, crc32(bytes.subarray(0, 8)));
  return bytes;
}

const error = "error" as const;
const warning = "warning" as const;

/** Does something to a file: of sealed records, or of the last commit that has one and is not sealed. */
function largeFile(which: "sealed" | "unsealed", harm: (path: string) => void): (directory: string) => void {
  return (directory) => {
    let file = 0;
    edit((db) => {
      const select = {
        sealed:
          "SELECT min(file) AS file FROM batches WHERE stream = (SELECT id FROM streams WHERE name = 'bytes/large')",
        unsealed: "SELECT max(no) AS file FROM commits WHERE substr(hdr, 1, 1) = x'02'",
      }[which];
      file = db.query<{ file: number | null }, []>(select).get()?.file ?? 0;
    })(directory);
    if (file === 0) throw new Error(`no ${which} record lies in a file`);
    harm(join(directory, "large", String(file)));
  };
}

const HARMS: readonly (readonly [what: string, harm: (path: string) => void])[] = [
  ["is missing", (path) => rmSync(path)],
  ["has a flipped bit", (path) => writeFileSync(path, flipped(readFileSync(path)))],
  ["ends too early", (path) => truncateSync(path, 1_000)],
  ["is empty", (path) => truncateSync(path)],
];

const LARGE_DAMAGES: readonly Damage[] = HARMS.flatMap(([what, harm]) => [
  {
    name: `a file of sealed large records ${what}`,
    severity: error,
    check: "batch",
    says: /records? 0.* of stream \d+ \(bytes\/large\): its file large\/\d+ is missing or damaged/,
    plant: largeFile("sealed", harm),
  },
  {
    name: `a file of a commit that is not sealed ${what}`,
    severity: error,
    check: "commit",
    says: /commit \d+ cannot be decoded \(its file large\/\d+ is missing or damaged\)/,
    plant: largeFile("unsealed", harm),
  },
]);

const STRAY_FILE = "4000000001";

export const DAMAGES: readonly Damage[] = [
  ...LARGE_DAMAGES,
  {
    name: "a file in large/ that belongs to no record",
    severity: "warning",
    check: "leftover",
    says: new RegExp(`large/.*${STRAY_FILE}`),
    plant: (directory) => writeFileSync(join(directory, "large", STRAY_FILE), "of nobody"),
  },
  {
    name: "a flipped bit in a batch",
    severity: error,
    check: "batch",
    says: /records \d+ to \d+ of stream \d+ \(bytes\/noise\): wrong checksum/,
    plant: batch(3, ({ frame }) => ({ frame: flipped(frame) }), false),
  },
  {
    name: "a batch that holds fewer records than it says",
    severity: error,
    check: "batch",
    says: /bytes\/noise\): a shape of/,
    plant: batch(3, ({ count }) => ({ count: count + 1 })),
  },
  {
    name: "a batch that unpacks to another length",
    severity: error,
    check: "batch",
    says: /bytes\/noise\): unpacked/,
    plant: batch(3, ({ raw }) => ({ raw: raw + 1 })),
  },
  {
    name: "a batch without its row",
    severity: error,
    check: "sequence",
    says: /records \d+ to \d+ of stream \d+ \(bytes\/noise\): missing/,
    plant: sql(
      `DELETE FROM batches WHERE id = (SELECT id FROM batches WHERE stream = (${NOISE}) ORDER BY first_seq LIMIT 1 OFFSET 3)`,
    ),
  },
  {
    name: "the first batch without its row",
    severity: error,
    check: "sequence",
    says: /records? 0.* \(bytes\/noise\): missing/,
    plant: sql(
      `DELETE FROM batches WHERE id = (SELECT id FROM batches WHERE stream = (${NOISE}) ORDER BY first_seq LIMIT 1)`,
    ),
  },
  {
    name: "batches that overlap",
    severity: error,
    check: "sequence",
    says: /bytes\/noise\): there twice/,
    plant: batch(3, ({ first_seq }) => ({ first_seq: first_seq - 1 })),
  },
  {
    name: "a commit without its row",
    severity: error,
    check: "commit",
    says: /commit \d+ is missing; it and all later commits/,
    plant: sql(`DELETE FROM commits WHERE no = ${PAST_THE_MIDDLE}`),
  },
  {
    name: "a flipped bit in a commit",
    severity: error,
    check: "commit",
    says: /commit \d+ has a wrong checksum/,
    plant: edit((db) => {
      const row = db
        .query<{ no: number; data: Uint8Array }, []>(
          "SELECT no, data FROM commits WHERE length(data) > 0 ORDER BY no LIMIT 1",
        )
        .get();
      db.query("UPDATE commits SET data = ? WHERE no = ?").run(flipped(row?.data ?? new Uint8Array()), row?.no ?? 0);
    }),
  },
  {
    name: "a commit of another chain",
    severity: error,
    check: "commit",
    says: /commit \d+ does not follow commit \d+/,
    plant: edit((db) => writeMeta(db, { ...readMeta(db), sealed_crc: 1 })),
  },
  {
    name: "a commit with bytes that no run owns",
    severity: error,
    check: "commit",
    says: /commit \d+ has \d+ bytes for \d+/,
    plant: edit((db) => {
      const row = db
        .query<{ no: number; hdr: Uint8Array; data: Uint8Array }, []>(
          "SELECT no, hdr, data FROM commits ORDER BY no DESC LIMIT 1",
        )
        .get();
      if (row === null) throw new Error("no commit");
      const data = new Uint8Array([...row.data, 0x20]);
      db.query("UPDATE commits SET data = ?, crc = ? WHERE no = ?").run(data, commitCrc(row.hdr, data), row.no);
    }),
  },
  {
    name: "a lost last commit",
    severity: error,
    check: "highwater",
    says: /commits? \d+ to \d+ were acknowledged/,
    plant: sql("DELETE FROM commits WHERE no = (SELECT max(no) FROM commits)"),
  },
  {
    name: "a highwater that is too high",
    severity: error,
    check: "highwater",
    says: /to 1000000 were acknowledged/,
    plant: (directory) => writeFileSync(join(directory, "highwater"), highwaterOf(1_000_000)),
  },
  {
    name: "a highwater that cannot be read",
    severity: warning,
    check: "highwater",
    says: /cannot be read/,
    plant: (directory) =>
      writeFileSync(join(directory, "highwater"), flipped(readFileSync(join(directory, "highwater")).fill(7, 0, 8))),
  },
  {
    name: "no highwater",
    severity: warning,
    check: "highwater",
    says: /there is no highwater file/,
    plant: (directory) => rmSync(join(directory, "highwater")),
  },
  {
    name: "counters with a wrong checksum",
    severity: error,
    check: "meta",
    says: /counters of the meta table have a wrong checksum/,
    plant: sql("UPDATE meta SET value = value + 1 WHERE key = 'next_id'"),
  },
  {
    name: "a missing counter",
    severity: error,
    check: "meta",
    says: /'sealed_batch' is missing/,
    plant: sql("DELETE FROM meta WHERE key = 'sealed_batch'"),
  },
  {
    name: "ids that would be given out again",
    severity: error,
    check: "head",
    says: /its id was never given out/,
    plant: edit((db) => writeMeta(db, { ...readMeta(db), next_id: 2 })),
  },
  {
    name: "a head that was changed",
    severity: error,
    check: "head",
    says: /\(json\/orders\): its row has a wrong checksum/,
    plant: sql(`UPDATE streams SET head = replace(head, '"closed":false', '"closed":true') WHERE name = 'json/orders'`),
  },
  {
    name: "a head that is no JSON",
    severity: error,
    check: "head",
    says: /\(bytes\/noise\): its row holds no head/,
    plant: head("bytes/noise", () => undefined, { head: "{" }),
  },
  {
    name: "a head of another name",
    severity: error,
    check: "head",
    says: /its head says that it is 'other'/,
    plant: head("bytes/noise", (stored) => (stored.config.name = "other")),
  },
  {
    name: "a head that ends too early",
    severity: error,
    check: "sequence",
    says: /record 5 of stream \d+ \(forks\/child\): behind the stream's end/,
    plant: head("forks/child", (stored) => (stored.next -= 1)),
  },
  {
    name: "a head that ends too late",
    severity: error,
    check: "sequence",
    says: /record 6 of stream \d+ \(forks\/child\): missing/,
    plant: head("forks/child", (stored) => (stored.next += 1)),
  },
  {
    name: "a head that its unsealed commits do not continue",
    severity: error,
    check: "head",
    says: /commit \d+ does not fit stream \d+ \(json\/orders\)/,
    plant: head("json/orders", (stored) => (stored.next -= 1)),
  },
  {
    name: "two streams of one name",
    severity: error,
    check: "name",
    says: /share the name 'json\/orders'/,
    plant: head("bytes/noise", (stored) => (stored.config.name = "json/orders"), { name: "json/orders" }),
  },
  {
    name: "a fork too many",
    severity: error,
    check: "fork",
    says: /\(forks\/child\) has 1 forks, and its head says 2/,
    plant: head("forks/child", (stored) => (stored.forks = 2)),
  },
  {
    name: "a fork behind the end of its source",
    severity: error,
    check: "fork",
    says: /\(forks\/child\): it begins at 9, and its source ends at 4/,
    plant: head("forks/child", (stored) => (stored.config.from = 9)),
  },
  {
    name: "a fork without its source",
    severity: error,
    check: "fork",
    says: /its source, stream \d+, does not exist/,
    plant: sql("DELETE FROM streams WHERE name = 'forks/source'"),
  },
  {
    name: "a changed producer",
    severity: error,
    check: "producer",
    says: /producer 'p1' of stream \d+ \(json\/orders\): its row has a wrong checksum/,
    plant: sql("UPDATE producers SET last_seq = last_seq - 1 WHERE producer = 'p1'"),
  },
  {
    name: "a lost producer",
    severity: error,
    check: "producer",
    says: /2 producers are known, and its head says 3/,
    plant: sql("DELETE FROM producers WHERE producer = 'p1'"),
  },
  {
    name: "a changed attribute",
    severity: error,
    check: "attribute",
    says: /attribute '.+' of stream \d+ \(__ds\/keys\)/,
    plant: sql("UPDATE attributes SET value = value || ' '"),
  },
  {
    name: "a batch of no stream",
    severity: error,
    check: "orphan",
    says: /'batch' belong to stream 999, which does not exist/,
    plant: edit((db) => {
      const row = db
        .query<BatchRow & { id: number }, []>(
          "SELECT * FROM batches WHERE stream = (SELECT id FROM streams WHERE name = 'trimmed') ORDER BY id LIMIT 1",
        )
        .get();
      if (row === null) throw new Error("no batch");
      const next = { ...row, stream: 999 };
      db.query("UPDATE batches SET stream = 999, crc = ? WHERE id = ?").run(
        batchCrc(next, row.shape, row.frame),
        row.id,
      );
    }),
  },
  {
    name: "a producer of no stream",
    severity: error,
    check: "orphan",
    says: /'producer' belong to stream 999/,
    plant: edit((db) => {
      const row = { stream: 999, producer: "x", epoch: 0, last_seq: 0 };
      db.query("INSERT INTO producers (stream, producer, epoch, last_seq, crc) VALUES (999, 'x', 0, 0, ?)").run(
        producerCrc(row),
      );
    }),
  },
  {
    name: "an attribute of no stream",
    severity: error,
    check: "orphan",
    says: /'attribute' belong to stream 999/,
    plant: edit((db) => {
      const row = { stream: 999, key: "x", value: "y" };
      db.query("INSERT INTO attributes (stream, key, value, crc) VALUES (999, 'x', 'y', ?)").run(attributeCrc(row));
    }),
  },
  {
    name: "an index that lost an entry",
    severity: error,
    check: "sqlite",
    says: /streams_by_name/,
    plant: renameInIndex("json/orders"),
  },
  {
    name: "batches of an unfinished pass",
    severity: warning,
    check: "leftover",
    says: /1 batches belong to a sealing pass or a backup that did not finish/,
    plant: sql(
      "INSERT INTO batches SELECT id + 100000, stream, first_seq, count, bytes, first_ms, last_ms, raw, codec, crc, shape, frame, file FROM batches LIMIT 1",
    ),
  },
  {
    name: "a derived.db that is no database",
    severity: warning,
    check: "derived",
    says: /derived\.db cannot be used/,
    plant: (directory) => {
      for (const suffix of ["-wal", "-shm"]) rmSync(join(directory, `derived.db${suffix}`), { force: true });
      writeFileSync(join(directory, "derived.db"), "not a database, but long enough to be one".repeat(200));
    },
  },
  {
    name: "a kept write-ahead log",
    severity: warning,
    check: "leftover",
    says: /log\.db-wal\.refused was kept/,
    plant: (directory) => writeFileSync(join(directory, "log.db-wal.refused"), ""),
  },
  ...TREES.map(([tree, check, says]) => ({
    name: `the root page of ${tree}`,
    severity: error,
    check,
    says,
    plant: rootPage(tree),
  })),
  {
    name: "the first byte of the table definitions",
    severity: error,
    check: "sqlite",
    says: /malformed/,
    plant: (directory) => {
      checkpointed(directory);
      flipByte(join(directory, "log.db"), 100);
    },
  },
  {
    name: "a header that is none",
    severity: error,
    check: "sqlite",
    says: /a server would not start/,
    plant: (directory) => {
      checkpointed(directory);
      flipByte(join(directory, "log.db"), 0);
    },
  },
  {
    name: "a page too many",
    severity: error,
    check: "sqlite",
    says: /a server would not start: .*its header says \d+ pages, the file has \d+ bytes/,
    plant: (directory) => {
      checkpointed(directory);
      appendFileSync(join(directory, "log.db"), new Uint8Array(PAGE_BYTES));
    },
  },
  {
    name: "another table",
    severity: error,
    check: "sqlite",
    says: /a server would not start: .*its table definitions/,
    plant: sql("CREATE TABLE more (x)"),
  },
];
