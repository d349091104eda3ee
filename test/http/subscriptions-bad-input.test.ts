/** What the subscription API refuses: bodies, ids, paths, methods, URLs. A clear error each time, and nothing changed. */

import { beforeAll, describe, expect, test } from "bun:test";
import { exchangeRaw } from "../support/raw-socket.ts";
import { sharedServer } from "../support/shared-server.ts";
import { call, errorOf, newStream, streamAt } from "../support/streams.ts";
import { control, newPullWake, newSubscription, subscriptionAt, verdict } from "../support/subscription-client.ts";

const server = sharedServer({ args: ["--allow-local-webhooks"] });
const strict = sharedServer();

const INVALID: [number, string] = [400, "INVALID_REQUEST"];
const REJECTED: [number, string] = [400, "WEBHOOK_URL_REJECTED"];
const webhook = { type: "webhook", webhook: { url: "http://127.0.0.1:9/hook" } };
const good = { ...webhook, pattern: "bad/*" };
const LONG = "x".repeat(1_100);

beforeAll(async () => {
  await newStream(server, "bad/wakes");
  await newStream(server, "bad/text", "text/plain");
  await newStream(server, "bad/bytes", "application/octet-stream");
});

const pull = (more: object): object => ({ type: "pull-wake", wake_stream: "bad/wakes", pattern: "bad/*", ...more });

