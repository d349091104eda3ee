/** Live views in one process: what a client is told, what it is not, and that it always ends up with what it should show. */

import { expect, test } from "bun:test";
import { assert, asyncProperty, integer } from "fast-check";
import type { ViewHandle } from "../../src/features/live-views/view-stream.ts";
import { seededRandom, type SeededRandom } from "../support/random.ts";
import { type Change, Screen, view, viewWorld } from "./view-world.ts";

const MAP = { x: "lng", y: "lat" };

function at(key: string, lng: number, lat: number, more: object = {}): Change {
  return { operation: "upsert", key, value: { lng, lat, ...more } };
}

test("first the full set, then what changes, each with its place in the stream", async () => {
  const { stream, change, wait, plan } = await viewWorld();
  await change(at("a", 1, 1), at("b", 2, 2));
  const screen = new Screen();
  stream.open(view({}), screen);
  await wait(40);
  expect(screen.messages.map(({ diff }) => diff.kind)).toEqual(["full"]);
  expect(screen.shown().map(([key]) => key)).toEqual(["a", "b"]);
  await change(at("c", 3, 3));
  await wait(260);
  const [, second] = screen.messages;
  expect(second?.diff).toMatchObject({ kind: "changes", changes: [{ operation: "insert", row: { key: "c" } }] });
  const { lineage } = await plan("s", "now");
  expect(second?.offset.endsWith(String(lineage.at(-1)?.to))).toBe(true);
});

test("an isolated change arrives within 250 ms", async () => {
  const { stream, change, pass } = await viewWorld();
  const screen = new Screen();
  stream.open(view({}), screen);
  await pass(10);
  await change(at("a", 1, 1));
  let waited = 0;
  for (; screen.messages.length < 2 && waited < 1_000; waited += 5) await pass(5);
  expect(waited).toBeLessThanOrEqual(250);
});

test("an empty view says that it is empty, once", async () => {
  const { stream, wait } = await viewWorld();
  const screen = new Screen();
  stream.open(view({ filter: "no = 1" }), screen);
  await wait(10_000);
  expect(screen.messages.map(({ diff }) => diff)).toEqual([{ kind: "full", rows: [] }]);
});

test("nothing changed, nothing sent: a change of others, one that is taken back, one that says the same", async () => {
  const { stream, change, wait } = await viewWorld();
  await change(at("in", 5, 5), at("out", 50, 50));
  const screen = new Screen();
  stream.open(view({ viewport: { ...MAP, minX: 0, minY: 0, maxX: 10, maxY: 10 } }), screen);
  await wait(300);
  await change(at("out", 51, 51));
  await change(at("in", 5, 5));
  await change(at("in", 6, 6));
  await change(at("in", 5, 5));
  await wait(6_000);
  expect(screen.messages.length).toBe(1);
  expect(stream.getStats().noopSkipped).toBe(1);
});

test("a row enters, moves within, and leaves a viewport", async () => {
  const { stream, change, wait } = await viewWorld();
  await change(...Array.from({ length: 10 }, (_, index) => at(`base${index}`, 1, 1)));
  const screen = new Screen();
  stream.open(view({ viewport: { ...MAP, minX: 0, minY: 0, maxX: 10, maxY: 10 } }), screen);
  await wait(100);
  const told = async (x: number): Promise<unknown> => {
    const before = screen.messages.length;
    await change(at("m", x, 5));
    await wait(300);
    return screen.messages
      .slice(before)
      .map(({ diff }) => (diff.kind === "changes" ? diff.changes.map(({ operation }) => operation) : diff.kind));
  };
  expect([await told(20), await told(10), await told(3), await told(10.001)]).toEqual([
    [],
    [["insert"]],
    [["update"]],
    [["delete"]],
  ]);
});

test("more than half changed: one full set instead", async () => {
  const { stream, change, wait } = await viewWorld();
  await change(...Array.from({ length: 10 }, (_, index) => at(`k${index}`, 1, 1)));
  const screen = new Screen();
  stream.open(view({}), screen);
  await wait(100);
  await change(...Array.from({ length: 5 }, (_, index) => at(`k${index}`, 2, 2)));
  await wait(300);
  await change(...Array.from({ length: 6 }, (_, index) => at(`k${index}`, 3, 3)));
  await wait(300);
  expect(screen.messages.map(({ diff }) => diff.kind)).toEqual(["full", "changes", "full"]);
});

