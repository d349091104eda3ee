/**
 * What one client may ask (docs/auth.md): requests, bytes and live connections, of a key, a token's subject, a signed token or an
 * address. Who is over a limit hears 429 and when to come back; everybody else notices nothing; what is given back can be taken again.
 */

import { connect as connectTcp } from "node:net";
import { describe, expect, test } from "bun:test";
import {
  bearer,
  callAs,
  keyedDirectory,
  SECRET_ENV,
  SECRET_FLAGS,
  secretToken,
  signedBy,
} from "../support/auth-world.ts";
import type { TestServer } from "../support/server.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { temporarySockets } from "../support/socket-client.ts";
import { openSse } from "../support/sse.ts";
import { call, errorOf, streamAt } from "../support/streams.ts";
import { until, within } from "../support/wait.ts";

const start = temporaryServers();
const connect = temporarySockets();
const PLAIN = ["--durability", "os", "--no-live-metrics"] as const;
const JSON_TYPE = { "content-type": "application/json" };

/** A server for two keys with the given limits, and a stream that has records and touch waits. */
async function limited(...args: string[]) {
  const keys = keyedDirectory({ one: ["all"], two: ["all"], maker: ["all"] });
  const server = await start({ args: [...PLAIN, "--auth", "api-key", ...args], dataDir: keys.dataDir });
  const url = `${server.url}/v1/stream/a`;
  expect((await callAs(keys.tokens.maker, "PUT", url, { headers: JSON_TYPE })).status).toBe(201);
  const profile = JSON.stringify({ profile: { kind: "state-protocol", touch: { enabled: true } } });
  expect((await callAs(keys.tokens.maker, "POST", `${url}/_profile`, { body: profile })).status).toBe(200);
  return { server, url, ...keys.tokens };
}

type Get = () => Promise<Response>;

/** How often it goes well before 429; that answer, looked at. */
async function until429(get: Get, atMost: number): Promise<{ readonly passed: number; readonly code: string }> {
  for (let passed = 0; passed <= atMost; passed++) {
    const answer = await get();
    if (answer.status !== 429) {
      await answer.body?.cancel();
      continue;
    }
    const retryAfter = answer.headers.get("retry-after");
    expect(retryAfter).toMatch(/^[1-9]\d*$/);
    expect(answer.headers.get("cache-control")).toBe("no-store");
    return { passed, code: (await errorOf(answer)).code };
  }
  throw new Error(`${atMost + 1} requests went well`);
}

/** One request from an address of this machine; its status. */
function statusFrom(localAddress: string, server: TestServer, path: string): Promise<number> {
  const { promise, resolve, reject } = Promise.withResolvers<number>();
  const { hostname, port, host } = new URL(server.url);
  const socket = connectTcp({ host: hostname, port: Number(port), localAddress });
  socket.setEncoding("latin1").once("data", (text: string) => resolve(Number(/^HTTP\/1\.1 (\d+)/.exec(text)?.[1])));
  socket.once("error", reject);
  socket.write(`GET ${path} HTTP/1.1\r\nhost: ${host}\r\n\r\n`);
  return within("an answer", promise).finally(() => socket.destroy());
}

