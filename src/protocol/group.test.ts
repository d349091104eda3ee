/** Deciding groups: what earlier intents of a group mean for later ones, forks and their sources, and the ends of streams. */

import { expect, test } from "bun:test";
import { utf8 } from "../kit/bytes.ts";
import { planFork } from "../engine/fork-planner.ts";
import { MemoryStore } from "../storage/memory/memory-store.ts";
import type { Expiry } from "./expiry.ts";
import { DamagedStream } from "./faults.ts";
import { decideGroup } from "./group.ts";
import type { AppendCheck, AppendIntent, CreateIntent, Decided, Intent } from "./intents.ts";
import { KEEP_ALL, type Retention } from "./retention.ts";
import { INTERNAL, newHead, type StreamProfile } from "./stream.ts";

const time = { nowMs: 1_000_000 };
const clock = { nowMs: () => time.nowMs, monotonicMs: () => time.nowMs };

function create(name: string, over: Partial<CreateIntent> = {}): CreateIntent {
  const expiry: Expiry = { kind: "never" };
  const base = { contentType: "text/plain", expiry, retention: null, close: false, body: null, key: null, fork: null };
  return { kind: "create", name, ...base, ...over };
}

function append(name: string, text: string, over: Partial<AppendIntent> = {}): AppendIntent {
  const body = { payload: utf8(text), lengths: [text.length] };
  const base = { contentType: "text/plain", producer: null, streamSeq: null, ifMatch: null, key: null, close: false };
  return { kind: "append", name, body, ...base, ...over };
}

async function fork(store: MemoryStore, name: string, sourceName: string): Promise<CreateIntent> {
  const wish = { sourceName, offset: null, subOffset: 0 };
  return create(name, { contentType: null, fork: { ...wish, plan: await planFork(store, wish, time.nowMs) } });
}

async function commit(store: MemoryStore, ...intents: Intent[]): Promise<string[]> {
  const word = (outcome: Decided): string => (outcome.kind === "rejected" ? outcome.rejection.kind : outcome.kind);
  return (await store.commit(intents)).map(word);
}

const remove = (name: string): Intent => ({ kind: "delete", name });
const ttl = (seconds: number): Partial<CreateIntent> => ({ expiry: { kind: "ttl", seconds } });

test("later intents of a group see what earlier ones did", async () => {
  const store = new MemoryStore(clock);
  const closing = append("a", "2", { close: true });
  const group = [
    append("a", "0"),
    create("a"),
    append("a", "1"),
    create("a"),
    closing,
    append("a", "3"),
    remove("a"),
    append("a", "4"),
  ];
  const words = ["not-found", "created", "appended", "exists", "appended", "stream-closed", "done", "not-found"];
  expect(await commit(store, ...group)).toEqual(words);
  expect(await store.byName("a")).toBeUndefined();
});

test("a name deleted and created again in one group is another stream", async () => {
  const store = new MemoryStore(clock);
  await commit(store, create("a"), append("a", "old"));
  const before = (await store.byName("a"))?.id ?? 0;
  expect(await commit(store, remove("a"), create("a"), append("a", "new"))).toEqual(["done", "created", "appended"]);
  const head = await store.byName("a");
  expect(head?.id).toBeGreaterThan(before);
  expect(head?.next).toBe(1);
});

test("a rejected append consumes no producer seq", async () => {
  const store = new MemoryStore(clock);
  const producer = { id: "p", epoch: 0, seq: 0 };
  await commit(store, create("a"), append("a", "x", { streamSeq: "5" }));
  expect(await commit(store, append("a", "y", { producer, streamSeq: "5" }))).toEqual(["stream-seq-regressed"]);
  expect(await commit(store, append("a", "y", { producer, streamSeq: "6" }))).toEqual(["appended"]);
  expect(await commit(store, append("a", "y", { producer, streamSeq: "6" }))).toEqual(["duplicate"]);
});

