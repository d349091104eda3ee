/** The client against a scripted server: what it sends, what it makes of answers, and when it tries again. */

import { afterEach, expect, test } from "bun:test";
import { rejection } from "../../test/support/wait.ts";
import { BrokenAnswer, type ClientOptions, connect, Refused, type StreamClient, Unreachable } from "./client.ts";

type Script = (request: Request, count: number) => Response | Promise<Response>;

const servers: Bun.Server<undefined>[] = [];
afterEach(async () => {
  for (const server of servers.splice(0)) await server.stop(true);
});

const QUICK = { maxAttempts: 3, baseDelayMs: 1, maxDelayMs: 2 };
const OFFSET = { "stream-next-offset": "o1" };

interface Seen {
  readonly method: string;
  readonly url: URL;
  readonly headers: Headers;
  readonly body: string;
}

/** A client of a server that answers by `script`; `seen` collects the requests. */
function scripted(script: Script, options: Partial<ClientOptions> = {}): { client: StreamClient; seen: Seen[] } {
  const seen: Seen[] = [];
  const server = Bun.serve({
    port: 0,
    fetch: async (request) => {
      const { method, url, headers } = request;
      seen.push({ method, url: new URL(url), headers, body: await request.text() });
      return script(request, seen.length);
    },
  });
  servers.push(server);
  return { client: connect({ url: `${server.url.origin}/`, retry: QUICK, zstd: "native", ...options }), seen };
}

function answer(
  status: number,
  headers: Record<string, string> = {},
  body: Response["body"] | string = null,
): Response {
  return new Response(body, { status, headers });
}

test("create says everything in headers, and names are encoded segment by segment", async () => {
  const { client, seen } = scripted(() => answer(201, { ...OFFSET, "content-type": "text/plain" }));
  const created = await client.stream("shop/über 1?").create({
    contentType: "text/plain",
    ttlSeconds: 60,
    closed: true,
    retention: "max-age=1d",
    fork: { source: "a b/c", offset: "o0", subOffset: 2 },
    body: "first",
  });
  expect(created.unwrap()).toEqual({ created: true, contentType: "text/plain", nextOffset: "o1", closed: false });
  const [request] = seen;
  expect(request?.method).toBe("PUT");
  expect(request?.url.pathname).toBe("/v1/stream/shop/%C3%BCber%201%3F");
  expect(Object.fromEntries(request?.headers ?? [])).toMatchObject({
    "content-type": "text/plain",
    "stream-ttl": "60",
    "stream-closed": "true",
    "stream-retention": "max-age=1d",
    "stream-forked-from": "/v1/stream/a%20b/c",
    "stream-fork-offset": "o0",
    "stream-fork-sub-offset": "2",
  });
  expect(request?.body).toBe("first");
});

test.each(["", "a//b", "../a", "a/.", "a\nb"])("%j is no stream name", (name) => {
  expect(() => connect({ url: "http://127.0.0.1:1" }).stream(name)).toThrow(TypeError);
});

test("a URL that is not http is refused at once", () => {
  for (const url of ["ftp://example.com", "127.0.0.1:4437", "", "/api"]) {
    expect(() => connect({ url })).toThrow(/expected an http or https URL/);
  }
});

test("append carries producer, key, condition and authorization", async () => {
  const { client, seen } = scripted(() => answer(200, { ...OFFSET, "stream-closed": "true" }), {
    auth: () => Promise.resolve("Bearer t"),
  });
  const producer = { id: "p", epoch: 1, seq: 7 };
  const options = { contentType: "text/plain", key: "k", producer, ifMatch: "o0", close: true };
  const appended = await client.stream("s").append("body", options);
  expect(appended.unwrap()).toEqual({ nextOffset: "o1", duplicate: false, closed: true });
  expect(Object.fromEntries(seen[0]?.headers ?? [])).toMatchObject({
    authorization: "Bearer t",
    "stream-key": "k",
    "producer-id": "p",
    "producer-epoch": "1",
    "producer-seq": "7",
    "if-match": "o0",
    "stream-closed": "true",
  });
});

