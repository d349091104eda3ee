/** What is on its way to live readers is counted, beyond small frames: who finds no room for it reads it later, and misses nothing. */

import { assert, asyncProperty, integer } from "fast-check";
import { expect, test } from "bun:test";
import { FrameRoom } from "../../src/http/live/frame-room.ts";
import type { Follower } from "../../src/http/live/follower.ts";
import { CROWDED_FRAME_MS, READ_CHUNK_BYTES } from "../../src/protocol/limits.ts";
import { seededRandom } from "../support/random.ts";
import { FakeSocket } from "./fake-socket.ts";
import { liveWorld, next, recordsOf, turns } from "./live-world.ts";

const MiB = 1024 * 1024;
/** Fits once into three quarters of a room of 4 MiB, and not twice. */
const LARGE = { large: "x".repeat(2 * MiB) };

/** Followers of `s` at its tail, and what each waits for. */
async function atTail(count: number, liveFrameBytes = 4 * MiB) {
  const world = liveWorld({ liveFrameBytes });
  await world.create("s");
  const plan = await world.plan("s", "now");
  const readers = Array.from({ length: count }, () => world.follow(plan));
  const got: unknown[] = [];
  const stopped = new Set<Follower>();
  const wait = async (reader: Follower, at: number): Promise<void> => {
    while (got[at] === undefined && !stopped.has(reader)) {
      await reader.ready();
      if (!stopped.has(reader)) got[at] = (reader.takeHeld() ?? (await reader.take()))?.kind;
    }
  };
  for (const [at, reader] of readers.entries()) void wait(reader, at);
  await turns(2);
  const stop = (reader: Follower): void => {
    stopped.add(reader);
    reader.stop();
  };
  return { world, readers, got, stop };
}

test("a large record is given to as many readers as there is room for; the others get it when those have passed it on", async () => {
  const { world, readers, got, stop } = await atTail(5);
  await world.append("s", [LARGE]);
  for (let passed = 1; passed <= 5; passed++) {
    await turns(10);
    expect(got.filter((kind) => kind !== undefined)).toEqual(Array.from({ length: passed }, () => "step"));
    expect(world.followers.room.used).toBeLessThan(3 * MiB);
    // Asked for more: what it was given has gone.
    void readers[got.findLastIndex((kind) => kind !== undefined)]?.ready();
  }
  readers.forEach(stop);
  expect([world.followers.room.used, world.engine.liveRequests.used]).toEqual([0, 0]);
});

test("a small record does not wait behind large ones", async () => {
  const { world, readers, got, stop } = await atTail(3);
  await world.append("s", [LARGE]);
  await turns(10);
  await world.create("other");
  const other = world.follow(await world.plan("other", "now"));
  const item = next(other);
  await turns(2);
  await world.append("other", [1]);
  expect(recordsOf(await item)).toEqual([1]);
  expect(got.filter((kind) => kind !== undefined).length).toBe(1);
  [other, ...readers].forEach(stop);
});

test("who stops in line makes way; a shutdown lets everybody hear of it", async () => {
  const { world, readers, got, stop } = await atTail(4);
  await world.append("s", [LARGE]);
  await turns(10);
  readers.slice(0, 2).toReversed().forEach(stop);
  await turns(10);
  expect(got.filter((kind) => kind !== undefined).length).toBe(2);
  world.engine.beginDrain();
  await turns(10);
  expect(got).toContain("end");
  readers.forEach(stop);
  expect([world.followers.room.used, world.followers.room.isShort]).toEqual([0, false]);
});

/** Sockets that follow `s` from its tail and take nothing, in the order they came. */
async function stalledSockets(count: number) {
  const world = liveWorld({ liveFrameBytes: 4 * MiB });
  await world.create("s");
  const sockets: FakeSocket[] = [];
  for (let at = 0; at < count; at++) {
    const socket = new FakeSocket(world);
    socket.say({ type: "subscribe", stream: "s", offset: "now" });
    await turns(5);
    socket.room = 0;
    sockets.push(socket);
  }
  return { world, sockets };
}