test("a limited view: when a row leaves, the next one enters", async () => {
  const { stream, change, wait } = await viewWorld();
  await change(...[5, 3, 9, 1, 7].map((mag): Change => ({ operation: "insert", key: `m${mag}`, value: { mag } })));
  const screen = new Screen();
  stream.open(view({ order: "-mag", limit: 3 }), screen);
  await wait(100);
  const [first] = screen.messages;
  expect(first?.diff.kind === "full" && first.diff.rows.map(({ key }) => key)).toEqual(["m9", "m7", "m5"]);
  await change({ operation: "delete", key: "m7" });
  await wait(300);
  expect(screen.shown().map(([key]) => key)).toEqual(["m3", "m5", "m9"]);
});

test("without a number: 1,000 rows with a viewport, 250 without", async () => {
  const { stream, change, wait } = await viewWorld();
  for (let part = 0; part < 12; part++) {
    await change(...Array.from({ length: 100 }, (_, index) => at(`k${part * 100 + index}`, 1, 1)));
  }
  const [list, map] = [new Screen(), new Screen()];
  stream.open(view({}), list);
  stream.open(view({ viewport: { ...MAP, minX: 0, minY: 0, maxX: 10, maxY: 10 } }), map);
  await wait(100);
  expect([list.rows.size, map.rows.size]).toEqual([250, 1_000]);
});

test("a viewport that is panned: the difference, a debounce after the last move", async () => {
  const { stream, change, wait, pass } = await viewWorld();
  for (let x = 0; x < 100; x++) await change(at(`x${x}`, x, 0));
  const screen = new Screen();
  const handle = stream.open(view({ viewport: { ...MAP, minX: 0, minY: 0, maxX: 20, maxY: 0 } }), screen);
  await wait(100);
  for (let step = 1; step <= 5; step++) {
    handle.update(view({ viewport: { ...MAP, minX: step, minY: 0, maxX: 20 + step, maxY: 0 } }));
    await pass(100);
  }
  expect(screen.messages.length).toBe(1);
  await wait(220);
  expect(screen.messages.length).toBe(2);
  const [, moved] = screen.messages;
  expect(moved?.diff.kind === "changes" && moved.diff.changes.length).toBe(10);
  expect(screen.rows.size).toBe(21);
});

test("views that show the same share one evaluation and one message", async () => {
  const { stream, change, wait } = await viewWorld();
  await change(at("a", 1, 1));
  const screens = Array.from({ length: 50 }, () => new Screen());
  for (const screen of screens) stream.open(view({ filter: "lng > 0" }), screen);
  await wait(100);
  await change(at("b", 1, 1), at("c", 1, 1), at("d", -1, 1));
  await wait(300);
  expect(new Set(screens.map(({ messages }) => messages[1])).size).toBe(1);
  expect(stream.getStats()).toMatchObject({ views: 50, cohorts: 1 });
  expect(stream.batcher.getStats().totalUsersProcessed).toBe(2);
});

test("a client that is not ready is passed over, and gets one difference when it is", async () => {
  const { stream, change, wait } = await viewWorld();
  await change(...Array.from({ length: 20 }, (_, index) => at(`k${index}`, 1, 1)));
  const [slow, quick] = [new Screen(), new Screen()];
  const handle = stream.open(view({}), slow);
  stream.open(view({}), quick);
  await wait(100);
  slow.ready = false;
  for (let round = 2; round < 30; round++) {
    await change(at("k0", round, 1));
    await wait(260);
  }
  expect([slow.messages.length, quick.messages.length]).toEqual([1, 29]);
  slow.ready = true;
  handle.drained();
  await wait(260);
  expect([slow.messages.length, slow.shown()]).toEqual([2, quick.shown()]);
});

test("reset forgets all rows; a stream that is deleted or closes ends or keeps the view", async () => {
  const { stream, change, control, wait, append, engine } = await viewWorld();
  await change(at("a", 1, 1));
  const screen = new Screen();
  stream.open(view({}), screen);
  await wait(100);
  await control("reset");
  await wait(300);
  expect(screen.shown()).toEqual([]);
  await change(at("z", 1, 1));
  await wait(300);
  expect(screen.shown().map(([key]) => key)).toEqual(["z"]);
  await append("s", [], true);
  await wait(300);
  expect(screen.ended).toBeNull();
  const late = new Screen();
  stream.open(view({}), late);
  await wait(300);
  expect(late.shown()).toEqual(screen.shown());
  await engine.delete("s");
});

