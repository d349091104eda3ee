/**
 * The counters of `log.db`: up to where the log is sealed, and the id counter. One checksum over all of them, because each says what
 * a start may delete. `checkpoints` is not theirs: the storage thread counts it up by itself to write something.
 */

import type { Database } from "bun:sqlite";
import { DamagedDatabase } from "../../protocol/faults.ts";
import { metaCrc, type MetaValues } from "./row-crc.ts";

/** Without the checksum. */
export const META_KEYS = ["sealed_no", "sealed_crc", "sealed_batch", "next_id"] as const;

/** Throws a `DamagedDatabase` when the counters are not those that were written. */
export function readMeta(db: Database): MetaValues {
  const { values, crc } = readUnchecked(db);
  if (metaCrc(values) !== crc) throw new DamagedDatabase("the counters in its meta table do not match their checksum");
  return values;
}

/** Call inside a transaction. */
export function writeMeta(db: Database, values: MetaValues): void {
  const update = db.query<never, [number, string]>("UPDATE meta SET value = ? WHERE key = ?");
  for (const key of META_KEYS) update.run(values[key], key);
  update.run(metaCrc(values), "crc");
}

/** For a database that has no checksum yet. */
export function sealMeta(db: Database): void {
  writeMeta(db, readUnchecked(db).values);
}

function readUnchecked(db: Database): { values: MetaValues; crc: number } {
  const select = db.query<{ value: number }, [string]>("SELECT value FROM meta WHERE key = ?");
  const value = (key: string): number => {
    const row = select.get(key);
    if (row === null) throw new DamagedDatabase(`its meta table has no '${key}'`);
    return row.value;
  };
  return {
    values: {
      sealed_no: value("sealed_no"),
      sealed_crc: value("sealed_crc"),
      sealed_batch: value("sealed_batch"),
      next_id: value("next_id"),
    },
    crc: value("crc"),
  };
}
