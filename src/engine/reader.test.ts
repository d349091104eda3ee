/** Many readers at once: they share the turns of the event loop, and who asks for little does not wait for who asks for much. */

import { expect, test } from "bun:test";
import { systemClock } from "../kit/clock.ts";
import { nextTurn } from "../kit/turn.ts";
import { READ_BYTES_PER_TURN, READ_CHUNK_BYTES } from "../protocol/limits.ts";
import { MemoryStore } from "../storage/memory/memory-store.ts";
import { Engine } from "./engine.ts";
import { EVERY_RECORD, type ReadPlan } from "./reader.ts";

const READERS = 50;
const RECORDS = 32;
const RECORD_BYTES = READ_CHUNK_BYTES / 4;

async function streamOf(engine: Engine, name: string, records: number, bytes: number): Promise<ReadPlan> {
  const contentType = "text/plain";
  const common = { name, contentType, close: false, key: null };
  await engine.create({ ...common, expiry: { kind: "never" }, retention: null, body: new Uint8Array(), fork: null });
  for (let record = 0; record < records; record++) {
    await engine.append({ ...common, body: new Uint8Array(bytes), ifMatch: null, producer: null, streamSeq: null });
  }
  const head = await engine.find(name, "look");
  if (!("next" in head)) return expect.unreachable("the stream is there");
  const plan = await engine.reader.plan(head, { kind: "seq", seq: 0 }, EVERY_RECORD);
  return "to" in plan ? plan : expect.unreachable("it can be read");
}

test("readers that come together get so many bytes in a turn, and one that asks for little does not wait for them", async () => {
  const onFault = (): never => expect.unreachable("a fault");
  const store = new MemoryStore(systemClock);
  const engine = new Engine({ store, clock: systemClock, onFault, random: () => 0, profiles: [] });
  const large = await streamOf(engine, "large", RECORDS, RECORD_BYTES);
  const small = await streamOf(engine, "small", 1, 100);
  const seen = { turn: 0, bytes: 0 };
  const perTurn: number[] = [];
  const readAll = async (): Promise<void> => {
    for await (const { parts } of engine.reader.chunks(large, new AbortController().signal)) {
      const read = parts.reduce((sum, part) => sum + part.length, 0);
      perTurn[seen.turn] = (perTurn[seen.turn] ?? 0) + read;
      seen.bytes += read;
    }
  };
  const all = Promise.all(Array.from({ length: READERS }, readAll));
  const { parts } = await engine.reader.step(small);
  expect([parts.length, seen.turn]).toEqual([1, 0]);
  while (seen.bytes < READERS * RECORDS * RECORD_BYTES) {
    await nextTurn();
    seen.turn++;
  }
  await all;
  // What was let in at the end of one turn may be read with what is let in at the next one's beginning.
  expect(Math.max(...perTurn.map((read) => read ?? 0))).toBeLessThanOrEqual(2 * READ_BYTES_PER_TURN + READ_CHUNK_BYTES);
  await engine.close();
});

test("the mean size of a fork's records is that of its own, however many it inherited", async () => {
  const INHERITED = 500;
  const OWN_BYTES = 100_000;
  const onFault = (): never => expect.unreachable("a fault");
  const store = new MemoryStore(systemClock);
  const engine = new Engine({ store, clock: systemClock, onFault, random: () => 0, profiles: [] });
  await streamOf(engine, "source", INHERITED, 10);
  const none = { contentType: null, expiry: { kind: "never" }, retention: null, close: false, key: null } as const;
  const wish = { sourceName: "source", offset: null, subOffset: 0 };
  const own = new Uint8Array(OWN_BYTES);
  const forked = await engine.create({ ...none, name: "fork", body: own, fork: wish });
  if (forked.kind !== "created") return expect.unreachable("the fork is made");
  const plan = await engine.reader.plan(forked.head, { kind: "seq", seq: 0 }, EVERY_RECORD);
  expect(plan).toMatchObject({ from: 0, to: INHERITED + 1, recordBytes: OWN_BYTES });
  await engine.close();
});
