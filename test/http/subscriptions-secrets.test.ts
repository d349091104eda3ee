/**
 * What only the server, or the holder of a wake, may know: no answer of any route tells it, nothing leads into the internal streams.
 * And browsers: what another origin may do with subscriptions.
 */

import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { sharedServer } from "../support/shared-server.ts";
import { temporarySockets } from "../support/socket-client.ts";
import { call, newStream, streamAt } from "../support/streams.ts";
import {
  append,
  control,
  isSigned,
  jsonOf,
  newPullWake,
  newSubscription,
  startHook,
  subscriptionAt,
  verdict,
} from "../support/subscription-client.ts";
import { until } from "../support/wait.ts";

const FRIEND = "https://app.example";
const server = sharedServer({ args: ["--allow-local-webhooks", "--cors-origin", FRIEND] });
const connect = temporarySockets();
const hook = startHook();
hook.answer("taken");
afterAll(() => hook.stop());

/** Tokens and wake ids that were told to somebody, and what the disk holds of keys. */
const secrets = new Map<string, string>();

function secretsOnDisk(folder: string): void {
  for (const file of readdirSync(folder)) {
    if (!file.startsWith("log.db")) continue;
    const text = readFileSync(join(folder, file), "latin1");
    for (const [, key = ""] of text.matchAll(/\\*"d\\*":\\*"([\w-]{43})\\*"/g))
      secrets.set(key, "the private half of a key");
    for (const [, secret = ""] of text.matchAll(/secret\W{0,6}([A-Za-z0-9+/]{43}=)/g))
      secrets.set(secret, "the secret of tokens");
  }
}

async function everyAnswer(): Promise<Map<string, string>> {
  const { url } = server;
  const paths = [
    "/v1/stream/__ds/subscriptions?limit=1000",
    "/v1/stream/__ds/subscriptions/secret-hook",
    "/v1/stream/__ds/subscriptions/secret-pull",
    "/v1/stream/__ds/subscriptions/secret-failed",
    "/v1/stream/__ds/jwks.json",
    "/v1/stream/secret/a",
    "/v1/stream/secret/a/_details",
    "/v1/stream/wake/secret-pull",
    "/v1/stream/wake/secret-pull/_details",
    "/v1/stream/live.metrics?offset=-1",
    "/v1/stream/live.metrics/_details",
    "/v1/server/_details",
    "/v1/streams",
    "/v1/streams?internal=true",
    "/v1/streams?internal=true&prefix=__ds%2F",
    "/metrics",
    "/health",
    "/health/clients",
    "/ready",
  ];
  const answers = new Map<string, string>();
  for (const path of paths) {
    const answer = await call("GET", url + path);
    answers.set(path, `${JSON.stringify([...answer.headers])}${await answer.text()}`);
  }
  const hookConfig = { type: "webhook", webhook: { url: hook.url }, pattern: "secret/*" };
  const again = await subscriptionAt(server, "secret-hook").put(hookConfig);
  expect(again.status).toBe(200);
  answers.set("a confirmation", await again.text());
  answers.set("a refused claim", await (await subscriptionAt(server, "secret-pull").claim("other")).text());
  answers.set(
    "a conflict",
    await (await subscriptionAt(server, "secret-hook").put({ ...hookConfig, streams: ["x"] })).text(),
  );
  answers.set("the log", server.stderr());
  return answers;
}

beforeAll(async () => {
  const stream = await newStream(server, "secret/a");
  const config = { type: "webhook", webhook: { url: hook.url }, pattern: "secret/*" };
  await newSubscription(server, "secret-hook", config);
  const { subscription: pull } = await newPullWake(server, "secret-pull", { pattern: "secret/*" });
  const failing = { ...config, webhook: { url: "http://127.0.0.1:1/" } };
  const failed = await newSubscription(server, "secret-failed", failing);
  await append(stream);
  const { body } = await hook.delivery(1);
  const claim = await pull.claimed("me");
  await until("it failed", async () => (await failed.shown()).status === "failed");
  secrets.set(body.callback_token, "a callback token").set(body.wake_id, "the wake id of a webhook");
  secrets.set(claim.token, "a claim token").set(claim.wake_id, "the wake id of a claim");
  secretsOnDisk(server.dataDir);
});

