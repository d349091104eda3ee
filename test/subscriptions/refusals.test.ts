/**
 * What is refused has not happened: streams by name that the log does not take, or that have no room, are linked or unlinked neither
 * in memory nor after a restart, and asking again is as asking for the first time.
 */

import { expect, test } from "bun:test";
import { type Answer, isRefused } from "../../src/features/subscriptions/subscription-port.ts";
import { runSeed, seededRandom } from "../support/random.ts";
import { type SubscriptionWorld, subscriptionWorld } from "./subscription-world.ts";

const BASE = "http://test";
const WAKES = "w";
const KINDS = { type: "pull-wake", webhookUrl: null, wakeStream: WAKES, leaseMs: 1_000, description: null } as const;

async function worldWith(names: readonly string[], maxLinks?: number): Promise<SubscriptionWorld> {
  const world = await subscriptionWorld(seededRandom(runSeed()), maxLinks);
  for (const name of [WAKES, ...names]) await create(world, name);
  return world;
}

async function create({ engine }: SubscriptionWorld, name: string, body = ""): Promise<void> {
  const contentType = "application/json";
  const rest = { retention: null, close: false, key: null, fork: null, expiry: { kind: "never" } } as const;
  const outcome = await engine.create({ name, contentType, body: new TextEncoder().encode(body), ...rest });
  expect(outcome.kind).toBe("created");
}

async function append({ engine }: SubscriptionWorld, name: string, body: string): Promise<void> {
  const none = { producer: null, streamSeq: null, ifMatch: null, key: null, close: false };
  const bytes = new TextEncoder().encode(body);
  const outcome = await engine.append({ name, contentType: "application/json", body: bytes, ...none });
  expect(outcome.kind).toBe("appended");
}

async function put(world: SubscriptionWorld, pattern: string | null, streams: string[], id = "s"): Promise<void> {
  expect(await world.subscriptions.put(id, { ...KINDS, pattern, streams }, BASE)).toEqual({ created: true });
}

/** Name, cursor and tail of every link. */
function linksOf({ subscriptions }: SubscriptionWorld, id = "s"): (readonly [string, number, number])[] {
  const subscription = subscriptions.get(id) ?? expect.unreachable(`${id} is there`);
  const links = subscription.links.first(Infinity).map(({ link }) => [link.name, link.acked, link.tail] as const);
  return links.toSorted(([left], [right]) => (left < right ? -1 : 1));
}

/** Why not, or `taken`. */
function outcomeOf(answer: Promise<Answer<object>>): Promise<string> {
  return answer.then(
    (outcome) => (isRefused(outcome) ? outcome.refused.code : "taken"),
    (cause: unknown) => String(cause),
  );
}

async function restarted(world: SubscriptionWorld): Promise<void> {
  await world.crash(null);
  await world.settle();
}

test("streams by name that the log refuses are not linked; asked for again they begin at their tail, for good", async () => {
  const world = await worldWith(["seed", "old"]);
  await put(world, null, ["seed"]);
  await append(world, "old", "[1,2,3]");
  world.isFull = true;
  expect(await outcomeOf(world.subscriptions.addStreams("s", ["old", "later"]))).toContain("storage-full");
  world.isFull = false;
  expect(linksOf(world)).toEqual([["seed", 0, 0]]);
  // Nor are streams that come now.
  await create(world, "later", "[1]");
  await append(world, "old", "[4]");
  await world.settle();
  expect(linksOf(world)).toEqual([["seed", 0, 0]]);
  expect(await outcomeOf(world.subscriptions.addStreams("s", ["old"]))).toBe("taken");
  const linked: ReturnType<typeof linksOf> = [
    ["old", 4, 4],
    ["seed", 0, 0],
  ];
  expect(linksOf(world)).toEqual(linked);
  await restarted(world);
  expect(linksOf(world)).toEqual(linked);
  expect(world.faults).toEqual([]);
  world.close();
});

test("a stream that a pattern matches stays linked where it is when its name is refused", async () => {
  const world = await worldWith(["a"]);
  await put(world, "*", []);
  await append(world, "a", "[1]");
  const before = linksOf(world);
  world.isFull = true;
  expect(await outcomeOf(world.subscriptions.addStreams("s", ["a"]))).toContain("storage-full");
  expect(linksOf(world)).toEqual(before);
  expect(world.subscriptions.get("s")?.links.byName("a")).toMatchObject({ isGlob: true, isExplicit: false });
  world.close();
});