test("a stream that is deleted ends its views, and says why", async () => {
  const { stream, change, wait, engine } = await viewWorld();
  await change(at("a", 1, 1));
  const screen = new Screen();
  stream.open(view({}), screen);
  await wait(100);
  await engine.delete("s");
  await wait(100);
  expect(screen.ended).toEqual({ kind: "not-found" });
  const late = new Screen();
  stream.open(view({}), late);
  expect(late.ended).toEqual({ kind: "not-found" });
});

test("a state beyond its bound ends its views, and says so", async () => {
  const { stream, change, wait } = await viewWorld({ maxStateBytes: 10_000 });
  const screen = new Screen();
  stream.open(view({}), screen);
  for (let row = 0; row < 40; row++) await change(at(`k${row}`, 1, 1));
  await wait(100);
  expect(screen.ended).toEqual({ kind: "state-too-large" });
});

test("views that show too much end, and the others go on", async () => {
  const { stream, change: append, wait } = await viewWorld({ maxStateBytes: 40_000 });
  await append(...Array.from({ length: 80 }, (_, index) => at(`k${index}`, 1, 1)));
  const screens = Array.from({ length: 20 }, () => new Screen());
  for (const [index, screen] of screens.entries()) stream.open(view({ limit: 100 + index }), screen);
  await wait(300);
  const ended = screens.filter((screen) => screen.ended !== null);
  expect([ended.length > 0, ended.length < 20]).toEqual([true, true]);
  expect(ended.map((screen) => screen.ended)).toEqual(ended.map(() => ({ kind: "state-too-large" })));
  await append(at("k0", 2, 2));
  await wait(300);
  for (const screen of screens) if (screen.ended === null) expect(screen.messages.length).toBe(2);
});

test("without batching a change is worked on as it comes", async () => {
  const { stream, change } = await viewWorld({ enableBatching: false });
  const screen = new Screen();
  stream.open(view({}), screen);
  await change(at("a", 1, 1));
  expect(screen.shown().map(([key]) => key)).toEqual(["a"]);
});

test("who leaves leaves nothing behind", async () => {
  const { stream, change, wait, engine, running } = await viewWorld();
  const handles = [{}, { filter: "a = 1" }, { viewport: { ...MAP, minX: 0, minY: 0, maxX: 1, maxY: 1 } }].map(
    (request) => stream.open(view(request), new Screen()),
  );
  await change(at("a", 1, 1));
  for (const handle of handles) {
    handle.close();
    handle.close();
  }
  await wait(300);
  const { totalUsersMarkedDirty } = stream.batcher.getStats();
  await change(at("a", 0.5, 0.5, { a: 1 }));
  expect(stream.batcher.getStats()).toMatchObject({ totalUsersMarkedDirty });
  expect(stream.getStats()).toMatchObject({ views: 0, cohorts: 0 });
  expect(stream.batcher.getStats().currentDirtyUsers).toBe(0);
  stream.close();
  await running;
  expect([engine.liveRequests.used, engine.waiters.size]).toEqual([0, 0]);
});

// The naive oracle: every view worked out from all rows, by the words of the documentation and nothing of the server's.

interface Wish {
  readonly request: { type?: string; filter?: string; viewport?: object; order?: string; limit?: number };
  readonly wants: (type: string, value: Value) => boolean;
  readonly before: (left: Value & { key: string }, right: Value & { key: string }) => number;
}

interface Value {
  readonly lng?: number;
  readonly lat?: number;
  readonly kind: string;
  readonly n: number;
}

