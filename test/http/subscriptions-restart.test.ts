/**
 * Subscriptions are durable: what was shown, told or promised before the server ended holds after it starts again, whether it ended
 * by SIGTERM or by SIGKILL. The second server listens where the first did.
 */

import { afterEach, describe, expect, test } from "bun:test";
import type { TestServer } from "../support/server.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { call, newStream, streamAt } from "../support/streams.ts";
import {
  acksOf,
  append,
  appendTo,
  type Claim,
  control,
  type Hook,
  isSigned,
  jsonOf,
  newPullWake,
  newSubscription,
  quiet,
  startHook,
  subscriptionAt,
  type SubscriptionShown,
  verdict,
  wakesIn,
} from "../support/subscription-client.ts";
import { until } from "../support/wait.ts";

const start = temporaryServers();
const LOCAL = "--allow-local-webhooks";
const LONG = { lease_ttl_ms: 600_000 };
const hooks: Hook[] = [];
const SIGNALS = ["SIGTERM", "SIGKILL"] as const;
const FENCED: [number, string] = [409, "FENCED"];

afterEach(async () => {
  for (const hook of hooks.splice(0)) await hook.stop();
});

function newHook(): Hook {
  const hook = startHook();
  hooks.push(hook);
  return hook;
}

async function again(server: TestServer, signal: (typeof SIGNALS)[number], downMs = 0): Promise<TestServer> {
  await server.kill(signal);
  await quiet(downMs);
  return start({ dataDir: server.dataDir, args: [LOCAL, "--port", new URL(server.url).port] });
}

function everything(server: TestServer): Promise<SubscriptionShown[]> {
  return jsonOf<{ subscriptions: SubscriptionShown[] }>(call("GET", control(server, "subscriptions?limit=1000"))).then(
    ({ subscriptions }) => Promise.all(subscriptions.map(({ id }) => subscriptionAt(server, id).shown())),
  );
}

/** Streams in a fixed order: what is told first may change. */
function sorted(all: readonly SubscriptionShown[]): SubscriptionShown[] {
  return all.map((one) => ({
    ...one,
    streams: one.streams.toSorted((left, right) => (left.path < right.path ? -1 : 1)),
  }));
}