describe("to make one", () => {
  test.each<[string, unknown]>([
    ["null", null],
    ["a list", [good]],
    ["a number", 1],
    ["an empty object", {}],
    ["no type", { ...good, type: undefined }],
    ["another type", { ...good, type: "email" }],
    ["a type of another type", { ...good, type: 1 }],
    ["neither pattern nor streams", webhook],
    ["neither, said aloud", { ...webhook, pattern: null, streams: [] }],
    ["no webhook", { type: "webhook", pattern: "bad/*" }],
    ["a null webhook", { ...good, webhook: null }],
    ["a webhook that is text", { ...good, webhook: "http://127.0.0.1:9/" }],
    ["a webhook without a URL", { ...good, webhook: {} }],
    ["a webhook with an empty URL", { ...good, webhook: { url: "" } }],
    ["a webhook with a URL that is a number", { ...good, webhook: { url: 1 } }],
    ["a webhook with more", { ...good, webhook: { url: "http://127.0.0.1:9/", secret: "s" } }],
    ["a webhook that also pulls", { ...good, wake_stream: "bad/wakes" }],
    ["a puller that also has a webhook", pull({ webhook: { url: "http://127.0.0.1:9/" } })],
    ["no wake stream", pull({ wake_stream: undefined })],
    ["a null wake stream", pull({ wake_stream: null })],
    ["an empty wake stream", pull({ wake_stream: "" })],
    ["a wake stream that does not exist", pull({ wake_stream: "bad/none" })],
    ["a wake stream of text", pull({ wake_stream: "bad/text" })],
    ["a wake stream of bytes", pull({ wake_stream: "bad/bytes" })],
    ["a reserved wake stream", pull({ wake_stream: "__ds/keys" })],
    ["an internal wake stream", pull({ wake_stream: "live.metrics" })],
    ["its own wake stream", pull({ pattern: null, streams: ["bad/wakes"] })],
    ["its own wake stream with a slash", pull({ pattern: null, streams: ["/bad/wakes"] })],
    ["a pattern that is a number", { ...good, pattern: 1 }],
    ["an empty pattern", { ...good, pattern: "" }],
    ["a pattern that is a slash", { ...good, pattern: "/" }],
    ["a pattern with an empty segment", { ...good, pattern: "a//b" }],
    ["a pattern that ends in a slash", { ...good, pattern: "a/" }],
    ["a star inside a segment", { ...good, pattern: "a/b*" }],
    ["a star before a segment", { ...good, pattern: "*b/c" }],
    ["two stars inside a segment", { ...good, pattern: "a/b**" }],
    ["three stars", { ...good, pattern: "a/***" }],
    ["three times two stars", { ...good, pattern: "**/a/**/b/**" }],
    ["too many segments", { ...good, pattern: "a/".repeat(2_000) + "b" }],
    ["a long pattern", { ...good, pattern: "x".repeat(100_000) }],
    ["streams that are text", { ...webhook, streams: "a" }],
    ["a stream that is a number", { ...webhook, streams: [1] }],
    ["an empty stream", { ...webhook, streams: [""] }],
    ["a stream that is a slash", { ...webhook, streams: ["/"] }],
    ["a stream with an empty segment", { ...webhook, streams: ["a//b"] }],
    ["a stream that climbs", { ...webhook, streams: ["a/../b"] }],
    ["a stream with a control character", { ...webhook, streams: ["a\u0000b"] }],
    ["a stream with half a character", { ...webhook, streams: ["a\ud800b"] }],
    ["a stream with a long name", { ...webhook, streams: [LONG] }],
    ["a reserved stream", { ...webhook, streams: ["__ds/keys"] }],
    ["a reserved stream with a slash", { ...webhook, streams: ["/__ds/subscriptions/x"] }],
    ["the reserved name", { ...webhook, streams: ["__ds"] }],
    ["too many streams", { ...webhook, streams: Array.from({ length: 1_001 }, (_, at) => `s${at}`) }],
    ["a lease below a second", { ...good, lease_ttl_ms: 999 }],
    ["a lease of nothing", { ...good, lease_ttl_ms: 0 }],
    ["a negative lease", { ...good, lease_ttl_ms: -1_000 }],
    ["a lease above ten minutes", { ...good, lease_ttl_ms: 600_001 }],
    ["a lease with a fraction", { ...good, lease_ttl_ms: 1_000.5 }],
    ["a lease that is text", { ...good, lease_ttl_ms: "30000" }],
    ["a description that is a number", { ...good, description: 1 }],
    ["a long description", { ...good, description: "x".repeat(100_000) }],
    ["an unknown field", { ...good, retries: 3 }],
    ["a field in another spelling", { ...good, leaseTtlMs: 1_000 }],
    ["an id", { ...good, id: "other" }],
    ["a prototype", JSON.parse(`{"__proto__":{"type":"webhook"},"pattern":"bad/*"}`)],
  ])("%s", async (name, body) => {
    const subscription = subscriptionAt(server, `bad-${Bun.hash(name)}`);
    expect(await verdict(subscription.put(body as object))).toEqual(INVALID);
    expect((await call("GET", subscription.url)).status).toBe(404);
  });

  test.each(["", " ", "{", '{"type":"webhook"', "nonsense", `${JSON.stringify(good)}x`, "[".repeat(5_000), '"\ud800"'])(
    "a body that is not JSON: %p",
    async (body) => {
      const url = control(server, "subscriptions/bad-json");
      expect(await verdict(call("PUT", url, { body, headers: { "content-type": "application/json" } }))).toEqual(
        INVALID,
      );
    },
  );

  test("bytes that are not UTF-8", async () => {
    const bytes = new Uint8Array([...new TextEncoder().encode('{"description":"'), 0xff, 0xfe, 0x22, 0x7d]);
    const answer = await call("PUT", control(server, "subscriptions/bad-bytes"), { body: bytes });
    expect(await verdict(answer)).toEqual(INVALID);
  });

  test("a body of megabytes is 413, announced or not", async () => {
    const url = control(server, "subscriptions/bad-huge");
    const body = JSON.stringify({ ...good, description: "x".repeat(5_000_000) });
    const announced = await call("PUT", url, { body });
    expect(announced.status).toBe(413);
    await errorOf(announced);
    const chunk = `${(60_000).toString(16)}\r\n${"x".repeat(60_000)}\r\n`;
    const { pathname, host } = new URL(url);
    const head = `PUT ${pathname} HTTP/1.1\r\nhost: ${host}\r\ntransfer-encoding: chunked\r\n\r\n`;
    expect((await exchangeRaw(server, `${head}${chunk.repeat(80)}0\r\n\r\n`)).status).toBe(413);
    expect((await call("GET", url)).status).toBe(404);
  });

  test("a large body that says little more than it must is fine", async () => {
    const streams = Array.from({ length: 1_000 }, (_, at) => `large/${"y".repeat(200)}${at}`);
    const subscription = await newSubscription(server, "large", { ...webhook, streams });
    expect((await subscription.shown()).streams).toHaveLength(1_000);
    expect(await verdict(subscription.addStreams("one-more"))).toEqual([429, "OVERLOADED"]);
    const refused = await subscription.addStreams("one-more");
    expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
    expect((await subscription.addStreams(String(streams[0]), String(streams[999]))).status).toBe(204);
  });
});