describe("requests", () => {
  const RATE = 4;
  const BURST = 2 * RATE;

  test("of a key: two seconds' worth at once, then 429 until it is gone; another key notices nothing", async () => {
    const { server, one, two } = await limited("--limit-requests", String(RATE));
    const get = (token: string): Promise<Response> => callAs(token, "GET", `${server.url}/v1/streams`);
    const { passed, code } = await until429(() => get(one), 4 * BURST);
    expect(code).toBe("rate-limited");
    expect(passed).toBeGreaterThanOrEqual(BURST);
    expect(passed).toBeLessThanOrEqual(BURST + 2);
    expect((await get(two)).status).toBe(200);
    // Everything of that key, whatever it asks for; what needs nobody's name goes on.
    expect((await callAs(one, "GET", `${server.url}/nowhere`)).status).toBe(429);
    expect((await callAs(one, "GET", `${server.url}/health`)).status).toBe(200);
    await until("it may ask again", async () => (await get(one)).status === 200, 3000);
  }, 60_000);

  test("of a signed token count apart from those of its signer", async () => {
    const { url, server, one } = await limited("--limit-requests", String(RATE));
    const { access } = await signedBy(one, server, ["a"]);
    expect((await until429(() => call("GET", `${url}?access=${access}`), 4 * BURST)).code).toBe("rate-limited");
    expect((await callAs(one, "GET", url)).status).toBe(200);
  }, 60_000);

  test("of a subject count together, whichever token it brings", async () => {
    const server = await start({
      args: [...PLAIN, ...SECRET_FLAGS, "--limit-requests", String(RATE)],
      env: SECRET_ENV,
    });
    const tokens = await Promise.all([1, 2].map((jti) => secretToken({ sub: "ann", scope: "all", jti: String(jti) })));
    let turn = 0;
    const get = (): Promise<Response> => callAs(tokens[turn++ % 2] ?? "", "GET", `${server.url}/v1/streams`);
    expect((await until429(get, 4 * BURST)).passed).toBeLessThanOrEqual(BURST + 2);
    const other = await secretToken({ sub: "bob", scope: "all" });
    expect((await callAs(other, "GET", `${server.url}/v1/streams`)).status).toBe(200);
  }, 60_000);

  test("without a valid credential count against the address, and keep nobody out who has one", async () => {
    const { server, one } = await limited("--limit-requests", String(RATE));
    const guess = (): Promise<Response> => callAs("sk_junk", "GET", `${server.url}/v1/streams`);
    expect((await until429(guess, 4 * BURST)).code).toBe("rate-limited");
    expect((await callAs(one, "GET", `${server.url}/v1/streams`)).status).toBe(200);
    expect(await statusFrom("127.0.0.2", server, "/v1/streams")).toBe(401);
  }, 60_000);

  test("to guess the token of a wake count against the address", async () => {
    const { server } = await limited("--limit-requests", String(RATE));
    // BUG if this fails: routes with tokens of their own have no limit at all.
    const guess = (): Promise<Response> =>
      callAs("junk", "POST", `${server.url}/v1/stream/__ds/subscriptions/s/ack`, { headers: JSON_TYPE, body: "{}" });
    expect((await until429(guess, 10 * BURST)).code).toBe("rate-limited");
  }, 60_000);

  test("with --no-auth count by the address, also on loopback", async () => {
    const server = await start({ args: [...PLAIN, "--no-auth", "--limit-requests", String(RATE)] });
    const get = (): Promise<Response> => call("GET", `${server.url}/v1/streams`);
    expect((await until429(get, 4 * BURST)).code).toBe("rate-limited");
    expect(await statusFrom("127.0.0.1", server, "/v1/streams")).toBe(429);
    expect(await statusFrom("127.0.0.2", server, "/v1/streams")).toBe(200);
    // What the client says of its address is not believed.
    const forged = { headers: { "x-forwarded-for": "10.1.2.3", "x-real-ip": "10.1.2.3", forwarded: "for=10.1.2.3" } };
    const answers = await Promise.all(
      Array.from({ length: 2 * BURST }, () => call("GET", `${server.url}/v1/streams`, forged)),
    );
    expect(answers.map(({ status }) => status)).toContain(429);
  }, 60_000);

  test("on a WebSocket: each message counts, is refused by an error with its time, and the socket stays", async () => {
    const { server, one } = await limited("--limit-requests", String(RATE));
    const client = await connect(server, { headers: bearer(one) });
    const errors: string[] = [];
    for (let at = 0; at < 3 * BURST; at++) {
      const answer = await client.append({ stream: "a", body: "x", contentType: "text/odd" });
      if (answer.type === "error") errors.push(`${answer.error.code} ${answer.headers?.["Retry-After"] ?? ""}`);
    }
    expect(errors).toContain("rate-limited 1");
    expect(client.isOpen()).toBe(true);
    await until("a message goes through again", async () => {
      const answer = await client.append({ stream: "a", body: "x", contentType: "text/odd" });
      return answer.type === "error" && answer.error.code !== "rate-limited";
    });
  }, 60_000);

  test("on a WebSocket pings count as well", async () => {
    const { server, one } = await limited("--limit-requests", String(RATE));
    const client = await connect(server, { headers: bearer(one) });
    for (let at = 0; at < 5 * BURST; at++) client.send({ type: "ping", ref: at });
    await client.next("pong");
    // BUG if this fails: the document says that each message counts as a request.
    expect((await callAs(one, "GET", `${server.url}/v1/streams`)).status).toBe(429);
  }, 60_000);
});

