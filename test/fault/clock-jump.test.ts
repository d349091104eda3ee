/**
 * The machine's clock is set by a day while the server runs: streams with a lifetime do not expire at once, the times of records
 * do not go back, long-polls keep their deadline. In this process on clocks of the test's own, and on the real process with a
 * wall clock that the test moves.
 */

import { afterEach, expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { JUMP_HOLD_MS, steadyClock } from "../../src/kit/clock.ts";
import { open, type StreamsServer } from "../../src/server/open.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { newStream, nextOffset } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const DAY_MS = 86_400_000;
const TTL_SECONDS = 3_600;
const POLL_MS = 1_000;

const cleanups: (() => Promise<unknown>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

interface World {
  readonly app: StreamsServer;
  readonly jumps: readonly number[];
  /** Sets the wall clock. */
  set(byMs: number): void;
  /** What the machine's wall clock says. */
  nowMs(): number;
  /** Time passes on both clocks. */
  pass(ms: number): void;
  request(method: string, path: string, headers?: Readonly<Record<string, string>>, body?: string): Promise<Response>;
}

async function openWorld(steady = true): Promise<World> {
  const dataDir = await mkdtemp(join(tmpdir(), "streams-clock-"));
  const state = { setMs: 0, passedMs: 0 };
  const jumps: number[] = [];
  const parts = {
    wall: () => Date.now() + state.setMs + state.passedMs,
    monotonic: () => performance.now() + state.passedMs,
    onJump: (byMs: number) => void jumps.push(byMs),
  };
  const plain = { nowMs: parts.wall, monotonicMs: parts.monotonic };
  const clock = steady ? steadyClock(parts) : plain;
  const app = await open({ dataDir, clock, longPollTimeoutMs: POLL_MS });
  cleanups.push(
    () => rm(dataDir, { recursive: true, force: true }),
    () => app.close(),
  );
  return {
    app,
    jumps,
    set: (byMs) => void (state.setMs += byMs),
    nowMs: parts.wall,
    pass: (ms) => void (state.passedMs += ms),
    request: (method, path, headers = {}, body) =>
      app.fetch(
        new Request(`http://127.0.0.1${path}`, {
          method,
          headers: { host: "127.0.0.1", "content-type": "application/json", ...headers },
          ...(body === undefined ? {} : { body }),
        }),
      ),
  };
}

const PATH = "/v1/stream/clock/mortal";

async function withMortal(world: World): Promise<void> {
  const made = await world.request("PUT", PATH, { "stream-ttl": String(TTL_SECONDS) }, "[1]");
  expect(made.status).toBe(201);
}

test("a day forwards: a TTL is not over, and is once the new time has held for ten minutes", async () => {
  const world = await openWorld();
  await withMortal(world);
  world.set(DAY_MS);
  expect((await world.request("HEAD", PATH)).status).toBe(200);
  world.pass(JUMP_HOLD_MS - 5_000);
  expect((await world.request("HEAD", PATH)).status).toBe(200);
  world.pass(10_000);
  expect((await world.request("HEAD", PATH)).status).toBe(404);
  expect(world.jumps.map((byMs) => Math.round(byMs / 1_000))).toEqual([DAY_MS / 1_000]);
});

test("control: on a clock that follows at once the same jump ends the stream at once", async () => {
  const world = await openWorld(false);
  await withMortal(world);
  world.set(DAY_MS);
  expect((await world.request("HEAD", PATH)).status).toBe(404);
});

test("a TTL is over in its own time after a jump, too", async () => {
  const world = await openWorld();
  await withMortal(world);
  world.set(-DAY_MS);
  await world.request("HEAD", PATH);
  world.pass(JUMP_HOLD_MS / 2);
  expect((await world.request("HEAD", PATH)).status).toBe(200);
  world.set(DAY_MS);
  world.pass(TTL_SECONDS * 1_000);
  expect((await world.request("HEAD", PATH)).status).toBe(404);
});

test("a day back: nothing expires, and records keep their order in time", async () => {
  const world = await openWorld();
  await withMortal(world);
  const append = (step: number): Promise<Response> => world.request("POST", PATH, {}, JSON.stringify({ step }));
  expect((await append(0)).status).toBe(204);
  await Bun.sleep(20);
  const mark = new Date(Date.now() - 10).toISOString();
  world.set(-DAY_MS);
  expect((await append(1)).status).toBe(204);
  // Now the machine's new time counts, a day before that of the records.
  world.pass(JUMP_HOLD_MS + 1_000);
  expect((await append(2)).status).toBe(204);
  expect((await append(3)).status).toBe(204);
  expect((await world.request("HEAD", PATH)).status).toBe(200);
  // None of them is older than the mark.
  const read = await world.request("GET", `${PATH}?from=${encodeURIComponent(mark)}`);
  expect(await read.json()).toEqual([{ step: 1 }, { step: 2 }, { step: 3 }]);
});

test("a day back: a stream that ends in that day lives on for all who ask, and is not made anew", async () => {
  const world = await openWorld();
  const write = (): Promise<Response> => world.request("POST", "/v1/stream/clock/before", {}, "[0]");
  await world.request("PUT", "/v1/stream/clock/before");
  for (const byMs of [DAY_MS, -DAY_MS]) {
    world.set(byMs);
    // The jump is seen now, and believed later.
    expect((await write()).status).toBe(204);
    world.pass(JUMP_HOLD_MS + 1_000);
    expect((await write()).status).toBe(204);
  }
  const expiry = { "stream-expires-at": new Date(world.nowMs() + TTL_SECONDS * 1_000).toISOString() };
  expect((await world.request("PUT", PATH, expiry, "[1]")).status).toBe(201);
  expect((await world.request("POST", PATH, {}, "[2]")).status).toBe(204);
  expect((await world.request("PUT", PATH, expiry)).status).toBe(200);
  expect(await (await world.request("GET", PATH)).json()).toEqual([1, 2]);
  world.pass(TTL_SECONDS * 1_000);
  expect((await world.request("POST", PATH, {}, "[3]")).status).toBe(404);
});

test.each([DAY_MS, -DAY_MS])("a long-poll keeps its deadline when the clock jumps by %d ms", async (byMs) => {
  const world = await openWorld();
  await withMortal(world);
  const tail = nextOffset(await world.request("HEAD", PATH));
  const startMs = performance.now();
  const polling = world.request("GET", `${PATH}?offset=${tail}&live=long-poll`);
  await Bun.sleep(100);
  world.set(byMs);
  expect((await polling).status).toBe(204);
  const tookMs = performance.now() - startMs;
  expect(tookMs).toBeGreaterThanOrEqual(POLL_MS - 50);
  expect(tookMs).toBeLessThan(POLL_MS + 1_000);
});

const start = temporaryServers();

test.each([DAY_MS, -DAY_MS])(
  "the real process, %d ms: says it once, keeps its streams, goes on",
  async (byMs) => {
    const preload = `--preload=${join(import.meta.dir, "planted-clock.ts")}`;
    const server = await start({ env: { BUN_OPTIONS: preload, PLANTED_JUMP_MS: String(byMs) } });
    const stream = await newStream(server, "clock/mortal", undefined, {
      headers: { "stream-ttl": String(TTL_SECONDS) },
    });
    process.kill(server.pid, "SIGUSR2");
    await until("it noticed", () => server.stderr().includes("clock jumped"));
    // Two looks of the sweeper later it has not said it again, and nothing has expired.
    await Bun.sleep(2_500);
    expect((await stream.post("[1]")).status).toBe(204);
    expect(await stream.records()).toEqual([1]);
    const lines = server
      .stderr()
      .split("\n")
      .filter((line) => line.includes("clock jumped"));
    expect(lines).toHaveLength(1);
    expect(lines[0]).toContain(byMs < 0 ? "-86400" : "+86400");
    await server.stop();
  },
  60_000,
);
