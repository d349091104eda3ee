/**
 * Live views of the client against a real server: whatever changes, and wherever connections are cut, the map becomes what the
 * server's view is, in its order. `VIEW_ROUNDS` says how many rounds of random changes there are.
 */

import { expect, test } from "bun:test";
import { connect, type LiveView, type LiveViewDefinition, Refused } from "../../src/client/client.ts";
import { runSeed, type SeededRandom, seededRandom } from "../support/random.ts";
import { sharedServer, temporaryServers } from "../support/shared-server.ts";
import { call, newStream, nextOffset, streamAt, type StreamUnderTest } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const server = sharedServer();
const temporary = temporaryServers();

const ROUNDS = Number(process.env["VIEW_ROUNDS"] ?? 12);
const RETRY = { maxAttempts: 20, baseDelayMs: 5, maxDelayMs: 50 };
/** A view in a storm is told every five seconds. */
const ROUND_DEADLINE_MS = 15_000;

interface ViewRecord {
  readonly type?: string;
  readonly key?: string;
  readonly value?: unknown;
  readonly headers: { readonly operation?: string };
}

type Row = readonly [type: string | undefined, key: string | undefined, value: unknown];

async function stateStream(at: { readonly url: string }, name: string): Promise<StreamUnderTest> {
  const stream = await newStream(at, name);
  const body = JSON.stringify({ profile: { kind: "state-protocol" } });
  expect((await call("POST", `${stream.url}/_profile`, { body })).status).toBe(200);
  return stream;
}

async function append(stream: StreamUnderTest, records: readonly object[]): Promise<void> {
  expect((await stream.post(JSON.stringify(records))).status).toBe(204);
}

const upsert = (key: string, value: object, type = "q"): object => ({
  type,
  key,
  value,
  headers: { operation: "upsert" },
});
const remove = (key: string, type = "q"): object => ({ type, key, headers: { operation: "delete" } });

/** What the server's view is, in its order, once it stands for everything that was appended. */
async function truth(stream: StreamUnderTest, definition: LiveViewDefinition): Promise<Row[]> {
  const { viewport, limit, ...rest } = definition;
  const query = new URLSearchParams(rest);
  if (limit !== undefined) query.set("limit", String(limit));
  if (viewport !== undefined) query.set("viewport", Object.values(viewport).join(","));
  const tail = await stream.tail();
  return until("the server's view is up to date", async () => {
    const answer = await call("GET", `${stream.url}/_view?${query.toString()}`);
    const records = (await answer.json()) as ViewRecord[];
    if (answer.status !== 200) throw new Error(`${answer.status} ${JSON.stringify(records)}`);
    if (nextOffset(answer) !== tail) return false;
    return records
      .filter(({ headers }) => headers.operation === "insert")
      .map(({ type, key, value }): Row => [type, key, value]);
  });
}

const rowsOf = <T>(view: LiveView<T>): Row[] => [...view].map(({ type, key, value }): Row => [type, key, value]);

/** Waits until the map is the server's view; a difference that stays is shown. */
async function becomes<T>(view: LiveView<T>, expected: readonly Row[]): Promise<void> {
  const text = JSON.stringify(expected);
  const isEqual = (): boolean => JSON.stringify(rowsOf(view)) === text;
  await until("it shows what the server does", isEqual, ROUND_DEADLINE_MS).catch(() => undefined); // shown below
  expect(rowsOf(view)).toEqual([...expected]);
}

interface FlakyFetch {
  readonly fetch: (url: string, init: RequestInit) => Promise<Response>;
  readonly counts: { cuts: number; resumed: number };
  /** Cuts all connections. */
  cutAll(): void;
}