describe("webhook URLs", () => {
  const urls = [
    "ftp://example.com/",
    "http://example.com/",
    "file:///etc/passwd",
    "javascript:alert(1)",
    "example.com/hook",
    "//example.com/hook",
    "https://",
    "https://10.0.0.1/",
    "https://172.16.0.1/",
    "https://192.168.1.1/",
    "https://169.254.169.254/latest/meta-data/",
    "https://[::1]/",
    "https://[fd00::1]/",
    "https://[fe80::1]/",
    "https://[::ffff:10.0.0.1]/",
    "https://0.0.0.0/",
    "https://0x0a000001/",
    "https://user:password@example.com/",
    "http://10.0.0.1:8080/",
    `https://example.com/${"a".repeat(5_000)}`,
  ];

  test.each(urls)("%s, also where local ones are allowed", async (url) => {
    for (const at of [strict, server]) {
      const subscription = subscriptionAt(at, "bad-url");
      expect(await verdict(subscription.put({ ...good, webhook: { url } }))).toEqual(REJECTED);
      expect((await call("GET", subscription.url)).status).toBe(404);
    }
  });

  test.each([
    "http://localhost:1/",
    "http://127.0.0.1:1/",
    "http://127.0.0.9:1/x",
    "https://localhost/",
    "https://127.0.0.1/",
  ])("%s is fine with --allow-local-webhooks only", async (url) => {
    const config = { ...good, webhook: { url } };
    expect(await verdict(subscriptionAt(strict, "local").put(config))).toEqual(REJECTED);
    expect((await subscriptionAt(server, `local-${Bun.hash(url)}`).put(config)).status).toBe(201);
  });

  test("https to a public host is fine anywhere", async () => {
    const config = { ...good, webhook: { url: "https://worker.example.com/hooks?a=b" } };
    expect((await subscriptionAt(strict, "public").put(config)).status).toBe(201);
    expect((await subscriptionAt(strict, "public").shown()).webhook?.url).toBe(config.webhook.url);
  });
});

describe("paths", () => {
  test.each([
    "x".repeat(129),
    "a%20b",
    "a%2Fb",
    "a%00b",
    "a%0ab",
    "%C3%A9",
    "a%22b",
    "a%3Fb",
    "a%23b",
    "a%25b",
    "%F0%9F%98%80",
  ])("the id %s", async (id) => {
    for (const method of ["PUT", "GET"]) {
      const answer = await call(method, control(server, `subscriptions/${id}`), {
        ...(method === "PUT" && { body: JSON.stringify(good) }),
      });
      expect([400, 404]).toContain(answer.status);
      await errorOf(answer);
    }
    expect((await call("POST", control(server, `subscriptions/${id}/claim`), { body: "{}" })).status).toBeOneOf([
      400, 404,
    ]);
  });

  test.each(["%", "a%", "%zz", "%ff", "a%c3", "%e2%82", ".", "..", "%2e%2e", "a/.."])(
    "as bytes on a socket: %s",
    async (id) => {
      const { host } = new URL(server.url);
      const body = JSON.stringify(good);
      for (const head of [
        `PUT /v1/stream/__ds/subscriptions/${id} HTTP/1.1\r\nhost: ${host}\r\ncontent-length: ${body.length}\r\n\r\n${body}`,
        `GET /v1/stream/__ds/subscriptions/${id} HTTP/1.1\r\nhost: ${host}\r\n\r\n`,
      ]) {
        const { status } = await exchangeRaw(server, head);
        expect(status).toBeOneOf([400, 404, 405]);
      }
    },
  );

  test.each([
    "",
    "x",
    "keys",
    "jwks",
    "jwks.json/",
    "jwks.json/x",
    "subscriptions/",
    "subscriptions//",
    "subscriptions//claim",
    "subscriptions/path/",
    "subscriptions/path/nothing",
    "subscriptions/path/claim/",
    "subscriptions/path/claim/x",
    "subscriptions/path/constructor",
    "subscriptions/path/__proto__",
    "subscriptions/path/_details",
    "Subscriptions/path",
    "subscription/path",
    "streams",
    "_details",
    "keys/_details",
  ])("__ds/%s is not there for any method", async (path) => {
    for (const method of ["GET", "PUT", "POST", "DELETE", "PATCH"]) {
      const answer = await call(method, control(server, path), { ...(method !== "GET" && { body: "{}" }) });
      expect(answer.status).toBe(404);
      await errorOf(answer);
    }
  });

  test("nothing below __ds is an application stream, however it is spelled", async () => {
    for (const name of [
      "__ds",
      "__ds/x",
      "__ds/keys",
      "__ds/subscriptions/x",
      "%5F%5Fds/x",
      "__ds%2Fx",
      "_%5fds%2fkeys",
    ]) {
      for (const method of ["PUT", "POST", "GET", "HEAD", "DELETE"]) {
        const answer = await call(method, `${server.url}/v1/stream/${name}`, {
          headers: { "content-type": "application/json" },
          ...((method === "PUT" || method === "POST") && { body: "[]" }),
        });
        const isSubscription = name === "__ds/subscriptions/x";
        if (!isSubscription) expect([name, method, answer.status]).toEqual([name, method, 404]);
        else expect(answer.status).not.toBe(201);
      }
    }
    expect((await streamAt(server, "__dsx").put()).status).toBe(201);
    expect((await streamAt(server, "a/__ds/x").put()).status).toBe(201);
  });
});

