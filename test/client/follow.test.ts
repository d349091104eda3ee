/**
 * Following a real server in every mode: each record once and in order over connections that are cut and servers that are
 * killed, one WebSocket for all streams of a client, readers that do not read, and credentials.
 * Every run prints its seed when it fails; `TEST_SEED` repeats it.
 */

import { expect, test } from "bun:test";
import {
  BrokenAnswer,
  connect,
  type FollowOptions,
  type LiveMode,
  Refused,
  type StreamClient,
} from "../../src/client/client.ts";
import { keyedDirectory, signedBy } from "../support/auth-world.ts";
import { startFlakyProxy } from "../support/flaky-proxy.ts";
import { runSeed, seededRandom } from "../support/random.ts";
import { sharedServer, temporaryServers } from "../support/shared-server.ts";
import { newStream, type StreamUnderTest } from "../support/streams.ts";
import { rejection, until, within } from "../support/wait.ts";

const MODES: readonly LiveMode[] = ["auto", "long-poll", "sse", "websocket"];
const RETRY = { maxAttempts: 50, baseDelayMs: 5, maxDelayMs: 50 };
const decoder = new TextDecoder();
const server = sharedServer({ args: ["--durability", "os", "--long-poll-timeout", "1s"] });
const start = temporaryServers();

interface Reader {
  readonly mode: LiveMode;
  /** Whole values of JSON streams, else pieces. */
  readonly parts: string[];
  readonly done: Promise<void>;
}

function follow(client: StreamClient, name: string, options: FollowOptions): Reader {
  const parts: string[] = [];
  const run = async (): Promise<void> => {
    for await (const delivery of client.stream(name).follow(options))
      for (const part of delivery.parts) parts.push(decoder.decode(part));
  };
  return { mode: options.live ?? "auto", parts, done: run() };
}

async function liveClients(): Promise<{ kind: string; streams: { stream: string }[] }[]> {
  const answer = (await (await fetch(`${server.url}/health/clients`)).json()) as { clients: [] };
  return answer.clients;
}

test("over connections that are cut: each record once, in order, in every mode and of every type", async () => {
  const seed = runSeed();
  const random = seededRandom(seed);
  const proxy = await startFlakyProxy(server, random, 100);
  const sockets: WebSocket[] = [];
  class Recorded extends WebSocket {
    constructor(url: string, protocols: string[]) {
      super(url, protocols);
      sockets.push(this);
    }
  }
  try {
    const types = ["application/json", "text/plain", "application/octet-stream"];
    const streams = await Promise.all(types.map((type, at) => newStream(server, `follow/cut/${at}`, type)));
    const expected = streams.map((): string[] => []);
    const number = (at: number, stream: number): string => (stream === 0 ? `{"n":${at}.0}` : `${at}é\n`);
    const write = async (stream: StreamUnderTest, index: number, from: number, to: number): Promise<void> => {
      for (let at = from; at < to; at++) {
        const text = number(at, index);
        expected[index]?.push(text);
        expect((await stream.post(text)).status).toBe(204);
        // The proxy's cuts spare a socket that lives on after its first kilobytes.
        if (random.below(20) === 0) sockets.at(-1)?.terminate();
        await Bun.sleep(random.below(10));
      }
    };
    await Promise.all(streams.map((stream, index) => write(stream, index, 0, 5)));
    // One client for each mode, so that those by WebSocket share theirs.
    const readers = MODES.flatMap((live) => {
      const client = connect({ url: proxy.url, retry: RETRY, WebSocket: Recorded });
      return streams.map(({ name }) => follow(client, name, { live }));
    });
    await Promise.all(streams.map((stream, index) => write(stream, index, 5, 120)));
    proxy.heal();
    for (const stream of streams) expect((await stream.close()).status).toBe(204);
    await within(`the ends, seed ${seed}`, Promise.all(readers.map(({ done }) => done)), 15_000);
    for (const [at, { mode, parts }] of readers.entries()) {
      const index = at % streams.length;
      const wanted = expected[index] ?? [];
      const label = `${mode} ${types[index]}, seed ${seed}`;
      if (index === 0) expect([label, parts]).toEqual([label, wanted]);
      else expect([label, parts.join("")]).toEqual([label, wanted.join("")]);
    }
    expect(proxy.cuts()).toBeGreaterThan(10);
    expect(sockets.length).toBeGreaterThan(5);
  } finally {
    proxy.close();
  }
}, 60_000);

