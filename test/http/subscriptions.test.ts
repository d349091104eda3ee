/** Subscriptions made, confirmed, read, listed and deleted (PROTOCOL §6.2, §6.3): what is the same, and what conflicts. */

import { afterAll, describe, expect, test } from "bun:test";
import { sharedServer } from "../support/shared-server.ts";
import { call, newStream } from "../support/streams.ts";
import {
  append,
  control,
  jsonOf,
  newPullWake,
  newSubscription,
  startHook,
  subscriptionAt,
  type SubscriptionShown,
  verdict,
} from "../support/subscription-client.ts";
import { until } from "../support/wait.ts";

const server = sharedServer({ args: ["--allow-local-webhooks"] });
const hook = startHook();
afterAll(() => hook.stop());

const webhook = { type: "webhook", webhook: { url: hook.url } };
const CONFLICT = [409, "SUBSCRIPTION_ALREADY_EXISTS"] as const;

async function list(query = ""): Promise<{ subscriptions: SubscriptionShown[]; next: string | null }> {
  return jsonOf(call("GET", control(server, `subscriptions${query}`)));
}

describe("made", () => {
  test("a webhook subscription shows what the protocol says, and nothing secret", async () => {
    const before = Date.now();
    const subscription = subscriptionAt(server, "made-webhook");
    const made = await jsonOf<SubscriptionShown>(
      subscription.put({
        ...webhook,
        pattern: "made/*",
        streams: ["made-b", "made-a"],
        lease_ttl_ms: 20_000,
        description: "what it is for",
      }),
      201,
    );
    expect(made).toMatchObject({
      id: "made-webhook",
      subscription_id: "made-webhook",
      type: "webhook",
      pattern: "made/*",
      webhook: { url: hook.url },
      wake_stream: null,
      lease_ttl_ms: 20_000,
      status: "active",
      description: "what it is for",
      generation: 0,
      lag_records: 0,
      pending_streams: 0,
      failures: 0,
    });
    expect(new Date(made.created_at).toISOString()).toBe(made.created_at);
    expect(Date.parse(made.created_at)).toBeGreaterThanOrEqual(before - 1);
    expect(Date.parse(made.created_at)).toBeLessThanOrEqual(Date.now());
    expect(made.streams.map(({ path, link_type }) => `${path} ${link_type}`).toSorted()).toEqual([
      "made-a explicit",
      "made-b explicit",
    ]);
    expect(made.webhook?.signing).toEqual({
      alg: "ed25519",
      kid: expect.any(String),
      jwks_url: control(server, "jwks.json"),
    });
    expect(made).not.toHaveProperty("last_error");
    expect(made).not.toHaveProperty("next_attempt_at");
    expect(JSON.stringify(made)).not.toMatch(/secret|token/i);
    expect(await subscription.shown()).toEqual(made);
  });

  test("a pull-wake subscription; what is left out has its default", async () => {
    const { subscription } = await newPullWake(server, "made-pull", { streams: ["made-c"] });
    expect(await subscription.shown()).toMatchObject({
      type: "pull-wake",
      pattern: null,
      webhook: null,
      wake_stream: "wake/made-pull",
      lease_ttl_ms: 30_000,
      description: null,
      status: "active",
    });
  });

  test("the answer is JSON that nobody keeps", async () => {
    const answer = await subscriptionAt(server, "made-json").put({ ...webhook, pattern: "nothing/*" });
    expect(answer.headers.get("content-type")).toMatch(/^application\/json/);
    expect(answer.headers.get("cache-control")).toBe("no-store");
  });

  test.each(["a", "A-z0.9_~", "with:@!$'()*+,;=-", "a..b", "...", "x".repeat(128)])("the id %s", async (id) => {
    const subscription = await newSubscription(server, id, { ...webhook, pattern: "nothing/*" });
    expect((await subscription.shown()).id).toBe(id);
    const path = Buffer.from(id).toString("hex").replaceAll(/../g, "%$&");
    if (!/^\.+$/.test(id))
      expect((await jsonOf<SubscriptionShown>(call("GET", control(server, `subscriptions/${path}`)))).id).toBe(id);
    expect((await call("GET", control(server, `subscriptions/${id}`))).status).toBe(200);
    expect((await list(`?limit=1000`)).subscriptions.map((shown) => shown.id)).toContain(id);
    expect((await subscription.delete()).status).toBe(204);
  });

  test("leases from a second to ten minutes", async () => {
    for (const lease of [1_000, 1_001, 600_000]) {
      const subscription = await newSubscription(server, `lease-${lease}`, {
        ...webhook,
        pattern: "nothing/*",
        lease_ttl_ms: lease,
      });
      expect((await subscription.shown()).lease_ttl_ms).toBe(lease);
    }
  });
});