describe("methods", () => {
  test.each<[string, string[]]>([
    ["subscriptions", ["GET"]],
    ["subscriptions/methods", ["PUT", "GET", "DELETE"]],
    ["subscriptions/methods/streams", ["POST"]],
    ["subscriptions/methods/streams/a/b", ["DELETE"]],
    ["subscriptions/methods/claim", ["POST"]],
    ["subscriptions/methods/ack", ["POST"]],
    ["subscriptions/methods/release", ["POST"]],
    ["subscriptions/methods/callback", ["POST"]],
    ["jwks.json", ["GET"]],
  ])("__ds/%s takes %p only", async (path, allowed) => {
    for (const method of ["GET", "PUT", "POST", "DELETE", "PATCH"]) {
      if (allowed.includes(method)) continue;
      const answer = await call(method, control(server, path), { ...(method !== "GET" && { body: "{}" }) });
      expect([method, answer.status]).toEqual([method, 405]);
      for (const one of allowed) expect(answer.headers.get("allow") ?? "").toContain(one);
      await errorOf(answer);
    }
  });
});

describe("to change or answer one", () => {
  test.each<[string, unknown]>([
    ["nothing", {}],
    ["no list", { streams: "a" }],
    ["null", null],
    ["a list", ["a"]],
    ["a number in it", { streams: ["a", 1] }],
    ["an empty name", { streams: [""] }],
    ["a reserved name", { streams: ["__ds/keys"] }],
    ["a name that climbs", { streams: ["../x"] }],
    ["more", { streams: ["a"], pattern: "b" }],
    ["no JSON", "{"],
  ])("streams: %s", async (_, body) => {
    const subscription = subscriptionAt(server, "change");
    await subscription.put(good);
    expect(await verdict(subscription.post("streams", body))).toEqual(INVALID);
  });

  test("its own wake stream cannot be added", async () => {
    const { subscription } = await newPullWake(server, "change-own", { pattern: "bad/*" });
    expect(await verdict(subscription.addStreams("wake/change-own"))).toEqual(INVALID);
  });

  test.each<[string, unknown]>([
    ["nothing", {}],
    ["no worker", { worker: "" }],
    ["a worker that is a number", { worker: 1 }],
    ["a long worker", { worker: LONG }],
    ["more", { worker: "w", lease_ttl_ms: 1_000 }],
    ["no JSON", "worker"],
    ["an empty body", ""],
  ])("claim: %s", async (_, body) => {
    const { subscription } = await newPullWake(server, `claim-${Bun.hash(JSON.stringify(body))}`, { pattern: "bad/*" });
    expect(await verdict(subscription.post("claim", body))).toEqual(INVALID);
  });

  test("a webhook subscription cannot be claimed", async () => {
    const subscription = await newSubscription(server, "claim-webhook", good);
    expect(await verdict(subscription.claim())).toEqual(INVALID);
  });

  test("ack, callback and release: bodies that say it wrong change nothing", async () => {
    const { subscription } = await newPullWake(server, "bad-acks", { pattern: "bad-acks/*" });
    const stream = await newStream(server, "bad-acks/a", "application/json", { body: "[1]" });
    const claim = await subscription.claimed();
    const { wake_id, generation, token } = claim;
    const offset = await stream.tail();
    const wake = { wake_id, generation };
    const before = await subscription.shown();
    for (const body of [
      {},
      { wake_id },
      { generation },
      { wake_id: 1, generation },
      { wake_id, generation: "1" },
      { wake_id, generation: 1.5 },
      { wake_id, generation: -1 },
      { wake_id, generation: null },
      [wake],
      "",
      "{",
    ]) {
      for (const action of ["ack", "callback", "release"])
        expect([action, body, ...(await verdict(subscription.post(action, body, token)))]).toEqual([
          action,
          body,
          ...INVALID,
        ]);
    }
    for (const more of [
      { acks: {} },
      { acks: "all" },
      { acks: [1] },
      { acks: [{}] },
      { acks: [{ stream: "bad-acks/a" }] },
      { acks: [{ offset }] },
      { acks: [{ stream: "", offset }] },
      { acks: [{ stream: "bad-acks/a", offset: 1 }] },
      { acks: [{ stream: "bad-acks/a", offset, seq: 1 }] },
      { done: "true" },
      { done: 1 },
      { finished: true },
    ]) {
      for (const action of ["ack", "callback"])
        expect(await verdict(subscription.post(action, { ...wake, ...more }, token))).toEqual(INVALID);
    }
    expect(await verdict(subscription.post("release", { ...wake, acks: [] }, token))).toEqual(INVALID);
    expect(await subscription.shown()).toEqual(before);
    expect((await subscription.ack(claim, { done: true, acks: [{ stream: "/bad-acks/a", offset }] })).status).toBe(200);
  });
});
