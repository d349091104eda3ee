/**
 * Webhooks that fail (PROTOCOL §6.3, §7.1): what counts as a failure, when it is tried again, what the subscription shows meanwhile,
 * and how it recovers. Tests run at once: most of their time is waiting for the next attempt.
 */

import { afterAll, expect, test } from "bun:test";
import { sharedServer } from "../support/shared-server.ts";
import { call, newStream, type StreamUnderTest } from "../support/streams.ts";
import {
  acksOf,
  append,
  type Hook,
  newSubscription,
  quiet,
  startHook,
  type SubscriptionShown,
  type SubscriptionUnderTest,
} from "../support/subscription-client.ts";
import { until, within } from "../support/wait.ts";
import { flood, OK, startReceiver } from "../support/webhook-receiver.ts";

const server = sharedServer({ args: ["--allow-local-webhooks"] });
const hooks: Hook[] = [];
let started = 0;

afterAll(async () => {
  for (const hook of hooks.splice(0)) await hook.stop();
});

interface Scene {
  readonly subscription: SubscriptionUnderTest;
  readonly stream: StreamUnderTest;
}

function newHook(answer: Response | "taken" | "done"): Hook {
  const hook = startHook();
  hooks.push(hook);
  hook.answer(answer);
  return hook;
}

async function scene(url: string, more: object = {}): Promise<Scene> {
  const name = `retry-${++started}`;
  const stream = await newStream(server, `${name}/a`);
  const config = { type: "webhook", webhook: { url }, pattern: `${name}/*`, ...more };
  return { stream, subscription: await newSubscription(server, name, config) };
}

function failed({ subscription }: Scene, failures = 1, deadlineMs = 5_000): Promise<SubscriptionShown> {
  const check = async (): Promise<SubscriptionShown | false> => {
    const shown = await subscription.shown();
    return shown.status === "failed" && shown.failures >= failures && shown;
  };
  return until(`it failed ${failures} times`, check, deadlineMs);
}

function recovered({ subscription }: Scene, deadlineMs = 5_000): Promise<SubscriptionShown> {
  const check = async (): Promise<SubscriptionShown | false> => {
    const shown = await subscription.shown();
    return shown.status === "active" && shown.lag_records === 0 && shown;
  };
  return until("it works again", check, deadlineMs);
}

const NEXT = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n";

test.concurrent("after a second, then after two, then after four, each a fifth earlier or later; then it works again", async () => {
  const hook = newHook(new Response("no", { status: 500 }));
  const made = await scene(hook.url);
  await append(made.stream);
  const waits: number[] = [];
  for (let attempt = 1; attempt <= 3; attempt++) {
    const { atMs } = await hook.delivery(attempt, 6_000);
    const shown = await failed(made, attempt);
    expect(shown).toMatchObject({ failures: attempt, generation: 1, lag_records: 1, pending_streams: 1 });
    expect(shown.last_error).toContain("500");
    const next = Date.parse(shown.next_attempt_at ?? "");
    expect(new Date(next).toISOString()).toBe(String(shown.next_attempt_at));
    waits.push(next - atMs);
    if (attempt > 1) {
      const previous = hook.deliveries[attempt - 2]?.atMs ?? 0;
      const shouldMs = 1_000 * 2 ** (attempt - 2);
      expect(atMs - previous).toBeGreaterThan(0.8 * shouldMs - 20);
      expect(atMs - previous).toBeLessThan(1.2 * shouldMs + 300);
    }
  }
  for (const [at, wait] of waits.entries()) {
    expect(wait).toBeGreaterThanOrEqual(0.8 * 1_000 * 2 ** at);
    expect(wait).toBeLessThan(1.2 * 1_000 * 2 ** at + 100);
  }
  // The list and the details say so as well.
  const listed = (await (await call("GET", `${server.url}/v1/stream/__ds/subscriptions?limit=1000`)).json()) as {
    subscriptions: SubscriptionShown[];
  };
  const entry = listed.subscriptions.find(({ id }) => id === made.subscription.id);
  expect(entry).toMatchObject({ status: "failed", failures: 3, next_attempt_at: expect.any(String) });
  hook.answer("done");
  await hook.delivery(4, 6_000);
  const after = await recovered(made);
  expect(after).toMatchObject({ failures: 0, generation: 1 });
  expect(after).not.toHaveProperty("last_error");
  expect(after).not.toHaveProperty("next_attempt_at");
  const [first, ...rest] = hook.deliveries.map(({ body }) => body);
  for (const { wake_id, generation } of rest)
    expect({ wake_id, generation }).toMatchObject({ wake_id: first?.wake_id, generation: first?.generation });
  // It begins at one second again.
  hook.answer(new Response("no", { status: 500 }));
  await append(made.stream);
  const { atMs } = await hook.delivery(5);
  const again = await failed(made);
  expect(again.failures).toBe(1);
  expect(Date.parse(again.next_attempt_at ?? "") - atMs).toBeLessThan(1_300);
}, 60_000);