describe.each([...SIGNALS])("%s", (signal) => {
  test("what every subscription shows, the keys, and which configurations are the same", async () => {
    const first = await start({ args: [LOCAL] });
    const hook = newHook();
    const a = await newStream(first, "s/a", "application/json", { body: "[1,2]" });
    const webhook = { type: "webhook", webhook: { url: hook.url } };
    const done = await newSubscription(first, "done", {
      ...webhook,
      pattern: "s/*",
      streams: ["s/a", "t"],
      description: "d",
    });
    await append(a);
    await until("it is worked off", async () => (await done.shown()).lag_records === 0);
    await append(a);
    await until("it is worked off", async () => (await done.shown()).generation === 2);
    await until("it is worked off", async () => (await done.shown()).lag_records === 0);
    await done.addStreams("later", "removed", "wake/x");
    await done.removeStream("removed");
    await done.removeStream("t");
    const { subscription: pull } = await newPullWake(first, "pull", { pattern: "s/**", ...LONG });
    const offset = await append(a);
    await append(a);
    const claim = await pull.claimed("me");
    await pull.ack(claim, { acks: [{ stream: "s/a", offset }] });
    await newStream(first, "s/new", "application/json", { body: "[1]" });
    await newStream(first, "s/gone", "application/json", { body: "[1]" });
    await streamAt(first, "s/gone").delete();
    await streamAt(first, "later").put({ body: "[1]" });
    const gone = await newSubscription(first, "gone", { ...webhook, pattern: "s/*" });
    await gone.delete();
    await until("the webhooks are quiet", async () => (await done.shown()).lag_records === 0);
    const before = sorted(await everything(first));
    const keys = await jsonOf(call("GET", control(first, "jwks.json")));
    const second = await again(first, signal);
    await until(
      "it has taken up its links",
      async () => (await subscriptionAt(second, "pull").shown()).streams.length > 1,
    );
    expect(sorted(await everything(second))).toEqual(before);
    expect(await jsonOf<object>(call("GET", control(second, "jwks.json")))).toEqual(keys as object);
    const same = { ...webhook, pattern: "/s/*", streams: ["t", "s/a"], description: "d" };
    expect((await subscriptionAt(second, "done").put(same)).status).toBe(200);
    expect((await subscriptionAt(second, "done").put({ ...same, description: "e" })).status).toBe(409);
    expect((await call("GET", gone.url)).status).toBe(404);
    // And all of it still works.
    const count = hook.deliveries.length;
    await appendTo(second, "s/a");
    const delivery = await hook.delivery(count + 1);
    expect(await isSigned(second, delivery)).toBe(true);
    expect(delivery.body.generation).toBeGreaterThan(2);
    expect(delivery.body.streams.find(({ path }) => path === "s/a")).toMatchObject({
      link_type: "explicit",
      has_pending: true,
    });
  }, 60_000);

  test("a claim: its token, its holder, its lease; and a wake that was taken by a webhook", async () => {
    const first = await start({ args: [LOCAL] });
    const hook = newHook();
    hook.answer("taken");
    const stream = await newStream(first, "s/a");
    const held = await newPullWake(first, "held", { pattern: "s/*", ...LONG });
    const told = await newPullWake(first, "told", { pattern: "s/*", ...LONG });
    const config = { type: "webhook", webhook: { url: hook.url }, pattern: "s/*", ...LONG };
    await newSubscription(first, "taken", config);
    await append(stream);
    await held.eventsOf(1);
    await told.eventsOf(1);
    const claim = await held.subscription.claimed("me");
    const { body } = await hook.delivery(1);
    await until("it is taken", async () => (await subscriptionAt(first, "taken").shown()).status === "active");
    await quiet(30);
    const second = await again(first, signal);
    const [heldNow, toldNow, takenNow] = ["held", "told", "taken"].map((id) => subscriptionAt(second, id)) as [
      ReturnType<typeof subscriptionAt>,
      ReturnType<typeof subscriptionAt>,
      ReturnType<typeof subscriptionAt>,
    ];
    await until("it has taken up its links", async () => (await takenNow.shown()).lag_records === 1);
    const refused = (await (await heldNow.claim("you")).json()) as { error: object };
    expect(refused.error).toMatchObject({
      code: "ALREADY_CLAIMED",
      current_holder: "me",
      generation: claim.generation,
    });
    expect((await heldNow.ack(claim)).status).toBe(200);
    expect(await verdict(heldNow.ack({ ...claim, wake_id: "w" }))).toEqual(FENCED);
    expect(await jsonOf(heldNow.ack(claim, { acks: acksOf(claim), done: true }))).toEqual({
      ok: true,
      next_wake: false,
    });
    expect(await verdict(heldNow.ack(claim))).toEqual(FENCED);
    const toldClaim = await toldNow.claimed();
    expect(toldClaim.generation).toBe(1);
    expect(await verdict(takenNow.callback({ ...body, callback_token: claim.token }))).toEqual([401, "TOKEN_INVALID"]);
    expect(await jsonOf(takenNow.callback(body, { acks: acksOf(body), done: true }))).toEqual({
      ok: true,
      next_wake: false,
    });
    await quiet(100);
    expect(hook.deliveries).toHaveLength(1);
    for (const id of ["held", "told"]) expect(await streamAt(second, `wake/${id}`).records()).toHaveLength(1);
  }, 60_000);

  test("a lease that ended meanwhile: the holder is fenced, and a new wake is told", async () => {
    const first = await start({ args: [LOCAL] });
    const stream = await newStream(first, "s/a");
    const held = await newPullWake(first, "held", { pattern: "s/*", lease_ttl_ms: 1_000 });
    await append(stream);
    await held.eventsOf(1);
    const claim = await held.subscription.claimed("me");
    const second = await again(first, signal, 1_000);
    const events = await wakesIn(streamAt(second, "wake/held")).eventsOf(2);
    expect(events.map(({ generation }) => generation)).toEqual([1, 2]);
    expect(await verdict(subscriptionAt(second, "held").ack(claim, { done: true }))).toEqual(FENCED);
    expect((await subscriptionAt(second, "held").claimed("you")).generation).toBe(2);
  }, 60_000);

  test("a retry: its count, its reason and its time", async () => {
    const first = await start({ args: [LOCAL] });
    const hook = newHook();
    hook.answer(new Response("no", { status: 503 }));
    const stream = await newStream(first, "s/a");
    const config = { type: "webhook", webhook: { url: hook.url }, pattern: "s/*" };
    const failing = await newSubscription(first, "failing", config);
    await append(stream);
    const before = await until("it failed", async () => {
      const shown = await failing.shown();
      return shown.failures === 1 && shown;
    });
    const second = await again(first, signal);
    const readyMs = Date.now();
    const now = subscriptionAt(second, "failing");
    await until("it has taken up its links", async () => (await now.shown()).lag_records === 1);
    expect(await now.shown()).toEqual(before);
    const { atMs, body } = await hook.delivery(2);
    const dueMs = Date.parse(before.next_attempt_at ?? "");
    expect(atMs).toBeGreaterThan(dueMs - 300);
    // A retry that began anew would come a second after the start.
    expect(atMs).toBeLessThan(Math.max(dueMs, readyMs) + 700);
    expect(body).toMatchObject({ generation: 1, wake_id: String(hook.deliveries[0]?.body.wake_id) });
    const after = await until("it failed once more", async () => {
      const shown = await now.shown();
      return shown.failures === 2 && shown;
    });
    const waitMs = Date.parse(after.next_attempt_at ?? "") - atMs;
    expect(waitMs).toBeGreaterThanOrEqual(1_600);
    expect(waitMs).toBeLessThan(2_600);
  }, 60_000);

  test("wake streams wake nobody after a start either", async () => {
    const first = await start({ args: [LOCAL] });
    const ids = ["one", "two"];
    for (const id of ids) await newPullWake(first, id, { pattern: "**", ...LONG });
    const stream = await newStream(first, "s/a", "application/json", { body: "[1]" });
    for (const id of ids) await wakesIn(streamAt(first, `wake/${id}`)).eventsOf(1);
    for (const id of ids) {
      const claim = await subscriptionAt(first, id).claimed();
      await subscriptionAt(first, id).ack(claim, { acks: acksOf(claim), done: true });
    }
    const second = await again(first, signal);
    await until(
      "it has taken up its links",
      async () => (await subscriptionAt(second, "two").shown()).streams.length > 2,
    );
    await quiet(200);
    for (const id of ids) {
      expect(await subscriptionAt(second, id).shown()).toMatchObject({ lag_records: 0, generation: 1 });
      expect(await streamAt(second, `wake/${id}`).records()).toHaveLength(1);
    }
    await appendTo(second, stream.name);
    for (const id of ids) await wakesIn(streamAt(second, `wake/${id}`)).eventsOf(2);
  }, 60_000);
});

