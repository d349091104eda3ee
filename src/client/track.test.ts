/** A tracker against a scripted server: when it sends, what it keeps, what it drops, and how it counts that. */

import { expect, test } from "bun:test";
import { rejection, until } from "../../test/support/wait.ts";
import { connect, Refused, type TrackedEvent, type Tracker, type TrackerOptions } from "./client.ts";

type Answer = (names: readonly string[]) => Response | Promise<Response>;

interface World {
  readonly tracker: Tracker;
  /** The names of the events of each request that was answered with 204. */
  readonly taken: string[][];
  readonly inits: RequestInit[];
}

const QUICK = { maxAttempts: 2, baseDelayMs: 1, maxDelayMs: 2 };
const NEVER_MS = 60_000;

function open(options: TrackerOptions, answer: Answer = () => status(204)): World {
  const taken: string[][] = [];
  const inits: RequestInit[] = [];
  const fetch = async (_url: string, init: RequestInit): Promise<Response> => {
    inits.push(init);
    const events = JSON.parse(bodyOf(init)) as { data: { commandName: string } }[];
    const names = events.map(({ data }) => data.commandName);
    const response = await answer(names);
    if (response.status === 204) taken.push(names);
    return response;
  };
  const stream = connect({ url: "http://model", fetch, retry: QUICK }).stream("s");
  return { tracker: stream.tracker({ flushIntervalMs: NEVER_MS, ...options }), taken, inits };
}

function bodyOf({ body }: RequestInit): string {
  return typeof body === "string" ? body : "null";
}

function status(code: number): Response {
  return new Response(null, { status: code });
}

const named = (commandName: string, more: object = {}): TrackedEvent => ({
  type: "command",
  data: { commandName, ...more },
});

test("many are sent at once, few after the interval", async () => {
  const { tracker, taken, inits } = open({ maxBatchEvents: 3, flushIntervalMs: 30 });
  for (const name of ["a", "b", "c", "d"]) expect(tracker.track(named(name))).toBe(true);
  expect(inits.length).toBe(1);
  await until("the rest is sent", () => taken.length === 2);
  expect(taken).toEqual([["a", "b", "c"], ["d"]]);
  expect([tracker.queuedEvents, tracker.droppedEvents, tracker.lastError]).toEqual([0, 0, null]);
  await tracker.close();
});

test("flush sends what was tracked, as it was then; close too, and nothing comes after it", async () => {
  const { tracker, taken } = open({});
  expect((await tracker.flush()).isOk()).toBe(true);
  const data = { commandName: "a" };
  tracker.track({ type: "command", data });
  data.commandName = "changed";
  const flushed = tracker.flush();
  tracker.track(named("b"));
  expect((await flushed).isOk()).toBe(true);
  expect([taken, tracker.queuedEvents]).toEqual([[["a"]], 1]);
  expect(await tracker.close()).toEqual(await tracker.close());
  expect([taken.length, tracker.track(named("c")), tracker.droppedEvents]).toEqual([2, false, 1]);
});

test("a page that is hidden sends at once, and its requests outlive it", async () => {
  const page = new (class extends EventTarget {
    hidden = false;
  })();
  const { tracker, taken, inits } = open({ page });
  tracker.track(named("a"));
  page.dispatchEvent(new Event("visibilitychange"));
  expect(inits.length).toBe(0);
  page.hidden = true;
  page.dispatchEvent(new Event("visibilitychange"));
  expect(inits.map(({ keepalive }) => keepalive)).toEqual([true]);
  await until("it is sent", () => taken.length === 1);
  await tracker.close();
  tracker.track(named("b"));
  page.dispatchEvent(new Event("visibilitychange"));
  expect(inits.length).toBe(1);
});

