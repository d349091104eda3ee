/**
 * `GET /v1/ws`: who may open the socket, what may be said on it, and what is answered. Following streams, appending and the limits
 * have files of their own.
 */

import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import * as fc from "fast-check";
import { socketJsonSchema } from "../../src/http/live/socket-messages.ts";
import { exchangeRaw, type RawAnswer } from "../support/raw-socket.ts";
import { sharedServer } from "../support/shared-server.ts";
import { type SocketClient, temporarySockets } from "../support/socket-client.ts";
import { call, errorOf, newStream, streamAt } from "../support/streams.ts";
import { rejection, until } from "../support/wait.ts";

const FRIEND = "https://app.example";
const EVIL = "http://evil.example";

const server = sharedServer();
const connect = temporarySockets();
const RUNS = Number(process.env["FC_RUNS"] ?? 200);
const seed = Number(process.env["FC_SEED"] ?? Date.now() % 2 ** 31);

/** Asks for the upgrade as bytes; null removes a header that a client sends by default. */
function handshake(
  at: { readonly url: string },
  headers: Readonly<Record<string, string | null>> = {},
  line = "GET /v1/ws HTTP/1.1",
): Promise<RawAnswer> {
  const all = {
    host: new URL(at.url).host,
    connection: "Upgrade",
    upgrade: "websocket",
    "sec-websocket-version": "13",
    "sec-websocket-key": "dGhlIHNhbXBsZSBub25jZQ==",
    "sec-websocket-protocol": "streams.v1",
    ...headers,
  };
  const lines = Object.entries(all).map(([name, value]) => (value === null ? "" : `${name}: ${value}\r\n`));
  return exchangeRaw(at, `${line}\r\n${lines.join("")}\r\n`);
}

function codeIn({ text }: RawAnswer): string {
  return /"code":"([^"]+)"/.exec(text)?.[1] ?? text;
}

describe("the handshake", () => {
  test("chooses the protocol among those that are offered, and says connected first", async () => {
    const client = await connect(server, { protocols: ["chat", "streams.v1", "streams.v2"] });
    expect(client.protocol).toBe("streams.v1");
    expect(client.received.map(({ message }) => message)).toEqual([
      { type: "connected", clientId: expect.stringMatching(/^c\d+$/), heartbeatMs: 30_000 },
    ]);
  });

  test("answers with the protocol and the key of RFC 6455", async () => {
    const { status, text } = await handshake(server, { "sec-websocket-protocol": "a, streams.v1 ,b" });
    expect(status).toBe(101);
    expect(text).toMatch(/^sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK\+xOo=\r$/im);
    expect(text).toMatch(/^sec-websocket-protocol: streams\.v1\r$/im);
    expect(text).not.toMatch(/^sec-websocket-extensions:/im);
  });

  test("the name in connected is the one in /health/clients, and is gone with the socket", async () => {
    const client = await connect(server);
    await newStream(server, "ws/health");
    await client.subscribe({ stream: "ws/health", id: "mine", offset: "now" });
    const first = client.received[0]?.message;
    const clientId = first?.type === "connected" ? first.clientId : "";
    const clients = async () => (await call("GET", `${server.url}/health/clients`)).text();
    const listed = (
      JSON.parse(await clients()) as { clients: { clientId: string; kind: string; streams: unknown[] }[] }
    ).clients;
    expect(listed.find((one) => one.clientId === clientId)).toMatchObject({
      kind: "websocket",
      streams: [{ id: "mine", stream: "ws/health", overflow: "resume" }],
    });
    client.close();
    await client.closed();
    expect(await clients()).not.toContain(`"${clientId}"`);
  });

  test.each([
    ["no protocol", { "sec-websocket-protocol": null }, 400, "protocol-missing"],
    ["another protocol", { "sec-websocket-protocol": "streams.v2, chat" }, 400, "protocol-missing"],
    ["a protocol in other letters", { "sec-websocket-protocol": "Streams.V1" }, 400, "protocol-missing"],
    ["no upgrade", { upgrade: null, connection: null }, 426, "upgrade-required"],
    ["another upgrade", { upgrade: "h2c" }, 426, "upgrade-required"],
    ["no key", { "sec-websocket-key": null }, 400, "upgrade-invalid"],
    ["another origin", { origin: EVIL }, 403, "origin-refused"],
    ["an origin that looks like this one", { origin: "http://127.0.0.1.evil.example" }, 403, "origin-refused"],
    ["an opaque origin", { origin: "null" }, 403, "origin-refused"],
    ["another host", { host: "evil.example" }, 403, "host-refused"],
    ["two hosts in one", { host: "localhost evil.example" }, 400, "host-invalid"],
  ])("refuses %s", async (_, headers, status, code) => {
    const answer = await handshake(server, headers);
    expect([answer.status, codeIn(answer)]).toEqual([status, code]);
  });

  test("an answer that asks for the upgrade says to what", async () => {
    expect((await handshake(server, { upgrade: null })).text).toMatch(/^upgrade: websocket\r$/im);
  });

  test("is open to programs, and to pages of this server itself", async () => {
    for (const headers of [{}, { Origin: server.url }]) {
      const client = await connect(server, { headers });
      await client.settled();
    }
    expect((await handshake(server, { host: "localhost", origin: "https://localhost" })).status).toBe(101);
  });

  test("a client that offers nothing hears no", async () => {
    await rejection(connect(server, { protocols: [] }));
  });

  test.each(["POST", "PUT", "DELETE", "HEAD"])("%s is not for this path", async (method) => {
    const answer = await call(method, `${server.url}/v1/ws`);
    expect([answer.status, answer.headers.get("allow")]).toEqual([405, "GET, OPTIONS"]);
  });

  test("streams may be named as the path is", async () => {
    const stream = await newStream(server, "ws");
    await stream.post("1");
    expect(await stream.records()).toEqual([1]);
    const answer = await call("GET", `${server.url}/v1/ws/`);
    expect([answer.status, (await errorOf(answer)).code]).toEqual([404, "no-route"]);
  });
});