test("a full socket holds room until it has passed its frame on", async () => {
  const { world, sockets } = await stalledSockets(2);
  await world.append("s", [LARGE]);
  await turns(10);
  expect(sockets.map((socket) => socket.records("s").length)).toEqual([1, 0]);
  for (const socket of sockets) socket.drain(0);
  await turns(10);
  expect(sockets.map((socket) => socket.records("s").length)).toEqual([1, 1]);
  for (const socket of sockets) socket.connection.closed();
  expect(world.followers.room.used).toBe(0);
});

test("while others wait for room, who does not take its frame is cut off; else it may take its time", async () => {
  const { world, sockets } = await stalledSockets(1);
  await world.append("s", [LARGE]);
  for (let ms = 0; ms <= 2 * CROWDED_FRAME_MS; ms += 1_000) await world.pass(1_000);
  expect(sockets[0]?.ended).toBeNull();
  const other = new FakeSocket(world);
  other.say({ type: "subscribe", stream: "s", offset: "-1" });
  for (let ms = 0; ms <= 2_000; ms += 1_000) await world.pass(1_000);
  await turns(10);
  expect([sockets[0]?.ended, other.records("s").length]).toEqual(["terminated", 1]);
});

test("a full socket keeps no room for what its other subscriptions would send", async () => {
  const { world, sockets } = await stalledSockets(1);
  const [socket] = sockets;
  await world.create("t");
  socket?.say({ type: "subscribe", stream: "t", id: "t", offset: "now" });
  socket?.drain(0);
  await turns(5);
  for (const stream of ["t", "s"]) await world.append(stream, [{ large: "x".repeat(100_000) }]);
  await turns(10);
  expect(world.followers.room.used).toBeLessThan(READ_CHUNK_BYTES);
  socket?.drain(Infinity);
  await turns(10);
  expect([socket?.records("s").length, socket?.records("t").length, world.followers.room.used]).toEqual([1, 1, 0]);
});

test("the line is served in order, past who leaves it, and what is alone always fits", () => {
  const room = new FrameRoom(100);
  const entered: number[] = [];
  expect([room.take(1_000), room.take(1)]).toEqual([true, false]);
  const places = [60, 50, 30].map((bytes) => room.wait(bytes, () => entered.push(bytes)));
  expect([entered, room.isShort]).toEqual([[], true]);
  room.give(1_000);
  expect(entered).toEqual([60]);
  places[1]?.leave();
  expect([entered, room.isShort, room.used]).toEqual([[60, 30], false, 90]);
});

test("any pace of readers and appends in little room: every log is whole and in order, and all room is given back", async () => {
  await assert(
    asyncProperty(integer(), async (seed) => {
      const random = seededRandom(seed);
      const world = liveWorld({ liveFrameBytes: 60_000 });
      await world.create("s");
      const stopped: Follower[] = [];
      const log = { appended: 0, isWritten: false };
      const read = async (): Promise<void> => {
        await turns(random.below(20));
        const reader = world.follow(await world.plan("s", "start"));
        stopped.push(reader);
        for (let expected = 0; !log.isWritten || expected < log.appended;) {
          const item = await next(reader);
          if (item.kind === "step") for (const n of recordsOf(item)) expect((n as { n: number }).n).toBe(expected++);
          else expect(item.kind).toBe("lagged");
          if (random.below(20) === 0) return reader.stop();
          if (random.below(3) === 0) await turns(random.below(12));
          if (random.below(10) === 0) await world.pass(random.below(1_500));
        }
        // What it was given last has been passed on.
        void reader.ready();
      };
      const readers = Array.from({ length: 1 + random.below(12) }, read);
      for (let round = 0; round < 30; round++) {
        await world.append("s", [{ n: log.appended++, text: "x".repeat(random.below(3) === 0 ? 30_000 : 20) }]);
        if (random.below(2) === 0) await turns(random.below(6));
      }
      await world.append("s", [{ n: log.appended++, text: "" }]);
      log.isWritten = true;
      await Promise.all(readers);
      for (const reader of stopped) reader.stop();
      await turns(5);
      const { used, isShort } = world.followers.room;
      expect([used, isShort, world.engine.liveRequests.used, world.faults.length]).toEqual([0, false, 0, 0]);
    }),
    { numRuns: 60 },
  );
}, 60_000);