describe("bytes", () => {
  const RATE_BYTES = 64 * 1024;
  const LARGE = JSON.stringify(["x".repeat(4 * RATE_BYTES)]);

  test("of bodies are owed once they came: 429 until the debt is gone, for that key alone", async () => {
    const { server, url, one, two } = await limited("--limit-bytes", "64KiB");
    const put = (token: string, body: string): Promise<Response> =>
      callAs(token, "PUT", `${server.url}/v1/stream/b`, { headers: JSON_TYPE, body });
    expect((await put(one, LARGE)).status).toBe(201);
    const fromMs = performance.now();
    const refused = await callAs(one, "GET", url);
    expect([refused.status, (await errorOf(refused)).code]).toEqual([429, "rate-limited"]);
    // Four seconds' worth, of which two were saved up.
    const seconds = Number(refused.headers.get("retry-after"));
    expect(seconds).toBeGreaterThanOrEqual(1);
    expect(seconds).toBeLessThanOrEqual(3);
    expect((await callAs(two, "GET", url)).status).toBe(200);
    await until("the debt is gone", async () => (await callAs(one, "GET", url)).status === 200, 6000);
    expect(performance.now() - fromMs).toBeGreaterThan(1000);
  }, 60_000);

  test("of a body without a length count as well", async () => {
    const { server, one } = await limited("--limit-bytes", "64KiB");
    const pieces = Array.from({ length: 5 }, () => new TextEncoder().encode("x".repeat(RATE_BYTES)));
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        const piece = pieces.pop();
        if (piece === undefined) controller.close();
        else controller.enqueue(piece);
      },
    });
    const headers = { ...bearer(one), "content-type": "text/plain" };
    const put = await fetch(`${server.url}/v1/stream/chunked`, { method: "PUT", headers, body });
    expect(put.status).toBe(201);
    expect((await callAs(one, "GET", `${server.url}/v1/streams`)).status).toBe(429);
  }, 60_000);

  test("of a body that breaks off are owed as far as it came", async () => {
    const { server, one, url } = await limited("--limit-bytes", "64KiB");
    const { hostname, port, host } = new URL(server.url);
    const socket = connectTcp({ host: hostname, port: Number(port) });
    socket.on("error", () => {
      /* The server may end it first. */
    });
    const head = `POST /v1/stream/a HTTP/1.1\r\nhost: ${host}\r\nauthorization: Bearer ${one}\r\ncontent-type: application/json\r\n`;
    socket.write(`${head}content-length: 10000000\r\n\r\n`);
    socket.write("x".repeat(8 * RATE_BYTES), () => setTimeout(() => socket.destroy(), 300));
    await until("it is owed", async () => (await callAs(one, "HEAD", url)).status === 429, 4000);
  }, 60_000);

  test("of messages on a WebSocket count as well", async () => {
    const { server, one, two, url } = await limited("--limit-bytes", "64KiB");
    const client = await connect(server, { headers: bearer(one) });
    await client.append({ stream: "a", body: LARGE });
    const answer = await client.append({ stream: "a", body: "[]" });
    expect(answer).toMatchObject({ type: "error", error: { code: "rate-limited" } });
    expect((await callAs(one, "GET", url)).status).toBe(429);
    expect((await callAs(two, "GET", url)).status).toBe(200);
  }, 60_000);
});