describe("secrets", () => {
  test("the disk has them, and nobody else can read it", () => {
    const kinds = [...secrets.values()];
    expect(kinds).toContain("the private half of a key");
    expect(kinds).toContain("the secret of tokens");
  });

  test("no answer tells a token, a wake id, or half of a key", async () => {
    for (const [path, text] of await everyAnswer()) {
      for (const [secret, what] of secrets) expect([path, text.includes(secret) ? what : ""]).toEqual([path, ""]);
      expect([path, /callback_token|"token"|"wake_id"|"d"\s*:\s*"|PRIVATE KEY/.exec(text)?.[0] ?? ""]).toEqual([
        path,
        "",
      ]);
    }
  });

  test("internal streams are listed only when asked for, by name alone", async () => {
    type Listing = { streams: { name: string; records: number }[] };
    const all = await jsonOf<Listing>(call("GET", `${server.url}/v1/streams?internal=true&limit=1000`));
    const hidden = all.streams.filter(({ name }) => name.startsWith("__ds/"));
    for (const { records } of hidden) expect(records).toBe(0);
    const plain = await jsonOf<Listing>(call("GET", `${server.url}/v1/streams?limit=1000`));
    expect(plain.streams.filter(({ name }) => name.startsWith("__ds"))).toEqual([]);
    for (const { name } of [...hidden, { name: "__ds/keys" }]) {
      for (const path of [
        name,
        encodeURIComponent(name),
        name.replace("__ds", "%5F_ds"),
        `${name}/_details`,
        `${name}/_view`,
      ]) {
        for (const method of ["GET", "HEAD", "POST", "PUT", "DELETE"]) {
          if (name.startsWith("__ds/subscriptions/") && path !== `${name}/_details` && path !== `${name}/_view`)
            continue;
          const answer = await call(method, `${server.url}/v1/stream/${path}`, {
            headers: { "content-type": "application/json" },
            ...((method === "POST" || method === "PUT") && { body: "[1]" }),
          });
          expect([method, path, answer.status]).toEqual([method, path, 404]);
        }
      }
    }
  });

  test("they cannot be forked", async () => {
    for (const source of ["__ds/keys", "__ds/subscriptions/secret-hook", "%5F_ds/keys", "__ds%2Fkeys"]) {
      const copy = streamAt(server, `forked-${Bun.hash(source)}`);
      const answer = await copy.put({ headers: { "stream-forked-from": `/v1/stream/${source}` } });
      expect([source, answer.status >= 400 && answer.status < 500]).toEqual([source, true]);
      expect((await copy.head()).status).toBe(404);
    }
  });

  test("nor kept alive by a fork: an id that was deleted can be used again", async () => {
    const { subscription } = await newPullWake(server, "secret-forked", { pattern: "secret-forked/*" });
    const copy = streamAt(server, "secret-copy");
    await copy.put({ headers: { "stream-forked-from": "/v1/stream/__ds/subscriptions/secret-forked" } });
    expect((await subscription.delete()).status).toBe(204);
    const config = { type: "pull-wake", wake_stream: "wake/secret-forked", pattern: "secret-forked/*" };
    expect((await subscription.put(config)).status).toBe(201);
    await copy.delete();
  });

  test("nor followed, viewed or written over a WebSocket", async () => {
    const client = await connect(server);
    const taken: string[] = [];
    for (const stream of ["__ds/keys", "__ds/subscriptions/secret-hook"]) {
      for (const saying of [
        { type: "subscribe", stream, id: `s-${stream}`, offset: "-1" },
        { type: "view", stream, id: `v-${stream}`, view: {} },
        { type: "append", stream, ref: `a-${stream}`, body: "[1]" },
        { type: "append", stream, ref: `c-${stream}`, close: true },
      ] as const) {
        client.send(saying);
        const expected = "ref" in saying ? saying.ref : saying.id;
        const answered = await until(`${saying.type} of ${stream} is answered`, () =>
          client.received.find(({ text }) => text.includes(`"${expected}"`)),
        );
        if (answered.message.type !== "error") taken.push(`${saying.type} ${stream}: ${answered.message.type}`);
      }
    }
    client.close();
    expect(taken).toEqual([]);
    const hidden = await jsonOf<{ streams: { records: number; closed: boolean }[] }>(
      call("GET", `${server.url}/v1/streams?internal=true&prefix=__ds%2F`),
    );
    for (const { records, closed } of hidden.streams) expect([records, closed]).toEqual([0, false]);
  });

  test("they can neither be linked nor be wake streams", async () => {
    const made = await newPullWake(server, "secret-links", { pattern: "__ds/**", streams: ["live.metrics"] });
    const { streams } = await made.subscription.shown();
    expect(streams.filter(({ path }) => path.startsWith("__ds"))).toEqual([]);
    for (const name of ["__ds/keys", "__ds/subscriptions/secret-hook"]) {
      expect(await verdict(made.subscription.addStreams(name))).toEqual([400, "INVALID_REQUEST"]);
      const config = { type: "pull-wake", wake_stream: name, pattern: "x" };
      expect(await verdict(subscriptionAt(server, "secret-wakes").put(config))).toEqual([400, "INVALID_REQUEST"]);
    }
    await append(streamAt(server, "secret/a"));
    expect(await made.subscription.shown()).toMatchObject({ generation: 0, lag_records: 0 });
  });
});

