/** Reads whose records go, or that search for long, while they are under way: on a store and a clock of this test's own. */

import { expect, test } from "bun:test";
import { Engine } from "../../src/engine/engine.ts";
import { createApp } from "../../src/http/app.ts";
import { Followers } from "../../src/http/live/follower.ts";
import { nextTurn } from "../../src/kit/turn.ts";
import { IDLE_TIMEOUT_MS } from "../../src/protocol/limits.ts";
import { SlowStore } from "../support/slow-store.ts";

const LONG_POLL_MS = 1_000;
/** Two of them are more than one chunk. */
const LARGE = JSON.stringify("x".repeat(200 * 1024));

function server() {
  const time = { ms: 1_000_000 };
  const clock = { nowMs: () => time.ms, monotonicMs: () => time.ms };
  const faults: unknown[] = [];
  /** What Bun was told of how long the connection may be idle. */
  const timeouts: number[] = [];
  const onFault = (operation: string, cause: unknown): void => void faults.push([operation, cause]);
  const store = new SlowStore(clock);
  const engine = new Engine({ store, clock, onFault, random: () => 0, profiles: [] });
  const app = createApp({
    engine,
    onFault,
    reserved: () => null,
    gatekeeper: null,
    limits: null,
    secure: false,
    subResources: {},
    serverResources: {},
    onAnswer: null,
    onClientEdge: null,
    followers: new Followers(engine, onFault),
    views: null,
    spans: null,
    longPollTimeoutMs: LONG_POLL_MS,
    maxBodyBytes: 1024 * 1024,
    corsOrigins: [],
    publicUrl: null,
    loopbackOnly: true,
  });
  const ask = (method: string, path: string, body?: string): Promise<Response> =>
    app(
      new Request(`http://localhost/v1/stream/${path}`, {
        method,
        headers: { host: "localhost", "content-type": "application/json" },
        ...(body === undefined ? {} : { body }),
      }),
      { timeout: (_, seconds) => void timeouts.push(seconds), upgrade: () => false, requestIP: () => null },
    );
  const pass = async (ms: number): Promise<void> => {
    time.ms += ms;
    engine.deadlines.tick();
    for (let turn = 0; turn < 4; turn++) await nextTurn();
  };
  /** All but the last of the records go. */
  const trim = async (name: string): Promise<void> => {
    await engine.retain(name, { maxAgeMs: null, maxBytes: 1024 });
    for (let sweep = 0; sweep < 3; sweep++) await pass(1_100);
  };
  return { engine, store, time, ask, trim, faults, timeouts };
}

type TestServer = ReturnType<typeof server>;

/** Ten small records; gives the offset of the first. */
async function written({ ask }: TestServer): Promise<string> {
  await ask("PUT", "s");
  const first = (await ask("HEAD", "s")).headers.get("stream-next-offset") ?? "";
  const records = Array.from({ length: 10 }, (_, n) => ({ n, text: "x".repeat(500) }));
  await ask("POST", "s", JSON.stringify(records));
  return first;
}

const numbersOf = async (response: Response): Promise<number[]> =>
  ((await response.json()) as { n: number }[]).map(({ n }) => n);

test.each(["offset=-1", "tail=100", "from=1970-01-01T00:00:00Z", "", "offset=-1&live=long-poll"])(
  "trimmed between its plan and its first chunk: %p starts where records are kept",
  async (query) => {
    const world = server();
    await written(world);
    world.store.beforeNextRead(() => world.trim("s"));
    const response = await world.ask("GET", `s?${query}`);
    expect([response.status, await numbersOf(response)]).toEqual([200, [9]]);
    expect(world.faults).toEqual([]);
    await world.engine.close();
  },
);

test.each(["", "&live=long-poll"])("an offset that is trimmed meanwhile: 410, and the earliest one%s", async (live) => {
  const world = server();
  const first = await written(world);
  world.store.beforeNextRead(() => world.trim("s"));
  const refused = await world.ask("GET", `s?offset=${first}${live}`);
  expect(refused.status).toBe(410);
  expect(await refused.json()).toMatchObject({ error: { code: "offset-trimmed" } });
  const earliest = refused.headers.get("stream-earliest-offset") ?? "";
  expect(await numbersOf(await world.ask("GET", `s?offset=${earliest}`))).toEqual([9]);
  expect(world.faults).toEqual([]);
  await world.engine.close();
});

test("a stream that is deleted meanwhile is not found", async () => {
  const world = server();
  await written(world);
  world.store.beforeNextRead(() => world.ask("DELETE", "s"));
  expect((await world.ask("GET", "s?offset=-1")).status).toBe(404);
  await world.engine.close();
});

