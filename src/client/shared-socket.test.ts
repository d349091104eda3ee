/**
 * Following by WebSocket against a model of a server: one connection for all streams of a client, each record once and in
 * order whatever breaks, bounded memory for readers that do not read, and clear errors where there are no WebSockets.
 */

import { expect, test } from "bun:test";
import * as fc from "fast-check";
import { type Asked, type Fate, type ModelOptions, ModelSockets } from "../../test/support/model-sockets.ts";
import { rejection, until, within } from "../../test/support/wait.ts";
import { BrokenAnswer, type ClientOptions, connect, type FollowOptions, Refused, type StreamClient } from "./client.ts";

const decoder = new TextDecoder();
const RETRY = { maxAttempts: 3, baseDelayMs: 1, maxDelayMs: 2 };

function world(
  options: ModelOptions = {},
  more: Partial<ClientOptions> = {},
): { model: ModelSockets; client: StreamClient } {
  const model = new ModelSockets(options);
  const { fetch, WebSocket } = model;
  return { model, client: connect({ url: "http://model", fetch, WebSocket, retry: RETRY, page: null, ...more }) };
}

/** Follows until the stream is closed; what came so far is in `values`. */
function reader(
  client: StreamClient,
  name: string,
  options: FollowOptions = {},
): { values: unknown[]; done: Promise<void> } {
  const values: unknown[] = [];
  const run = async (): Promise<void> => {
    for await (const { parts } of client.stream(name).follow({ live: "websocket", ...options })) {
      for (const part of parts) values.push(JSON.parse(decoder.decode(part)));
    }
  };
  return { values, done: run() };
}

test("many streams share one connection, which is closed when the last reader leaves", async () => {
  const { model, client } = world();
  const names = ["a", "b", "c", "a"];
  for (const name of new Set(names)) model.append(name, `${name} 0`);
  const readers = names.map((name) => reader(client, name));
  await until("all are subscribed", () => model.asked.length === 4);
  // The same id for everyone who can have it: the server encodes once per id.
  expect(model.asked.map(({ id }) => id).sort()).toEqual(["a", "a 2", "b", "c"]);
  for (const name of ["a", "b", "c"]) model.append(name, `${name} 1`, { of: name });
  await until("all has come", () => readers.every(({ values }) => values.length === 3));
  for (const [at, name] of names.entries())
    expect(readers[at]?.values).toEqual([`${name} 0`, `${name} 1`, { of: name }]);
  expect(model.sockets.length).toBe(1);
  expect(model.sockets[0]?.url).toBe("ws://model/v1/ws");

  for (const name of ["a", "b"]) model.close(name);
  await until("three have ended", () => model.open().length === 1 && model.asked.length >= 4);
  model.append("c", "last");
  model.close("c");
  await within("the ends", Promise.all(readers.map(({ done }) => done)));
  expect(readers[2]?.values.at(-1)).toBe("last");
  await until("the connection is closed", () => model.open().length === 0);
  expect(model.sockets.length).toBe(1);
});

test("values keep their spelling, whatever their text looks like", async () => {
  const { model, client } = world();
  const texts = ["1.0", "12345678901234567890", '",\\"records\\":["', '{"records":[1], "a" : 1e400}', '",]}{"'];
  const parts: string[] = [];
  const ended = (async () => {
    for await (const delivery of client.stream("s").follow({ live: "websocket" }))
      parts.push(...delivery.parts.map((part) => decoder.decode(part)));
  })();
  await until("it is subscribed", () => model.asked.length === 1);
  model.stream("s").records.push(...texts);
  model.close("s");
  await within("the end", ended);
  expect(parts).toEqual(texts);
});