test("204 to a producer is a duplicate; 204 without one is not", async () => {
  const { client } = scripted(() => answer(204, OFFSET));
  const stream = client.stream("s");
  const producer = { id: "p", epoch: 0, seq: 0 };
  expect((await stream.append("x", { contentType: "text/plain", producer })).unwrap().duplicate).toBe(true);
  expect((await stream.append("x", { contentType: "text/plain" })).unwrap().duplicate).toBe(false);
});

test("appendJson keeps an array as one record; close sends no body and no content type", async () => {
  const { client, seen } = scripted(() => answer(204, OFFSET));
  await client.stream("s").appendJson([[1, 2], 3]);
  await client.stream("s").close();
  expect(seen[0]?.body).toBe("[[1,2],3]");
  for (const value of [undefined, 1n]) {
    expect(await rejection(client.stream("s").appendJson([value]))).toBeInstanceOf(TypeError);
  }
  expect(seen[1]?.body).toBe("");
  expect(seen[1]?.headers.get("content-type")).toBeNull();
  expect(seen[1]?.headers.get("stream-closed")).toBe("true");
});

test("a refusal carries status, code, message, hint and what the headers say", async () => {
  const body = JSON.stringify({ error: { code: "tail-moved", message: "The tail is elsewhere.", hint: "read first" } });
  const { client } = scripted(() => answer(412, { "stream-next-offset": "o9" }, body));
  const { error } = await failed(client.stream("s").append("x", { contentType: "text/plain", ifMatch: "o1" }));
  expect(Refused.is(error) && error).toMatchObject({
    status: 412,
    code: "tail-moved",
    message: "The tail is elsewhere.",
    hint: "read first",
    nextOffset: "o9",
  });
});

test("an error page of something else becomes a refusal, quoted", async () => {
  const { client } = scripted(() => answer(403, {}, "<h1>Forbidden</h1>"));
  const { error } = await failed(client.stream("s").read());
  expect(error).toMatchObject({ _tag: "Refused", status: 403, code: "http-403", message: "<h1>Forbidden</h1>" });
  const { error: headless } = await failed(client.stream("s").head());
  expect(headless).toMatchObject({ status: 403, code: "forbidden" });
  for (const [length, message] of [
    [10_000, "x".repeat(2_000)],
    [1_000_000, "a long page"],
  ] as const) {
    const long = scripted(() => answer(404, {}, "x".repeat(length)));
    const { error: notOurs } = await failed(long.client.stream("s").read());
    expect(notOurs).toMatchObject({ status: 404, code: "http-404", message });
  }
});

test("an answer without offsets is no stream's", async () => {
  const { client } = scripted(() => answer(200, {}, "hello"));
  const { error } = await failed(client.stream("s").read());
  expect(BrokenAnswer.is(error)).toBe(true);
});

test("nobody there is Unreachable, after the policy's attempts", async () => {
  let attempts = 0;
  const fetchNothing = (): Promise<Response> => {
    attempts++;
    return Promise.reject(new TypeError("connection refused"));
  };
  const client = connect({ url: "http://127.0.0.1:9", retry: QUICK, fetch: fetchNothing });
  const { error } = await failed(client.stream("s").head());
  expect(Unreachable.is(error) && error.message).toBe("cannot reach http://127.0.0.1:9: connection refused");
  expect(attempts).toBe(QUICK.maxAttempts);
});

test("429 and 503 are tried again for everything, after Retry-After", async () => {
  const overloaded = JSON.stringify({ error: { code: "overloaded", message: "Too much at once." } });
  for (const status of [429, 503]) {
    const { client, seen } = scripted((_, count) =>
      answer(count < 3 ? status : 204, { ...OFFSET, "retry-after": "0" }, count < 3 ? overloaded : undefined),
    );
    expect((await client.stream("s").append("x", { contentType: "text/plain" })).isOk()).toBe(true);
    expect(seen.length).toBe(3);
    expect(seen[2]?.body).toBe("x");
  }
});