test("trimmed in the middle of a body: it is cut, and no fault of the server's", async () => {
  const world = server();
  await world.ask("PUT", "s");
  for (let record = 0; record < 6; record++) await world.ask("POST", "s", LARGE);
  const response = await world.ask("GET", "s");
  const reader = response.body?.getReader() ?? expect.unreachable("a body");
  await reader.read();
  await world.trim("s");
  const rest = async (): Promise<string> => {
    for (;;) if ((await reader.read()).done) return "whole";
  };
  expect(await rest().catch((cause: unknown) => (cause instanceof Error ? cause.name : "?"))).toBe("RecordsGone");
  expect(world.faults).toEqual([]);
  await world.engine.close();
});

const NO_MATCH = `filter=${encodeURIComponent("n < 0")}`;
const LAST = `filter=${encodeURIComponent("n = 7")}`;

/** Eight records, each a chunk of its own. */
async function eightChunks({ ask }: TestServer): Promise<void> {
  await ask("PUT", "s");
  for (let n = 0; n < 8; n++) await ask("POST", "s", JSON.stringify({ n, text: "x".repeat(200 * 1024) }));
}

test("a long-poll that searches for long ends in time, and the next one goes on from there", async () => {
  const world = server();
  await eightChunks(world);
  world.store.beforeReads(() => void (world.time.ms += 0.4 * LONG_POLL_MS));
  const statuses: number[] = [];
  for (let offset = "-1", isSearching = true; isSearching;) {
    const startMs = world.time.ms;
    const response = await world.ask("GET", `s?offset=${offset}&live=long-poll&${LAST}`);
    statuses.push(response.status);
    isSearching = response.status === 204;
    if (!isSearching) expect(await numbersOf(response)).toEqual([7]);
    else {
      expect(world.time.ms - startMs).toBeLessThanOrEqual(1.2 * LONG_POLL_MS);
      expect(response.headers.get("stream-up-to-date")).toBeNull();
      expect(response.headers.get("stream-cursor")).not.toBeNull();
      expect(response.headers.get("cache-control")).toBe("no-store");
    }
    offset = response.headers.get("stream-next-offset") ?? expect.unreachable("an offset");
    if (!isSearching) expect(offset).toBe((await world.ask("HEAD", "s")).headers.get("stream-next-offset") ?? "");
  }
  expect(statuses).toEqual([204, 204, 200]);
  await world.engine.close();
});

test("a timeout that is shorter than one step still brings it forward", async () => {
  const world = server();
  await eightChunks(world);
  world.store.beforeReads(() => void (world.time.ms += 2 * LONG_POLL_MS));
  const offsets = new Set<string>();
  for (let offset = "-1", poll = 0; poll < 7; poll++) {
    const response = await world.ask("GET", `s?offset=${offset}&live=long-poll&${LAST}`);
    expect(response.status).toBe(204);
    offsets.add((offset = response.headers.get("stream-next-offset") ?? ""));
  }
  expect(offsets.size).toBe(7);
  await world.engine.close();
});

test("a shutdown does not wait for a search", async () => {
  const world = server();
  await eightChunks(world);
  world.store.beforeNextRead(() => world.engine.beginDrain());
  const response = await world.ask("GET", `s?offset=-1&live=long-poll&${LAST}`);
  expect([response.status, response.headers.get("stream-up-to-date")]).toEqual([204, null]);
  await world.engine.close();
});

test("while a catch-up searches, its connection is not idle; when it is sent to, it may not stall", async () => {
  const world = server();
  await eightChunks(world);
  const during: number[] = [];
  world.store.beforeReads(() => void during.push(world.timeouts.at(-1) ?? NaN));
  expect(await (await world.ask("GET", `s?${NO_MATCH}`)).json()).toEqual([]);
  expect(during).toEqual(Array.from({ length: 8 }, () => 0));
  expect(world.timeouts.at(-1)).toBe(IDLE_TIMEOUT_MS / 1000);
  const response = await world.ask("GET", `s?filter=${encodeURIComponent("n = 0 or n = 7")}`);
  expect(world.timeouts.at(-1)).toBe(IDLE_TIMEOUT_MS / 1000);
  during.length = 0;
  expect(await numbersOf(response)).toEqual([0, 7]);
  expect(during.length).toBeGreaterThan(4);
  expect(new Set(during.slice(1))).toEqual(new Set([0]));
  expect(world.timeouts.at(-1)).toBe(IDLE_TIMEOUT_MS / 1000);
  await world.engine.close();
});

test("a plain read costs no word about its connection", async () => {
  const world = server();
  await eightChunks(world);
  expect(await numbersOf(await world.ask("GET", "s"))).toEqual([0, 1, 2, 3, 4, 5, 6, 7]);
  expect(world.timeouts).toEqual([]);
  await world.engine.close();
});
