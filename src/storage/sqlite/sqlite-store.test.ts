/** What the store keeps in memory, and what its look-ups cost: idle heads without their producers, and sweeps that write nothing. */

import { Database } from "bun:sqlite";
import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { utf8 } from "../../kit/bytes.ts";
import { systemClock } from "../../kit/clock.ts";
import type { AppendIntent, CreateIntent, Decided } from "../../protocol/intents.ts";
import type { Retention } from "../../protocol/retention.ts";
import type { ProducerClaim } from "../../protocol/stream.ts";
import { SqliteStore } from "./sqlite-store.ts";

const root = mkdtempSync(join(tmpdir(), "streams-store-"));
afterAll(() => rmSync(root, { recursive: true, force: true }));

const open = (directory: string): Promise<SqliteStore> =>
  SqliteStore.open({ directory, durability: "os", acceptLoss: false, clock: systemClock });

function create(name: string, retention: Retention | null = null): CreateIntent {
  const none = { body: null, key: null, fork: null, close: false } as const;
  return { kind: "create", name, contentType: "text/plain", expiry: { kind: "never" }, retention, ...none };
}

function append(name: string, producer: ProducerClaim | null = null): AppendIntent {
  const none = { streamSeq: null, ifMatch: null, key: null, close: false } as const;
  const body = { payload: utf8("x"), lengths: [1] };
  return { kind: "append", name, contentType: "text/plain", body, producer, ...none };
}

const PRODUCERS = 20;

test("an idle head keeps no producers, also when they repeat what they sent, and forgets none", async () => {
  const directory = mkdtempSync(join(root, "run-"));
  const store = await open(directory);
  const kinds = async (seq: number): Promise<Set<Decided["kind"]>> => {
    const claims = Array.from({ length: PRODUCERS }, (_, index) => ({ id: `p${index}`, epoch: 1, seq }));
    return new Set((await store.commit(claims.map((claim) => append("a", claim)))).map(({ kind }) => kind));
  };
  const kept = async (): Promise<number | undefined> => (await store.byName("a"))?.producers.size;
  await store.commit([create("a")]);
  expect(await kinds(0)).toEqual(new Set(["appended"]));
  expect(await kept()).toBe(PRODUCERS);
  await store.sealAll();
  expect(await kept()).toBe(0);
  expect(await kinds(0)).toEqual(new Set(["duplicate"]));
  expect(await kept()).toBe(0);
  expect(await kinds(2)).toEqual(new Set(["rejected"]));
  expect(await kinds(1)).toEqual(new Set(["appended"]));
  expect(await kinds(1)).toEqual(new Set(["duplicate"]));
  expect((await store.byName("a"))?.producerCount).toBe(PRODUCERS);
  await store.close();
});

test("a look for streams with a retention policy finds all of them and writes nothing", async () => {
  const directory = mkdtempSync(join(root, "run-"));
  const retention = { maxAgeMs: 1_000, maxBytes: null };
  const store = await open(directory);
  await store.commit([create("a", retention), create("b"), create("c", retention)]);
  await store.sealAll();
  await store.commit([create("d", retention), create("e"), append("a")]);
  await store.commit([{ kind: "retain", name: "b", retention }]);
  const other = new Database(join(directory, "log.db"), { readonly: true });
  const version = (): unknown => other.query("PRAGMA data_version").get();
  const before = version();
  expect(await store.withRetention(0, 10)).toEqual([1, 2, 3, 4]);
  expect([await store.withRetention(0, 2), await store.withRetention(2, 1), await store.withRetention(4, 9)]).toEqual([
    [1, 2],
    [3],
    [],
  ]);
  expect(version()).toEqual(before);
  await store.commit([append("e")]);
  expect(version()).not.toEqual(before);
  other.close();
  await store.sealAll();
  expect(await store.withRetention(0, 10)).toEqual([1, 2, 3, 4]);
  await store.close();
});