test("a 503 of a gateway, which may have passed it on, is not repeated unless that is harmless", async () => {
  const { client, seen } = scripted((_, count) => answer(count < 3 ? 503 : 204, OFFSET, "upstream reset"));
  const { error } = await failed(client.stream("s").append("x", { contentType: "text/plain" }));
  expect([error, seen.length]).toEqual([expect.objectContaining({ status: 503, code: "http-503" }), 1]);
  const producer = { id: "p", epoch: 0, seq: 0 };
  (await client.stream("s").append("x", { contentType: "text/plain", producer })).unwrap();
  expect(seen.length).toBe(3);
});

test.each([408, 425, 500, 502, 504, 522, 530])("%d may pass, and a read is repeated", async (status) => {
  const { client, seen } = scripted((_, count) => answer(count < 2 ? status : 200, OFFSET, "x"));
  (await client.stream("s").read()).unwrap();
  expect(seen.length).toBe(2);
});

test.each([501, 505, 507])("%d will not pass", async (status) => {
  const { client, seen } = scripted(() => answer(status, OFFSET, "x"));
  await failed(client.stream("s").read());
  expect(seen.length).toBe(1);
});

test("credentials that do not come are waited for no longer than a server, and not after an abort", async () => {
  const never = new Promise<string>(() => undefined);
  const silent = scripted(() => answer(200, OFFSET), { auth: () => never, silenceLimitMs: 20 });
  const { error } = await failed(silent.client.stream("s").head());
  expect(Unreachable.is(error) && error.message).toContain("silent for 20 ms");
  const { client, seen } = scripted(() => answer(200, OFFSET), { auth: () => never });
  const abort = new AbortController();
  const heading = client.stream("s").head(abort.signal);
  abort.abort(new Error("no longer needed"));
  expect((await rejection(heading)).message).toBe("no longer needed");
  const broken = scripted(() => answer(200, OFFSET), { auth: () => Promise.reject(new Error("logged out")) });
  expect((await rejection(broken.client.stream("s").head())).message).toBe("logged out");
  expect([...silent.seen, ...seen, ...broken.seen]).toEqual([]);
});

test("an answer that is one JSON object may not fall silent either", async () => {
  const { client } = scripted(
    () => answer(200, {}, new ReadableStream({ start: (body) => body.enqueue(new TextEncoder().encode('{"a":')) })),
    { silenceLimitMs: 50 },
  );
  const { error } = await failed(client.serverDetails());
  expect(Unreachable.is(error) && error.message).toContain("silent for 50 ms");
});

test("an unclear outcome is repeated with a producer, and left alone without one", async () => {
  const producer = { id: "p", epoch: 0, seq: 0 };
  const trouble = scripted((_, count) => answer(count < 2 ? 500 : 204, OFFSET));
  const stream = trouble.client.stream("s");
  expect((await stream.append("x", { contentType: "text/plain", producer })).unwrap().duplicate).toBe(true);
  expect(trouble.seen.length).toBe(2);

  const alone = scripted(() => answer(500));
  expect((await alone.client.stream("s").append("x", { contentType: "text/plain" })).isErr()).toBe(true);
  expect((await alone.client.stream("s").delete()).isErr()).toBe(true);
  expect(alone.seen.length).toBe(2);
});

test("a server that stays silent is Unreachable", async () => {
  const { client } = scripted(() => new Promise<Response>(() => undefined), {
    silenceLimitMs: 20,
    retry: { ...QUICK, maxAttempts: 1 },
  });
  const { error } = await failed(client.stream("s").head());
  expect(Unreachable.is(error) && error.message).toContain("silent for 20 ms");
});

test("a body that falls silent ends the iteration with Unreachable", async () => {
  const { client } = scripted(
    () => {
      const body = new ReadableStream({ start: (controller) => controller.enqueue(new TextEncoder().encode("part")) });
      return new Response(body, { headers: OFFSET });
    },
    { silenceLimitMs: 50 },
  );
  const read = (await client.stream("s").read()).unwrap();
  let seen = "";
  const reading = (async () => {
    for await (const piece of read) seen += new TextDecoder().decode(piece);
  })();
  expect((await rejection(reading)).message).toContain("silent for 50 ms");
  expect(seen).toBe("part");
});

