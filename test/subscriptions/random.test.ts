/**
 * Random lives of subscriptions, with crashes at any point, against a model of the protocol: one wake at a time, generations that only
 * grow, cursors that never go back, retries in their time, and news that always wakes somebody. `SUBSCRIPTION_ROUNDS` says how many.
 */

import { expect, test } from "bun:test";
import { runSeed, type SeededRandom, seededRandom } from "../support/random.ts";
import { SubscriptionLife } from "./subscription-life.ts";
import { Model, WAKE_STREAMS } from "./subscription-model.ts";
import { subscriptionWorld } from "./subscription-world.ts";

const ROUNDS = Number(process.env["SUBSCRIPTION_ROUNDS"] ?? 300);
const STEPS = 120;
const WAKES = `${WAKE_STREAMS}1`;
/** The longest a retry waits, with its jitter, and an unclaimed wake. */
const LONGEST_WAIT_MS = 700_000;
const WAIT_STEP_MS = 5_000;

test("whatever happens, subscriptions are what the protocol says", async () => {
  const seed = runSeed();
  for (let round = 0; round < ROUNDS; round++) {
    const violations = await oneLife(seed + round);
    expect(violations, `seed ${seed + round}`).toEqual([]);
  }
}, 600_000);

test("a webhook that fails is tried again later and later, up to a minute, across crashes", async () => {
  const random = seededRandom(runSeed());
  const { world, model } = await simpleWorld(random, "webhook");
  for (let attempt = 1; attempt <= 10; attempt++) {
    const about = `seed ${random.seed}, attempt ${attempt}`;
    const [open, ...others] = model.open();
    expect([open !== undefined, others.length], about).toEqual([true, 0]);
    open?.delivery.answer({ kind: "failed", reason: "500" });
    await world.settle();
    const retry = world.subscriptions.get("s1")?.record.retry;
    const atMs = retry?.atMs ?? expect.unreachable(`${about}: no retry`);
    expect(retry?.attempts, about).toBe(attempt);
    const backoffMs = Math.min(60_000, 1_000 * 2 ** (attempt - 1));
    expect(Math.abs(atMs - world.time.ms - backoffMs), about).toBeLessThanOrEqual(backoffMs * 0.2 + 1);
    if (random.below(2) === 0) {
      await world.crash(null);
      await world.settle();
    }
    await world.pass(atMs - world.time.ms - 1);
    expect(model.open(), about).toEqual([]);
    await world.pass(1);
  }
  expect([...model.violations, ...world.faults], `seed ${random.seed}`).toEqual([]);
  world.close();
});

test("news that comes while as many requests wait as may wakes somebody all the same", async () => {
  const { world, life } = await simpleWorld(seededRandom(1), "pull-wake");
  const subscription = world.subscriptions.get("s1") ?? expect.unreachable("it was made");

  const first = subscription.setExplicit(["a/1"], () => new Map());
  await Promise.resolve();
  const others = Array.from({ length: 1_001 }, () => subscription.release("", { wake_id: "", generation: 0 }));
  life.append(await world.heads());
  await Promise.all([first, ...others]);
  await world.settle(life.isBusy);
  expect(subscription.links.hasPending).toBe(true);
  expect(subscription.record.wake).not.toBeNull();
  world.close();
});

/** One subscription to one stream; a webhook has news already. */
async function simpleWorld(random: SeededRandom, type: "webhook" | "pull-wake") {
  const world = await subscriptionWorld(random);
  const model = new Model(world);
  const life = new SubscriptionLife(model, random);
  for (const name of [WAKES, "a/1"]) life.createStream(name, false);
  await world.settle(life.isBusy);
  const [webhookUrl, wakeStream] = type === "webhook" ? ["http://127.0.0.1/", null] : [null, WAKES];
  const config = { type, pattern: null, streams: ["a/1"], webhookUrl, wakeStream, leaseMs: 1_000, description: null };
  life.put("s1", config, await world.heads(), () => true);
  await world.settle(life.isBusy);
  if (type === "webhook") life.append(await world.heads());
  await world.settle(life.isBusy);
  return { world, model, life };
}

async function oneLife(seed: number): Promise<readonly string[]> {
  const random = seededRandom(seed);
  const world = await subscriptionWorld(random);
  const model = new Model(world);
  const life = new SubscriptionLife(model, random);
  for (const name of [`${WAKE_STREAMS}1`, `${WAKE_STREAMS}2`, "a/1", "b/1"]) life.createStream(name);
  await world.settle(life.isBusy);
  let alone = true;
  for (let step = 0; step < STEPS && model.violations.length === 0; step++) {
    const share = random.below(100);
    if (share < 4) {
      await world.crash(random.below(3) === 0 ? null : random.below(4));
      life.forgetAsked();
      // Streams change while the next process looks for them; requests about subscriptions wait until it has.
      for (let count = random.below(4); count > 0; count--) await life.actOnStreams();
      await world.subscriptions.whenReady();
      model.afterCrash();
      alone = false;
    } else if (share < 14 && alone) {
      await world.pass(random.below(random.below(4) === 0 ? 90_000 : 3_000));
    } else await life.act(alone);
    if (random.below(10) < 4) {
      await world.turns(random.below(3));
      alone = false;
    } else {
      await world.settle(life.isBusy);
      await model.compare();
      alone = true;
    }
  }
  await world.settle(life.isBusy);
  await model.compare();
  if (model.violations.length === 0) await heal(model, life);
  world.close();
  return [...new Set([...model.violations, ...world.faults])];
}

/** Everybody does their work: then everything is worked off, and nothing is under way any more. */
async function heal(model: Model, life: SubscriptionLife): Promise<void> {
  const { world } = model;
  for (const name of ["1", "2"]) life.createStream(WAKE_STREAMS + name);
  await world.settle(life.isBusy);
  const isDone = async (): Promise<boolean> => {
    const heads = await world.heads();
    return [...model.subscriptions.values()].every((subscription) => {
      const record = world.subscriptions.get(subscription.id)?.record;
      return !model.isPending(subscription, heads) && record?.wake === null && record.retry === null;
    });
  };
  for (let waitedMs = 0; !(await isDone()); waitedMs += WAIT_STEP_MS) {
    if (waitedMs > LONGEST_WAIT_MS)
      return model.violated("there is news that is never worked off, or a wake that never ends");
    for (const { delivery, model: subscription } of model.open()) life.answerDone(delivery, subscription);
    await work(model, life);
    await world.pass(WAIT_STEP_MS);
    await model.compare();
    if (model.violations.length > 0) return;
  }
}

/** Claims what is told, and works it off. */
async function work(model: Model, life: SubscriptionLife): Promise<void> {
  const { world } = model;
  for (const subscription of model.subscriptions.values()) {
    const wake = world.subscriptions.get(subscription.id)?.record.wake;
    if (subscription.config.type === "webhook" || wake?.holder !== null) continue;
    const before = model.credentials.length;
    life.claim(subscription, await world.heads(), () => true);
    await world.settle(life.isBusy);
    const credentials = model.credentials[before];
    if (credentials !== undefined) await life.finish(credentials);
    await world.settle(life.isBusy);
  }
}