describe("with --cors-origin", () => {
  const friendly = sharedServer({ args: ["--cors-origin", FRIEND] });

  test("pages of that origin may open it, of others not", async () => {
    const client = await connect(friendly, { headers: { Origin: FRIEND } });
    await client.settled();
    await (await connect(friendly, { headers: { Origin: friendly.url } })).settled();
    expect((await handshake(friendly, { origin: EVIL })).status).toBe(403);
  });
});

describe("messages", () => {
  test("a ping is answered, with its ref", async () => {
    const client = await connect(server);
    client.send({ type: "ping" });
    expect(await client.next("pong")).toEqual({ type: "pong" });
    for (const ref of ["", "r", "\ud800", "x".repeat(1024), 0, -1.5, 1e308]) {
      client.send({ type: "ping", ref });
      expect(await client.next("pong")).toEqual({ type: "pong", ref });
    }
  });

  const reading = { type: "subscribe", stream: "ws/nothing", offset: "-1" };
  const writing = { type: "append", stream: "ws/nothing", body: "1" };
  test.each([
    ["nothing", ""],
    ["space", " \n"],
    ["no JSON", "{"],
    ["two JSON texts", '{"type":"ping"}{"type":"ping"}'],
    ["a byte order mark", '\ufeff{"type":"ping"}'],
    ["null", "null"],
    ["a number", "1"],
    ["a text", '"ping"'],
    ["an array", '[{"type":"ping"}]'],
    ["no type", "{}"],
    ["an unknown type", '{"type":"hello"}'],
    ["a message of the server", '{"type":"pong"}'],
    ["a type that every object has", '{"type":"__proto__"}'],
    ["a type that is none", '{"type":{"toString":1}}'],
    ["nesting", "[".repeat(500_000)],
    ["nesting in a field", `{"type":"ping","ref":${"[".repeat(5000)}${"]".repeat(5000)}}`],
    ["an unknown field", JSON.stringify({ ...reading, offest: "1" })],
    ["a field that every object has", '{"type":"ping","__proto__":{"ref":"r"}}'],
    ["a ref that is too long", JSON.stringify({ type: "ping", ref: "x".repeat(1025) })],
    ["a ref that is no number", '{"type":"ping","ref":1e400}'],
    ["a ref that is null", '{"type":"ping","ref":null}'],
    ["no stream", JSON.stringify({ ...reading, stream: undefined })],
    ["an empty stream", JSON.stringify({ ...reading, stream: "" })],
    ["an empty id", JSON.stringify({ ...reading, id: "" })],
    ["an id that is too long", JSON.stringify({ ...reading, id: "x".repeat(1025) })],
    ["an offset that is a number", JSON.stringify({ ...reading, offset: -1 })],
    ["a tail that is a text", JSON.stringify({ type: "subscribe", stream: "a", tail: "1" })],
    ["a tail that is negative", JSON.stringify({ type: "subscribe", stream: "a", tail: -1 })],
    ["a tail that is not whole", JSON.stringify({ type: "subscribe", stream: "a", tail: 1.5 })],
    ["an unknown overflow", JSON.stringify({ ...reading, overflow: "drop-newest" })],
    ["an unsubscribe without id", '{"type":"unsubscribe"}'],
    ["a body that is JSON", JSON.stringify({ ...writing, body: { a: 1 } })],
    ["base64 that is none", JSON.stringify({ type: "append", stream: "a", base64: "a*==" })],
    ["base64 for URLs", JSON.stringify({ type: "append", stream: "a", base64: "_-8=" })],
    ["half a producer", JSON.stringify({ ...writing, producer: { id: "p", epoch: 0 } })],
    ["a producer that counts in texts", JSON.stringify({ ...writing, producer: { id: "p", epoch: "0", seq: "0" } })],
    ["a close that is a text", JSON.stringify({ ...writing, close: "true" })],
    ["a content type that is empty", JSON.stringify({ ...writing, contentType: "" })],
  ])("that are none get an error, and the conversation goes on: %s", async (_, text) => {
    const client = await connect(server);
    client.sendRaw(text);
    const { error } = await client.next("error");
    expect(error).toEqual({ code: "message-invalid", message: expect.stringMatching(/./) });
    expect(error.message.length).toBeLessThan(1000);
    await client.settled();
    expect(client.received).toHaveLength(3);
  });

  test("the error repeats the ref, of whatever it is", async () => {
    const client = await connect(server);
    for (const [text, ref] of [
      ['{"type":"hello","ref":"a"}', "a"],
      ['{"ref":7}', 7],
      ['{"type":"append","ref":"b","stream":1}', "b"],
    ] as const) {
      client.sendRaw(text);
      expect((await client.next("error")).ref).toBe(ref);
    }
  });

  test("the schema in the docs is the one the server goes by", () => {
    const path = join(import.meta.dir, "../../docs/websocket.schema.json");
    const written: unknown = JSON.parse(readFileSync(path, "utf8"));
    expect(written).toEqual(JSON.parse(JSON.stringify(socketJsonSchema())));
  });
});

