/**
 * A stream and everything that was acknowledged in it. Writers append at once; where a record ended up is what its own answer
 * said, so the truth that readers are held to was never read from the server. Invariant: no two answers speak of one position.
 */

import { type SeededRandom } from "../support/random.ts";
import { newStream, nextOffset, type StreamUnderTest } from "../support/streams.ts";
import { positionOf, type WrittenRecord } from "./delivery-log.ts";

export const FORMATS = ["json", "text", "bytes"] as const;
export type Format = (typeof FORMATS)[number];

const CONTENT_TYPES: Readonly<Record<Format, string>> = {
  json: "application/json",
  text: "text/plain",
  bytes: "application/octet-stream",
};

export const KEYS = ["red", "blue"] as const;
const GROUPS = 5;
/** Two bytes in UTF-8 and three: a text is cut inside a character now and then. */
const FILLING = "xé漢y";
const SMALL_CHARS = 60;
const LARGE_MIN_CHARS = 12_000;
const LARGE_SPREAD_CHARS = 20_000;
const LARGE_PERCENT = 6;

export interface WrittenStream {
  readonly stream: StreamUnderTest;
  readonly format: Format;
  /** By position. There are holes while appends are under way. */
  readonly records: readonly WrittenRecord[];
  readonly bytes: () => number;
  /** Appends so many records in one request, under one key or none. */
  append(random: SeededRandom, count: number, isLarge: (random: SeededRandom) => boolean): Promise<void>;
}

export async function writtenStream(
  server: { readonly url: string },
  name: string,
  format: Format,
): Promise<WrittenStream> {
  const stream = await newStream(server, name, CONTENT_TYPES[format]);
  const records: WrittenRecord[] = [];
  let lastId = 0;
  let bytes = 0;
  return {
    stream,
    format,
    records,
    bytes: () => bytes,
    async append(random, count, isLarge) {
      const key = KEYS[random.below(4)] ?? null;
      const batch: WrittenRecord[] = [];
      const texts: string[] = [];
      for (let at = 0; at < count; at++) {
        const record = { id: ++lastId, group: random.below(GROUPS), key };
        const chars = isLarge(random) ? LARGE_MIN_CHARS + random.below(LARGE_SPREAD_CHARS) : random.below(SMALL_CHARS);
        batch.push(record);
        texts.push(encode(format, record, FILLING.repeat(Math.ceil(chars / FILLING.length))));
      }
      const body = format === "json" ? `[${texts.join(",")}]` : texts.join("");
      const response = await stream.post(body, key === null ? {} : { "stream-key": key });
      if (response.status !== 204) throw new Error(`an append: ${response.status} ${await response.text()}`);
      bytes += Buffer.byteLength(body);
      const end = positionOf(nextOffset(response));
      for (const [at, record] of batch.entries()) {
        const position = end - count + at;
        if (records[position] !== undefined) throw new Error(`two records were acknowledged at ${position}`);
        records[position] = record;
      }
    },
  };
}

/** Mostly small ones. */
export function isSometimesLarge(random: SeededRandom): boolean {
  return random.below(100) < LARGE_PERCENT;
}

/** One append is one record where records are no JSON. */
export function batchSize(format: Format, random: SeededRandom, most: number): number {
  return format === "json" ? 1 + random.below(most) : 1;
}

function encode(format: Format, { id, group }: WrittenRecord, filling: string): string {
  if (format !== "json") return `${id} ${group} ${filling.length} ${filling}\n`;
  return JSON.stringify({ id, group, kind: group === 0 ? "zero" : "more", chars: filling.length, filling });
}

/** The ids in what was delivered: a JSON array, or whole lines. Throws when a record came damaged. */
export function idsIn(format: Format, text: string): number[] {
  return format === "json" ? idsOf(JSON.parse(text) as unknown[]) : idsOfLines(text);
}

export function idsOf(delivered: readonly unknown[]): number[] {
  return delivered.map((record) => {
    const { id, chars, filling } = record as { id: number; chars: number; filling: string };
    if (filling.length !== chars) throw new Error(`record ${id} came with ${filling.length} of ${chars} characters`);
    return id;
  });
}

function idsOfLines(text: string): number[] {
  const lines = text.split("\n");
  if (lines.pop() !== "") throw new Error("the delivered text ends inside a record");
  return lines.map((line) => {
    const [, id, chars, filling] = /^(\d+) \d (\d+) (.*)$/.exec(line) ?? [];
    if (filling?.length !== Number(chars)) throw new Error(`record ${id} came damaged: ${line.slice(0, 60)}`);
    return Number(id);
  });
}

/** What a reader asks for, and which records that is. */
export interface Wanted {
  readonly filter?: string;
  readonly key?: string;
  readonly selects: (record: WrittenRecord) => boolean;
}

export const ALL: Wanted = { selects: () => true };
const [RED] = KEYS;
export const BY_KEY: Wanted = { key: RED, selects: ({ key }) => key === RED };
export const BY_FILTER: Wanted = {
  filter: 'group < 2 and not kind = "zero"',
  selects: ({ group }) => group === 1,
};
export const BY_BOTH: Wanted = {
  key: RED,
  filter: 'kind = "more" or has(nothing)',
  selects: ({ group, key }) => key === RED && group > 0,
};
