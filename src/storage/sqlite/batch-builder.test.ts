/** Batches of runs that are larger than one batch: nothing lost, append boundaries kept across the cuts, reads exact. */

import { Database } from "bun:sqlite";
import { describe, expect, test } from "bun:test";
import { joinBytes, utf8 } from "../../kit/bytes.ts";
import { crc32 } from "../../kit/crc32.ts";
import { BATCH_BYTES } from "../../protocol/limits.ts";
import { newHead, type Run } from "../../protocol/stream.ts";
import { BatchBuilder } from "./batch-builder.ts";
import { Batches } from "./batches.ts";
import { decodeCommit, encodeCommit, type EncodedCommit } from "./commit-codec.ts";
import type { FilePart } from "./large-files.ts";
import { PieceCutter } from "./run-codec.ts";
import { migrate } from "./schema.ts";

interface Append {
  readonly records: readonly string[];
  readonly key: string | null;
}

function streamOf(json: boolean) {
  const contentType = json ? "application/json" : "text/plain";
  const expiry = { kind: "never" } as const;
  return newHead(7, { name: "s", contentType, expiry, fork: null, createdMs: 0, from: 0 });
}

/** Seals one commit per list of appends and returns the batches of the stream. */
function seal(json: boolean, commits: readonly (readonly Append[])[]): Batches {
  const head = streamOf(json);
  const builder = new BatchBuilder();
  let firstSeq = 0;
  let crc = 0;
  const files = new Map<number, Uint8Array>();
  commits.forEach((appends, index) => {
    const run: Run = { firstSeq, lengths: [], appends: [], parts: [] };
    for (const { records, key } of appends) {
      for (const record of records) run.lengths.push(record.length);
      run.appends.push({ count: records.length, key });
      run.parts.push(utf8(records.join(json ? "," : "")));
    }
    firstSeq += run.lengths.length;
    const commit = { no: index + 1, atMs: 1_000 * (index + 1), changes: [{ id: 7, run }] };
    const encoded = encodeCommit(commit, crc, () => head);
    crc = encoded.crc;
    builder.add(written(encoded, files));
  });
  const db = new Database(":memory:", { strict: true });
  migrate(db);
  const batches = new Batches(db, { read: (part) => stretch(files, part), readOffLoop: () => Promise.resolve(null) });
  for (const row of builder.finish()) batches.insert(row);
  return batches;
}

const NO_FILES = { read: () => null, readOffLoop: () => Promise.resolve(null) };

/** A commit as it comes back from its row and its file. */
function written({ no, hdr, data, inlineBytes, crc }: EncodedCommit, files: Map<number, Uint8Array>): EncodedCommit {
  if (inlineBytes < data.length) files.set(no, data.subarray(inlineBytes));
  return decodeCommit(hdr, data.subarray(0, inlineBytes), crc, (part) => stretch(files, part));
}

function stretch(files: ReadonlyMap<number, Uint8Array>, { file, at, length, crc }: FilePart): Uint8Array | null {
  const bytes = files.get(file)?.subarray(at, at + length) ?? null;
  return bytes !== null && crc32(bytes) === crc ? bytes : null;
}

function readAll(batches: Batches, json: boolean, total: number, key: string | null, maxBytes: number): string {
  const parts: Uint8Array[] = [];
  for (let from = 0; from < total;) {
    const cutter = new PieceCutter({ from, to: total, maxBytes, key });
    for (const piece of batches.pieces(7, from, Infinity)) if (!cutter.take(piece)) break;
    expect(cutter.next).toBeGreaterThan(from);
    parts.push(...cutter.parts);
    from = cutter.next;
  }
  return new TextDecoder().decode(joinBytes(parts, json ? 0x2c : null));
}

const record = (seed: number, length: number): string => JSON.stringify(String(seed).padEnd(length - 2, "x"));
const many = (count: number, length: number): string[] =>
  Array.from({ length: count }, (_, index) => record(index, length));

describe.each([true, false])("json %p", (json) => {
  const cases: readonly (readonly [string, readonly (readonly Append[])[]])[] = [
    ["one append far larger than a batch", [[{ records: many(json ? 3_000 : 1, json ? 300 : 900_000), key: null }]]],
    [
      "large appends between small ones",
      [
        [{ records: ["1"], key: "a" }],
        [
          { records: many(json ? 700 : 1, json ? 400 : 280_000), key: "b" },
          { records: ["2"], key: "a" },
        ],
        [{ records: many(json ? 2_000 : 1, json ? 200 : 400_000), key: null }],
        [{ records: ["3"], key: "a" }],
      ],
    ],
    [
      "a record larger than a batch",
      [[{ records: [record(1, BATCH_BYTES + 10)], key: null }], [{ records: ["2"], key: null }]],
    ],
    [
      "many tiny commits",
      Array.from({ length: 500 }, (_, index) => [{ records: [String(index)], key: index % 3 === 0 ? "k" : null }]),
    ],
  ];

  test.each(cases)("%s", (_name, commits) => {
    const appends = commits.flat();
    const records = appends.flatMap((append) => append.records);
    const batches = seal(json, commits);
    const whole = records.join(json ? "," : "");
    for (const maxBytes of [1, 1_000, 256 * 1024, 10_000_000]) {
      if (maxBytes === 1 && records.length > 1_000) continue;
      expect(readAll(batches, json, records.length, null, maxBytes) === whole).toBe(true);
    }
    for (const key of ["a", "k"]) {
      const wanted = appends.filter((append) => append.key === key).flatMap((append) => append.records);
      expect(readAll(batches, json, records.length, key, 256 * 1024)).toBe(wanted.join(json ? "," : ""));
    }
    let end = 0;
    for (const append of appends) {
      const start = end;
      end += append.records.length;
      for (const seq of new Set([start, Math.floor((start + end - 1) / 2), end - 1])) {
        expect(batches.appendEnd(7, seq, Infinity)).toBe(end);
      }
    }
  });
});

test("a damaged frame is an error that names its records", () => {
  const batches = seal(true, [[{ records: many(10, 100), key: null }]]);
  const [piece] = [...batches.pieces(7, 0, Infinity)];
  expect(piece?.count).toBe(10);
  const db = new Database(":memory:", { strict: true });
  migrate(db);
  const damaged = new Batches(db, NO_FILES);
  const builder = new BatchBuilder();
  const run: Run = { firstSeq: 0, lengths: [3], appends: [{ count: 1, key: null }], parts: [utf8("abc")] };
  const encoded = encodeCommit({ no: 1, atMs: 1, changes: [{ id: 7, run }] }, 0, () => streamOf(false));
  builder.add(decodeCommit(encoded.hdr, encoded.data, encoded.crc, () => null));
  for (const row of builder.finish()) damaged.insert({ ...row, frame: utf8("abd") });
  expect(() => [...damaged.pieces(7, 0, Infinity)]).toThrow("records 0 to 0 of stream 7 are damaged");
});
