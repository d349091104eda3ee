/**
 * The chain of unsealed commits, as a start and the doctor both read it: numbers dense, checksums right, each commit holding its
 * predecessor's checksum and as many payload bytes as it says. Reads only; never throws on what a row or its file holds.
 */

import type { Database } from "bun:sqlite";
import { Defect } from "../../kit/assert.ts";
import { ByteReader } from "../../kit/bytes.ts";
import { commitCrc, decodeCommit, type DecodedCommit } from "./commit-codec.ts";
import type { ReadPart } from "./large-files.ts";

export interface CommitRow {
  readonly no: number;
  readonly crc: number;
  readonly hdr: Uint8Array;
  readonly data: Uint8Array;
}

/** Where a chain ends so far. */
export interface ChainEnd {
  readonly no: number;
  readonly crc: number;
}

/** Commits are missing or damaged. The message is for the operator. */
export class LostTail extends Error {
  override readonly name = "LostTail";

  constructor(recoveredNo: number, highwaterNo: number, reason: string) {
    super(
      `commits ${recoveredNo + 1} to ${Math.max(highwaterNo, recoveredNo + 1)} were acknowledged but cannot be read (${reason}). ` +
        "Restore the data directory from a backup, or start with --accept-loss to go on without them.",
    );
  }
}

export type Following = { readonly commit: DecodedCommit } | { readonly problem: string };

/** The rows after a commit, in order. */
export function commitRowsAfter(db: Database, no: number): Iterable<CommitRow> {
  return db.query<CommitRow, [number]>("SELECT no, crc, hdr, data FROM commits WHERE no > ? ORDER BY no").iterate(no);
}

/** The commit in a row that should follow `last`, or what is wrong with it. */
export function follow(row: CommitRow, last: ChainEnd, readFile: ReadPart): Following {
  const problem = linkProblem(row, last);
  if (problem !== null) return { problem };
  let commit: DecodedCommit;
  try {
    commit = decodeCommit(row.hdr, row.data, row.crc, readFile);
  } catch (cause) {
    // The disk, or the system, could not read its file: that says nothing about what is in it.
    if (!(cause instanceof RangeError || cause instanceof SyntaxError || cause instanceof Defect)) throw cause;
    return {
      problem: `commit ${row.no} cannot be decoded (${cause instanceof Error ? cause.message : String(cause)})`,
    };
  }
  if (commit.no !== row.no) return { problem: `commit ${row.no} holds commit ${commit.no}` };
  if (commit.prevCrc !== last.crc) return { problem: `commit ${row.no} does not follow commit ${last.no}` };
  const payload = commit.runs.reduce((sum, run) => sum + run.dataLength, 0);
  const { data } = commit;
  if (payload !== data.length) return { problem: `commit ${row.no} has ${data.length} bytes for ${payload}` };
  return { commit };
}

/** What is wrong with a row that should follow `last`, or null. Its content is not decoded. */
export function linkProblem(row: CommitRow, last: Pick<ChainEnd, "no">): string | null {
  if (row.no !== last.no + 1) return `commit ${last.no + 1} is missing`;
  if (!(row.hdr instanceof Uint8Array) || !(row.data instanceof Uint8Array)) return `commit ${row.no} holds no bytes`;
  if (commitCrc(row.hdr, row.data) !== row.crc) return `commit ${row.no} has a wrong checksum`;
  return null;
}

/** The checksum of the commit before, as a row's header says it. The row's own checksum must be right. */
export function prevCrcOf({ hdr }: Pick<CommitRow, "hdr">): number {
  const reader = new ByteReader(hdr);
  reader.byte();
  reader.varint();
  reader.varint();
  return reader.varint();
}
