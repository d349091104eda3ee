/**
 * Random small and large appends, alone and several at once, compared with a list in memory: exact bytes of the whole stream, from any
 * record on, by key and by tail; while they are hot, across the seal, after it, and after a kill. Sizes gather around the marks from which
 * bodies lie in files and batches are cut. `LARGE_APPENDS` asks for more, `TEST_SEED` repeats a run.
 */

import { expect, test } from "bun:test";
import { BATCH_BYTES, LARGE_BODY_BYTES, LARGE_RUN_BYTES } from "../../src/protocol/limits.ts";
import type { TestServer } from "../support/server.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { newStream, nextOffset, streamAt } from "../support/streams.ts";
import { runSeed, seededRandom, type SeededRandom } from "../support/random.ts";
import { bytesOf, BYTES_TYPE, filesOf, noise, sealAll } from "./large-world.ts";

const APPENDS = Number(process.env["LARGE_APPENDS"] ?? 24);
const QUESTIONS = Number(process.env["LARGE_QUESTIONS"] ?? 12);
const KEYS = ["red", "green", null];
const MARKS = [1, 300, 20_000, LARGE_BODY_BYTES, LARGE_RUN_BYTES, BATCH_BYTES, 3 * BATCH_BYTES, 1_000_000];
/** Appends of one stream that are sent at once, and may share a commit. */
const AT_ONCE = 3;
/** Appends in between that seal what there is. */
const SEAL_EVERY = 10;

interface Kept {
  readonly bytes: Uint8Array;
  readonly key: string | null;
}

interface Modelled {
  readonly name: string;
  readonly isJson: boolean;
  readonly epoch: string;
  readonly records: Kept[];
}

interface Wish {
  readonly body: Uint8Array<ArrayBuffer>;
  readonly key: string | null;
  readonly records: readonly Uint8Array[];
}

const seed = runSeed();
const start = temporaryServers();

test(
  `${APPENDS} random appends and what is read of them (seed ${seed})`,
  async () => {
    const random = seededRandom(seed);
    let server = await start();
    const { dataDir } = server;
    const streams = [
      await modelled(server, "model/json", true),
      await modelled(server, "model/more-json", true),
      await modelled(server, "model/bytes", false),
    ];
    for (let n = 0; n < APPENDS; n++) {
      const stream = streams[random.below(streams.length)] ?? expect.unreachable("a stream");
      await append(
        server,
        stream,
        Array.from({ length: 1 + random.below(AT_ONCE) }, () => wish(stream, random)),
      );
      if (n % SEAL_EVERY === SEAL_EVERY - 1) await sealAll(server);
    }
    expect(filesOf(dataDir).length).toBeGreaterThan(APPENDS / 6);
    let compared = await check(server, streams, random);
    await server.kill("SIGKILL");
    server = await start({ dataDir });
    compared += await check(server, streams, random);
    // Questions are asked while the seal goes on.
    const [, meanwhile] = await Promise.all([sealAll(server), check(server, streams, random)]);
    compared += meanwhile + (await check(server, streams, random));
    await server.kill("SIGKILL");
    server = await start({ dataDir });
    compared += await check(server, streams, random);
    const records = streams.reduce((sum, stream) => sum + stream.records.length, 0);
    console.log(`large model: ${records} records, ${compared} answers compared, ${filesOf(dataDir).length} files`);
    // The control: a model that has one bit otherwise is told apart.
    const [first = expect.unreachable("a stream")] = streams.filter(({ records: kept }) => kept.length > 0);
    const [kept = expect.unreachable("a record")] = first.records;
    first.records[0] = { ...kept, bytes: kept.bytes.map((byte, at) => (at === 0 ? byte ^ 1 : byte)) };
    expect(await differs(server, first, "offset=-1", first.records)).toBe(true);
  },
  60_000 + APPENDS * 1_000,
);

async function modelled(server: TestServer, name: string, isJson: boolean): Promise<Modelled> {
  const stream = await newStream(server, name, isJson ? "application/json" : BYTES_TYPE);
  const [epoch = ""] = (await stream.tail()).split("_");
  return { name, isJson, epoch, records: [] };
}