describe("live connections", () => {
  const LIVE = 2;
  interface World extends Awaited<ReturnType<typeof limited>> {}
  /** Opens one; how to end it by force, and what it is answered when it ends by itself. */
  type Opened = { readonly cut: () => void; readonly answer: Promise<Response> };
  type Opener = (world: World, token: string) => Promise<Opened>;

  const request =
    (ask: (world: World, signal: AbortSignal, headers: Record<string, string>) => Promise<Response>): Opener =>
    (world, token) => {
      const abort = new AbortController();
      const answer = ask(world, abort.signal, { ...JSON_TYPE, ...bearer(token) });
      // An abort is how some of them end.
      answer.catch(() => undefined);
      return Promise.resolve({ cut: () => abort.abort(), answer });
    };

  const openers = {
    "long-poll": request(({ url }, signal, headers) => fetch(`${url}?offset=now&live=long-poll`, { signal, headers })),
    "server-sent events": request(({ url }, signal, headers) =>
      fetch(`${url}?offset=now&live=sse`, { signal, headers }),
    ),
    "a live view": request(({ url }, signal, headers) =>
      fetch(`${url}/_view?live=sse&type=q&viewport=x,y,0,0,9,9`, { signal, headers }),
    ),
    "a touch wait": request(({ url }, signal, headers) => {
      const body = JSON.stringify({ keys: ["k"], cursor: "now", timeoutMs: 1500 });
      return fetch(`${url}/touch/wait`, { method: "POST", signal, headers, body });
    }),
    "waiting for details": request(async ({ url, maker }, signal, headers) => {
      const etag = (await callAs(maker, "GET", `${url}/_details`)).headers.get("etag") ?? "";
      return fetch(`${url}/_details?live=long-poll`, { signal, headers: { ...headers, "if-none-match": etag } });
    }),
    "a WebSocket": async ({ server }, token) => {
      const client = await connect(server, { headers: bearer(token) });
      return { cut: () => client.cut(), answer: Promise.resolve(new Response()) };
    },
  } satisfies Record<string, Opener>;

  const held = async ({ server, maker }: World): Promise<number> => {
    const answer = await callAs(maker, "GET", `${server.url}/v1/server/_details`);
    return ((await answer.json()) as { queues: { liveRequests: number } }).queues.liveRequests;
  };
  const isOver = async ({ url }: World, token: string): Promise<boolean> => {
    const answer = await callAs(token, "GET", `${url}?offset=now&live=long-poll`, {
      signal: AbortSignal.timeout(300),
    }).catch(() => {
      // It was let in, and waits.
      return null;
    });
    if (answer?.status !== 429) return false;
    expect([(await errorOf(answer)).code, answer.headers.get("retry-after")]).toEqual(["too-many-live", "5"]);
    return true;
  };

  // A live view holds more than its connection, and for longer.
  const { "a live view": openView, ...plain } = openers;

  test.each(Object.entries(plain))(
    "%s: counted, and given back when it is cut",
    async (_, open) => {
      const world = await limited("--limit-live", String(LIVE), "--long-poll-timeout", "20s");
      const { one, two } = world;
      for (let round = 0; round < 3; round++) {
        const opened: Opened[] = [];
        for (let count = 1; count <= LIVE; count++) {
          opened.push(await open(world, one));
          await until(`${count} are held`, async () => (await held(world)) === count);
        }
        expect(await isOver(world, one)).toBe(true);
        expect(await isOver(world, two)).toBe(false);
        await until("only those are held", async () => (await held(world)) === LIVE);
        for (const { cut } of opened) cut();
        await until("none is held", async () => (await held(world)) === 0);
      }
      expect(await isOver(world, one)).toBe(false);
    },
    60_000,
  );

  test("a live view: counted, and given back when it is cut", async () => {
    const world = await limited("--limit-live", String(LIVE));
    for (let round = 0; round < 3; round++) {
      const opened = [await openView(world, world.one), await openView(world, world.one)];
      for (const view of opened) expect((await view.answer)?.status).toBe(200);
      const refused = await openView(world, world.one);
      expect((await refused.answer)?.status).toBe(429);
      expect(await isOver(world, world.two)).toBe(false);
      for (const view of opened) view.cut();
      await until("there is room again", async () => !(await isOver(world, world.one)));
    }
  }, 60_000);

  test.each(["long-poll", "a touch wait", "waiting for details"] as const)(
    "%s: given back when its time is over",
    async (name) => {
      const world = await limited("--limit-live", "1", "--long-poll-timeout", "1s");
      for (let round = 0; round < 2; round++) {
        const opened = await openers[name](world, world.one);
        const answer = await opened.answer;
        expect([200, 204, 304]).toContain(answer.status);
        await answer.text();
      }
      expect(await isOver(world, world.one)).toBe(false);
    },
    60_000,
  );

  test("of all kinds count together, and one that is refused holds nothing", async () => {
    const world = await limited("--limit-live", String(LIVE));
    const { url, one, server } = world;
    const events = await openSse(`${url}?offset=now&live=sse`, bearer(one));
    const client = await connect(server, { headers: bearer(one) });
    for (const path of ["?offset=now&live=sse", "?offset=now&live=long-poll"]) {
      for (let count = 0; count < 5; count++) {
        const answer = await callAs(one, "GET", url + path);
        expect([path, answer.status]).toEqual([path, 429]);
      }
    }
    const upgrade = { upgrade: "websocket", connection: "upgrade", "sec-websocket-protocol": "streams.v1" };
    expect((await callAs(one, "GET", `${server.url}/v1/ws`, { headers: upgrade })).status).toBe(429);
    expect(await held(world)).toBe(2);
    // What is not live goes on, also for the streams they follow.
    expect((await callAs(one, "GET", url)).status).toBe(200);
    events.close();
    client.cut();
    await until("none is held", async () => (await held(world)) === 0);
    const again = await openSse(`${url}?offset=now&live=sse`, bearer(one));
    again.close();
  }, 60_000);

  test("of a deleted stream are given back", async () => {
    const world = await limited("--limit-live", "1");
    const events = await openSse(`${world.url}?offset=now&live=sse`, bearer(world.one));
    expect((await callAs(world.maker, "DELETE", world.url)).status).toBe(204);
    while ((await events.next()) !== null);
    await until("none is held", async () => (await held(world)) === 0);
    await callAs(world.maker, "PUT", world.url, { headers: JSON_TYPE });
    expect(await isOver(world, world.one)).toBe(false);
  }, 60_000);
});