test("a deleted source lives on softly until its last fork goes, up the chain", async () => {
  const store = new MemoryStore(clock);
  await commit(store, create("a"), append("a", "1"));
  await commit(store, await fork(store, "b", "a"));
  await commit(store, await fork(store, "c", "b"));
  expect(await commit(store, remove("a"), append("a", "2"), create("a"), remove("a"))).toEqual([
    "done",
    "gone",
    "name-taken",
    "gone",
  ]);
  expect(await commit(store, await fork(store, "d", "a"))).toEqual(["fork-source-gone"]);
  expect(await commit(store, remove("b"))).toEqual(["done"]);
  expect((await store.byName("a"))?.deletion).toBe("soft");
  expect(await commit(store, remove("c"))).toEqual(["done"]);
  expect([await store.byName("a"), await store.byName("b"), await store.byName("c")]).toEqual([
    undefined,
    undefined,
    undefined,
  ]);
  expect(await commit(store, create("a"))).toEqual(["created"]);
});

test("an expired stream is gone for clients, free for creation, and kept for forks", async () => {
  const store = new MemoryStore(clock);
  await commit(store, create("a", ttl(10)), create("b", ttl(10)), append("b", "1"));
  await commit(store, { ...(await fork(store, "f", "b")), expiry: { kind: "ttl", seconds: 1_000 } });
  time.nowMs += 10_000;
  expect(await commit(store, append("a", "x"), append("b", "x"), create("b"))).toEqual([
    "not-found",
    "gone",
    "name-taken",
  ]);
  expect(await commit(store, create("a"), append("a", "x"), append("f", "x"))).toEqual([
    "created",
    "appended",
    "appended",
  ]);
});

test("a fork onto the name of its source, planned alive and decided expired, finds no source", async () => {
  const store = new MemoryStore(clock);
  await commit(store, create("a", ttl(10)), append("a", "1"));
  const onItself = await fork(store, "a", "a");
  const elsewhere = await fork(store, "b", "a");
  time.nowMs += 10_000;
  expect(await commit(store, onItself, elsewhere)).toEqual(["fork-source-missing", "fork-source-missing"]);
  expect(await commit(store, create("a"), remove("a"))).toEqual(["created", "done"]);
});

test("a profile is for the incarnation it was chosen for, and appends are checked by the one that holds", async () => {
  const store = new MemoryStore(clock);
  await commit(store, create("a"));
  const first = (await store.byName("a"))?.id ?? 0;
  const profile = { kind: "checked", config: {} };
  const set: Intent = { kind: "profile", name: "a", id: first, profile };
  expect(await commit(store, remove("a"), create("a"), set)).toEqual(["done", "created", "config-conflict"]);
  const second = (await store.byName("a"))?.id ?? 0;
  const seen: (StreamProfile | null)[] = [];
  const check: AppendCheck = (now) => {
    seen.push(now);
    return now?.kind === "checked" ? { problem: { kind: "record-invalid", index: 0, reason: "no" } } : plain;
  };
  const plain = { payload: utf8("x"), lengths: [1] };
  const asked = append("a", "x", { check });
  expect(await commit(store, asked, { ...set, id: second }, asked)).toEqual(["appended", "done", "record-invalid"]);
  expect(seen).toEqual([null, profile]);
  const closing = append("a", "", { body: null, close: true, check: () => "diverted" });
  expect(await commit(store, closing, append("a", "", { body: null, close: true }))).toEqual(["diverted", "appended"]);
});

test("what the server writes itself is closed to clients' appends, also when that was said in the same group", async () => {
  const store = new MemoryStore(clock);
  await commit(store, create("a"));
  const id = (await store.byName("a"))?.id ?? 0;
  const profile = { kind: INTERNAL, config: {} };
  const closing = append("a", "", { body: null, close: true });
  expect(await commit(store, { kind: "profile", name: "a", id, profile }, append("a", "x"), closing)).toEqual([
    "done",
    "stream-internal",
    "stream-internal",
  ]);
});

test("an append slides a TTL", async () => {
  const store = new MemoryStore(clock);
  await commit(store, create("a", ttl(10)));
  for (let round = 0; round < 3; round++) {
    time.nowMs += 9_999;
    expect(await commit(store, append("a", "x"))).toEqual(["appended"]);
  }
});

test("an append slides a TTL also when an older read of the stream becomes durable with it", async () => {
  const store = new MemoryStore(clock);
  await commit(store, create("a", ttl(10)));
  const id = (await store.byName("a"))?.id ?? 0;
  const touch: Intent = { kind: "touch", accesses: [[id, time.nowMs]] };
  time.nowMs += 6_000;
  expect(await commit(store, touch, append("a", "x"), touch)).toEqual(["done", "appended", "done"]);
  time.nowMs += 9_999;
  expect(await commit(store, append("a", "x"))).toEqual(["appended"]);
});