test("aborting rejects with the caller's reason", async () => {
  const abort = new AbortController();
  const { client } = scripted(() => new Promise<Response>(() => undefined));
  const heading = client.stream("s").head(abort.signal);
  abort.abort(new Error("no longer needed"));
  expect((await rejection(heading)).message).toBe("no longer needed");
});

test("read gives headers and bytes", async () => {
  const headers = {
    ...OFFSET,
    "stream-up-to-date": "true",
    "stream-closed": "TRUE",
    "content-type": "application/json; charset=utf-8",
    etag: '"e"',
  };
  const { client, seen } = scripted(() => answer(200, headers, "[1,2]"));
  const read = (await client.stream("s").read({ tail: 2, key: "k&" })).unwrap();
  expect(read).toMatchObject({ nextOffset: "o1", upToDate: true, closed: true, json: true, etag: '"e"' });
  let text = "";
  for await (const piece of read) text += new TextDecoder().decode(piece);
  expect(text).toBe("[1,2]");
  expect(seen[0]?.url.search).toBe("?tail=2&key=k%26");
});

test("list goes through all pages, and notices one that never ends", async () => {
  const page = (names: string[], cursor: string | null): Response =>
    Response.json({ streams: names.map((name) => ({ name })), cursor });
  const pages = scripted((request) =>
    new URL(request.url).searchParams.get("cursor") === "c1" ? page(["c"], null) : page(["a", "b"], "c1"),
  );
  const names: string[] = [];
  for await (const { name } of pages.client.list({ prefix: "x/" })) names.push(name);
  expect(names).toEqual(["a", "b", "c"]);
  expect(pages.seen[1]?.url.searchParams.get("prefix")).toBe("x/");

  const endless = scripted(() => page(["a"], "same"));
  const walk = (async () => {
    for await (const { name } of endless.client.list()) names.push(name);
  })();
  expect(BrokenAnswer.is(await rejection(walk))).toBe(true);
});

test("details are null while nothing changed", async () => {
  const { client, seen } = scripted((request) =>
    request.headers.get("if-none-match") === '"v1"'
      ? answer(304)
      : Response.json({ a: 1 }, { headers: { etag: '"v1"' } }),
  );
  const stream = client.stream("s");
  expect((await stream.details()).unwrap()).toEqual({ value: { a: 1 }, etag: '"v1"' });
  expect((await stream.details({ ifNoneMatch: '"v1"', wait: true })).unwrap()).toBeNull();
  expect(seen[1]?.url.search).toBe("?live=long-poll");
});

test("setRetention is a PUT with a header", async () => {
  const { client, seen } = scripted(() => answer(204));
  expect((await client.stream("a/b").setRetention("max-age=7d")).isOk()).toBe(true);
  expect(seen[0]?.url.pathname).toBe("/v1/stream/a/b/_retention");
  expect(seen[0]?.headers.get("stream-retention")).toBe("max-age=7d");
});

/** The error of a result that must be one. */
async function failed<T, E>(result: Promise<{ isErr(): boolean; error?: E } | T>): Promise<{ error: E | undefined }> {
  const settled = (await result) as { isErr(): boolean; error?: E };
  expect(settled.isErr()).toBe(true);
  return { error: settled.error };
}

test("a connection that breaks inside an answer is unreachable", async () => {
  const broken = (): Promise<Response> => {
    const body = new ReadableStream<Uint8Array>({
      start(controller) {
        controller.enqueue(new TextEncoder().encode('{"streams":'));
        controller.error(new TypeError("reset"));
      },
    });
    return Promise.resolve(new Response(body));
  };
  const client = connect({ url: "http://127.0.0.1:1", fetch: broken });
  const listed = await client.listPage({}, null);
  expect(listed.isErr() && listed.error).toMatchObject({ _tag: "Unreachable" });
  const details = await client.stream("a").details();
  expect(details.isErr() && details.error).toMatchObject({ _tag: "Unreachable" });
});