function wish(random: SeededRandom): Wish {
  const request: Wish["request"] = {};
  const tests: ((type: string, value: Value) => boolean)[] = [];
  if (random.below(3) === 0) {
    const type = `t${random.below(2)}`;
    request.type = type;
    tests.push((of) => of === type);
  }
  const choice = random.below(6);
  if (choice === 5) {
    request.filter = `kind in ("k0", "k2")`;
    tests.push((_, value) => value.kind !== "k1");
  } else if (choice === 0) {
    const kind = `k${random.below(3)}`;
    request.filter = `kind = "${kind}"`;
    tests.push((_, value) => value.kind === kind);
  } else if (choice === 1) {
    const least = random.below(10);
    request.filter = `n >= ${least} and (kind in ("k0", "k1") or n > 7)`;
    tests.push((_, value) => value.n >= least && (["k0", "k1"].includes(value.kind) || value.n > 7));
  } else if (choice === 2) {
    request.filter = `not (n = ${random.below(5)}) and kind = "k1"`;
    const not = Number(/n = (\d)/.exec(request.filter)?.[1]);
    tests.push((_, value) => value.n !== not && value.kind === "k1");
  }
  if (random.below(2) === 0) {
    const [minX, minY] = [random.below(8), random.below(8)];
    const [maxX, maxY] = [minX + random.below(5), minY + random.below(5)];
    request.viewport = { ...MAP, minX, minY, maxX, maxY };
    tests.push(
      (_, { lng, lat }) =>
        lng !== undefined && lat !== undefined && lng >= minX && lng <= maxX && lat >= minY && lat <= maxY,
    );
  }
  const descending = random.below(2) === 0;
  const ordered = random.below(2) === 0;
  if (ordered) request.order = descending ? "-n" : "n";
  if (random.below(2) === 0) request.limit = 1 + random.below(6);
  return {
    request,
    wants: (type, value) => tests.every((one) => one(type, value)),
    before: (left, right) => {
      const byN = ordered ? (descending ? right.n - left.n : left.n - right.n) : 0;
      return byN !== 0 ? byN : left.key < right.key ? -1 : 1;
    },
  };
}

interface Client {
  readonly screen: Screen;
  wish: Wish;
  handle: ViewHandle;
  /** How many messages it had had when its view was changed last. */
  changedAt: number;
}

function change(random: SeededRandom): Change {
  // Keys are of one type each: the oracle orders by key alone.
  const number = random.below(30);
  const [type, key] = [`t${number % 2}`, `r${number}`];
  if (random.below(5) === 0) return { operation: "delete", type, key };
  const [lng, lat] = [random.below(12), random.below(12)];
  const value = { kind: `k${random.below(3)}`, n: random.below(10), ...(random.below(8) === 0 ? {} : { lng, lat }) };
  return { operation: "upsert", type, key, value };
}

test("any changes and any views: each client shows what the oracle shows, and hears nothing when nothing changed", async () => {
  await assert(
    asyncProperty(integer(), async (seed) => {
      const random = seededRandom(seed);
      const world = await viewWorld();
      const rows = new Map<string, { type: string; value: Value }>();
      const clients: Client[] = [];
      const shouldShow = ({ request, wants, before }: Wish): [string, unknown][] =>
        [...rows]
          .filter(([, { type, value }]) => wants(type, value))
          .map(([key, { value }]) => ({ key, ...value }))
          .sort(before)
          .slice(0, request.limit ?? 250)
          .map(({ key }): [string, unknown] => [key, rows.get(key)?.value])
          .sort(([left], [right]) => (left < right ? -1 : 1));
      for (let step = 0; step < 60; step++) {
        const choice = random.below(10);
        if (random.below(40) === 0) {
          rows.clear();
          await world.control("reset");
        } else if (choice < 6) {
          const changes = Array.from({ length: 1 + random.below(4) }, () => change(random));
          for (const one of changes) {
            if (one.operation === "delete") rows.delete(one.key);
            else rows.set(one.key, { type: one.type ?? "t", value: one.value as Value });
          }
          await world.change(...changes);
        } else if (choice < 8 && clients.length < 12) {
          const screen = new Screen();
          const wanted = wish(random);
          clients.push({ screen, wish: wanted, handle: world.stream.open(view(wanted.request), screen), changedAt: 0 });
        } else {
          const client = clients[random.below(Math.max(1, clients.length))];
          if (client === undefined) continue;
          const next = random.below(3);
          if (next === 0) {
            client.wish = wish(random);
            client.changedAt = client.screen.messages.length;
            client.handle.update(view(client.wish.request));
          } else if (next === 1) {
            client.handle.close();
            await world.wait(random.below(2) * random.below(300));
            // Only of the view that it shows can it say how far it came.
            const isSame = client.screen.messages.length > client.changedAt;
            const since = isSame ? (client.screen.messages.at(-1)?.offset ?? null) : null;
            client.screen.isLenient = true;
            client.handle = world.stream.open(view(client.wish.request), client.screen, since);
          } else {
            client.screen.ready = !client.screen.ready;
            if (client.screen.ready) client.handle.drained();
          }
        }
        if (random.below(3) === 0) await world.wait(random.below(400));
      }
      for (const { screen, handle } of clients) {
        screen.ready = true;
        handle.drained();
      }
      await world.wait(600);
      for (const { screen, wish: wanted } of clients) {
        expect({ seed, request: wanted.request, shown: screen.shown() }).toEqual({
          seed,
          request: wanted.request,
          shown: shouldShow(wanted),
        });
        // No message said nothing.
        for (const { diff } of screen.messages) {
          if (diff.kind === "changes") expect(diff.changes.length).toBeGreaterThan(0);
        }
      }
      const before = clients.map(({ screen }) => screen.messages.length);
      await world.wait(6_000);
      expect(clients.map(({ screen }) => screen.messages.length)).toEqual(before);
      expect(world.faults).toEqual([]);
    }),
    { numRuns: 60 },
  );
}, 60_000);