test("of several reads of a stream that become durable together the last one counts", async () => {
  const store = new MemoryStore(clock);
  await commit(store, create("a", ttl(10)));
  const head = (await store.byName("a")) ?? expect.unreachable("no stream");
  const touchAt = (atMs: number): Intent => ({ kind: "touch", accesses: [[head.id, atMs]] });
  await commit(store, touchAt(time.nowMs + 3), touchAt(time.nowMs + 1));
  expect(head.accessedMs).toBe(time.nowMs + 3);
});

test("lifetimes go by the clock, also when it was set back behind the time of the last commit", async () => {
  const store = new MemoryStore(clock);
  await commit(store, create("before"));
  time.nowMs -= 5_000;
  const expiry: Expiry = { kind: "at", raw: "soon", atMs: time.nowMs + 1_000 };
  expect(await commit(store, create("a", { expiry }), append("a", "x"), create("a", { expiry }))).toEqual([
    "created",
    "appended",
    "exists",
  ]);
  time.nowMs += 1_000;
  expect(await commit(store, append("a", "x"))).toEqual(["not-found"]);
});

test("a trim is for the policy it was worked out for", async () => {
  const store = new MemoryStore(clock);
  const retention = { maxAgeMs: null, maxBytes: 1 };
  await commit(store, create("a", { retention }), append("a", "1"), append("a", "2"), append("a", "3"));
  const head = (await store.byName("a")) ?? expect.unreachable("no stream");
  const point = await store.trimPoint(head.id, { beforeMs: null, maxBytes: 1 });
  const trim: Intent = { kind: "trim", id: head.id, retention, ...point };
  const retain = (policy: Retention): Intent => ({ kind: "retain", name: "a", retention: policy });
  expect(await commit(store, retain(KEEP_ALL), trim)).toEqual(["done", "config-conflict"]);
  expect(head.retainedFrom).toBe(0);
  expect(await commit(store, retain({ maxAgeMs: null, maxBytes: 1 }), trim)).toEqual(["done", "done"]);
  expect(head.retainedFrom).toBe(2);
});

test("a repeated create conflicts where its configuration differs", async () => {
  const store = new MemoryStore(clock);
  await commit(store, create("a", ttl(10)));
  const again = [
    create("a", ttl(10)),
    create("a"),
    create("a", { ...ttl(10), contentType: "text/html" }),
    create("a", { ...ttl(10), close: true }),
  ];
  expect(await commit(store, ...again)).toEqual(["exists", "config-conflict", "config-conflict", "config-conflict"]);
});

test("an intent that meets damage fails alone and leaves nothing behind", () => {
  const config = { name: "", contentType: "text/plain", expiry: { kind: "never" }, createdMs: 0, from: 0 } as const;
  const source = { sourceId: 1, sourceName: "source", offset: "-1", subOffset: 0, inherited: [] };
  const sound = newHead(2, { ...config, name: "sound", fork: null });
  // Deleting it releases its source, which is damaged.
  const fork = newHead(3, { ...config, name: "fork", fork: source });
  const byId = new Map([sound, fork].map((head) => [head.id, head]));
  const heads = {
    byName: (name: string) => [...byId.values()].find((head) => head.config.name === name),
    byId: (id: number) => {
      if (id === 1) throw new DamagedStream("the head of a stream");
      return byId.get(id);
    },
    producer: () => undefined,
  };
  const touch: Intent = { kind: "touch", accesses: [2, 1, 3].map((id) => [id, 5] as const) };
  const group = [append("sound", "1"), remove("fork"), append("fork", "2"), touch, append("sound", "3")];
  const { outcomes, changes } = decideGroup(heads, group, { atMs: time.nowMs, nowMs: time.nowMs }, 9);
  expect(outcomes.map(({ kind }) => kind)).toEqual(["appended", "failed", "appended", "done", "appended"]);
  expect(changes.map(({ id, next, deletion, accessedMs }) => [id, next, deletion, accessedMs])).toEqual([
    [2, 2, undefined, 5],
    [3, 1, undefined, 5],
  ]);
});
