/** The life of touch state: brought by a client, dropped when unused, and nothing at all for a stream that nobody asks about. */

import { expect, test } from "bun:test";
import { Engine } from "../../engine/engine.ts";
import { nextTurn } from "../../kit/turn.ts";
import { MemoryStore } from "../../storage/memory/memory-store.ts";
import { stateProtocol } from "../state-protocol/index.ts";
import { IDLE_MS } from "./limits.ts";
import { Touch, TOUCH_OFF } from "./touch.ts";
import type { TouchStream } from "./touch-stream.ts";

const time = { ms: 1_000_000 };
const clock = { nowMs: () => time.ms, monotonicMs: () => time.ms };

function failing(operation: string, cause: unknown): never {
  throw new Error(operation, { cause });
}

async function setUp(): Promise<{ engine: Engine; touch: Touch }> {
  const options = {
    store: new MemoryStore(clock),
    clock,
    onFault: failing,
    random: () => 0,
    profiles: [stateProtocol],
  };
  const engine = new Engine(options);
  const touch = new Touch({ engine, hash64: (bytes) => Bun.hash.xxHash3(bytes), onFault: failing });
  for (const name of ["a", "b"]) {
    const none = { retention: null, close: false, body: new Uint8Array(), key: null, fork: null } as const;
    const outcome = await engine.create({ name, contentType: "application/json", expiry: { kind: "never" }, ...none });
    const parsed = stateProtocol.parse({ touch: { enabled: true } }, "s");
    if (outcome.kind !== "created" || "reason" in parsed) throw new Error("cannot set up");
    await engine.setProfile(name, outcome.head.id, { kind: stateProtocol.kind, config: parsed.config });
  }
  return { engine, touch };
}

async function open(touch: Touch, name: string): Promise<TouchStream> {
  const stream = await touch.open(name);
  if (stream === TOUCH_OFF || "kind" in stream) throw new Error("touch is on");
  return stream;
}

async function change(engine: Engine, name: string): Promise<void> {
  const record = { type: "t", key: "1", value: { x: 1 }, headers: { operation: "insert" } };
  const body = new TextEncoder().encode(JSON.stringify(record));
  const none = { producer: null, streamSeq: null, ifMatch: null, key: null, close: false } as const;
  const outcome = await engine.append({ name, contentType: "application/json", body, ...none });
  expect(outcome.kind).toBe("appended");
}

test("a stream that nobody asks about has no state, whatever is appended to it", async () => {
  const { engine, touch } = await setUp();
  const timers = engine.deadlines.size;
  for (let turn = 0; turn < 100; turn++) await change(engine, "a");
  expect(touch.holdings()).toEqual({ streams: 0, waiters: 0, indexEntries: 0, parkedKeys: 0, journalEntries: 0 });
  expect(engine.deadlines.size).toBe(timers);
  await engine.close();
});

test("the state of a stream goes a minute after its last use, with its journal and its timer", async () => {
  const { engine, touch } = await setUp();
  const timers = engine.deadlines.size;
  const stream = await open(touch, "a");
  await open(touch, "b");
  const leaving = new AbortController();
  const interest = { keys: [1n], keyIds: [2], templates: [], wholeTemplates: [], unnamed: false, everything: false };
  const waiting = stream.wait(interest, 0, 120_000, leaving.signal);
  await change(engine, "a");
  expect(touch.holdings()).toMatchObject({ streams: 2, waiters: 1, indexEntries: 2, parkedKeys: 2, journalEntries: 1 });
  const pass = async (ms: number): Promise<void> => {
    time.ms += ms;
    engine.deadlines.tick();
    await nextTurn();
  };
  await pass(IDLE_MS);
  expect(touch.holdings()).toMatchObject({ streams: 1, waiters: 1 });
  leaving.abort();
  expect((await waiting).end).toBe("aborted");
  await pass(IDLE_MS);
  await pass(IDLE_MS);
  expect(touch.holdings()).toEqual({ streams: 0, waiters: 0, indexEntries: 0, parkedKeys: 0, journalEntries: 0 });
  await nextTurn();
  expect(engine.deadlines.size).toBeLessThanOrEqual(timers);
  // The next client finds the stream as it is.
  expect((await open(touch, "a")).position.tail).toBe(1);
  await engine.close();
});