describe("confirmed", () => {
  const full = {
    ...webhook,
    pattern: "confirm/*",
    streams: ["confirm-a", "confirm-b"],
    lease_ttl_ms: 20_000,
    description: "text",
  };

  test("the same again is 200, and changes nothing", async () => {
    const subscription = subscriptionAt(server, "confirm-same");
    const made = await jsonOf(subscription.put(full), 201);
    for (const same of [
      full,
      Object.fromEntries(Object.entries(full).toReversed()),
      { ...full, streams: ["confirm-b", "confirm-a"] },
      { ...full, streams: ["confirm-a", "confirm-b", "confirm-a", "confirm-b"] },
      { ...full, streams: ["/confirm-a", "confirm-a", "/confirm-b"] },
      { ...full, pattern: "/confirm/*" },
      { ...full, wake_stream: null },
    ])
      expect(await jsonOf<object>(subscription.put(same), 200)).toEqual(made as object);
  });

  test("defaults and what is said of them are the same", async () => {
    const subscription = subscriptionAt(server, "confirm-defaults");
    expect((await subscription.put({ ...webhook, pattern: "confirm/*" })).status).toBe(201);
    for (const same of [
      { lease_ttl_ms: 30_000 },
      { streams: [] },
      { description: null },
      { streams: null, description: null, wake_stream: null },
    ])
      expect((await subscription.put({ ...webhook, pattern: "confirm/*", ...same })).status).toBe(200);
  });

  test.each([
    ["another pattern", { pattern: "confirm/**" }],
    ["no pattern", { pattern: null }],
    ["another stream", { streams: ["confirm-a", "confirm-c"] }],
    ["one stream more", { streams: ["confirm-a", "confirm-b", "confirm-c"] }],
    ["one stream less", { streams: ["confirm-a"] }],
    ["no streams", { streams: [] }],
    ["another URL", { webhook: { url: `${hook.url}2` } }],
    ["another lease", { lease_ttl_ms: 20_001 }],
    ["the default lease", { lease_ttl_ms: undefined }],
    ["another description", { description: "other" }],
    ["no description", { description: undefined }],
    ["another case", { description: "TEXT" }],
  ])("%s is a conflict, and changes nothing", async (name, change) => {
    const subscription = await newSubscription(server, `conflict-${name.replaceAll(" ", "-")}`, full);
    const before = await subscription.shown();
    expect(await verdict(subscription.put({ ...full, ...change }))).toEqual([...CONFLICT]);
    expect(await subscription.shown()).toEqual(before);
    expect((await subscription.put(full)).status).toBe(200);
  });

  test("another type or wake stream is a conflict", async () => {
    const { subscription } = await newPullWake(server, "conflict-type", { pattern: "confirm/*" });
    const other = await newStream(server, "wake/conflict-other");
    expect(await verdict(subscription.put({ ...webhook, pattern: "confirm/*" }))).toEqual([...CONFLICT]);
    const moved = { type: "pull-wake", pattern: "confirm/*", wake_stream: other.name };
    expect(await verdict(subscription.put(moved))).toEqual([...CONFLICT]);
    expect((await subscription.put({ ...moved, wake_stream: "/wake/conflict-type", webhook: null })).status).toBe(200);
  });

  test("streams added and removed by name are no part of the configuration", async () => {
    const subscription = await newSubscription(server, "confirm-membership", full);
    expect((await subscription.addStreams("confirm-more")).status).toBe(204);
    expect((await subscription.removeStream("confirm-a")).status).toBe(204);
    expect((await subscription.put(full)).status).toBe(200);
    expect((await subscription.shown()).streams.map(({ path }) => path).toSorted()).toEqual([
      "confirm-b",
      "confirm-more",
    ]);
  });

  test("of twenty at once one makes it; the same ones are confirmed, others conflict", async () => {
    const same = subscriptionAt(server, "race-same");
    const statuses = await Promise.all(Array.from({ length: 20 }, async () => (await same.put(full)).status));
    expect(statuses.filter((status) => status === 200)).toHaveLength(19);
    expect(statuses).toContain(201);
    const others = subscriptionAt(server, "race-others");
    const answers = await Promise.all(
      Array.from({ length: 20 }, async (_, at) => (await others.put({ ...full, description: `${at}` })).status),
    );
    expect(answers.filter((status) => status === 409)).toHaveLength(19);
    expect(answers).toContain(201);
  });

  test("puts and deletes at once leave one of both, and a server that works", async () => {
    const subscription = subscriptionAt(server, "race-delete");
    const statuses = await Promise.all(
      Array.from(
        { length: 40 },
        async (_, at) => (await (at % 2 ? subscription.delete() : subscription.put(full))).status,
      ),
    );
    expect(statuses.filter((_, at) => at % 2).every((status) => status === 204)).toBe(true);
    expect(statuses.filter((_, at) => at % 2 === 0).every((status) => status === 200 || status === 201)).toBe(true);
    expect((await subscription.delete()).status).toBe(204);
    expect((await call("GET", subscription.url)).status).toBe(404);
    expect((await subscription.put(full)).status).toBe(201);
  });
});

