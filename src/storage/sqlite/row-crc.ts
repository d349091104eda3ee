/**
 * Checksums of the rows that SQLite holds for us one by one: heads, producers, attributes, and the counters of `meta`. Pure functions of
 * a row's own values. A damaged page can give a column another type, so every value is written with its type and nothing here
 * throws. Columns added later must enter the checksum with the migration that adds them.
 */

import { ByteWriter } from "../../kit/bytes.ts";
import { crc32 } from "../../kit/crc32.ts";

/** A row of `streams`, without its checksum. */
export interface StreamRow {
  readonly id: number;
  readonly name: string;
  readonly deletion: number;
  readonly deadline_ms: number | null;
  readonly retained: number;
  readonly head: string;
}

export interface ProducerRow {
  readonly stream: number;
  readonly producer: string;
  readonly epoch: number;
  readonly last_seq: number;
}

export interface AttributeRow {
  readonly stream: number;
  readonly key: string;
  readonly value: string;
}

/** What `meta` says besides `checkpoints`, which the storage thread counts up by itself. */
export interface MetaValues {
  readonly sealed_no: number;
  readonly sealed_crc: number;
  readonly sealed_batch: number;
  readonly next_id: number;
}

export function streamCrc(row: StreamRow): number {
  return crcOf([row.id, row.name, row.deletion, row.deadline_ms, row.retained, row.head]);
}

export function producerCrc(row: ProducerRow): number {
  return crcOf([row.stream, row.producer, row.epoch, row.last_seq]);
}

export function attributeCrc(row: AttributeRow): number {
  return crcOf([row.stream, row.key, row.value]);
}

export function metaCrc(values: MetaValues): number {
  return crcOf([values.sealed_no, values.sealed_crc, values.sealed_batch, values.next_id]);
}

const TYPE = { null: 0, number: 1, text: 2, other: 3 } as const;

const writer = new ByteWriter(1024);

function crcOf(values: readonly unknown[]): number {
  writer.reset();
  for (const value of values) {
    if (value === null) {
      writer.byte(TYPE.null);
    } else if (typeof value === "number") {
      writer.byte(TYPE.number);
      writer.text(String(value));
    } else if (typeof value === "string") {
      writer.byte(TYPE.text);
      writer.text(value);
    } else {
      // Never written by us: no row with such a value has a right checksum.
      writer.byte(TYPE.other);
    }
  }
  return crc32(writer.take());
}