/** Sends the wishes at once; what the answers say about their order is the model's order. */
async function append(server: TestServer, stream: Modelled, wishes: readonly Wish[]): Promise<void> {
  const to = streamAt(server, stream.name, stream.isJson ? "application/json" : BYTES_TYPE);
  const taken = await Promise.all(
    wishes.map(async (wished) => {
      const answer = await to.post(wished.body, wished.key === null ? {} : { "stream-key": wished.key });
      expect(answer.status).toBe(204);
      return { ...wished, end: nextOffset(answer) };
    }),
  );
  for (const { records, key } of taken.toSorted((left, right) => (left.end < right.end ? -1 : 1))) {
    for (const bytes of records) stream.records.push({ bytes, key });
  }
}

function wish({ isJson }: Modelled, random: SeededRandom): Wish {
  const key = KEYS[random.below(KEYS.length)] ?? null;
  const mark = MARKS[random.below(MARKS.length)] ?? 1;
  // Right at the mark, a byte beside it, or anywhere about it.
  const length = Math.max(1, mark - 1 + random.below(random.below(3) === 0 ? mark : 3));
  if (!isJson) {
    const body = noise(length);
    return { body, key, records: [body] };
  }
  const many = 1 + random.below(random.below(2) === 0 ? 3 : 4_000);
  const texts = Array.from({ length: Math.min(many, length) }, (_, n) => jsonValue(n, length / many, random));
  const encoder = new TextEncoder();
  const body = texts.length === 1 ? (texts[0] ?? "") : `[${texts.join(random.below(2) === 0 ? "," : " ,\n ")}]`;
  return { body: encoder.encode(body), key, records: texts.map((text) => encoder.encode(text)) };
}

/** Numbers, texts and objects, spelled in ways that a parser and printer would not give back. */
function jsonValue(n: number, about: number, random: SeededRandom): string {
  const length = Math.max(1, Math.floor(about));
  const pad = Buffer.from(noise(Math.ceil(length * 0.75)))
    .toString("base64")
    .slice(0, length);
  return [`${n}.50e+1`, `"\\u00e9 ü ${pad}"`, `{"n" : ${n},  "pad":"${pad}"}`][random.below(3)] ?? "null";
}

/** Asks for everything, and at random; returns how many answers were compared. */
async function check(server: TestServer, streams: readonly Modelled[], random: SeededRandom): Promise<number> {
  let compared = 0;
  for (const stream of streams) {
    const { records, epoch } = stream;
    const questions: [query: string, expected: readonly Kept[]][] = [["offset=-1", records]];
    for (let n = 0; n < QUESTIONS && records.length > 0; n++) {
      const seq = random.below(records.length + 1);
      const offset = `offset=${epoch}_${String(seq).padStart(16, "0")}`;
      const key = random.below(2) === 0 ? "red" : "green";
      const tail = random.below(Math.min(records.length, 5_000)) + 1;
      const from = records.slice(seq);
      const kinds: readonly [query: string, expected: readonly Kept[]][] = [
        [offset, from],
        [`${offset}&key=${key}`, from.filter((record) => record.key === key)],
        [`tail=${tail}`, records.slice(-tail)],
      ];
      questions.push(kinds[random.below(kinds.length)] ?? expect.unreachable("a kind"));
    }
    for (const [query, expected] of questions) {
      expect({ stream: stream.name, query, differs: await differs(server, stream, query, expected) }).toEqual({
        stream: stream.name,
        query,
        differs: false,
      });
      compared++;
    }
  }
  return compared;
}

async function differs(
  server: TestServer,
  { name, isJson }: Modelled,
  query: string,
  expected: readonly Kept[],
): Promise<boolean> {
  const found = await bytesOf(server, name, query);
  const parts = expected.map(({ bytes }) => Buffer.from(bytes).toString("latin1"));
  const wanted = Buffer.from(isJson ? `[${parts.join(",")}]` : parts.join(""), "latin1");
  return Buffer.compare(found, wanted) !== 0;
}