test("SIGKILL in the middle of work: nothing that was answered is forgotten, generations only grow", async () => {
  let server = await start({ args: [LOCAL] });
  await newStream(server, "s/a");
  await newPullWake(server, "busy", { pattern: "s/*", lease_ttl_ms: 1_000 });
  const seen = new Set<string>();
  let acked = "";
  let generation = 0;
  for (let round = 0; round < 3; round++) {
    const alive = server;
    const busy = subscriptionAt(alive, "busy");
    // Whatever is not answered any more has not happened, as far as this worker knows.
    const work = async (): Promise<void> => {
      for (;;) {
        const answer = await busy.claim("me");
        if (answer.status !== 200) {
          await answer.text();
          continue;
        }
        const claim = (await answer.json()) as Claim;
        expect(claim.generation).toBeGreaterThan(generation);
        generation = claim.generation;
        expect(seen.has(claim.wake_id)).toBe(false);
        seen.add(claim.wake_id);
        const [link] = claim.streams;
        expect(acked <= (link?.acked_offset ?? "") || acked === "").toBe(true);
        const done = await busy.ack(claim, { acks: acksOf(claim), done: true });
        if (done.status === 200) acked = String(link?.tail_offset);
      }
    };
    const write = async (): Promise<void> => {
      for (;;) await appendTo(alive, "s/a");
    };
    const ended = Promise.allSettled([work(), write(), write()]);
    await quiet(300);
    server = await again(alive, "SIGKILL");
    for (const outcome of await ended)
      if (outcome.status === "rejected" && /expect\(/.test(String(outcome.reason))) throw outcome.reason;
    const now = subscriptionAt(server, "busy");
    const shown = await until("it has taken up its links", async () => {
      const one = await now.shown();
      return one.streams.length > 0 && one;
    });
    expect((shown.streams[0]?.acked_offset ?? "") >= acked).toBe(true);
    expect(shown.generation).toBeGreaterThanOrEqual(generation);
  }
  expect(seen.size).toBeGreaterThan(10);
}, 60_000);

test("SIGKILL right after it was made, while streams were made as well: its generation does not go back", async () => {
  const first = await start({ args: [LOCAL] });
  const hook = newHook();
  hook.answer("taken");
  const names = Array.from({ length: 1_500 }, (_, at) => `s/${at}`);
  for (let at = 0; at < names.length; at += 100)
    await Promise.all(names.slice(at, at + 100).map((name) => newStream(first, name)));
  const config = { type: "webhook", webhook: { url: hook.url }, pattern: "s/**", ...LONG };
  const making = newSubscription(first, "made", config);
  for (let at = 0; at < 20; at++) await newStream(first, `s/new-${at}`, "application/json", { body: "[1]" });
  const made = await making;
  await hook.delivery(1);
  const [{ body }] = hook.deliveries as [(typeof hook.deliveries)[number]];
  const before = await made.shown();
  const second = await again(first, "SIGKILL");
  const now = subscriptionAt(second, "made");
  await until("it has taken up its links", async () => (await now.shown()).streams.length >= 1_520, 10_000);
  expect((await now.shown()).generation).toBeGreaterThanOrEqual(before.generation);
  expect((await now.callback(body)).status).toBe(200);
}, 60_000);

test("a worker that acks as soon as the server is back is not refused, however many streams are linked", async () => {
  const first = await start({ args: [LOCAL] });
  const { subscription } = await newPullWake(first, "many", { pattern: "s/**", ...LONG });
  const names = Array.from({ length: 1_500 }, (_, at) => `s/${at}`);
  for (let at = 0; at < names.length; at += 100)
    await Promise.all(names.slice(at, at + 100).map((name) => newStream(first, name)));
  await appendTo(first, "s/999");
  const claim = await subscription.claimed();
  const acks = acksOf(claim).filter(({ stream }) => stream === "s/999");
  expect(acks).toHaveLength(1);
  const second = await again(first, "SIGKILL");
  expect(await verdict(subscriptionAt(second, "many").ack(claim, { acks }))).toEqual([200, ""]);
}, 60_000);

test("SIGKILL while an attempt is under way: the failures before it are not forgotten", async () => {
  const first = await start({ args: [LOCAL] });
  const hook = newHook();
  hook.answer((_, count) => {
    const no = new Response("no", { status: 503 });
    return count < 2 ? Promise.resolve(no) : new Promise(() => undefined);
  });
  const stream = await newStream(first, "s/a");
  const config = { type: "webhook", webhook: { url: hook.url }, pattern: "s/*", lease_ttl_ms: 1_000 };
  await newSubscription(first, "failing", config);
  await append(stream);
  await hook.delivery(2);
  hook.answer(new Response("no", { status: 503 }));
  const second = await again(first, "SIGKILL");
  await hook.delivery(3, 8_000);
  const shown = await until("it failed again", async () => {
    const one = await subscriptionAt(second, "failing").shown();
    // While the attempt is under way it tells of the failures before.
    return one.failures !== 1 && one;
  });
  await subscriptionAt(second, "failing").delete();
  expect(shown.failures).toBeGreaterThanOrEqual(2);
}, 60_000);

test("a server that comes back elsewhere tells where it is now, once the subscription was confirmed", async () => {
  const first = await start({ args: [LOCAL] });
  const hook = newHook();
  await newStream(first, "s/a");
  const config = { type: "webhook", webhook: { url: hook.url }, pattern: "s/*" };
  await newSubscription(first, "moved", config);
  await first.kill("SIGTERM");
  const blocker = Bun.serve({
    port: Number(new URL(first.url).port),
    hostname: "127.0.0.1",
    fetch: () => new Response(""),
  });
  try {
    const second = await start({ dataDir: first.dataDir, args: [LOCAL] });
    expect(second.url).not.toBe(first.url);
    expect((await subscriptionAt(second, "moved").put(config)).status).toBe(200);
    await appendTo(second, "s/a");
    const { body } = await hook.delivery(1);
    expect(body.callback_url).toBe(`${subscriptionAt(second, "moved").url}/callback`);
    expect((await subscriptionAt(second, "moved").shown()).webhook?.signing.jwks_url).toBe(
      control(second, "jwks.json"),
    );
  } finally {
    await blocker.stop(true);
  }
}, 60_000);

test("without --allow-local-webhooks after the restart, local webhooks are not called any more", async () => {
  const first = await start({ args: [LOCAL] });
  const hook = newHook();
  await newStream(first, "s/a");
  await newSubscription(first, "local", { type: "webhook", webhook: { url: hook.url }, pattern: "s/*" });
  await first.kill("SIGTERM");
  const second = await start({ dataDir: first.dataDir });
  await appendTo(second, "s/a");
  const shown = await until("it failed", async () => {
    const one = await subscriptionAt(second, "local").shown();
    return one.status === "failed" && one;
  });
  expect(shown.last_error ?? "").not.toBe("");
  expect(hook.deliveries).toEqual([]);
}, 60_000);
