/** Wake streams are ordinary streams: they go, come back, close and change. And no wake wakes another: there are no loops. */

import { afterAll, describe, expect, test } from "bun:test";
import { sharedServer } from "../support/shared-server.ts";
import { call, type ErrorBody, newStream, streamAt, type StreamUnderTest } from "../support/streams.ts";
import {
  acksOf,
  append,
  jsonOf,
  newPullWake,
  newSubscription,
  type PullWake,
  quiet,
  startHook,
  type SubscriptionShown,
  subscriptionAt,
  type SubscriptionUnderTest,
  verdict,
  type WakeEvent,
  wakesIn,
} from "../support/subscription-client.ts";
import { until } from "../support/wait.ts";

const server = sharedServer({ args: ["--allow-local-webhooks"] });
const hook = startHook();
hook.answer("taken");
afterAll(() => hook.stop());

function has(subscription: SubscriptionUnderTest, status: string): Promise<SubscriptionShown> {
  return until(
    `it is ${status}`,
    async () => {
      const shown = await subscription.shown();
      return shown.status === status && shown;
    },
    8_000,
  );
}

async function setProfile({ url }: StreamUnderTest, kind: string): Promise<void> {
  const headers = { "content-type": "application/json" };
  const answer = await call("POST", `${url}/_profile`, { headers, body: JSON.stringify({ profile: { kind } }) });
  expect(answer.status).toBe(200);
}

async function scene(name: string): Promise<PullWake & { readonly stream: StreamUnderTest }> {
  const stream = await newStream(server, `${name}/a`);
  return { stream, ...(await newPullWake(server, name, { pattern: `${name}/*` })) };
}

describe("a wake stream that cannot be written", () => {
  test.concurrent("deleted: failed and retried; recreated it is told, and a worker can claim all the while", async () => {
    const { stream, subscription, wakeStream, eventsOf } = await scene("ws-deleted");
    await wakeStream.delete();
    await append(stream);
    const shown = await has(subscription, "failed");
    expect(shown).toMatchObject({ failures: expect.any(Number), lag_records: 1, pending_streams: 1 });
    expect(shown.last_error).toContain(wakeStream.name);
    expect(Date.parse(shown.next_attempt_at ?? "")).toBeGreaterThan(Date.now() - 1_000);
    expect((await wakeStream.head()).status).toBe(404);
    expect((await wakeStream.put()).status).toBe(201);
    const [event] = await eventsOf(1, 5_000);
    expect(event).toMatchObject({ type: "wake", subscription_id: "ws-deleted", stream: stream.name });
    const after = await has(subscription, "active");
    expect(after).not.toHaveProperty("last_error");
    expect((await subscription.claimed()).generation).toBe(event?.generation ?? 0);
  });

  test.concurrent("deleted: a claim without a wake works, and ends the failure", async () => {
    const { stream, subscription, wakeStream } = await scene("ws-claimed");
    await wakeStream.delete();
    await append(stream);
    await has(subscription, "failed");
    const claim = await subscription.claimed();
    expect(await jsonOf(subscription.ack(claim, { acks: acksOf(claim), done: true }))).toEqual({
      ok: true,
      next_wake: false,
    });
    expect(await subscription.shown()).toMatchObject({ status: "active", failures: 0, lag_records: 0 });
  });

  test.concurrent("closed: failed, and nothing is appended", async () => {
    const { stream, subscription, wakeStream } = await scene("ws-closed");
    await wakeStream.close();
    await append(stream);
    const shown = await has(subscription, "failed");
    expect(shown.last_error).toContain(wakeStream.name);
    expect(await wakeStream.records()).toEqual([]);
  });

  test.concurrent("recreated with another type: failed, and not a byte is written", async () => {
    const { stream, subscription, wakeStream } = await scene("ws-typed");
    await wakeStream.delete();
    const other = await newStream(server, wakeStream.name, "text/plain", { body: "mine" });
    await append(stream);
    await has(subscription, "failed");
    expect(await other.text()).toBe("mine");
    await other.delete();
    await wakeStream.put();
    expect(await wakesIn(wakeStream).eventsOf(1)).toHaveLength(1);
  });

  test.concurrent("recreated before the wake: told as if nothing had been", async () => {
    const { stream, wakeStream, eventsOf, subscription } = await scene("ws-swift");
    await wakeStream.delete();
    await wakeStream.put();
    await append(stream);
    await eventsOf(1);
    expect((await subscription.shown()).status).toBe("active");
  });

  test.concurrent("its retries are further and further apart", async () => {
    const { stream, subscription, wakeStream } = await scene("ws-apart");
    await wakeStream.delete();
    await append(stream);
    const times: number[] = [];
    for (let attempt = 1; attempt <= 2; attempt++) {
      const shown = await until(`failure ${attempt}`, async () => {
        const now = await subscription.shown();
        return now.failures === attempt && now;
      });
      times.push(Date.parse(shown.next_attempt_at ?? ""));
    }
    const [first = 0, second = 0] = times;
    expect(second - first).toBeGreaterThanOrEqual(1_590);
    expect(second - first).toBeLessThan(2_600);
    await subscription.delete();
  });

  test("one with a profile is refused; it would take wakes for what it holds", async () => {
    const wakeStream = await newStream(server, "ws-profile/wakes");
    await setProfile(wakeStream, "state-protocol");
    const config = { type: "pull-wake", wake_stream: wakeStream.name, pattern: "ws-profile/a" };
    const { error } = await jsonOf<ErrorBody>(subscriptionAt(server, "ws-profile").put(config), 400);
    expect(error.code).toBe("INVALID_REQUEST");
    expect(error.message).toContain("state-protocol");
    await setProfile(wakeStream, "generic");
    expect((await subscriptionAt(server, "ws-profile").put(config)).status).toBe(201);
  });

  test.concurrent("given a profile later: failed, and nothing is written; without it, it is told", async () => {
    const { stream, subscription, wakeStream, eventsOf } = await scene("ws-profiled");
    await setProfile(wakeStream, "state-protocol");
    await append(stream);
    const shown = await has(subscription, "failed");
    expect(shown.last_error).toContain(`${wakeStream.name}: it has the profile state-protocol`);
    expect(await wakeStream.records()).toEqual([]);
    await setProfile(wakeStream, "generic");
    expect((await eventsOf(1, 5_000))[0]?.subscription_id).toBe("ws-profiled");
    await has(subscription, "active");
  });

  test("a webhook subscription does not mind", async () => {
    const stream = await newStream(server, "ws-none/a");
    const config = { type: "webhook", webhook: { url: hook.url }, pattern: "ws-none/*" };
    await newSubscription(server, "ws-none", config);
    await append(stream);
    await until("it is told", () => hook.deliveries.some(({ body }) => body.subscription_id === "ws-none"));
  });
});

