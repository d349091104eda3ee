/** Subscriptions against a scripted `fetch`: what is sent, what is made of answers, and how each no of a lease is told apart. */

import { expect, test } from "bun:test";
import { rejection } from "../../test/support/wait.ts";
import { BrokenAnswer, isStreamError, Refused, Unreachable } from "./client.ts";
import {
  connectSubscriptions,
  LeaseConflict,
  type Subscription,
  type SubscriptionClient,
  type SubscriptionClientOptions,
} from "./subscriptions.ts";

interface Seen {
  readonly method: string;
  readonly path: string;
  readonly authorization: string | null;
  readonly body: unknown;
}

type Answer = Response | "unreachable";

const QUICK = { maxAttempts: 3, baseDelayMs: 1, maxDelayMs: 2 };
const WAKE = { wakeId: "w_1", generation: 7, token: "t7" };

/** A client whose requests get these answers in turn; the last one again and again. */
function scripted(
  answers: readonly (() => Answer)[],
  options: Partial<SubscriptionClientOptions> = {},
): { client: SubscriptionClient; seen: Seen[] } {
  const seen: Seen[] = [];
  const client = connectSubscriptions({
    url: "http://model/base/",
    retry: QUICK,
    fetch: (url, { method = "GET", headers, body }) => {
      const { pathname, search } = new URL(url);
      seen.push({
        method,
        path: (pathname + search).replace("/base/v1/stream/__ds/subscriptions", ""),
        authorization: new Headers(headers).get("authorization"),
        body: typeof body === "string" ? JSON.parse(body) : null,
      });
      const answer = (answers[seen.length - 1] ?? answers.at(-1))?.() ?? "unreachable";
      return answer === "unreachable" ? Promise.reject(new TypeError("connection lost")) : Promise.resolve(answer);
    },
    ...options,
  });
  return { client, seen };
}

const json =
  (body: object, status = 200) =>
  (): Response =>
    Response.json(body, { status });
const nothing = (): Response => new Response(null, { status: 204 });
const no = (status: number, error: object) => json({ error }, status);
const lost = (): Answer => "unreachable";

const STORED = {
  id: "s",
  subscription_id: "s",
  type: "pull-wake",
  pattern: "orders/*",
  streams: [{ path: "orders/eu", link_type: "glob", acked_offset: "o1" }],
  wake_stream: "wakes",
  lease_ttl_ms: 30_000,
  created_at: "2030-01-01T00:00:00.000Z",
  status: "active",
};
const READ: Subscription = {
  id: "s",
  type: "pull-wake",
  pattern: "orders/*",
  streams: [{ path: "orders/eu", linkType: "glob", ackedOffset: "o1" }],
  webhook: null,
  wakeStream: "wakes",
  leaseTtlMs: 30_000,
  createdAt: "2030-01-01T00:00:00.000Z",
  status: "active",
  description: null,
};
const CLAIM = {
  wake_id: "w_1",
  generation: 7,
  token: "t7",
  streams: [{ path: "a", link_type: "explicit", acked_offset: "o1", tail_offset: "o2", has_pending: true }],
  lease_ttl_ms: 30_000,
};

test("create sends the configuration in the words of the protocol, and only what was given", async () => {
  const { client, seen } = scripted([json(STORED, 201), json(STORED)]);
  const subscription = client.subscription("s");
  const config = { type: "pull-wake", wakeStream: "wakes", pattern: "orders/*" } as const;
  expect((await subscription.create({ ...config, leaseTtlMs: 1000, description: "d" })).unwrap()).toEqual({
    ...READ,
    created: true,
  });
  expect((await subscription.create(config)).unwrap().created).toBe(false);
  const webhook = { type: "webhook", webhookUrl: "https://example.com/h", streams: ["a", "b/c"] } as const;
  await subscription.create(webhook);
  expect(seen.map(({ method, path }) => `${method} ${path}`)).toEqual(["PUT /s", "PUT /s", "PUT /s"]);
  expect(seen.map(({ body }) => body)).toEqual([
    { type: "pull-wake", wake_stream: "wakes", pattern: "orders/*", lease_ttl_ms: 1000, description: "d" },
    { type: "pull-wake", wake_stream: "wakes", pattern: "orders/*" },
    { type: "webhook", webhook: { url: "https://example.com/h" }, streams: ["a", "b/c"] },
  ]);
});

