/** Leases, retries and wakes that nobody claims end after their time has passed, whatever is done to the wall clock meanwhile. */

import { expect, test } from "bun:test";
import { isRefused } from "../../src/features/subscriptions/subscription-port.ts";
import type { Subscription } from "../../src/features/subscriptions/subscription.ts";
import { runSeed, seededRandom } from "../support/random.ts";
import { type Delivery, type SubscriptionWorld, subscriptionWorld } from "./subscription-world.ts";

const LEASE_MS = 10_000;
const DAY_MS = 86_400_000;
const WAKES = "w";
/** How far the clock is set back; negative: forwards. */
const JUMPS = [300_000, DAY_MS, -5_000, -DAY_MS];

/** A subscription that has news. */
async function scene(type: "webhook" | "pull-wake") {
  const world = await subscriptionWorld(seededRandom(runSeed()));
  const deliveries: Delivery[] = [];
  world.onDelivery = (delivery) => deliveries.push(delivery);
  for (const name of [WAKES, "a"]) {
    const rest = { retention: null, close: false, key: null, fork: null, expiry: { kind: "never" } } as const;
    await world.engine.create({ name, contentType: "application/json", body: new Uint8Array(), ...rest });
  }
  const [webhookUrl, wakeStream] = type === "webhook" ? ["http://127.0.0.1/", null] : [null, WAKES];
  const config = { type, pattern: null, streams: ["a"], webhookUrl, wakeStream, leaseMs: LEASE_MS, description: null };
  expect(await world.subscriptions.put("s", config, "http://test")).toEqual({ created: true });
  const body = new TextEncoder().encode("[1]");
  const none = { producer: null, streamSeq: null, ifMatch: null, key: null, close: false };
  await world.engine.append({ name: "a", contentType: "application/json", body, ...none });
  await world.settle();
  return { world, deliveries };
}

function subscriptionOf({ subscriptions }: SubscriptionWorld): Subscription {
  return subscriptions.get("s") ?? expect.unreachable("it was made");
}

/** What a claim gives: its generation, or why not. */
async function claim(world: SubscriptionWorld, worker: string): Promise<number | string> {
  const answer = await subscriptionOf(world).claim(worker);
  return isRefused(answer) ? answer.refused.code : answer.generation;
}

test.each(JUMPS)("a lease ends after its time, and not before, when the clock is set back by %p ms", async (jumpMs) => {
  const { world } = await scene("pull-wake");
  expect(await claim(world, "dies")).toBe(1);
  await world.pass(LEASE_MS / 2);
  world.time.setBackMs += jumpMs;
  expect(await claim(world, "other")).toBe("ALREADY_CLAIMED");
  await world.pass(LEASE_MS / 2 - 500);
  expect([await claim(world, "other"), subscriptionOf(world).record.generation]).toEqual(["ALREADY_CLAIMED", 1]);
  await world.pass(500);
  // Told again, to whoever follows the wake stream.
  expect((await world.records(WAKES)).map((event) => (event as { generation: number }).generation)).toEqual([1, 2]);
  expect(await claim(world, "other")).toBe(2);
  expect(world.faults).toEqual([]);
  world.close();
});

test.each(JUMPS)("a webhook that failed is tried again in time when the clock is set back by %p ms", async (jumpMs) => {
  const { world, deliveries } = await scene("webhook");
  deliveries[0]?.answer({ kind: "failed", reason: "500" });
  await world.settle();
  world.time.setBackMs += jumpMs;
  await world.pass(500);
  expect(deliveries).toHaveLength(1);
  await world.pass(1_000);
  expect(deliveries).toHaveLength(2);
  // Taken, and never called back.
  deliveries[1]?.answer({ kind: "taken" });
  await world.settle();
  world.time.setBackMs += jumpMs;
  await world.pass(LEASE_MS + 500);
  expect(deliveries).toHaveLength(3);
  world.close();
});

test("after a restart with a clock that was set back, a lease is no longer than the longest there is", async () => {
  const { world } = await scene("pull-wake");
  expect(await claim(world, "dies")).toBe(1);
  world.time.setBackMs += DAY_MS;
  await world.crash(null);
  await world.settle();
  expect(await claim(world, "other")).toBe("ALREADY_CLAIMED");
  await world.pass(600_000);
  expect(await claim(world, "other")).toBe(2);
  world.close();
});

test("a lease that is over is free for a claim also while the log does not take its next wake", async () => {
  const { world } = await scene("pull-wake");
  expect(await claim(world, "dies")).toBe(1);
  world.isFull = true;
  await world.pass(LEASE_MS + 500);
  expect(subscriptionOf(world).record.retry).not.toBeNull();
  world.isFull = false;
  expect(await claim(world, "other")).toBe(2);
  world.close();
});