test.concurrent("the jitter is not the same for all", async () => {
  const hook = newHook(new Response("no", { status: 500 }));
  const scenes = await Promise.all(Array.from({ length: 20 }, () => scene(hook.url)));
  await Promise.all(scenes.map(({ stream }) => append(stream)));
  const waits = await Promise.all(
    scenes.map(async (made) => {
      const shown = await failed(made);
      const delivery = hook.deliveries.find(({ body }) => body.subscription_id === shown.id);
      return Date.parse(shown.next_attempt_at ?? "") - (delivery?.atMs ?? 0);
    }),
  );
  for (const { subscription } of scenes) await subscription.delete();
  for (const wait of waits) {
    expect(wait).toBeGreaterThanOrEqual(800);
    expect(wait).toBeLessThan(1_400);
  }
  expect(Math.max(...waits) - Math.min(...waits)).toBeGreaterThan(100);
});

for (const status of [400, 401, 403, 404, 410, 429, 500, 503]) {
  test.concurrent(`${status} is a failure, whatever its body says`, async () => {
    const made = await scene(newHook(Response.json({ done: true }, { status })).url);
    await append(made.stream);
    const shown = await failed(made);
    expect(shown.last_error).toContain(String(status));
    expect(shown.lag_records).toBe(1);
    await made.subscription.delete();
  });
}

for (const status of [301, 302, 303, 307, 308, 304]) {
  test.concurrent(`a redirect with ${status} is a failure, and is not followed`, async () => {
    const target = newHook("done");
    const made = await scene(newHook(new Response(null, { status, headers: { location: target.url } })).url);
    await append(made.stream);
    const shown = await failed(made);
    expect(shown.last_error).toContain(String(status));
    expect(target.deliveries).toHaveLength(0);
    await made.subscription.delete();
  });
}

test.concurrent("nobody listens: it fails, and recovers when somebody does, although more came meanwhile", async () => {
  const hook = newHook("done");
  const port = Number(new URL(hook.url).port);
  await hook.stop();
  const made = await scene(hook.url);
  await append(made.stream);
  const shown = await failed(made);
  expect(shown.last_error ?? "").not.toBe("");
  for (let at = 0; at < 5; at++) await append(made.stream);
  const second = startHook(port);
  hooks.push(second);
  await second.delivery(1);
  await recovered(made);
  await quiet(100);
  expect(second.deliveries.length).toBeLessThanOrEqual(2);
});

const broken: readonly (readonly [string, Parameters<typeof startReceiver>[0]])[] = [
  ["hangs up without a word", (socket) => socket.destroy()],
  ["ends without a word", (socket) => socket.end()],
  ["speaks another protocol", (socket) => socket.end("220 mail.example ESMTP\r\n")],
  ["ends within its head", (socket) => socket.end("HTTP/1.1 200 OK\r\ncontent-")],
  ["ends within its body", (socket) => socket.end(`${NEXT}content-length: 100\r\n\r\n{"done":true}`)],
  [
    "resets within its body",
    (socket) => socket.write(`${NEXT}content-length: 100\r\n\r\n{"done":true}`, () => socket.resetAndDestroy()),
  ],
  ["ends within a chunk", (socket) => socket.end(`${NEXT}transfer-encoding: chunked\r\n\r\n20\r\n{"done":true}`)],
  ["has no end of chunks", (socket) => socket.end(`${NEXT}transfer-encoding: chunked\r\n\r\nd\r\n{"done":true}\r\n`)],
  ["answers a megabyte", (socket) => socket.end(`${NEXT}content-length: 1048576\r\n\r\n${" ".repeat(1_048_576)}`)],
  [
    "answers without end",
    (socket) =>
      flood(
        socket.on("error", () => socket.destroy()),
        `${NEXT}\r\n${" ".repeat(100_000)}`,
      ),
  ],
  [
    "has a head without end",
    (socket) => (socket.write("HTTP/1.1 200 OK\r\n"), flood(socket, `x-${"y".repeat(500)}: z\r\n`)),
  ],
  [
    "switches protocols",
    (socket) => socket.write("HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n"),
  ],
];
for (const [name, answer] of broken) {
  test.concurrent(`a receiver that ${name} has failed`, async () => {
    await using receiver = await startReceiver(answer);
    const made = await scene(`http://127.0.0.1:${receiver.port}/`);
    await append(made.stream);
    const shown = await failed(made);
    expect(shown).toMatchObject({ failures: 1, lag_records: 1 });
    expect((shown.last_error ?? "").length).toBeGreaterThan(3);
    expect((shown.last_error ?? "").length).toBeLessThan(1_000);
    await made.subscription.delete();
    await until("its connections are closed", () => receiver.open === 0);
  });
}

test.concurrent("a receiver that takes its time is waited for, and others are not held up", async () => {
  const slow = newHook("taken");
  slow.answer(async () => {
    await quiet(2_500);
    return "done";
  });
  const made = await scene(slow.url);
  await append(made.stream);
  await slow.delivery(1);
  const quick = await scene(newHook("done").url);
  await append(quick.stream);
  await recovered(quick, 1_000);
  expect(await made.subscription.shown()).toMatchObject({ status: "active", lag_records: 1 });
  await recovered(made);
  expect(slow.deliveries).toHaveLength(1);
});

