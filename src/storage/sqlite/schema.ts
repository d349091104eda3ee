/**
 * Tables of `log.db` and the numbered forward migrations that make them. Migration n brings the database from version n-1
 * to n (`PRAGMA user_version`), in one transaction with full sync. A released migration is never edited; see
 * docs/storage-format.md for what each release promises.
 */

import type { Database } from "bun:sqlite";
import { fillCrcs } from "./fill-crcs.ts";

const MIGRATIONS: readonly string[] = [
  `
  -- Hot: one row per commit, in commit order, written once and deleted after sealing.
  CREATE TABLE commits (
    no   INTEGER PRIMARY KEY,
    crc  INTEGER NOT NULL,
    hdr  BLOB NOT NULL,
    data BLOB NOT NULL
  );
  -- Cold: contiguous records of one stream, sealed together. The id grows with every batch, so one number says which are visible.
  CREATE TABLE batches (
    id        INTEGER PRIMARY KEY,
    stream    INTEGER NOT NULL,
    first_seq INTEGER NOT NULL,
    count     INTEGER NOT NULL,
    bytes     INTEGER NOT NULL, -- payload without separators
    first_ms  INTEGER NOT NULL,
    last_ms   INTEGER NOT NULL,
    raw       INTEGER NOT NULL, -- length of the frame before compression
    codec     INTEGER NOT NULL, -- 0 as is, 1 zstd, 2 in a file
    crc       INTEGER NOT NULL, -- of shape, then frame
    shape     BLOB NOT NULL,
    frame     BLOB NOT NULL
  );
  -- Wide enough to answer where and when without touching the frames.
  CREATE INDEX batches_by_stream ON batches (stream, first_seq, count, bytes, last_ms);
  -- Heads as of their last fold; newer changes are in the commit rows.
  CREATE TABLE streams (
    id          INTEGER PRIMARY KEY,
    name        TEXT NOT NULL,
    deletion    INTEGER NOT NULL, -- 0 none, 1 soft, 2 hard: rows are being freed
    deadline_ms INTEGER,          -- earliest time the stream may have expired
    retained    INTEGER NOT NULL, -- 1 when it has a retention policy
    head        TEXT NOT NULL     -- the rest, JSON
  );
  CREATE INDEX streams_by_name ON streams (name, id);
  CREATE INDEX streams_by_deadline ON streams (deadline_ms) WHERE deadline_ms IS NOT NULL;
  CREATE INDEX streams_retained ON streams (id) WHERE retained = 1;
  CREATE TABLE producers (
    stream   INTEGER NOT NULL,
    producer TEXT NOT NULL,
    epoch    INTEGER NOT NULL,
    last_seq INTEGER NOT NULL,
    PRIMARY KEY (stream, producer)
  ) WITHOUT ROWID;
  -- sealed_no, sealed_crc: the last sealed commit. sealed_batch: the last visible batch. next_id: the stream id counter.
  CREATE TABLE meta (key TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
  INSERT INTO meta VALUES ('sealed_no', 0), ('sealed_crc', 0), ('sealed_batch', 0), ('next_id', 1), ('checkpoints', 0);
  `,
  `
  -- What features keep with a stream, as of the last fold of its head.
  CREATE TABLE attributes (
    stream INTEGER NOT NULL,
    key    TEXT NOT NULL,
    value  TEXT NOT NULL,
    PRIMARY KEY (stream, key)
  ) WITHOUT ROWID;
  `,
  `
  -- Which streams have a certain attribute: work that a start has to take up again.
  CREATE INDEX attributes_by_key ON attributes (key, stream);
  `,
  // Checksums of the rows that are read one by one (row-crc.ts).
  `
  ALTER TABLE streams ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
  ALTER TABLE producers ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
  ALTER TABLE attributes ADD COLUMN crc INTEGER NOT NULL DEFAULT 0;
  INSERT INTO meta VALUES ('crc', 0);
  `,
  // Records that lie in a file of large/ (large-files.ts).
  `
  ALTER TABLE batches ADD COLUMN file INTEGER; -- its number, when the frame only says where in it
  CREATE INDEX batches_by_file ON batches (file) WHERE file IS NOT NULL;
  -- Files that lost a reference: removed once they have none, and the disk knows.
  CREATE TABLE freed_files (file INTEGER PRIMARY KEY);
  `,
  `
  -- Streams whose rows wait to be freed. Ids have gaps as wide as years (id-gap.ts): nobody can look through them.
  CREATE INDEX streams_freed ON streams (id) WHERE deletion = 2;
  `,
];

export const SCHEMA_VERSION = MIGRATIONS.length;
const CRCS_SINCE = 4;

/** Brings the database to `SCHEMA_VERSION`. Throws with a clear message when it was written by a newer release. */
export function migrate(db: Database): void {
  const row = db.query<{ user_version: number }, []>("PRAGMA user_version").get();
  const version = row?.user_version ?? 0;
  if (version > SCHEMA_VERSION) {
    throw new Error(
      `the data directory was written by a newer release (schema ${version}, this release knows ${SCHEMA_VERSION}); ` +
        "start it with that release, or use another --data-dir",
    );
  }
  if (version === SCHEMA_VERSION) return;
  db.run("PRAGMA synchronous = FULL");
  db.transaction(() => {
    for (const migration of MIGRATIONS.slice(version)) db.run(migration);
    if (version < CRCS_SINCE) fillCrcs(db);
    db.run(`PRAGMA user_version = ${SCHEMA_VERSION}`);
  })();
}