test("over servers that are killed: nothing is lost or comes twice, and all modes come back by themselves", async () => {
  let world = await start();
  const port = new URL(world.url).port;
  const { dataDir, url } = world;
  const stream = await newStream(world, "killed");
  const client = connect({ url, retry: { ...RETRY, maxDelayMs: 200 } });
  const readers = MODES.map((live) => follow(client, stream.name, { live }));
  let written = 0;
  for (let round = 0; round < 3; round++) {
    if (round > 0) world = await start({ dataDir, args: ["--port", port] });
    for (let count = 0; count < 10; count++) expect((await stream.post(String(written++))).status).toBe(204);
    await until("all have it", () => readers.every(({ parts }) => parts.length === written), 10_000);
    // Some are told before the server dies, some only after it has come back.
    expect((await stream.post(String(written++))).status).toBe(204);
    await world.kill("SIGKILL");
  }
  await start({ dataDir, args: ["--port", port] });
  await stream.close();
  await within("the ends", Promise.all(readers.map(({ done }) => done)), 10_000);
  const expected = Array.from({ length: written }, (_, at) => String(at));
  for (const { mode, parts } of readers) expect([mode, parts]).toEqual([mode, expected]);
}, 60_000);

test("a hundred streams by WebSocket are one connection, which ends with the last of them", async () => {
  const streams = await Promise.all(Array.from({ length: 100 }, (_, at) => newStream(server, `follow/many/${at}`)));
  const client = connect({ url: server.url, retry: RETRY });
  const readers = streams.map(({ name }) => follow(client, name, { live: "websocket" }));
  const ours = async (): Promise<number[]> => {
    const sockets = (await liveClients()).filter(({ kind }) => kind === "websocket");
    return sockets.map(
      ({ streams: followed }) => followed.filter(({ stream }) => stream.startsWith("follow/many/")).length,
    );
  };
  await until("all are on one connection", async () => (await ours()).join() === "100");
  await Promise.all(streams.map((stream, at) => stream.post(`${at}`)));
  await until("all have come", () => readers.every(({ parts }) => parts.length === 1));
  expect(readers.map(({ parts }) => parts.join())).toEqual(streams.map((_, at) => String(at)));
  await Promise.all(streams.map((stream) => stream.close()));
  await within("the ends", Promise.all(readers.map(({ done }) => done)));
  await until("the connection is gone", async () => (await ours()).length === 0);
});

test("a WebSocket reader that does not read is unsubscribed, and goes on from its offset", async () => {
  const stream = await newStream(server, "follow/slow");
  const client = connect({ url: server.url, retry: RETRY });
  const deliveries = client.stream(stream.name).follow({ live: "websocket" });
  const following = async (): Promise<boolean> =>
    (await liveClients()).some(({ streams }) => streams.some((followed) => followed.stream === stream.name));
  await deliveries.next();
  await deliveries.next();
  expect(await following()).toBe(true);
  // 20 MB, five times what is kept.
  const padding = "x".repeat(100_000);
  for (let at = 0; at < 200; at++) expect((await stream.post(JSON.stringify({ at, padding }))).status).toBe(204);
  await until("it is unsubscribed", async () => !(await following()));
  await stream.close();
  const seen: unknown[] = [];
  for await (const { parts } of deliveries)
    for (const part of parts) seen.push((JSON.parse(decoder.decode(part)) as { at: number }).at);
  expect(seen).toEqual(Array.from({ length: 200 }, (_, at) => at));
}, 60_000);