describe("what all clients share", () => {
  const MiB = 1024 * 1024;

  /** Uploads that lack their last byte, as many as fit into all body bytes in flight; what ends them. */
  async function stalledUploads(url: string, headers: Readonly<Record<string, string>>): Promise<() => void> {
    const { hostname, port, host, pathname } = new URL(url);
    const head = Object.entries({ host, "content-type": "text/plain", "content-length": String(16 * MiB), ...headers });
    const sockets = Array.from({ length: 8 }, () => {
      const socket = connectTcp({ host: hostname, port: Number(port) });
      // They are refused, or cut.
      socket.on("error", () => undefined);
      socket.write(`POST ${pathname} HTTP/1.1\r\n${head.map(([name, value]) => `${name}: ${value}\r\n`).join("")}\r\n`);
      socket.write(new Uint8Array(16 * MiB - 1));
      return socket;
    });
    return () => {
      for (const socket of sockets) socket.destroy();
    };
  }

  async function bytesInFlight(server: TestServer, token: string | null): Promise<number> {
    const headers = token === null ? {} : bearer(token);
    const metrics = await (await call("GET", `${server.url}/metrics`, { headers })).text();
    return Number(/^streams_request_body_bytes (\d+)$/m.exec(metrics)?.[1] ?? expect.unreachable("no such figure"));
  }

  test("stalled uploads of one key leave room for those of another, large and small", async () => {
    const { server, one, two, maker } = await limited("--limit-bytes", "10GiB");
    const [blob, other] = ["blob", "other"].map((name) => `${server.url}/v1/stream/${name}`);
    const type = { "content-type": "text/plain" };
    for (const url of [blob, other]) await callAs(maker, "PUT", url ?? "", { headers: type });
    const end = await stalledUploads(blob ?? "", bearer(one));
    await until("they are under way", async () => (await bytesInFlight(server, one)) > 15 * MiB);
    for (const size of [10, 100_000, 15 * MiB, 10, 15 * MiB]) {
      const answer = await callAs(two, "POST", other ?? "", { headers: type, body: "x".repeat(size) });
      expect([size, answer.status]).toEqual([size, 204]);
      expect(await bytesInFlight(server, one)).toBeLessThanOrEqual(32 * MiB);
    }
    end();
    await until("all is given back", async () => (await bytesInFlight(server, one)) === 0);
  }, 60_000);

  test("stalled uploads leave room for small appends, also where nobody is told apart", async () => {
    const server = await start({ args: PLAIN });
    const stream = streamAt(server, "blob", "text/plain");
    expect((await stream.put()).status).toBe(201);
    const end = await stalledUploads(stream.url, {});
    await until("they are under way", async () => (await bytesInFlight(server, null)) > 127 * MiB, 20_000);
    const statuses = await Promise.all(Array.from({ length: 50 }, async () => (await stream.post("small")).status));
    expect(new Set(statuses)).toEqual(new Set([204]));
    expect((await stream.post("x".repeat(100_000))).status).toBe(429);
    end();
    await until("all is given back", async () => (await bytesInFlight(server, null)) === 0);
  }, 60_000);

  test("touch waits of one key leave keys to those of another", async () => {
    // 45,000 keys.
    const { url, one, two } = await limited("--memory-limit", "192MiB");
    const abort = new AbortController();
    const wait = (token: string, at: number): Promise<number> => {
      const keyIds = Array.from({ length: 1_024 }, (_, key) => at * 1_024 + key);
      const body = JSON.stringify({ keyIds, cursor: "now", timeoutMs: 500 });
      const headers = { ...JSON_TYPE, ...bearer(token) };
      const { signal } = abort;
      return fetch(`${url}/touch/wait`, { method: "POST", headers, body, signal }).then(({ status }) => status);
    };
    const greedy = Array.from({ length: 60 }, (_, at) => wait(one, at));
    const other = await wait(two, 100);
    const statuses = await Promise.all(greedy);
    expect([other, new Set(statuses)]).toEqual([200, new Set([200, 429])]);
    // All is given back.
    expect(await wait(one, 101)).toBe(200);
    abort.abort();
  }, 60_000);

  test("subscriptions of one key leave live requests to another", async () => {
    // 2,272 live requests.
    const { server, url, one, two } = await limited("--memory-limit", "192MiB");
    const refusals: string[] = [];
    for (let sockets = 0; sockets < 10 && refusals.length === 0; sockets++) {
      const client = await connect(server, { headers: bearer(one) });
      for (let at = 0; at < 255; at++) client.send({ type: "subscribe", stream: "a", id: String(at), offset: "now" });
      await until("each is answered", () => client.received.length === 256);
      for (const { message } of client.received) if (message.type === "error") refusals.push(message.error.code);
    }
    expect(new Set(refusals)).toEqual(new Set(["too-many-live"]));
    const events = await openSse(`${url}?offset=now&live=sse`, bearer(two));
    events.close();
  }, 60_000);
});