test("get tells what the server tells, also what is not typed", async () => {
  const webhook = { url: "u", signing: { alg: "ed25519", kid: "k", jwks_url: "j" } };
  const { client } = scripted([json({ ...STORED, webhook, pending_streams: 3 })]);
  const subscription = (await client.subscription("s").get()).unwrap();
  expect(subscription).toEqual({
    ...READ,
    webhook: { url: "u", signing: { alg: "ed25519", kid: "k", jwksUrl: "j" } },
    pendingStreams: 3,
  } as typeof subscription);
});

test("ids and names are encoded; dots and nothing are no ids", async () => {
  const { client, seen } = scripted([nothing]);
  const subscription = client.subscription("a/b ?");
  await subscription.addStreams(["x", "y/z"]);
  await subscription.removeStream("y/z ?");
  await subscription.delete();
  expect(seen).toEqual([
    { method: "POST", path: "/a%2Fb%20%3F/streams", authorization: null, body: { streams: ["x", "y/z"] } },
    { method: "DELETE", path: "/a%2Fb%20%3F/streams/y/z%20%3F", authorization: null, body: null },
    { method: "DELETE", path: "/a%2Fb%20%3F", authorization: null, body: null },
  ]);
  for (const id of ["", ".", "..", "\ud800"]) expect(() => client.subscription(id)).toThrow(TypeError);
  expect(() => connectSubscriptions({ url: "ftp://model" })).toThrow(TypeError);
});

test("a claim goes by the client's authorization, what follows it by the claim's token", async () => {
  const { client, seen } = scripted([json(CLAIM), json({ ok: true, next_wake: true }), nothing], {
    auth: () => Promise.resolve("Bearer service"),
  });
  const subscription = client.subscription("s");
  const claim = (await subscription.claim("ann")).unwrap();
  expect(claim).toEqual({
    ...WAKE,
    streams: [{ path: "a", linkType: "explicit", ackedOffset: "o1", tailOffset: "o2", hasPending: true }],
    leaseTtlMs: 30_000,
  });
  const acks = [{ stream: "a", offset: "o2" }];
  expect((await subscription.ack(claim, { acks, done: true })).unwrap()).toEqual({ nextWake: true });
  expect((await subscription.release(claim)).isOk()).toBe(true);
  expect((await subscription.ack(claim)).isErr()).toBe(true);
  const wake = { wake_id: "w_1", generation: 7 };
  expect(seen.slice(0, 4)).toEqual([
    { method: "POST", path: "/s/claim", authorization: "Bearer service", body: { worker: "ann" } },
    { method: "POST", path: "/s/ack", authorization: "Bearer t7", body: { ...wake, acks, done: true } },
    { method: "POST", path: "/s/release", authorization: "Bearer t7", body: wake },
    { method: "POST", path: "/s/ack", authorization: "Bearer t7", body: wake },
  ]);
});

test.each([
  ["FENCED", "the wake is over", {}],
  ["NO_PENDING_WORK", "no stream of the subscription", {}],
  ["ALREADY_CLAIMED", "bob holds the lease", { current_holder: "bob", generation: 9 }],
  ["ALREADY_CLAIMED", "another worker holds the lease", {}],
])("%s is a conflict, also without a message: %s", async (code, message, more) => {
  const { client, seen } = scripted([no(409, { code, ...more })]);
  const error = failure(await client.subscription("s").claim("ann"));
  if (!LeaseConflict.is(error)) throw new Error("not a conflict", { cause: error });
  expect<string>(error.code).toBe(code);
  expect([error.status, error.holder, error.generation]).toEqual([
    409,
    "current_holder" in more ? more.current_holder : null,
    "generation" in more ? more.generation : null,
  ]);
  expect(error.message).toStartWith(message);
  expect([Refused.is(error), isStreamError(error), error instanceof Error]).toEqual([true, true, true]);
  expect(seen.length).toBe(1);
});

test("a conflict keeps the server's own words", async () => {
  const { client } = scripted([no(409, { code: "FENCED", message: "too late", hint: "claim again" })]);
  const error = failure(await client.subscription("s").ack(WAKE, { done: true }));
  expect(error).toMatchObject({ _tag: "Refused", code: "FENCED", message: "too late", hint: "claim again" });
});

test("other refusals are not conflicts", async () => {
  for (const answer of [
    no(409, { code: "INVALID_OFFSET", message: "beyond the tail" }),
    no(404, { code: "SUBSCRIPTION_NOT_FOUND", message: "no such subscription" }),
    no(400, { code: "FENCED", message: "not with this status" }),
    () => new Response("<h1>Conflict</h1>", { status: 409 }),
    () => new Response("{broken", { status: 409 }),
    () => new Response('{"error":7}', { status: 409 }),
  ]) {
    const error = failure(await scripted([answer]).client.subscription("s").ack(WAKE));
    expect([Refused.is(error), LeaseConflict.is(error)]).toEqual([true, false]);
  }
});

