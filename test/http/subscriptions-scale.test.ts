/** Many subscriptions on one stream, and many streams in one subscription: all are woken, in a time that is printed. */

import { afterAll, expect, test } from "bun:test";
import { sharedServer } from "../support/shared-server.ts";
import { newStream, streamAt } from "../support/streams.ts";
import {
  acksOf,
  append,
  appendTo,
  jsonOf,
  newPullWake,
  newSubscription,
  startHook,
  subscriptionAt,
  wakesIn,
} from "../support/subscription-client.ts";
import { until } from "../support/wait.ts";

const server = sharedServer({ args: ["--allow-local-webhooks"] });
const hook = startHook();
afterAll(() => hook.stop());

async function inBatches<T>(items: readonly T[], each: (item: T) => Promise<unknown>, size = 50): Promise<void> {
  for (let at = 0; at < items.length; at += size) await Promise.all(items.slice(at, at + size).map(each));
}

const numbered = (count: number, prefix: string): string[] =>
  Array.from({ length: count }, (_, at) => `${prefix}${at}`);

async function timed(what: string, run: () => Promise<unknown>): Promise<number> {
  const started = performance.now();
  await run();
  const ms = performance.now() - started;
  console.log(`${what}: ${ms.toFixed(0)} ms`);
  return ms;
}

test("1,000 webhook subscriptions on one stream, one append: every one is told once", async () => {
  const stream = await newStream(server, "scale-hooks/a");
  const ids = numbered(1_000, "hooked-");
  const config = { type: "webhook", webhook: { url: hook.url }, pattern: "scale-hooks/*" };
  await timed("1,000 webhook subscriptions are made", () =>
    inBatches(ids, (id) => newSubscription(server, id, config)),
  );
  await append(stream);
  await timed("1,000 webhooks are delivered", () =>
    until("all are told", () => hook.deliveries.length >= 1_000, 15_000),
  );
  expect(new Set(hook.deliveries.map(({ body }) => body.subscription_id)).size).toBe(1_000);
  expect(new Set(hook.deliveries.map(({ body }) => body.wake_id)).size).toBe(1_000);
  const last = subscriptionAt(server, "hooked-999");
  await until("the last is worked off", async () => (await last.shown()).lag_records === 0);
  expect(hook.deliveries).toHaveLength(1_000);
  await inBatches(ids, (id) => subscriptionAt(server, id).delete());
}, 60_000);

test("1,000 pull-wake subscriptions on one stream, one append: one event each", async () => {
  const stream = await newStream(server, "scale-pull/a");
  const wakeStream = await newStream(server, "scale/wakes");
  const ids = numbered(1_000, "pulled-");
  const config = { type: "pull-wake", wake_stream: wakeStream.name, streams: ["scale-pull/a"] };
  await inBatches(ids, (id) => newSubscription(server, id, config));
  await append(stream);
  await timed("1,000 wake events are written", () => wakesIn(wakeStream).eventsOf(1_000, 15_000));
  const events = await wakesIn(wakeStream).events();
  expect(events).toHaveLength(1_000);
  expect(new Set(events.map(({ subscription_id }) => subscription_id)).size).toBe(1_000);
  const appended = await timed("an append to that stream", () => append(stream));
  expect(appended).toBeLessThan(1_000);
  await inBatches(ids, (id) => subscriptionAt(server, id).delete());
}, 60_000);

test("1,200 streams of one subscription: all are linked, and worked off in as many wakes as it takes", async () => {
  const names = numbered(1_200, "scale-many/");
  await inBatches(names.slice(0, 600), (name) => newStream(server, name));
  const { subscription } = await newPullWake(server, "scale-many", { pattern: "scale-many/*" });
  await inBatches(names.slice(600), (name) => newStream(server, name));
  expect((await subscription.shown()).streams).toHaveLength(1_200);
  expect((await subscription.shown()).lag_records).toBe(0);
  await inBatches(names, (name) => appendTo(server, name));
  expect(await subscription.shown()).toMatchObject({ lag_records: 1_200, pending_streams: 1_200 });
  let claims = 0;
  await timed("1,200 streams are claimed and acked", async () => {
    for (let isLeft = true; isLeft; claims++) {
      expect(claims).toBeLessThan(10);
      const claim = await subscription.claimed();
      expect(claim.streams.some(({ has_pending }) => has_pending)).toBe(true);
      const done = await jsonOf<{ next_wake: boolean }>(subscription.ack(claim, { acks: acksOf(claim), done: true }));
      isLeft = done.next_wake;
    }
  });
  expect(await subscription.shown()).toMatchObject({ lag_records: 0, pending_streams: 0 });
}, 60_000);

test("1,200 streams and a webhook that is done each time: what was not told is not acked, but told next", async () => {
  const before = hook.deliveries.length;
  const config = { type: "webhook", webhook: { url: hook.url }, pattern: "scale-hooked/*" };
  const subscription = await newSubscription(server, "scale-hooked", config);
  const names = numbered(1_200, "scale-hooked/");
  await inBatches(names, (name) => newStream(server, name, "application/json", { body: "[1]" }));
  await until("all is worked off", async () => (await subscription.shown()).lag_records === 0, 10_000);
  const told = new Set(
    hook.deliveries
      .slice(before)
      .flatMap(({ body }) => body.streams.filter(({ has_pending }) => has_pending).map(({ path }) => path)),
  );
  expect([...told].toSorted()).toEqual(names.toSorted());
  for (const { path, acked_offset } of (await subscription.shown()).streams.slice(0, 20))
    expect(acked_offset).toBe(await streamAt(server, path).tail());
}, 60_000);

test("a thousand appends while a webhook works: it ends at the tail, with far fewer wakes", async () => {
  const stream = await newStream(server, "scale-busy/a");
  const before = hook.deliveries.length;
  const config = { type: "webhook", webhook: { url: hook.url }, pattern: "scale-busy/*" };
  const subscription = await newSubscription(server, "scale-busy", config);
  await inBatches(numbered(1_000, ""), () => append(stream), 20);
  await until("all is worked off", async () => (await subscription.shown()).lag_records === 0);
  const wakes = hook.deliveries.slice(before).map(({ body }) => body);
  expect(wakes.length).toBeLessThanOrEqual(1_000);
  expect(wakes.map(({ generation }) => generation)).toEqual(wakes.map((_, at) => at + 1));
  const tails = wakes.map(({ streams }) => streams[0]?.tail_offset ?? "");
  expect(tails).toEqual(tails.toSorted());
  expect(tails.at(-1)).toBe(await stream.tail());
  expect(new Set(tails).size).toBe(tails.length);
}, 60_000);
