/**
 * Faults that reach readers: the world failed, not the request. Thrown by storage and the engine, turned into answers and log
 * lines by HTTP.
 */

/** Stored bytes that do not match their checksum: only a damaged disk or file produces it. */
export class DamagedRange extends Error {
  override readonly name = "DamagedRange";

  constructor(streamId: number, from: number, to: number) {
    super(
      `records ${from} to ${to - 1} of stream ${streamId} are damaged on disk (checksum mismatch); ` +
        "restore them from a backup, or read on from the next offset",
    );
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