test("whatever breaks, each record comes once and in order to every reader", async () => {
  const fate = fc.oneof(fc.record({ cut: fc.integer({ min: 1, max: 12 }) }), fc.constantFrom<Fate>("refused", null));
  let cuts = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(fate, { maxLength: 8 }), fc.integer({ min: 1, max: 4 }), async (fates, count) => {
      // The first is well: a client that never had a connection gives up sooner.
      const { model, client } = world({ fates: [{ cut: 3 }, ...fates] });
      const names = Array.from({ length: count }, (_, at) => `s${at}`);
      const readers = names.map((name) => reader(client, name));
      for (let round = 0; round < 12; round++) {
        for (const name of names) model.append(name, `${name} ${round}`);
        await new Promise((resolve) => setTimeout(resolve, round % 3));
      }
      for (const name of names) model.close(name);
      await within("the ends", Promise.all(readers.map(({ done }) => done)));
      cuts += model.sockets.length - 1;
      for (const [at, name] of names.entries())
        expect(readers[at]?.values).toEqual(Array.from({ length: 12 }, (_, round) => `${name} ${round}`));
    }),
    { numRuns: 40 },
  );
  expect(cuts).toBeGreaterThan(40);
}, 60_000);

test("a reader that does not read costs a bounded mailbox, and gets everything when it reads again", async () => {
  const { model, client } = world();
  const deliveries = client.stream("s").follow({ live: "websocket" });
  await deliveries.next();
  expect((await deliveries.next()).value).toMatchObject({ parts: [], upToDate: true });
  const total = 10_000;
  const other = reader(client, "t");
  for (let sent = 0; sent < total; sent += 10) {
    model.append("s", ...Array.from({ length: 10 }, (_, at) => sent + at));
    if (sent % 500 === 0) await new Promise((resolve) => setTimeout(resolve, 0));
  }
  await until("it is given up", () => model.asked.some(({ type, id }) => type === "unsubscribe" && id === "s"));
  // Others on the connection are not held up.
  model.append("t", "beside");
  await until("the other reader has it", () => other.values.length === 1);
  model.close("s");
  const values: unknown[] = [];
  for await (const { parts } of deliveries) for (const part of parts) values.push(JSON.parse(decoder.decode(part)));
  expect(values).toEqual(Array.from({ length: total }, (_, at) => at));
  const subscribes = model.asked.filter(({ type, stream }) => type === "subscribe" && stream === "s");
  expect(subscribes.length).toBeGreaterThan(1);
  // What had waited was kept, and nothing beyond the bound of 1,000 messages of two records.
  expect(Number(subscribes[1]?.offset?.slice(1))).toBeGreaterThan(0);
  expect(Number(subscribes[1]?.offset?.slice(1))).toBeLessThanOrEqual(2000);
  expect(model.sockets.length).toBe(1);
  model.close("t");
  await within("the end", other.done);
});

test("what the socket refuses is asked over HTTP, which says why or gives the records", async () => {
  const gone = Response.json({ error: { code: "gone", message: "deleted" } }, { status: 410 });
  let isGone = false;
  const { model, client } = world({
    refuses: ({ stream }) => (stream === "full" || isGone ? "too-many-subscriptions" : null),
    intercept: (url) => (isGone && url.searchParams.has("live") ? gone : null),
  });
  const full = reader(client, "full");
  await until("it was refused", () => model.asked.length > 0);
  model.append("full", 1, 2);
  await until("it has come", () => full.values.length === 2);
  isGone = true;
  const failure = await within("the refusal", rejection(full.done));
  expect(Refused.is(failure) && failure.status).toBe(410);
  expect(full.values).toEqual([1, 2]);
});

test("what was asked over HTTP and broke is completed over HTTP, where what came of it can be skipped", async () => {
  let polls = 0;
  const { model, client } = world({
    refuses: () => {
      if (polls > 0) return null;
      model.append("s", 1, 2);
      return "overloaded";
    },
    intercept: (url) => {
      if (!url.searchParams.has("live") || polls++ > 0) return null;
      const pieces = ["[1,", "2"].map((text) => new TextEncoder().encode(text));
      const body = new ReadableStream<Uint8Array>({
        pull(controller) {
          const piece = pieces.shift();
          if (piece === undefined) controller.error(new TypeError("connection lost"));
          else controller.enqueue(piece);
        },
      });
      return new Response(body, { headers: { "content-type": "application/json", "stream-next-offset": "o2" } });
    },
  });
  const broken = reader(client, "s");
  await until("all has come", () => broken.values.length >= 2);
  model.append("s", 3);
  model.close("s");
  await within("the end", broken.done);
  expect(broken.values).toEqual([1, 2, 3]);
  expect(polls).toBeGreaterThan(1);
});

