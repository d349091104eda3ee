/**
 * What clients were sent: the hashes of rows by their ids. Not the rows: one that is replaced is not kept for a client that does not
 * read. Shared by clients that were sent the same, and counted once while one of them is there, so that nothing has to be taken back by
 * who comes and goes.
 */

import type { ViewRow } from "./view-definition.ts";

export type SentRows = ReadonlyMap<string, bigint>;

/** What a client has been sent once it was told `rows`. */
export function sentRows(rows: readonly ViewRow[]): SentRows {
  return new Map(rows.map(({ id, hash }) => [id, hash]));
}

/** One row besides its id, which may outlive it here. */
const SENT_ROW_BYTES = 50;

export class Sent {
  readonly rows: SentRows;
  readonly bytes: number;
  holders = 0;

  constructor(rows: SentRows) {
    this.rows = rows;
    let bytes = 0;
    for (const id of rows.keys()) bytes += SENT_ROW_BYTES + id.length;
    this.bytes = bytes;
  }
}

/** Who was sent something; null = nothing yet. Written by `SentBook.hold` alone. */
export interface SentHolder {
  sent: Sent | null;
}

export class SentBook {
  #bytes = 0;

  /** What all that is held takes up, about. */
  get bytes(): number {
    return this.#bytes;
  }

  /** What a client has from now on. */
  hold(holder: SentHolder, sent: Sent | null): void {
    const before = holder.sent;
    holder.sent = sent;
    if (sent !== null && sent.holders++ === 0) this.#bytes += sent.bytes;
    if (before !== null && --before.holders === 0) this.#bytes -= before.bytes;
  }
}