test("with credentials: a signed token opens the socket; without one it says what is missing", async () => {
  const keys = keyedDirectory({ admin: ["all"] });
  const guarded = await start({ dataDir: keys.dataDir, args: ["--auth", "api-key"] });
  const auth = `Bearer ${keys.tokens.admin}`;
  const retry = { ...RETRY, maxAttempts: 3 };
  const plain = connect({ url: guarded.url, auth, retry });
  const stream = plain.stream("s");
  expect((await stream.create({ contentType: "application/json" })).isOk()).toBe(true);
  let asked = 0;
  const socketAccess = async (): Promise<string> => {
    asked++;
    return (await signedBy(keys.tokens.admin, guarded, ["s"])).access;
  };
  const reader = follow(connect({ url: guarded.url, auth, retry, socketAccess }), "s", { live: "websocket" });
  await until("the token was asked for", () => asked === 1);
  expect((await stream.appendJson([1])).isOk()).toBe(true);
  await until("it has come", () => reader.parts.length === 1);
  expect((await stream.close()).isOk()).toBe(true);
  await within("the end", reader.done);

  const open = plain.stream("open");
  expect((await open.create({ contentType: "application/json" })).isOk()).toBe(true);
  const failure = await within("the failure", rejection(follow(plain, "open", { live: "websocket" }).done));
  expect(BrokenAnswer.is(failure) && failure.hint).toContain("socketAccess");
  // The token is for another stream: HTTP, which may, gives the records all the same.
  const client = connect({ url: guarded.url, auth, retry, socketAccess });
  const other = follow(client, "open", { live: "websocket" });
  expect((await open.appendJson([2])).isOk()).toBe(true);
  await until("it has come", () => other.parts.length === 1);
  expect((await open.delete()).isOk()).toBe(true);
  const gone = await within("the refusal", rejection(other.done), 30_000);
  expect(Refused.is(gone) && gone.status).toBe(404);
}, 60_000);

test("a stream deleted under its readers ends all of them with what the server says", async () => {
  const stream = await newStream(server, "follow/deleted");
  const client = connect({ url: server.url, retry: RETRY });
  const readers = MODES.map((live) => follow(client, stream.name, { live }));
  const ends = Promise.all(readers.map(({ done }) => rejection(done)));
  await stream.post("1");
  await until("all have it", () => readers.every(({ parts }) => parts.length === 1));
  await stream.delete();
  for (const failure of await within("the ends", ends, 10_000)) expect(Refused.is(failure) && failure.status).toBe(404);
}, 60_000);

test.each([{ tail: 2_500 }, { from: "-1h" }])(
  "begun by %o, an answer that breaks is resumed where it was",
  async (range) => {
    const name = "tail" in range ? "resumed/tail" : "resumed/from";
    const stream = await newStream(server, name);
    for (let n = 0; n < 5_000; n += 500) {
      await stream.post(
        JSON.stringify(Array.from({ length: 500 }, (_, index) => ({ n: n + index, text: "x".repeat(100) }))),
      );
    }
    let answers = 0;
    const breaking = async (url: string, init: RequestInit): Promise<Response> => {
      const answer = await fetch(url, init);
      if (++answers > 3) return answer;
      // More comes meanwhile, so the last 2,500 are others.
      await stream.post(JSON.stringify([{ n: 4_999 + answers, text: "" }]));
      const bytes = await answer.bytes();
      let at = 0;
      const body = new ReadableStream<Uint8Array>({
        pull: (controller) => {
          if (at > bytes.length / 2) return controller.error(new TypeError("reset"));
          controller.enqueue(bytes.subarray(at, (at += 10_000)));
        },
      });
      return new Response(body, { status: answer.status, headers: answer.headers });
    };
    const client = connect({ url: server.url, fetch: breaking, retry: RETRY, zstd: "native" });
    const numbers: number[] = [];
    for await (const { values } of client
      .stream(name)
      .json<{ n: number }>()
      .follow({ ...range, live: "long-poll" })) {
      numbers.push(...values.map(({ n }) => n));
      if (numbers.at(-1) === 5_002) break;
    }
    const first = "tail" in range ? 2_500 : 0;
    expect(numbers).toEqual(Array.from({ length: 5_003 - first }, (_, index) => first + index));
    expect(answers).toBeGreaterThan(3);
  },
);