const stream = fc.oneof(
  { weight: 8, arbitrary: fc.constantFrom("ws/fuzz", "ws/fuzz-text") },
  { weight: 1, arbitrary: fc.constantFrom("live.metrics", "__ds/x", "../a", "a\nb", "ws/fuzz/_details") },
  { weight: 1, arbitrary: fc.string({ unit: "binary" }) },
);
const odd = fc.string({ unit: "binary" });
const count = fc.oneof({ weight: 9, arbitrary: fc.nat({ max: 3 }) }, { weight: 1, arbitrary: fc.double() });
const ref = fc.oneof({ weight: 9, arbitrary: fc.nat() }, { weight: 1, arbitrary: fc.jsonValue() });
const start = fc.oneof(
  fc.record({ offset: fc.constantFrom("-1", "now", "0000000000000001_0000000000000000") }),
  fc.record({ from: fc.constantFrom("-15m", "2020-01-01T00:00:00Z", "-0s") }),
  fc.record({ tail: count }),
  fc.record({ offset: odd, from: odd, tail: count }, { requiredKeys: [] }),
);
/** All of a message's fields, none or some: most are sound, some are near misses. */
const subscribe = fc
  .tuple(
    fc.record({ type: fc.constant("subscribe"), stream }),
    start,
    fc.record(
      { id: odd, key: odd, filter: fc.oneof(fc.constantFrom("n > 1", "has(a)"), odd), overflow: fc.constant("resume") },
      { requiredKeys: [] },
    ),
  )
  .map((parts) => Object.assign({}, ...parts) as object);