test("a name that the log does not let go stays linked, and its news wakes; let go, its cursor is gone", async () => {
  const world = await worldWith(["a", "b"]);
  await append(world, "a", "[1,2]");
  await put(world, null, ["a", "b"]);
  world.isFull = true;
  expect(await outcomeOf(world.subscriptions.removeStream("s", "a"))).toContain("storage-full");
  world.isFull = false;
  await append(world, "a", "[3]");
  await world.settle();
  expect(linksOf(world)).toEqual([
    ["a", 2, 3],
    ["b", 0, 0],
  ]);
  expect(world.subscriptions.get("s")?.record.wake).not.toBeNull();
  expect(await outcomeOf(world.subscriptions.removeStream("s", "a"))).toBe("taken");
  expect(linksOf(world)).toEqual([["b", 0, 0]]);
  const home = await world.engine.find("__ds/subscriptions/s", "look");
  if ("kind" in home) throw new Error(home.kind);
  const attributes = [...(await world.engine.attributes(home.id)).keys()];
  const [b] = (await world.heads()).filter(({ config }) => config.name === "b");
  expect(attributes.filter((key) => key.startsWith("cursor/"))).toEqual([`cursor/${b?.id}`]);
  await restarted(world);
  expect(linksOf(world)).toEqual([["b", 0, 0]]);
  world.close();
});

test("streams that find no room are told once, wait in the log, and are linked at their cursor when there is room", async () => {
  const world = await worldWith(["a/old", "b"], 3);
  await append(world, "a/old", "[1,2]");
  await put(world, "a/*", []);
  await put(world, null, ["b"], "s2");
  await create(world, "a/1", "[1]");
  await create(world, "a/2", "[1,2]");
  await create(world, "a/3");
  await world.settle();
  expect(linksOf(world).map(([name]) => name)).toEqual(["a/1", "a/old"]);
  expect(world.faults).toEqual([expect.stringContaining("a/2 does not wake s")]);
  expect(await outcomeOf(world.subscriptions.put("s3", { ...KINDS, pattern: "b", streams: [] }, BASE))).toBe(
    "OVERLOADED",
  );
  expect(await outcomeOf(world.subscriptions.addStreams("s2", ["a/3"]))).toBe("OVERLOADED");
  expect(world.subscriptions.get("s2")?.record.explicit).toEqual(["b"]);
  // No room yet, then room for one, then for all.
  await world.pass(60_000);
  expect(linksOf(world)).toHaveLength(2);
  await world.subscriptions.remove("s2");
  await world.pass(60_000);
  expect(linksOf(world)).toEqual([
    ["a/1", 0, 1],
    ["a/2", 0, 2],
    ["a/old", 2, 2],
  ]);
  expect((await world.engine.delete("a/1")).kind).toBe("done");
  await world.pass(60_000);
  expect(linksOf(world)).toEqual([
    ["a/2", 0, 2],
    ["a/3", 0, 0],
    ["a/old", 2, 2],
  ]);
  expect(world.faults).toHaveLength(1);
  world.close();
});

test("after a start without room for all of them, the cursors of those that wait are the stored ones", async () => {
  const world = await worldWith(["a/1", "a/2", "a/3"], 3);
  for (const name of ["a/1", "a/2", "a/3"]) await append(world, name, "[1,2]");
  world.maxLinks = 4;
  await restarted(world);
  await put(world, "a/*", []);
  world.maxLinks = 2;
  await restarted(world);
  expect(linksOf(world)).toEqual([
    ["a/1", 2, 2],
    ["a/2", 2, 2],
  ]);
  await append(world, "a/3", "[3]");
  expect((await world.engine.delete("a/1")).kind).toBe("done");
  await world.pass(60_000);
  expect(linksOf(world)).toEqual([
    ["a/2", 2, 2],
    ["a/3", 2, 3],
  ]);
  world.close();
});

test("a stream of the server's own is never linked, also by name", async () => {
  const world = await worldWith(["a"]);
  await put(world, null, ["a"]);
  expect(await outcomeOf(world.subscriptions.addStreams("s", ["__ds/subscriptions/s"]))).toBe("taken");
  expect(linksOf(world)).toEqual([["a", 0, 0]]);
  world.close();
});