describe("deleted", () => {
  test("always 204, then it is gone for every verb", async () => {
    const { subscription, wakeStream } = await newPullWake(server, "gone", { pattern: "gone/*" });
    expect((await subscription.delete()).status).toBe(204);
    expect((await subscription.delete()).status).toBe(204);
    expect((await subscriptionAt(server, "never-was").delete()).status).toBe(204);
    const notFound: [number, string] = [404, "SUBSCRIPTION_NOT_FOUND"];
    expect(await verdict(call("GET", subscription.url))).toEqual(notFound);
    expect(await verdict(subscription.claim())).toEqual(notFound);
    expect(await verdict(subscription.addStreams("x"))).toEqual(notFound);
    expect(await verdict(subscription.removeStream("x"))).toEqual(notFound);
    const wake = { wake_id: "w", generation: 1 };
    for (const action of ["ack", "callback", "release"])
      expect(await verdict(subscription.post(action, wake, "some.token"))).toEqual(notFound);
    expect((await list("?limit=1000")).subscriptions.map(({ id }) => id)).not.toContain("gone");
    expect((await wakeStream.head()).status).toBe(200);
  });

  test("what is made anew begins anew", async () => {
    const stream = await newStream(server, "anew/a");
    const config = { ...webhook, pattern: "anew/*" };
    const first = await newSubscription(server, "anew", config);
    await append(stream);
    await until("it was worked off", async () => (await first.shown()).generation === 1);
    const { created_at } = await first.shown();
    await first.delete();
    await append(stream);
    const second = await newSubscription(server, "anew", config);
    const shown = await second.shown();
    expect([shown.generation, shown.lag_records]).toEqual([0, 0]);
    expect(shown.streams).toEqual([
      expect.objectContaining({ path: "anew/a", link_type: "glob", acked_offset: await stream.tail() }),
    ]);
    expect(Date.parse(shown.created_at)).toBeGreaterThan(Date.parse(created_at));
  });
});

describe("listed", () => {
  test("in the order of ids, page after page, without streams", async () => {
    const ids = ["list-A", "list-B", "list-a", "list-b", "list-c", "list-~"];
    await Promise.all(
      ids.toReversed().map((id) => newSubscription(server, id, { ...webhook, streams: ["list/x"], description: id })),
    );
    const all = await list("?limit=1000");
    expect(all.next).toBeNull();
    const known = all.subscriptions.map(({ id }) => id);
    expect(known).toEqual(known.toSorted());
    expect(known.filter((id) => id.startsWith("list-"))).toEqual(ids);
    const one = all.subscriptions.find(({ id }) => id === "list-b");
    expect(one).toMatchObject({ id: "list-b", subscription_id: "list-b", description: "list-b", status: "active" });
    expect(one).not.toHaveProperty("streams");
    const paged: string[] = [];
    for (let after = ""; ;) {
      const page = await list(`?limit=2&after=${encodeURIComponent(after)}`);
      paged.push(...page.subscriptions.map(({ id }) => id));
      if (page.next === null) break;
      expect(page.subscriptions).toHaveLength(2);
      expect(page.next).toBe(String(paged.at(-1)));
      after = page.next;
    }
    expect(paged).toEqual(known);
  });

  test("a last page that is full has nothing after it; an id need not exist to be gone on from", async () => {
    const first = await list("?limit=1000");
    expect((await list(`?limit=${first.subscriptions.length}`)).next).toBeNull();
    expect((await list(`?limit=${first.subscriptions.length - 1}`)).next).not.toBeNull();
    const rest = await list("?after=list-aa");
    expect(rest.subscriptions.map(({ id }) => id).slice(0, 3)).toEqual(["list-b", "list-c", "list-~"]);
    expect(await list("?after=~~~~")).toEqual({ subscriptions: [], next: null });
  });

  test.each([
    "limit=0",
    "limit=-1",
    "limit=x",
    "limit=1.5",
    "limit=",
    "limit=1000000",
    "limit=1&limit=2",
    "after=a&after=b",
  ])("%s is refused", async (query) => {
    expect((await call("GET", control(server, `subscriptions?${query}`))).status).toBe(400);
  });

  test("without any there is an empty list", async () => {
    const ids = (await list("?limit=1000")).subscriptions.map(({ id }) => id);
    for (const id of ids) expect((await subscriptionAt(server, id).delete()).status).toBe(204);
    expect(await list()).toEqual({ subscriptions: [], next: null });
  });
});