/** A field that is left out most of the time, so that some messages are sound. */
function seldom<T>(arbitrary: fc.Arbitrary<T>): fc.Arbitrary<T | undefined> {
  return fc.oneof({ weight: 9, arbitrary: fc.constant(undefined) }, { weight: 1, arbitrary });
}
const append = fc.record({
  type: fc.constant("append"),
  stream,
  ref,
  body: fc.oneof({ weight: 9, arbitrary: fc.json() }, { weight: 1, arbitrary: odd }),
  contentType: fc.oneof(fc.constantFrom("application/json", "text/plain"), seldom(odd)),
  key: seldom(odd),
  seq: seldom(odd),
  ifMatch: seldom(fc.oneof(fc.constantFrom("-1", "now"), odd)),
  producer: seldom(fc.record({ id: fc.oneof(fc.constantFrom("p", "q"), odd), epoch: count, seq: count })),
  // A closed stream refuses everything that comes after.
  close: fc.integer({ min: 0, max: 300 }).map((number) => number === 0),
});
const bytes = fc.record({ type: fc.constant("append"), ref, stream, base64: fc.oneof(fc.base64String(), odd) });
const small = fc.record({ type: fc.constantFrom("ping", "unsubscribe"), ref, id: odd }, { requiredKeys: ["type"] });
const message = fc
  .tuple(
    fc.oneof(subscribe, append, bytes, small),
    fc.oneof({ weight: 9, arbitrary: fc.constant({}) }, { weight: 1, arbitrary: fc.dictionary(odd, fc.jsonValue()) }),
  )
  .map((parts) => JSON.stringify(Object.assign({}, ...parts)));

test(`whatever is said is answered once, and the server stays well (seed ${seed})`, async () => {
  await newStream(server, "ws/fuzz");
  await newStream(server, "ws/fuzz-text", "text/plain");
  const text = fc.oneof(
    { weight: 6, arbitrary: message },
    { weight: 1, arbitrary: fc.json() },
    { weight: 1, arbitrary: fc.string({ unit: "binary" }) },
  );
  await fc.assert(
    fc.asyncProperty(fc.array(text, { minLength: 1, maxLength: 30 }), async (texts) => {
      const client = await connect(server);
      for (const one of texts) client.sendRaw(one);
      await client.settled();
      // What waits for the disk comes a little later.
      await until("each is answered", () => answers(client) >= texts.length);
      await client.settled();
      expect(answers(client)).toBe(texts.length);
      expect(client.violations()).toEqual([]);
      client.close();
    }),
    { seed, numRuns: RUNS, endOnFailure: true },
  );
  expect((await call("GET", `${server.url}/health`)).status).toBe(200);
  const client = await connect(server);
  const after = await newStream(server, "ws/after-fuzz");
  expect(await client.append({ stream: after.name, body: "1" })).toMatchObject({ type: "appended" });
  expect(await after.records()).toEqual([1]);
  expect((await streamAt(server, "ws/fuzz").head()).status).toBe(200);
  expect(server.stderr()).not.toContain("failed");
}, 120_000);

/** Messages that answer something but the round trips. */
function answers({ received }: SocketClient): number {
  return received.filter(({ message: { type, ...said } }) => {
    if (type === "pong") return !("ref" in said && String(said.ref).startsWith("settled "));
    if (type === "unsubscribed") return "reason" in said && said.reason === "request";
    return type === "error" || type === "subscribed" || type === "appended";
  }).length;
}
