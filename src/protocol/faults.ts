/**
 * Faults that reach readers: the world failed, not the request. Thrown by storage and the engine, turned into answers and log
 * lines by HTTP.
 */

/** Stored bytes are not what was written: only a damaged disk or file produces it. `code` is what a client hears. */
export abstract class Damage extends Error {
  abstract readonly code: string;
}

/** Records that do not match their checksum, or that are not there although nothing gave them up. */
export class DamagedRange extends Damage {
  override readonly name = "DamagedRange";
  readonly code = "records-damaged";

  constructor(streamId: number, from: number, to: number) {
    super(
      `records ${from} to ${to - 1} of stream ${streamId} are damaged on disk (checksum mismatch, or missing); ` +
        "restore them from a backup, or read on from the next offset",
    );
  }
}

/** What a stream is besides its records: its head, its producers, its attributes. `what` names the row. */
export class DamagedStream extends Damage {
  override readonly name = "DamagedStream";
  readonly code = "stream-damaged";

  constructor(what: string) {
    super(`${what} is damaged on disk (checksum mismatch, or an index disagrees); restore it from a backup`);
  }
}

/** SQLite itself cannot make sense of a page. */
export class DamagedDatabase extends Damage {
  override readonly name = "DamagedDatabase";
  readonly code = "database-damaged";

  constructor(what: string, options?: ErrorOptions) {
    super(`log.db is damaged (${what}); restore the data directory from a backup`, options);
  }
}

/** There was no room for background writes that an answer needed. */
export class DiskFull extends Error {
  override readonly name = "DiskFull";
}

/** The records of a planned read are no longer there: the stream was deleted or trimmed meanwhile. */
export class RecordsGone extends Error {
  override readonly name = "RecordsGone";
}
