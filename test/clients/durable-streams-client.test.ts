/**
 * The published client and state packages, unmodified, against the real server: what an application that speaks the
 * protocol already relies on.
 */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { DurableStream, IdempotentProducer, stream, type JsonBatch } from "@durable-streams/client";
import { createStateSchema, isChangeEvent, MaterializedState, type StateEvent } from "@durable-streams/state";
import { z } from "zod";
import { startFlakyProxy } from "../support/flaky-proxy.ts";
import { runSeed, seededRandom } from "../support/random.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { rejection, until } from "../support/wait.ts";

const JSON_TYPE = "application/json";
const LIVE_MODES = ["long-poll", "sse"] as const;

let server: TestServer;
beforeAll(async () => {
  server = await startServer({ args: ["--long-poll-timeout", "1s"] });
});
afterAll(async () => {
  await server.stop();
  await server.remove();
}, 60_000);

function urlOf(name: string): string {
  return `${server.url}/v1/stream/${name}`;
}

/** Follows a stream of numbers with the published client, keeping what came and the offset after it. */
async function follow(url: string, live: (typeof LIVE_MODES)[number], offset = "-1") {
  const seen: number[] = [];
  const response = await stream<number>({ url, live, offset, json: true });
  let resumeAt = offset;
  response.subscribeJson((batch: JsonBatch<number>) => {
    seen.push(...batch.items);
    resumeAt = batch.offset;
  });
  // The client rejects `closed` on cancel in some modes; the test ends the session itself.
  response.closed.catch((cause: unknown) => expect(cause).toBeDefined());
  return {
    seen,
    resumeAt: () => resumeAt,
    cancel: () => response.cancel(),
    reaches: (count: number) => until(`${count} numbers came, got ${seen.length}`, () => seen.length >= count, 15_000),
  };
}

function numbers(from: number, to: number): number[] {
  return Array.from({ length: to - from }, (_, index) => from + index);
}

async function appendNumbers(url: string, from: number, to: number): Promise<void> {
  const handle = new DurableStream({ url, contentType: JSON_TYPE });
  await Promise.all(numbers(from, to).map((number) => handle.append(String(number))));
}

describe("DurableStream", () => {
  test("creates, describes itself, and deletes", async () => {
    const url = urlOf("client/created");
    const handle = await DurableStream.create({ url, contentType: JSON_TYPE, ttlSeconds: 3600, body: "[1,2]" });
    const head = await handle.head();
    expect(head).toMatchObject({ exists: true, contentType: JSON_TYPE, streamClosed: false });
    expect(await (await handle.stream({ live: false })).json()).toEqual([1, 2]);
    await handle.delete();
    expect(await DurableStream.head({ url })).toEqual({ exists: false });
  });

  test("keeps the order of appends that it batches", async () => {
    const url = urlOf("client/batched");
    const handle = await DurableStream.create({ url, contentType: JSON_TYPE });
    await Promise.all(numbers(0, 2000).map((number) => handle.append(JSON.stringify(number))));
    expect(await (await handle.stream({ live: false })).json()).toEqual(numbers(0, 2000));
  });

  test("streams a body in, closes, and reads back the same bytes", async () => {
    const url = urlOf("client/bytes");
    const handle = await DurableStream.create({ url, contentType: "application/octet-stream" });
    const source = crypto.getRandomValues(new Uint8Array(50_000));
    async function* chunks(): AsyncGenerator<Uint8Array> {
      for (let at = 0; at < source.length; at += 7000) yield source.subarray(at, at + 7000);
    }
    await handle.appendStream(chunks());
    await handle.close();
    const response = await handle.stream({ live: false });
    expect(Buffer.from(await response.body()).equals(Buffer.from(source))).toBe(true);
    expect(response.streamClosed).toBe(true);
    expect(await rejection(handle.append("more"))).toMatchObject({ status: 409 });
  });

  test("reads a large stream whole in one catch-up request", async () => {
    const url = urlOf("client/large");
    const handle = await DurableStream.create({ url, contentType: JSON_TYPE });
    const value = JSON.stringify("x".repeat(1000));
    const batch = `[${Array.from({ length: 1000 }, () => value).join(",")}]`;
    for (let round = 0; round < 8; round++) {
      const posted = await fetch(url, { method: "POST", headers: { "content-type": JSON_TYPE }, body: batch });
      expect(posted.status).toBe(204);
    }
    expect(await (await handle.stream({ live: false })).json()).toHaveLength(8000);
  });
});

