/** The registry of live clients: when one counts as slow, who hears of it and how often, who is cut off, and the pages of it. */

import { expect, test } from "bun:test";
import type { LiveClient } from "../../src/http/live/clients.ts";
import type { Follower, Overflow } from "../../src/http/live/follower.ts";
import {
  LAG_NOTICE_MS,
  MAX_LAG_RECORDS,
  SLOW_CLIENT_LOG_MS,
  SLOW_CLIENT_TIMEOUT_MS,
} from "../../src/protocol/limits.ts";
import { liveWorld, type LiveWorld } from "./live-world.ts";

interface Connected {
  readonly client: LiveClient;
  readonly follower: Follower;
  readonly cuts: () => number;
}

async function connect(world: LiveWorld, overflow: Overflow = "resume"): Promise<Connected> {
  const follower = world.follow(await world.plan("s", "now"), overflow);
  let cuts = 0;
  const client: LiveClient = world.clients.open({
    kind: "sse",
    subscriptions: () => [["s", follower]],
    cut: () => {
      cuts++;
      client.close();
    },
  });
  return { client, follower, cuts: () => cuts };
}

async function worldWithStream(): Promise<LiveWorld> {
  const world = liveWorld();
  await world.create("s");
  return world;
}

test("a socket that takes each frame is healthy, and nothing watches it", async () => {
  const world = await worldWithStream();
  const { client } = await connect(world);
  for (let frame = 0; frame < 100; frame++) {
    client.sent();
    await world.pass(5);
    client.taken();
  }
  expect([client.healthy, client.latencyMs, world.edges]).toEqual([true, 5, []]);
  expect(world.metric("streams_live_frames_total")).toBe(100);
  await world.pass(2 * LAG_NOTICE_MS);
  const deadlines = world.engine.deadlines.size;
  await world.pass(10 * LAG_NOTICE_MS);
  expect(world.engine.deadlines.size).toBeLessThanOrEqual(deadlines);
});

test("slow after a second, told once; healthy again when it has taken everything, told when that is long enough after", async () => {
  const world = await worldWithStream();
  const { client } = await connect(world);
  client.sent();
  await world.append("s", [1, 2, 3]);
  await world.pass(LAG_NOTICE_MS);
  expect([client.healthy, world.metric("streams_slow_clients")]).toEqual([false, 1]);
  expect(world.edges).toEqual([
    { clientId: client.id, kind: "sse", healthy: false, stalledMs: LAG_NOTICE_MS, lagRecords: 3 },
  ]);
  await world.pass(SLOW_CLIENT_LOG_MS);
  client.taken();
  expect([client.healthy, world.metric("streams_slow_clients")]).toEqual([true, 0]);
  expect(world.edges.map(({ healthy }) => healthy)).toEqual([false, true]);
});

test("a client that flaps is told of at most every five seconds, and counted right all the same", async () => {
  const world = await worldWithStream();
  const { client } = await connect(world);
  for (let flap = 0; flap < 20; flap++) {
    client.sent();
    await world.pass(LAG_NOTICE_MS);
    expect(world.metric("streams_slow_clients")).toBe(1);
    client.taken();
    expect(world.metric("streams_slow_clients")).toBe(0);
  }
  expect(world.edges.length).toBeLessThanOrEqual(1 + (20 * LAG_NOTICE_MS) / SLOW_CLIENT_LOG_MS);
  expect(world.edges.length).toBeGreaterThanOrEqual(3);
});

test("disconnect: cut off after half a minute without taking anything; resume is not", async () => {
  const world = await worldWithStream();
  const [patient, strict] = [await connect(world), await connect(world, "disconnect")];
  for (const { client } of [patient, strict]) client.sent();
  for (let second = 1; second < SLOW_CLIENT_TIMEOUT_MS / 1000; second++) await world.pass(1_000);
  expect([patient.cuts(), strict.cuts()]).toEqual([0, 0]);
  await world.pass(1_000);
  expect([patient.cuts(), strict.cuts()]).toEqual([0, 1]);
  expect(world.metric("streams_live_cut_total")).toBe(1);
});

test("disconnect: cut off earlier when it is too many records behind", async () => {
  const world = await worldWithStream();
  const { client, cuts } = await connect(world, "disconnect");
  client.sent();
  const many = Array.from({ length: 50_000 }, () => 1);
  await world.append("s", many);
  await world.append("s", many);
  expect(MAX_LAG_RECORDS).toBe(100_000);
  await world.pass(LAG_NOTICE_MS);
  expect(cuts()).toBe(0);
  await world.append("s", [1]);
  await world.pass(LAG_NOTICE_MS);
  expect(cuts()).toBe(1);
});

test("the page tells how far each is behind, in records, bytes and time", async () => {
  const world = await worldWithStream();
  const { client, follower } = await connect(world, "drop-oldest");
  client.sent();
  await world.append("s", ["0123456789", "0123456789"]);
  await world.pass(2 * LAG_NOTICE_MS);
  const lag = { records: 2, bytes: 24, ms: 2 * LAG_NOTICE_MS };
  expect(await world.clients.page(null, 10)).toEqual({
    clients: [
      {
        clientId: client.id,
        kind: "sse",
        healthy: false,
        connectedMs: 2 * LAG_NOTICE_MS,
        stalledMs: 2 * LAG_NOTICE_MS,
        metrics: { buffered: 2, dropped: 0, maxSize: 1_000, lastFlushLatencyMs: 0 },
        lag,
        streams: [{ id: "s", stream: "s", offset: follower.offset, overflow: "drop-oldest", dropped: 0, lag }],
      },
    ],
    next: null,
  });
});

test("of a fork only its own records are measured", async () => {
  const world = await worldWithStream();
  await world.append(
    "s",
    Array.from({ length: 1_000 }, (_, n) => n),
  );
  await world.create("fork", "s");
  const follower = world.follow(await world.plan("fork", "now"));
  world.clients.open({ kind: "sse", subscriptions: () => [["fork", follower]], cut: () => undefined });
  await world.append("fork", ["0123456789", "0123456789"]);
  const { clients } = await world.clients.page(null, 10);
  expect(clients[0]?.lag).toMatchObject({ records: 2, bytes: 24 });
});

test("pages hold every client once, also while some come and go", async () => {
  const world = await worldWithStream();
  const connected = [];
  for (let count = 0; count < 25; count++) connected.push(await connect(world));
  const seen: string[] = [];
  let after: string | null = null;
  for (;;) {
    const { clients, next } = await world.clients.page(after, 10);
    seen.push(...clients.map(({ clientId }) => clientId));
    if (next === null) break;
    after = next;
    // Those already shown leave; a newcomer is on the last page.
    connected.shift()?.client.close();
    await connect(world);
  }
  expect(seen).toEqual([...new Set(seen)]);
  expect(seen.length).toBeGreaterThanOrEqual(25);
});

test("closing twice counts once", async () => {
  const world = await worldWithStream();
  const { client } = await connect(world);
  client.sent();
  await world.pass(LAG_NOTICE_MS);
  client.close();
  client.close();
  expect([world.metric("streams_sse_clients"), world.metric("streams_slow_clients")]).toEqual([0, 0]);
});