test("a server that is away is tried again; what does not fit pushes out the oldest, and is counted", async () => {
  let isAway = true;
  const { tracker, taken, inits } = open({ maxQueuedEvents: 5, maxBatchEvents: 3, flushIntervalMs: 20 }, () => {
    if (isAway) throw new TypeError("connection refused");
    return status(204);
  });
  for (let at = 0; at < 8; at++) tracker.track(named(String(at)));
  const failed = await tracker.flush();
  expect(failed.isErr() && failed.error._tag).toBe("Unreachable");
  expect([tracker.queuedEvents, tracker.droppedEvents, inits.length]).toEqual([5, 3, 2]);
  // A full queue is no reason to try: only the timer is.
  tracker.track(named("8"));
  expect([tracker.queuedEvents, tracker.droppedEvents, inits.length]).toEqual([5, 4, 2]);
  isAway = false;
  await until("all is sent", () => tracker.queuedEvents === 0 && tracker.lastError === null);
  expect(taken.flat()).toEqual(["4", "5", "6", "7", "8"]);
  await tracker.close();
});

test("one event that is none does not take others with it", async () => {
  const { tracker, taken } = open({}, (names) => status(names.includes("bad") ? 400 : 204));
  const names = Array.from({ length: 40 }, (_, at) => (at === 17 ? "bad" : String(at)));
  for (const name of names) tracker.track(named(name));
  const flushed = await tracker.flush();
  expect(flushed.isErr() && Refused.is(flushed.error) && flushed.error.status).toBe(400);
  expect(taken.flat()).toEqual(names.filter((name) => name !== "bad"));
  expect([tracker.droppedEvents, tracker.queuedEvents]).toEqual([1, 0]);
  await tracker.close();
});

test("batches are small enough to outlive a page, and events that no server takes are dropped", async () => {
  const { tracker, inits } = open({});
  const filler = "x".repeat(20_000);
  for (let at = 0; at < 7; at++) expect(tracker.track(named(String(at), { filler }))).toBe(true);
  expect(tracker.track(named("big", { filler: "ü".repeat(17_000) }))).toBe(false);
  await tracker.close();
  const sizes = inits.map((init) => new TextEncoder().encode(bodyOf(init)).length);
  expect(sizes.length).toBe(4);
  expect(Math.max(...sizes)).toBeLessThan(64 * 1024);
  expect(tracker.droppedEvents).toBe(1);
});

test("what has no JSON is dropped, and throws nothing into the application", async () => {
  const { tracker, taken } = open({});
  const cycle: Record<string, unknown> = {};
  cycle["self"] = cycle;
  const hostile = {
    toJSON: () => {
      throw new Error("not me");
    },
  };
  const events = [{ data: { n: 1n } }, { data: cycle }, { data: hostile }, undefined];
  for (const event of events) expect(tracker.track(event as unknown as TrackedEvent)).toBe(false);
  expect(tracker.track(named("a"))).toBe(true);
  (await tracker.close()).unwrap();
  expect([taken, tracker.droppedEvents]).toEqual([[["a"]], 4]);
});

test("limits that let nothing through are TypeErrors", () => {
  for (const limit of ["maxBatchEvents", "maxQueuedEvents"]) {
    for (const senseless of [0, -1, NaN]) expect(() => open({ [limit]: senseless })).toThrow(TypeError);
  }
});

test("what cannot be sent when it ends is dropped, and counted", async () => {
  const { tracker } = open({ maxBatchEvents: 2 }, () => status(503));
  for (const name of ["a", "b", "c"]) tracker.track(named(name));
  expect((await tracker.close()).isErr()).toBe(true);
  expect([tracker.droppedEvents, tracker.queuedEvents]).toEqual([3, 0]);
});

test("a signal that aborts ends it, also in the middle of a request", async () => {
  const abort = new AbortController();
  const { signal } = abort;
  const hanging: Answer = () =>
    new Promise((_, reject) => signal.addEventListener("abort", () => reject(new Error("aborted"))));
  const { tracker } = open({ signal, maxBatchEvents: 2 }, hanging);
  for (const name of ["a", "b", "c"]) tracker.track(named(name));
  const flushing = rejection(tracker.flush());
  abort.abort(new Error("enough"));
  expect((await flushing).message).toBe("enough");
  expect([tracker.track(named("d")), tracker.droppedEvents, tracker.queuedEvents]).toEqual([false, 4, 0]);
  expect((await tracker.close()).isOk()).toBe(true);
});