test("a conflict of an earlier try does not colour the last answer", async () => {
  const { client } = scripted([() => new Response(null, { status: 503 }), no(409, { code: "FENCED" }), json(CLAIM)]);
  expect(LeaseConflict.is(failure(await client.subscription("s").ack(WAKE)))).toBe(true);
  expect((await client.subscription("s").claim("ann")).isOk()).toBe(true);
});

test("a lost answer: everything is asked again but a claim and a deletion", async () => {
  const repeated: Record<string, number> = {};
  const count = async (
    name: string,
    call: (client: SubscriptionClient) => Promise<{ isErr(): boolean }>,
  ): Promise<void> => {
    const { client, seen } = scripted([lost]);
    expect((await call(client)).isErr()).toBe(true);
    repeated[name] = seen.length;
  };
  const config = { type: "webhook", webhookUrl: "u", pattern: "a" } as const;
  await count("create", (client) => client.subscription("s").create(config));
  await count("get", (client) => client.subscription("s").get());
  await count("delete", (client) => client.subscription("s").delete());
  await count("add", (client) => client.subscription("s").addStreams(["a"]));
  await count("remove", (client) => client.subscription("s").removeStream("a"));
  await count("claim", (client) => client.subscription("s").claim("ann"));
  await count("ack", (client) => client.subscription("s").ack(WAKE));
  await count("release", (client) => client.subscription("s").release(WAKE));
  await count("list", (client) => client.listPage({}, null));
  expect(repeated).toEqual({
    create: 3,
    get: 3,
    delete: 1,
    add: 3,
    remove: 3,
    claim: 1,
    ack: 3,
    release: 3,
    list: 3,
  });
});

test("answers that are none are told", async () => {
  for (const body of [{}, { ...CLAIM, token: 1 }, { ...CLAIM, streams: [{ path: "a" }] }]) {
    expect(
      BrokenAnswer.is(
        failure(
          await scripted([json(body)])
            .client.subscription("s")
            .claim("ann"),
        ),
      ),
    ).toBe(true);
  }
  for (const body of [{}, { ...STORED, streams: null }, { ...STORED, id: 1 }]) {
    expect(
      BrokenAnswer.is(
        failure(
          await scripted([json(body)])
            .client.subscription("s")
            .get(),
        ),
      ),
    ).toBe(true);
  }
  for (const body of [{}, { subscriptions: [7] }, { subscriptions: [{}] }]) {
    expect(BrokenAnswer.is(failure(await scripted([json(body)]).client.listPage({}, null)))).toBe(true);
  }
  const page = scripted([() => new Response("<html>")]).client;
  expect(BrokenAnswer.is(failure(await page.subscription("s").get()))).toBe(true);
});

test("list goes through all pages, and notices one that never ends", async () => {
  const { streams: _, ...summary } = STORED;
  const page = (ids: string[], next: string | null) =>
    json({ subscriptions: ids.map((id) => ({ ...summary, id })), next });
  const { client, seen } = scripted([page(["a", "b"], "b"), page(["c"], null)]);
  const found: string[] = [];
  for await (const { id, wakeStream } of client.list({ limit: 2 })) found.push(`${id} ${wakeStream}`);
  expect(found).toEqual(["a wakes", "b wakes", "c wakes"]);
  expect(seen.map(({ path }) => path)).toEqual(["?limit=2", "?after=b&limit=2"]);

  const endless = scripted([page(["a"], "a")]).client;
  const walk = (async () => {
    for await (const { id } of endless.list()) found.push(id);
  })();
  expect(BrokenAnswer.is(await rejection(walk))).toBe(true);
  const gone = scripted([lost]).client.list();
  expect(Unreachable.is(await rejection(gone.next()))).toBe(true);
});

test("aborting rejects with the caller's reason", async () => {
  const { client } = scripted([nothing], {
    fetch: (_, { signal }) =>
      new Promise((_resolve, reject) => signal?.addEventListener("abort", () => reject(new Error("fetch aborted")))),
  });
  const abort = new AbortController();
  const claiming = client.subscription("s").claim("ann", abort.signal);
  abort.abort(new Error("no longer needed"));
  expect((await rejection(claiming)).message).toBe("no longer needed");
});

/** The error of a result that must be one. */
function failure<E>(result: { isErr(): boolean; readonly error?: E }): E | undefined {
  expect(result.isErr()).toBe(true);
  return result.error;
}