test.concurrent("a receiver slower than the lease: the next wake is new, and a late done means nothing", async () => {
  const hook = newHook("taken");
  const release = Promise.withResolvers<void>();
  hook.answer(async (_, count) => {
    if (count > 1) return "taken";
    await release.promise;
    return "done";
  });
  const made = await scene(hook.url, { lease_ttl_ms: 1_000 });
  await append(made.stream);
  const { body: first } = await hook.delivery(1);
  const { body: second } = await hook.delivery(2, 3_000);
  expect(second.generation).toBe(first.generation + 1);
  release.resolve();
  await quiet(200);
  expect(await made.subscription.shown()).toMatchObject({ lag_records: 1, status: "active" });
  expect((await made.subscription.callback(second, { acks: acksOf(second), done: true })).status).toBe(200);
});

test.concurrent("a receiver that never answers is given up in time, and counted as failed", async () => {
  await using receiver = await startReceiver(() => undefined);
  const made = await scene(`http://127.0.0.1:${receiver.port}/`, { lease_ttl_ms: 60_000 });
  await append(made.stream);
  const shown = await failed(made, 1, 18_000);
  expect(shown.failures).toBe(1);
  await until("its connection is closed", () => receiver.open === 0);
  await made.subscription.delete();
}, 60_000);

test.concurrent("a callback while a retry is due ends the wake, and no attempt comes", async () => {
  const hook = newHook(new Response("no", { status: 500 }));
  const made = await scene(hook.url);
  await append(made.stream);
  const { body } = await hook.delivery(1);
  await failed(made);
  expect((await made.subscription.callback(body, { acks: acksOf(body), done: true })).status).toBe(200);
  expect(await made.subscription.shown()).toMatchObject({ status: "active", failures: 0, lag_records: 0 });
  await quiet(1_500);
  expect(hook.deliveries).toHaveLength(1);
});

test.concurrent("nothing is left to tell when the retry is due: its stream was deleted", async () => {
  const hook = newHook(new Response("no", { status: 500 }));
  const made = await scene(hook.url);
  await append(made.stream);
  await failed(made);
  expect((await made.stream.delete()).status).toBe(204);
  await quiet(1_500);
  expect(hook.deliveries).toHaveLength(1);
  expect(await made.subscription.shown()).toMatchObject({ status: "active", failures: 0, lag_records: 0 });
});

test.concurrent("deleted while a retry is due: no attempt comes, nor one of its successor's before it has news", async () => {
  const hook = newHook(new Response("no", { status: 500 }));
  const made = await scene(hook.url);
  await append(made.stream);
  await failed(made);
  expect((await made.subscription.delete()).status).toBe(204);
  const { id } = made.subscription;
  await newSubscription(server, id, { type: "webhook", webhook: { url: hook.url }, streams: [made.stream.name] });
  await quiet(1_500);
  expect(hook.deliveries).toHaveLength(1);
});

test.concurrent("a receiver that takes what failed before: active, and the callback ends it", async () => {
  const hook = newHook(new Response("no", { status: 503 }));
  const made = await scene(hook.url);
  await append(made.stream);
  await failed(made);
  hook.answer("taken");
  const { body } = await hook.delivery(2);
  await until("it is active", async () => (await made.subscription.shown()).status === "active");
  await quiet(50);
  const shown = await made.subscription.shown();
  expect(shown).toMatchObject({ status: "active", failures: 0, lag_records: 1 });
  expect(shown).not.toHaveProperty("last_error");
  expect((await made.subscription.callback(body, { acks: acksOf(body), done: true })).status).toBe(200);
  await recovered(made);
});

test.concurrent("it stays failed while an attempt is under way that may fail as well", async () => {
  const hook = newHook(new Response("no", { status: 500 }));
  const made = await scene(hook.url);
  await append(made.stream);
  await failed(made);
  const held = Promise.withResolvers<void>();
  hook.answer(async () => {
    await held.promise;
    return new Response("no", { status: 500 });
  });
  await hook.delivery(2);
  const meanwhile = await made.subscription.shown();
  held.resolve();
  const shown = await failed(made, 2);
  await made.subscription.delete();
  expect(shown.failures).toBe(2);
  expect(meanwhile.failures).toBe(1);
});

test.concurrent("what is sent is HTTP/1.1 with its length, to the path and query of the URL", async () => {
  await using receiver = await startReceiver((socket) => socket.end(OK));
  const made = await scene(`http://127.0.0.1:${receiver.port}/a%20b/c?d=e&f=%2F`);
  await append(made.stream);
  await within("it is worked off", recovered(made));
  const [request = ""] = receiver.requests;
  expect(request).toStartWith("POST /a%20b/c?d=e&f=%2F HTTP/1.1\r\n");
  const [head = "", body = ""] = request.split("\r\n\r\n");
  expect(head.toLowerCase()).toContain(`\r\nhost: 127.0.0.1:${receiver.port}`);
  expect(head.toLowerCase()).toContain(`\r\ncontent-length: ${body.length}`);
});