describe("which limits there are", () => {
  const ratesOf = async (server: TestServer, headers: Record<string, string> = {}): Promise<unknown> => {
    const answer = await call("GET", `${server.url}/v1/server/_details`, { headers });
    return ((await answer.json()) as { config: { clientRates: unknown } }).config.clientRates;
  };

  test("none on loopback without authentication", async () => {
    const server = await start({ args: PLAIN });
    expect(await ratesOf(server)).toBeNull();
    const answers = await Promise.all(Array.from({ length: 500 }, () => call("GET", `${server.url}/v1/streams`)));
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]));
  });

  test("the documented ones everywhere else; `none` lifts one", async () => {
    const documented = { requestsPerSecond: 5000, bytesPerSecond: 64 * 1024 * 1024, live: 2000 };
    expect(await ratesOf(await start({ args: [...PLAIN, "--no-auth"] }))).toMatchObject(documented);
    const keys = keyedDirectory({ one: ["all"] });
    const args = [...PLAIN, "--auth", "api-key", "--limit-requests", "none"];
    const server = await start({ args, dataDir: keys.dataDir });
    const { requestsPerSecond: _, ...others } = documented;
    expect(await ratesOf(server, bearer(keys.tokens.one))).toMatchObject(others);
    const asked = await start({ args: [...PLAIN, "--limit-live", "7"] });
    expect(await ratesOf(asked)).toMatchObject({ live: 7 });
  }, 60_000);
});

describe("--limit-streams", () => {
  test("a client makes so many streams; what exists needs no room, and a restart forgets nobody", async () => {
    const server = await start({ args: ["--no-auth", "--limit-streams", "2"] });
    for (const name of ["quota/a", "quota/b"]) expect((await streamAt(server, name).put()).status).toBe(201);
    const third = await streamAt(server, "quota/c").put();
    expect([third.status, (await errorOf(third)).code]).toEqual([429, "too-many-streams"]);
    expect(Number(third.headers.get("retry-after"))).toBeGreaterThan(0);
    expect((await streamAt(server, "quota/c").head()).status).toBe(404);
    expect((await streamAt(server, "quota/a").put()).status).toBe(200);
    expect((await streamAt(server, "quota/a").put()).status).toBe(200);
    expect((await streamAt(server, "quota/d").put()).status).toBe(429);
    // It holds across a restart: who made a stream stands with it.
    await server.kill("SIGKILL");
    const again = await start({ dataDir: server.dataDir, args: ["--no-auth", "--limit-streams", "2"] });
    expect((await streamAt(again, "quota/c").put()).status).toBe(429);
  }, 60_000);
});