/** About half of the connections end after some bytes, the others when they are cut. `to`: where requests go at the time. */
function flakyFetch(random: SeededRandom, to: () => { readonly url: string } = () => server): FlakyFetch {
  const open = new Set<() => void>();
  const counts = { cuts: 0, resumed: 0 };
  const cutting = (response: Response): Response => {
    const reader = response.body?.getReader();
    let left = random.below(2) === 0 ? random.below(4_000) : Infinity;
    const body = new ReadableStream<Uint8Array>(
      {
        start: (controller) => {
          open.add(() => {
            counts.cuts++;
            controller.error(new TypeError("cut"));
            reader?.cancel().catch(() => undefined); // it was aborted
          });
        },
        pull: async (controller) => {
          const read = await reader?.read();
          if (read?.value === undefined) return controller.close();
          const part = read.value.subarray(0, left);
          left -= part.length;
          controller.enqueue(part);
          if (left > 0) return;
          counts.cuts++;
          controller.error(new TypeError("cut"));
          await reader?.cancel();
        },
        cancel: (reason) => reader?.cancel(reason),
      },
      { highWaterMark: 0 },
    );
    return new Response(body, { status: response.status, headers: response.headers });
  };
  return {
    counts,
    fetch: async (url, init) => {
      const asked = new URL(url);
      const response = await fetch(new URL(asked.pathname + asked.search, to().url), init);
      if (response.status !== 200 || asked.searchParams.get("live") === null) return response;
      if (asked.searchParams.get("offset") !== null) counts.resumed++;
      return cutting(response);
    },
    cutAll: () => {
      for (const cut of open) cut();
      open.clear();
    },
  };
}

function randomViewport(random: SeededRandom): NonNullable<LiveViewDefinition["viewport"]> {
  const [minX, minY] = [random.below(60), random.below(60)];
  return { x: "x", y: "y", minX, minY, maxX: minX + 40, maxY: minY + 40 };
}

/** Few keys and values, so that rows come, go, and come back as they were. */
function randomChanges(random: SeededRandom): object[] {
  if (random.below(40) === 0) return [{ headers: { control: "reset" } }];
  return Array.from({ length: 1 + random.below(15) }, () => {
    const [key, type] = [`k${random.below(60)}`, random.below(4) === 0 ? "r" : "q"];
    if (random.below(3) === 0) return remove(key, type);
    const score = random.below(5) === 0 ? "text" : random.below(6);
    return upsert(key, { x: random.below(100), y: random.below(100), score, open: random.below(3) > 0 }, type);
  });
}

const DEFINITIONS: readonly LiveViewDefinition[] = [
  {},
  { type: "q", filter: "open = true", order: "-score,x" },
  { order: "score", limit: 10 },
  { type: "q", viewport: { x: "x", y: "y", minX: 0, minY: 0, maxX: 50, maxY: 50 }, order: "-y" },
];

test(
  "after any changes, with connections cut in between, the map is what the server's view is",
  async () => {
    const random = seededRandom(runSeed());
    const flaky = flakyFetch(random);
    const stream = await stateStream(server, `client-view/random-${random.seed}`);
    const handle = connect({ url: server.url, fetch: flaky.fetch, retry: RETRY }).stream(stream.name);
    const views = DEFINITIONS.map((definition) => ({ definition, view: handle.liveView(definition) }));
    const seen = new Set<string>();
    try {
      for (let round = 0; round < ROUNDS; round++) {
        if (random.below(3) > 0) flaky.cutAll();
        await append(stream, randomChanges(random));
        const panned = views.at(-1);
        if (panned !== undefined && round % 3 === 1) {
          panned.definition = { ...panned.definition, viewport: randomViewport(random), order: "x" };
          expect((await panned.view.update(panned.definition)).isOk()).toBe(true);
        }
        if (random.below(2) === 0) flaky.cutAll();
        await append(stream, randomChanges(random));
        for (const { definition, view } of views) {
          const expected = await truth(stream, definition);
          seen.add(JSON.stringify(expected));
          await becomes(view, expected);
        }
      }
    } catch (cause) {
      throw new Error(`with TEST_SEED=${random.seed}`, { cause });
    } finally {
      await Promise.all(views.map(({ view }) => view.close()));
    }
    // Otherwise nothing was tested.
    expect(seen.size).toBeGreaterThan(ROUNDS);
    expect(flaky.counts.cuts).toBeGreaterThan(ROUNDS);
    expect(flaky.counts.resumed).toBeGreaterThan(0);
  },
  ROUNDS * ROUND_DEADLINE_MS,
);