test("IdempotentProducer delivers exactly once over a connection that drops", async () => {
  const random = seededRandom(runSeed());
  const proxy = await startFlakyProxy(server, random);
  const direct = await DurableStream.create({ url: urlOf("client/exactly-once"), contentType: JSON_TYPE });
  const dropping = new DurableStream({ url: `${proxy.url}/v1/stream/client/exactly-once`, contentType: JSON_TYPE });
  const failures: Error[] = [];
  let retries = 0;
  // The producer leaves retries of broken connections to its `fetch`. One connection per request, so that each can drop.
  const retrying = async (input: string | URL | Request, init?: RequestInit): Promise<Response> => {
    for (let attempt = 1; ; attempt++) {
      try {
        const response = await fetch(input, { ...init, keepalive: false, signal: AbortSignal.timeout(5000) });
        const body = await response.arrayBuffer();
        return new Response(response.status === 204 ? null : body, response);
      } catch (cause) {
        retries += 1;
        if (attempt >= 50) throw cause;
      }
    }
  };
  const producer = new IdempotentProducer(dropping, "orders", {
    fetch: Object.assign(retrying, { preconnect: fetch.preconnect }),
    lingerMs: 0,
    maxBatchBytes: 600,
    onError: (error) => failures.push(error),
  });
  const message = (number: number): string => JSON.stringify({ number, text: "…".repeat(40) });
  try {
    for (const number of numbers(0, 500)) {
      producer.append(message(number));
      if (number % 10 === 9) await new Promise((resolve) => setImmediate(resolve));
    }
    await producer.flush();
    proxy.heal();
    expect(failures).toEqual([]);
    expect(proxy.cuts()).toBeGreaterThan(10);
    expect(retries).toBeGreaterThan(5);
    const stored = await (await direct.stream<{ number: number }>({ live: false })).json();
    expect(stored.map((record) => record.number)).toEqual(numbers(0, 500));
    await producer.close(message(500));
    expect((await direct.head()) as object).toMatchObject({ streamClosed: true });
  } catch (cause) {
    throw new Error(`seed ${random.seed}`, { cause });
  } finally {
    proxy.close();
  }
}, 60_000);

describe.each([...LIVE_MODES])("live: %s", (live) => {
  test("resumes from a saved offset after kill -9 and a restart", async () => {
    const name = `client/resumed-${live}`;
    await DurableStream.create({ url: urlOf(name), contentType: JSON_TYPE });
    await appendNumbers(urlOf(name), 0, 10);
    const before = await follow(urlOf(name), live);
    await before.reaches(10);
    await appendNumbers(urlOf(name), 10, 15);
    await before.reaches(15);
    before.cancel();

    await server.kill("SIGKILL");
    server = await startServer({ dataDir: server.dataDir, args: ["--long-poll-timeout", "1s"] });

    await appendNumbers(urlOf(name), 15, 20);
    const after = await follow(urlOf(name), live, before.resumeAt());
    await after.reaches(5);
    await appendNumbers(urlOf(name), 20, 25);
    await after.reaches(10);
    after.cancel();
    expect([...before.seen, ...after.seen]).toEqual(numbers(0, 25));
  }, 60_000);

  test("goes on by itself when the server comes back on the same port", async () => {
    const name = `client/waited-${live}`;
    await DurableStream.create({ url: urlOf(name), contentType: JSON_TYPE });
    await appendNumbers(urlOf(name), 0, 5);
    const reader = await follow(urlOf(name), live);
    await reader.reaches(5);
    const { port } = new URL(server.url);
    await server.stop();
    server = await startServer({ dataDir: server.dataDir, args: ["--port", port, "--long-poll-timeout", "1s"] });
    await appendNumbers(urlOf(name), 5, 10);
    await reader.reaches(10);
    reader.cancel();
    expect(reader.seen).toEqual(numbers(0, 10));
  }, 60_000);
});

test("MaterializedState follows a snapshot, inserts, updates and deletes", async () => {
  const user = z.object({ id: z.string(), name: z.string() });
  const { users } = createStateSchema({ users: { schema: user, type: "user", primaryKey: "id" } });
  const handle = await DurableStream.create({ url: urlOf("client/state"), contentType: JSON_TYPE });
  const append = (events: readonly StateEvent[]): Promise<void[]> =>
    Promise.all(events.map((event) => handle.append(JSON.stringify(event))));
  const state = new MaterializedState();
  let applied = 0;
  const response = await handle.stream<StateEvent>({ live: "sse" });
  response.subscribeJson(({ items }) => {
    for (const event of items) if (isChangeEvent(event)) state.apply(event);
    applied += items.length;
  });
  const people = (): unknown[] => [...state.getType("user").values()];
  const ada = { id: "1", name: "Ada" };
  const bob = { id: "2", name: "Bob" };

  await append([
    { headers: { control: "snapshot-start" } },
    users.insert({ value: ada }),
    users.insert({ value: bob }),
    { headers: { control: "snapshot-end" } },
  ]);
  await until("the snapshot was applied", () => applied === 4);
  expect(people()).toEqual([ada, bob]);

  const renamed = { id: "1", name: "Ada Lovelace" };
  const eve = { id: "3", name: "Eve" };
  await append([
    users.update({ value: renamed, oldValue: ada }),
    users.delete({ key: "2" }),
    users.insert({ value: eve }),
  ]);
  await until("the changes were applied", () => applied === 7);
  expect(people()).toEqual([renamed, eve]);
  response.cancel();

  const replayed = new MaterializedState();
  const all = await (await handle.stream<StateEvent>({ live: false })).json();
  replayed.applyBatch(all.filter((event) => isChangeEvent(event)));
  expect([...replayed.getType("user").values()]).toEqual([renamed, eve]);
}, 60_000);