describe("what operators see", () => {
  test("metrics count subscriptions, links, wakes and lag", async () => {
    const text = await (await call("GET", `${server.url}/metrics`)).text();
    const value = (name: string): number =>
      [...text.matchAll(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)$`, "gm"))].reduce(
        (sum, [, one]) => sum + Number(one),
        0,
      );
    const { subscriptions } = await jsonOf<{ subscriptions: { lag_records: number }[] }>(
      call("GET", control(server, "subscriptions?limit=1000")),
    );
    expect(value("streams_subscriptions")).toBe(subscriptions.length);
    expect(value("streams_subscription_lag_records")).toBe(
      subscriptions.reduce((sum, { lag_records }) => sum + lag_records, 0),
    );
    expect(value("streams_subscription_links")).toBeGreaterThanOrEqual(3);
    expect(text).toMatch(/^streams_subscription_wakes_total\{type="webhook"\} [1-9]/m);
    expect(text).toMatch(/^streams_subscription_wakes_total\{type="pull-wake"\} [1-9]/m);
    expect(value("streams_subscription_failures_total")).toBeGreaterThan(0);
  });

  test("/v1/server/_details lists subscriptions with what they are behind", async () => {
    const details = await jsonOf<{ subscriptions: readonly Record<string, unknown>[] }>(
      call("GET", `${server.url}/v1/server/_details`),
    );
    expect(details.subscriptions.map(({ id }) => id)).toContain("secret-hook");
    expect(details.subscriptions.find(({ id }) => id === "secret-failed")).toMatchObject({ status: "failed" });
  });
});

describe("browsers", () => {
  test.each([
    ["PUT", "subscriptions/cors"],
    ["GET", "subscriptions/cors"],
    ["DELETE", "subscriptions/cors"],
    ["POST", "subscriptions/cors/claim"],
    ["POST", "subscriptions/cors/ack"],
    ["POST", "subscriptions/cors/streams"],
    ["DELETE", "subscriptions/cors/streams/a/b"],
    ["GET", "subscriptions"],
    ["GET", "jwks.json"],
  ])("a preflight for %s __ds/%s", async (method, path) => {
    const asked = {
      origin: FRIEND,
      "access-control-request-method": method,
      "access-control-request-headers": "authorization, content-type",
    };
    const answer = await call("OPTIONS", control(server, path), { headers: asked });
    expect(answer.status).toBeOneOf([200, 204]);
    expect(answer.headers.get("access-control-allow-origin")).toBe(FRIEND);
    expect(answer.headers.get("access-control-allow-methods") ?? "").toContain(method);
    const allowed = (answer.headers.get("access-control-allow-headers") ?? "").toLowerCase();
    for (const name of ["authorization", "content-type"]) expect(allowed).toContain(name);
  });

  test("a friend makes, claims and acks; another origin changes nothing", async () => {
    const stream = await newStream(server, "cors/a");
    await newStream(server, "cors/wakes");
    const url = control(server, "subscriptions/cors");
    const body = JSON.stringify({ type: "pull-wake", wake_stream: "cors/wakes", streams: ["cors/a"] });
    for (const origin of ["http://evil.example", "null"]) {
      expect((await call("PUT", url, { body, headers: { origin } })).status).toBe(403);
      expect((await call("POST", `${url}/claim`, { body: '{"worker":"w"}', headers: { origin } })).status).toBe(403);
      expect((await call("DELETE", url, { headers: { origin } })).status).toBe(403);
    }
    const made = await call("PUT", url, { body, headers: { origin: FRIEND } });
    expect([made.status, made.headers.get("access-control-allow-origin")]).toEqual([201, FRIEND]);
    await append(stream);
    const claim = await call("POST", `${url}/claim`, { body: '{"worker":"w"}', headers: { origin: FRIEND } });
    expect([claim.status, claim.headers.get("access-control-allow-origin")]).toEqual([200, FRIEND]);
    const refused = await call("POST", `${url}/claim`, { body: '{"worker":"v"}', headers: { origin: FRIEND } });
    expect([refused.status, refused.headers.get("access-control-allow-origin")]).toEqual([409, FRIEND]);
  });

  test("a Host that is not this machine's cannot make callbacks go elsewhere", async () => {
    const url = control(server, "subscriptions/rebound");
    const config = { type: "webhook", webhook: { url: hook.url }, streams: ["secret/a"] };
    const answer = await call("PUT", url, { body: JSON.stringify(config), headers: { host: "evil.example" } });
    expect(answer.status).toBeOneOf([400, 403, 421]);
    expect((await call("GET", url)).status).toBe(404);
  });
});

describe("behind a public URL", () => {
  const proxied = sharedServer({ args: ["--allow-local-webhooks", "--public-url", "https://streams.example.com"] });

  test("callbacks and keys are where clients reach them", async () => {
    const stream = await newStream(proxied, "public/a");
    const config = { type: "webhook", webhook: { url: hook.url }, pattern: "public/*" };
    const subscription = await newSubscription(proxied, "public", config);
    const { webhook } = await subscription.shown();
    expect(webhook?.signing.jwks_url).toBe("https://streams.example.com/v1/stream/__ds/jwks.json");
    await append(stream);
    const delivery = await until("it is told", () =>
      hook.deliveries.find(({ body }) => body.subscription_id === "public"),
    );
    expect(delivery.body.callback_url).toBe("https://streams.example.com/v1/stream/__ds/subscriptions/public/callback");
    expect(await isSigned(proxied, delivery)).toBe(true);
    expect(await isSigned(server, delivery)).toBe(false);
  });
});