describe("many to one wake stream", () => {
  test("events of ten subscriptions in one stream, each once", async () => {
    const wakeStream = await newStream(server, "ws-pool/wakes");
    const stream = await newStream(server, "ws-pooled/a");
    const ids = Array.from({ length: 10 }, (_, at) => `pool-${at}`);
    for (const id of ids) {
      await newSubscription(server, id, { type: "pull-wake", wake_stream: wakeStream.name, pattern: "ws-pooled/*" });
    }
    await append(stream);
    const events = await wakesIn(wakeStream).eventsOf(10);
    expect(events.map(({ subscription_id }) => subscription_id).toSorted()).toEqual(ids);
    await quiet(100);
    expect(await wakeStream.records()).toHaveLength(10);
    for (const id of ids) await subscriptionAt(server, id).delete();
  });

  test("it can be followed like any stream, and others may write to it", async () => {
    const { stream, wakeStream, eventsOf } = await scene("ws-follow");
    await append(wakeStream, { type: "mine" });
    await append(stream);
    const records = await eventsOf(2);
    expect(records.map(({ type }) => type)).toEqual(["mine", "wake"]);
    expect(await wakeStream.records(`offset=${encodeURIComponent(await wakeStream.tail())}`)).toEqual([]);
  });
});

describe("no loops", () => {
  /** What comes of one append, as long as nobody claims anything. */
  async function settled(wakeStreams: readonly StreamUnderTest[]): Promise<WakeEvent[][]> {
    await until("each is told", async () => {
      const counts = await Promise.all(wakeStreams.map(async (one) => (await one.records()).length));
      return counts.every((count) => count > 0);
    });
    await quiet(300);
    return Promise.all(wakeStreams.map((one) => wakesIn(one).events()));
  }

  test("a subscription on everything, its own wake stream included", async () => {
    const { subscription, wakeStream } = await newPullWake(server, "loop-1", { pattern: "**" });
    const stream = await newStream(server, "loop-1/a", "application/json", { body: "[1]" });
    const [events = []] = await settled([wakeStream]);
    expect(events.map((event) => event.stream)).toEqual([stream.name]);
    const claim = await subscription.claimed();
    const pending = claim.streams.filter(({ has_pending }) => has_pending).map(({ path }) => path);
    expect(pending).toEqual([stream.name]);
    expect(await jsonOf(subscription.ack(claim, { acks: acksOf(claim), done: true }))).toEqual({
      ok: true,
      next_wake: false,
    });
    await append(wakeStream, { by: "an application" });
    await quiet(100);
    expect(await verdict(subscription.claim())).toEqual([409, "NO_PENDING_WORK"]);
    await subscription.delete();
  });

  test("two and three that would wake each other", async () => {
    const made: PullWake[] = [];
    for (const at of [1, 2, 3])
      made.push(await newPullWake(server, `ring-${at}`, { pattern: "**", streams: ["ring/x"] }));
    for (const [at, { subscription }] of made.entries())
      expect((await subscription.addStreams(`wake/ring-${((at + 1) % 3) + 1}`)).status).toBe(204);
    await newStream(server, "ring/a", "application/json", { body: "[1]" });
    const all = await settled(made.map(({ wakeStream }) => wakeStream));
    for (const events of all)
      expect(events.map(({ stream, generation }) => [stream, generation])).toEqual([["ring/a", 1]]);
    for (const { subscription } of made) {
      const claim = await subscription.claimed();
      const pending = claim.streams.filter(({ has_pending }) => has_pending).map(({ path }) => path);
      expect(pending).toEqual(["ring/a"]);
      await subscription.ack(claim, { acks: acksOf(claim), done: true });
    }
    await quiet(100);
    for (const { subscription } of made)
      expect(await subscription.shown()).toMatchObject({ generation: 1, lag_records: 0 });
    for (const { subscription } of made) await subscription.delete();
  });

  test("a webhook on the wake stream of another is not called for its records", async () => {
    const made = await scene("loop-hook");
    const config = { type: "webhook", webhook: { url: hook.url }, streams: [made.wakeStream.name] };
    const spy = await newSubscription(server, "loop-spy", config);
    await append(made.stream);
    await made.eventsOf(1);
    await quiet(200);
    expect(hook.deliveries.filter(({ body }) => body.subscription_id === "loop-spy")).toEqual([]);
    expect(await spy.shown()).toMatchObject({ generation: 0, lag_records: 0 });
  });

  test("a stream that becomes a wake stream later wakes nobody from then on", async () => {
    const wakeStream = await newStream(server, "loop-late/wakes");
    const watcher = await newPullWake(server, "loop-watcher", { pattern: "loop-late/*" });
    const config = { type: "pull-wake", wake_stream: wakeStream.name, pattern: "loop-late/*" };
    await newSubscription(server, "loop-late", config);
    const stream = await newStream(server, "loop-late/a", "application/json", { body: "[1]" });
    const all = await settled([wakeStream, watcher.wakeStream]);
    for (const events of all) expect(events.map((event) => event.stream)).toEqual([stream.name]);
  });

  test("a fork of a wake stream is a stream like others, told once", async () => {
    const made = await scene("loop-fork");
    await append(made.stream);
    await made.eventsOf(1);
    await newStream(server, "loop-fork/copy", "application/json", {
      headers: { "stream-forked-from": made.wakeStream.path },
    });
    await quiet(150);
    expect(await made.events()).toHaveLength(1);
    expect((await made.subscription.shown()).pending_streams).toBe(2);
    expect((await streamAt(server, "loop-fork/copy").records()).length).toBe(1);
  });

  test("a wake stream that is deleted with its subscription's events leaves nothing linked", async () => {
    const made = await newPullWake(server, "loop-gone", { pattern: "loop-gone/**" });
    const inner = await newStream(server, "loop-gone/wakes");
    const other = await newSubscription(server, "loop-gone-2", {
      type: "pull-wake",
      wake_stream: inner.name,
      pattern: "loop-gone/**",
    });
    await newStream(server, "loop-gone/a", "application/json", { body: "[1]" });
    await settled([inner, made.wakeStream]);
    await other.delete();
    await inner.delete();
    const shown = await made.subscription.shown();
    expect(shown.streams.map(({ path }) => path)).toEqual(["loop-gone/a"]);
    expect(shown).toMatchObject({ lag_records: 1, pending_streams: 1 });
    expect((await call("GET", other.url)).status).toBe(404);
  });
});
