/** A stream with a TTL does not end while somebody follows it, and does soon after nobody does any more. */

import { expect, test } from "bun:test";
import { waitAtTail } from "../../src/http/live/tail-wait.ts";
import { liveWorld, type LiveWorld, next, turns } from "./live-world.ts";

const TTL_SECONDS = 5;

async function withTtl(): Promise<LiveWorld> {
  const world = liveWorld();
  const outcome = await world.engine.create({
    name: "s",
    contentType: "application/json",
    expiry: { kind: "ttl", seconds: TTL_SECONDS },
    retention: null,
    close: false,
    key: null,
    body: new Uint8Array(),
    fork: null,
  });
  expect(outcome.kind).toBe("created");
  return world;
}

async function passMinutes(world: LiveWorld, minutes: number): Promise<void> {
  for (let ms = 0; ms < minutes * 60_000; ms += 500) await world.pass(500);
}

async function isThere(world: LiveWorld): Promise<boolean> {
  return !("kind" in (await world.engine.find("s", "look")));
}

test("a reader that only waits keeps it alive, and it ends when that one has gone", async () => {
  const world = await withTtl();
  const reader = world.follow(await world.plan("s", "now"));
  const item = next(reader);
  await passMinutes(world, 2);
  expect(await isThere(world)).toBe(true);
  await world.append("s", [1]);
  expect((await item).kind).toBe("step");
  reader.stop();
  await passMinutes(world, 1);
  expect(await isThere(world)).toBe(false);
});

test("a long-poll that waits for longer than that keeps it alive", async () => {
  const world = await withTtl();
  const waited = waitAtTail(world.followers, await world.plan("s", "now"), 30_000, new AbortController().signal);
  await turns(2);
  for (let ms = 0; ms < 30_000; ms += 500) await world.pass(500);
  expect((await waited).why).toBe("over");
  expect(await isThere(world)).toBe(true);
});
