/**
 * Part of migration 4: gives every row of a database from before it the checksum that it is read with from now on. What was damaged
 * earlier stays as it is and is not noticed. Runs inside the migration's transaction, a page of rows at a time.
 */

import type { Database } from "bun:sqlite";
import { sealMeta } from "./meta.ts";
import {
  attributeCrc,
  type AttributeRow,
  producerCrc,
  type ProducerRow,
  streamCrc,
  type StreamRow,
} from "./row-crc.ts";

const PAGE_ROWS = 1_000;

export function fillCrcs(db: Database): void {
  fillStreams(db);
  fillProducers(db);
  fillAttributes(db);
  sealMeta(db);
}

/** Calls `fill` with page after page; `next` gets the last row of the page before. */
function eachPage<R>(next: (last: R | undefined) => R[], fill: (row: R) => void): void {
  for (let rows = next(undefined); rows.length > 0; rows = next(rows.at(-1))) for (const row of rows) fill(row);
}

function fillStreams(db: Database): void {
  const page = db.query<StreamRow, [number, number]>(
    "SELECT id, name, deletion, deadline_ms, retained, head FROM streams WHERE id > ? ORDER BY id LIMIT ?",
  );
  const update = db.query<never, [number, number]>("UPDATE streams SET crc = ? WHERE id = ?");
  eachPage<StreamRow>(
    (last) => page.all(last?.id ?? 0, PAGE_ROWS),
    (row) => update.run(streamCrc(row), row.id),
  );
}

function fillProducers(db: Database): void {
  const page = db.query<ProducerRow, [number, string, number]>(
    "SELECT stream, producer, epoch, last_seq FROM producers WHERE (stream, producer) > (?, ?) ORDER BY stream, producer LIMIT ?",
  );
  const update = db.query<never, [number, number, string]>(
    "UPDATE producers SET crc = ? WHERE stream = ? AND producer = ?",
  );
  eachPage<ProducerRow>(
    (last) => page.all(last?.stream ?? 0, last?.producer ?? "", PAGE_ROWS),
    (row) => update.run(producerCrc(row), row.stream, row.producer),
  );
}

function fillAttributes(db: Database): void {
  const page = db.query<AttributeRow, [number, string, number]>(
    "SELECT stream, key, value FROM attributes WHERE (stream, key) > (?, ?) ORDER BY stream, key LIMIT ?",
  );
  const update = db.query<never, [number, number, string]>(
    "UPDATE attributes SET crc = ? WHERE stream = ? AND key = ?",
  );
  eachPage<AttributeRow>(
    (last) => page.all(last?.stream ?? 0, last?.key ?? "", PAGE_ROWS),
    (row) => update.run(attributeCrc(row), row.stream, row.key),
  );
}