test("what listeners are told adds up to what is shown", async () => {
  const random = seededRandom(runSeed());
  const flaky = flakyFetch(random);
  const stream = await stateStream(server, `client-view/listeners-${random.seed}`);
  const view = connect({ url: server.url, fetch: flaky.fetch, retry: RETRY }).stream(stream.name).liveView();
  const kept = new Map<string, unknown>();
  view.subscribe((changes) => {
    for (const { before, after } of changes) {
      const { type, key } = after ?? before ?? { type: "", key: "" };
      expect(kept.get(`${type} ${key}`)).toBe(before?.value);
      if (after === null) kept.delete(`${type} ${key}`);
      else kept.set(`${type} ${key}`, after.value);
    }
  });
  for (let round = 0; round < 4; round++) {
    await append(stream, randomChanges(random));
    flaky.cutAll();
    await becomes(view, await truth(stream, {}));
  }
  expect(kept).toEqual(new Map([...view].map(({ type, key, value }) => [`${type} ${key}`, value])));
  await view.close();
});

test("survives a server that is killed and comes back", async () => {
  const first = await temporary();
  const { dataDir } = first;
  let current = first;
  const flaky = flakyFetch(seededRandom(1), () => current);
  const stream = await stateStream(first, "client-view/restart");
  await append(stream, [upsert("a", { n: 1 }), upsert("b", { n: 2 })]);
  const view = connect({ url: first.url, fetch: flaky.fetch, retry: RETRY })
    .stream(stream.name)
    .liveView<{ n: number }>({ order: "-n" });
  await becomes(view, await truth(stream, { order: "-n" }));
  await first.kill("SIGKILL");
  current = await temporary({ dataDir });
  const again = streamAt(current, stream.name);
  await append(again, [remove("a"), upsert("c", { n: 3 })]);
  await becomes(view, await truth(again, { order: "-n" }));
  expect(view.rows().map(({ value }) => value.n)).toEqual([3, 2]);
  await view.close();
});

test("ends with the server's word: a stream without rows, a view that is none, a stream that is deleted", async () => {
  const plain = await newStream(server, "client-view/plain");
  const stream = await stateStream(server, "client-view/ends");
  const client = connect({ url: server.url, retry: RETRY });
  for (const [name, definition, code] of [
    [plain.name, {}, "view-needs-state-protocol"],
    [stream.name, { filter: "x >" }, "view-invalid"],
    [stream.name, { limit: 0 }, "view-invalid"],
    ["client-view/none", {}, "not-found"],
  ] as const) {
    const ready = await client.stream(name).liveView(definition).ready();
    expect(ready.isErr() && Refused.is(ready.error) && ready.error.code).toBe(code);
  }
  const view = client.stream(stream.name).liveView();
  expect((await view.ready()).isOk()).toBe(true);
  expect((await view.update({ order: "a)" })).isErr()).toBe(true);
  expect((await view.update({ order: "-a" })).isOk()).toBe(true);
  await stream.delete();
  const ended = await view.done();
  expect(ended.isErr() && Refused.is(ended.error) && ended.error.code).toBe("not-found");
});

test("a closed view leaves nothing open on the server", async () => {
  const stream = await stateStream(server, "client-view/closed");
  const gauge = async (): Promise<number> => {
    const text = await (await call("GET", `${server.url}/metrics`)).text();
    return Number(/^streams_live_views (\S+)$/m.exec(text)?.[1]);
  };
  await until("the views of other tests are gone", async () => (await gauge()) === 0);
  const view = connect({ url: server.url }).stream(stream.name).liveView();
  await view.ready();
  expect(await gauge()).toBe(1);
  await view.close();
  await until("it is gone", async () => (await gauge()) === 0);
});
