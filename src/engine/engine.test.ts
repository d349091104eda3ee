/** Appends whose stream gets another profile while they wait: each is decided by the profile that holds then, and all are answered. */

import { afterEach, expect, test } from "bun:test";
import { systemClock } from "../kit/clock.ts";
import { utf8 } from "../kit/bytes.ts";
import { nextTurn } from "../kit/turn.ts";
import type { Outcome } from "../protocol/intents.ts";
import { INTERNAL, type StreamProfile } from "../protocol/stream.ts";
import { MemoryStore } from "../storage/memory/memory-store.ts";
import { type AppendRequestRaw, Engine } from "./engine.ts";
import type { ProfileRules } from "./profiles.ts";

const NAME = "s";
const ANALYTICS: StreamProfile = { kind: "analytics", config: {} };
const STRICT: StreamProfile = { kind: "strict", config: {} };
const INTERNALLY: StreamProfile = { kind: INTERNAL, config: {} };

const strict: ProfileRules = {
  kind: "strict",
  jsonOnly: true,
  parse: () => ({ config: {} }),
  check: () => ({ kind: "record-invalid", index: 0, reason: "strict" }),
};

const engines: Engine[] = [];
afterEach(async () => {
  for (const engine of engines.splice(0)) await engine.close();
});

async function world() {
  const engine = new Engine({
    store: new MemoryStore(systemClock),
    clock: systemClock,
    random: () => 0.5,
    profiles: [{ ...strict, kind: "analytics", check: (_, records) => records }, strict],
    onFault: (operation, cause) => expect.unreachable(`${operation}: ${String(cause)}`),
  });
  engines.push(engine);
  const taken: AppendRequestRaw[] = [];
  engine.divert("analytics", async (request) => {
    taken.push(request);
    // As one that waits for the disk.
    for (let turns = 0; turns < 3; turns++) await nextTurn();
    return { kind: "queued", records: 1 };
  });
  const made = await engine.createOwn(NAME);
  const id = made.kind === "created" ? made.head.id : expect.unreachable("not created");
  const append = (text: string, close = false): Promise<Outcome> => {
    const none = { producer: null, streamSeq: null, ifMatch: null, key: null };
    const contentType = text === "" ? null : "application/json";
    return engine.append({ name: NAME, contentType, body: utf8(text), close, ...none });
  };
  /** In order, of what was asked in one turn: the profile, then the appends, all in one commit. */
  const asked = async (profile: StreamProfile, ...appends: [text: string, close?: boolean][]): Promise<string[]> => {
    const answers = [engine.setProfile(NAME, id, profile), ...appends.map(([text, close]) => append(text, close))];
    const word = (outcome: Outcome): string => (outcome.kind === "rejected" ? outcome.rejection.kind : outcome.kind);
    return (await Promise.all(answers)).map(word);
  };
  return { engine, taken, append, asked };
}

test("an append with a close, to a stream that is diverted by then, is taken and closes it", async () => {
  const { engine, taken, append, asked } = await world();
  expect(await asked(ANALYTICS, ["[1]", true])).toEqual(["done", "appended"]);
  expect(taken).toHaveLength(1);
  expect(engine.peek(NAME)).toMatchObject({ closed: true, next: 0 });
  expect(await append("", true)).toMatchObject({ kind: "duplicate", closed: true });
  expect(engine.queuedIntents).toBe(0);
});

test("a close without a body asks who takes the records of the stream first", async () => {
  const { taken, asked } = await world();
  expect(await asked(ANALYTICS, ["", true])).toEqual(["done", "appended"]);
  expect(taken.map(({ body }) => body.length)).toEqual([0]);
});

test("several appends to a stream that is diverted by then are taken in their order", async () => {
  const { taken, asked } = await world();
  expect(await asked(ANALYTICS, ["[1]"], ["[2]"], ["[3]"])).toEqual(["done", "queued", "queued", "queued"]);
  expect(taken.map(({ body }) => new TextDecoder().decode(body))).toEqual(["[1]", "[2]", "[3]"]);
});

test("what is asked in one turn is decided in that order", async () => {
  const { engine, append } = await world();
  const answers = [append("[1]"), engine.delete(NAME), engine.createOwn(NAME), append("[2]")];
  expect((await Promise.all(answers)).map(({ kind }) => kind)).toEqual(["appended", "done", "created", "appended"]);
});

test("an append is checked by the rules of the profile that holds when it is decided", async () => {
  const { engine, asked } = await world();
  expect(await asked(STRICT, ["[1]"], ["", true])).toEqual(["done", "record-invalid", "appended"]);
  expect(engine.peek(NAME)).toMatchObject({ closed: true, next: 0 });
});

test("an append to a stream that the server writes by then is refused, and so is a close", async () => {
  const { engine, append, asked } = await world();
  expect(await asked(INTERNALLY, ["[1]"], ["", true])).toEqual(["done", "stream-internal", "stream-internal"]);
  expect(await append("[1]")).toMatchObject({ rejection: { kind: "stream-internal" } });
  expect(engine.peek(NAME)).toMatchObject({ closed: false, next: 0 });
});