test("who comes back gets what has changed, and nothing when nothing has", async () => {
  const { stream, change: append, wait } = await viewWorld();
  await append(...Array.from({ length: 20 }, (_, index) => at(`k${index}`, 1, 1)));
  const screen = new Screen();
  const viewport = { ...MAP, minX: 0, minY: 0, maxX: 10, maxY: 10 };
  const handle = stream.open(view({ viewport }), screen);
  await wait(100);
  handle.close();
  const offset = screen.messages.at(-1)?.offset ?? null;
  const same = stream.open(view({ viewport }), screen, offset);
  await wait(300);
  expect(screen.messages.length).toBe(1);
  same.close();
  await append(at("k1", 2, 2), at("k2", 50, 50), { operation: "delete", key: "k3" }, at("new", 5, 5));
  await wait(300);
  screen.isLenient = true;
  stream.open(view({ viewport }), screen, offset);
  await wait(100);
  const [, back] = screen.messages;
  const told =
    back?.diff.kind === "changes" ? back.diff.changes.map(({ operation, row }) => `${operation} ${row.key}`) : [];
  expect(told.toSorted()).toEqual(["delete k2", "delete k3", "insert k1", "insert new"]);
  expect(screen.rows.size).toBe(19);
});

test("who comes back to a view that is full gets the whole set: a row may have been pushed out without having changed", async () => {
  const { stream, change: append, wait } = await viewWorld();
  await append(...[1, 2, 3].map((n): Change => ({ operation: "insert", key: `n${n}`, value: { n } })));
  const screen = new Screen();
  const handle = stream.open(view({ order: "-n", limit: 3 }), screen);
  await wait(100);
  handle.close();
  const offset = screen.messages.at(-1)?.offset ?? null;
  await append({ operation: "insert", key: "n4", value: { n: 4 } });
  screen.isLenient = true;
  stream.open(view({ order: "-n", limit: 3 }), screen, offset);
  await wait(100);
  expect(screen.shown().map(([key]) => key)).toEqual(["n2", "n3", "n4"]);
});

test("who comes back and changes the view before it was told anything gets the whole set of the new one", async () => {
  const { stream, change: append, wait } = await viewWorld();
  await append(at("a", 1, 1), at("b", 20, 20));
  const box = (minX: number) => view({ viewport: { ...MAP, minX, minY: 0, maxX: minX + 10, maxY: 30 } });
  const screen = new Screen();
  const handle = stream.open(box(0), screen);
  await wait(100);
  handle.close();
  const offset = screen.messages.at(-1)?.offset ?? null;
  screen.ready = false;
  const back = stream.open(box(0), screen, offset);
  await wait(100);
  back.update(box(15));
  screen.ready = true;
  back.drained();
  await wait(300);
  expect(screen.shown().map(([key]) => key)).toEqual(["b"]);
});

test("who comes back to a view whose limit may have hidden rows gets the whole set", async () => {
  const { stream, change: append, wait } = await viewWorld();
  await append(...Array.from({ length: 5 }, (_, index) => at(`k${index}`, 1, 1)));
  const screen = new Screen();
  const handle = stream.open(view({ limit: 4 }), screen);
  await wait(100);
  handle.close();
  const offset = screen.messages.at(-1)?.offset ?? null;
  await append({ operation: "delete", key: "k0" });
  stream.open(view({ limit: 4 }), screen, offset);
  await wait(100);
  expect(screen.messages.map(({ diff }) => diff.kind)).toEqual(["full", "full"]);
  expect(screen.shown().map(([key]) => key)).toEqual(["k1", "k2", "k3", "k4"]);
});