test("a reader that leaves takes its subscription along; its id is free after the server's answer", async () => {
  const { model, client } = world();
  const other = reader(client, "t");
  const abort = new AbortController();
  const left = rejection(reader(client, "s", { signal: abort.signal }).done);
  await until("both are subscribed", () => model.asked.length === 2);
  await new Promise((resolve) => setTimeout(resolve, 5));
  abort.abort(new Error("enough"));
  expect((await left).message).toBe("enough");
  const early = reader(client, "s");
  await until("it is there again", () => model.asked.length === 4);
  const late = reader(client, "s");
  await until("so is another", () => model.asked.length === 5);
  expect(model.asked.slice(2).map(({ type, id }) => [type, id])).toContainEqual(["unsubscribe", "s"]);
  for (const name of ["s", "t"]) model.append(name, name);
  for (const name of ["s", "t"]) model.close(name);
  await within("the ends", Promise.all([early.done, late.done, other.done]));
  for (const { values } of [early, late]) expect(values).toEqual(["s"]);
});

test("a subscription left before it was answered is left for good", async () => {
  const abort = new AbortController();
  const onAsked = ({ stream }: Asked): void => {
    if (stream === "s") abort.abort(new Error("enough"));
  };
  const { model, client } = world({ onAsked });
  const other = reader(client, "t");
  await until("there is a connection", () => model.asked.length === 1);
  await rejection(reader(client, "s", { signal: abort.signal }).done);
  await until("it is left", () => model.asked.some(({ type, id }) => type === "unsubscribe" && id === "s"));
  model.close("t");
  await other.done;
});

test("an id is free only after the last word about it, also when both sides end a subscription at once", async () => {
  const { model, client } = world();
  const other = reader(client, "t");
  const abort = new AbortController();
  const left = rejection(reader(client, "s", { signal: abort.signal }).done);
  await until("both are subscribed", () => model.asked.length === 2);
  await new Promise((resolve) => setTimeout(resolve, 5));
  abort.abort(new Error("enough"));
  // Asked for in this very turn, and on its way: what the server says now it says before it has heard.
  for (let turn = 0; turn < 50 && model.asked.length < 3; turn++) await Promise.resolve();
  expect(model.asked.at(-1)).toMatchObject({ type: "unsubscribe", id: "s" });
  model.drop("s");
  await left;
  const again = reader(client, "s");
  await until("it is subscribed again", () => model.asked.length === 4);
  expect(model.asked.at(-1)).toMatchObject({ type: "subscribe", id: "s 2" });
  for (const name of ["s", "t"]) {
    model.append(name, name);
    model.close(name);
  }
  await within("the ends", Promise.all([again.done, other.done]));
  expect(again.values).toEqual(["s"]);
});

test("a silent connection is given up, and one that lost its readers' trust is opened by one attempt for all", async () => {
  const { model, client } = world({ heartbeatMs: 20 });
  const readers = Array.from({ length: 20 }, (_, at) => reader(client, `s${at}`));
  await until("all are subscribed", () => model.asked.length === 20);
  await until("it was opened again, and all came back", () => model.sockets.length >= 2 && model.asked.length >= 40);
  expect(model.sockets.length).toBeLessThan(6);
  for (let at = 0; at < 20; at++) model.close(`s${at}`);
  await within("the ends", Promise.all(readers.map(({ done }) => done)));
});

test("attempts that fail are shared and spaced, not one per reader", async () => {
  const fates: Fate[] = [{ cut: 30 }, ...Array.from({ length: 6 }, () => "refused" as const)];
  const { model, client } = world(
    { fates },
    { retry: { maxAttempts: 3, baseDelayMs: 10, maxDelayMs: 40 }, random: () => 0 },
  );
  const readers = Array.from({ length: 20 }, (_, at) => reader(client, `s${at}`));
  await until("all are subscribed", () => model.asked.length === 20);
  const startedMs = performance.now();
  model.sockets[0]?.cut();
  await until("all came back", () => model.asked.length === 40);
  expect(model.sockets.length).toBe(8);
  // 5 + 10 + 20 + 20 + 20 + 20 + 20, jittered to the shortest.
  expect(performance.now() - startedMs).toBeGreaterThan(100);
  for (let at = 0; at < 20; at++) model.close(`s${at}`);
  await within("the ends", Promise.all(readers.map(({ done }) => done)));
});

test("where there is no WebSocket, asking for one is a clear error; nothing else needs one", async () => {
  const { model, client } = world({}, { WebSocket: null });
  expect((await rejection(reader(client, "s").done)).message).toContain("needs a WebSocket");
  model.append("s", 1);
  model.close("s");
  const polled = reader(client, "s", { live: "long-poll" });
  await within("the end", polled.done);
  expect(polled.values).toEqual([1]);
});

test("WebSockets that do not get through are told after the policy's attempts, refused credentials at once", async () => {
  const fates = Array.from({ length: 9 }, () => "refused" as const);
  const blocked = world({ fates });
  const failure = await within("the failure", rejection(reader(blocked.client, "s").done));
  expect(BrokenAnswer.is(failure) && failure.message).toContain("no WebSocket can be opened");
  expect(blocked.model.sockets.length).toBe(RETRY.maxAttempts);

  const body = { error: { code: "unauthenticated", message: "who are you" } };
  const intercept = (url: URL): Response | null =>
    url.pathname === "/v1/ws" ? Response.json(body, { status: 401 }) : null;
  const refused = world({ fates, intercept });
  const no = await within("the refusal", rejection(reader(refused.client, "s").done));
  expect(Refused.is(no) && no.status).toBe(401);
  expect(refused.model.sockets.length).toBe(1);
});

test("a credential is asked for before each connection, and does not show in errors", async () => {
  let given = 0;
  const fates: Fate[] = [{ cut: 2 }, "refused", "refused"];
  const socketAccess = (): Promise<string> => Promise.resolve(`su_${++given}&`);
  const intercept = (url: URL): Response | null =>
    url.pathname === "/v1/ws" && given === 3
      ? Response.json({ error: { code: "no", message: "no" } }, { status: 403 })
      : null;
  const { model, client } = world({ fates, intercept }, { socketAccess });
  const failure = await within("the refusal", rejection(reader(client, "s").done));
  expect(model.sockets.map(({ url }) => url)).toEqual([1, 2, 3].map((at) => `ws://model/v1/ws?access=su_${at}%26`));
  expect(Refused.is(failure)).toBe(true);
  expect(JSON.stringify(failure) + String(failure)).not.toContain("su_");

  const broken = world({}, { socketAccess: () => Promise.reject(new Error("no token today")) });
  expect((await rejection(reader(broken.client, "s").done)).message).toBe("no token today");
  // The next one is tried afresh.
  expect((await rejection(reader(broken.client, "s").done)).message).toBe("no token today");
});

test("abort ends it at any moment and leaves nothing open", async () => {
  for (const delayMs of [0, 0, 1, 1, 2, 3, 5]) {
    const { model, client } = world();
    model.append("s", 1);
    const abort = new AbortController();
    const failure = rejection(reader(client, "s", { signal: abort.signal }).done);
    await new Promise((resolve) => setTimeout(resolve, delayMs));
    abort.abort(new Error("enough"));
    expect((await within("the abort", failure)).message).toBe("enough");
    await until("nothing is open", () => model.open().length === 0);
  }
});
