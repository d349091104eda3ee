/** What live views hold is counted, bounded, and given back: rows, deletions, planes of viewports, and what clients were sent. */

import { expect, test } from "bun:test";
import { heapStats } from "bun:jsc";
import { MaterialisedState } from "../../src/features/live-views/materialised-state.ts";
import type { StateRecord } from "../../src/features/state-protocol/index.ts";
import { encodeOffset } from "../../src/protocol/offset.ts";
import { nextTurn } from "../../src/kit/turn.ts";
import { turns } from "../live-delivery/live-world.ts";
import { type Change, Screen, view, viewWorld } from "./view-world.ts";

function inserts(count: number, value: (index: number) => unknown): Change[] {
  return Array.from({ length: count }, (_, index) => ({
    operation: "upsert",
    key: `k${String(index).padStart(5, "0")}`,
    value: value(index),
  }));
}

/** How many plain objects are alive. */
function objects(): number {
  Bun.gc(true);
  return heapStats().objectTypeCounts["Object"] ?? 0;
}

/** A state that is told changes, one after another. */
function toldState() {
  const state = new MaterialisedState((text) => Bun.hash.xxHash3(text), encodeOffset(1, 0));
  let seq = 0;
  return {
    state,
    tell: (key: string, after?: unknown): string => {
      const operation = after === undefined ? "delete" : "upsert";
      const record: StateRecord = { kind: "change", entity: "t", key, operation, before: undefined, after };
      const offset = encodeOffset(1, ++seq);
      state.apply(record, offset);
      return offset;
    },
  };
}

test("a client that leaves while its view is worked out leaves nothing behind", async () => {
  const { stream, change, wait, pass } = await viewWorld();
  await change(...inserts(1_000, (n) => ({ n })));
  const anchor = new Screen();
  stream.open(view({ limit: 1 }), anchor);
  await wait(300);
  const before = stream.bytes;
  for (let round = 0; round < 30; round++) {
    const handle = stream.open(view({ limit: 10_000, filter: `n >= -${round}` }), new Screen());
    // It is due at once: the evaluation is under way, in one of its turns.
    const passing = pass(5);
    await turns(round % 4);
    handle.close();
    await passing;
  }
  expect(stream.bytes).toBe(before);
});

test("and so does one that comes back, and leaves or shows something else meanwhile", async () => {
  const { stream, change, wait, pass } = await viewWorld();
  await change(...inserts(1_000, (n) => ({ n })));
  const screen = new Screen();
  stream.open(view({ limit: 10_000 }), screen);
  await wait(300);
  const offset = screen.messages.at(-1)?.offset ?? null;
  const before = stream.bytes;
  for (let round = 0; round < 30; round++) {
    const handle = stream.open(view({ limit: 5_000 }), new Screen(), offset);
    const passing = pass(5);
    await turns(round % 4);
    if (round % 8 >= 4) handle.update(view({ limit: 4_000 }));
    await passing;
    await turns(round % 3);
    handle.close();
  }
  expect(stream.bytes).toBe(before);
});

test("what a client was sent that does not read any more is counted until it leaves", async () => {
  const { stream, change, wait } = await viewWorld();
  await change(...inserts(500, (n) => ({ n })));
  const quick = stream.open(view({ limit: 1_000 }), new Screen());
  await wait(300);
  const one = stream.bytes;
  const handles = [];
  for (let round = 1; round <= 10; round++) {
    const slow = new Screen();
    handles.push(stream.open(view({ limit: 1_000 }), slow));
    await wait(300);
    slow.ready = false;
    // From here on it has what nobody else has.
    await change({ operation: "upsert", key: "k00000", value: { n: -round } });
    await wait(300);
  }
  expect(stream.bytes - one).toBeGreaterThan(10 * 500 * 50);
  for (const handle of handles) handle.close();
  expect(Math.abs(stream.bytes - one)).toBeLessThan(100);
  quick.close();
});

test("a deletion keeps nothing of its row", async () => {
  const { state, tell } = toldState();
  const before = state.bytes;
  const values: WeakRef<object>[] = [];
  for (let row = 0; row < 500; row++) {
    const value = { row };
    values.push(new WeakRef(value));
    tell(`k${row}`, value);
    tell(`k${row}`);
  }
  await nextTurn();
  Bun.gc(true);
  // The collector looks at the stack as well, and may take something there for an object.
  expect(values.filter((value) => value.deref() !== undefined).length).toBeLessThan(20);
  expect(state.deletedSince(encodeOffset(1, 0))?.length).toBe(500);
  expect(state.bytes - before).toBeGreaterThan(500 * 20);
});

test("keys and types count, and deletions of rows with long keys take so much and no more", () => {
  const { state, tell } = toldState();
  const key = (row: number): string => `${row}${"x".repeat(100_000)}`;
  for (let row = 0; row < 100; row++) tell(key(row), 1);
  expect(state.bytes).toBeGreaterThan(100 * 100_000);
  const kept: string[] = [];
  for (let row = 0; row < 100; row++) kept.push(tell(key(row)));
  expect(state.bytes).toBeLessThanOrEqual(4 * 1024 * 1024);
  // Who was there before the last that was let go is not told less than there was.
  expect(state.deletedSince(kept[0] ?? "")).toBeNull();
  const latest = kept.findLast((offset) => state.deletedSince(offset) === null);
  expect(latest).toBeDefined();
  const since = kept.find((offset) => state.deletedSince(offset) !== null) ?? "";
  expect(state.deletedSince(since)?.length).toBe(kept.filter((offset) => offset > since).length);
  for (let row = 0; row < 100; row++) tell(key(row), 1);
  for (let row = 0; row < 20_000; row++) tell(`no such ${row}`);
  expect(state.bytes).toBeLessThanOrEqual(100 * 100_000 * 5 + 4 * 1024 * 1024);
});

const FIELDS = 12;

test("planes: so many and no more, none without a view, and every view shows what it should", async () => {
  const { stream, change, wait } = await viewWorld();
  const names = Array.from({ length: FIELDS }, (_, field) => `f${field}`);
  const value = (n: number): object =>
    Object.fromEntries(names.map((name, field) => [name, (n * (field + 1)) % 100] as const));
  await change(...inserts(200, value));
  const before = stream.bytes;
  const objectsBefore = objects();
  const pairs = names.flatMap((x) => names.map((y) => ({ x, y })));
  const box = { minX: 0, minY: 0, maxX: 49, maxY: 49 };
  for (const pair of pairs) {
    const handle = stream.open(view({ viewport: { ...pair, ...box } }), new Screen());
    await wait(40);
    handle.close();
  }
  expect(stream.bytes).toBe(before);
  // One for each point of each of 144 planes would be 28,800.
  expect(objects() - objectsBefore).toBeLessThan(5_000);

  const shown = pairs.slice(0, 40).map((pair) => {
    const screen = new Screen();
    return { pair, screen, handle: stream.open(view({ viewport: { ...pair, ...box } }), screen) };
  });
  await wait(1_000);
  await change(...inserts(200, (n) => value(n + 7)));
  await wait(6_000);
  const rows = Array.from({ length: 200 }, (_, n) => value(n + 7) as Record<string, number>);
  for (const { pair, screen } of shown) {
    const inBox = rows.filter((row) => (row[pair.x] ?? NaN) <= 49 && (row[pair.y] ?? NaN) <= 49);
    expect([pair, screen.rows.size]).toEqual([pair, inBox.length]);
  }
  const withoutPlanes = before + 200 * 20;
  expect(stream.getStats().stateBytes).toBeLessThanOrEqual(withoutPlanes + 8 * 200 * 160);
  expect(stream.getStats().stateBytes).toBeGreaterThan(withoutPlanes);
  for (const { handle } of shown) handle.close();
  expect(stream.bytes).toBeLessThanOrEqual(withoutPlanes);
});

test("a viewport that is panned keeps its plane", async () => {
  const { stream, change, wait } = await viewWorld();
  await change(...inserts(200, (n) => ({ x: n, y: n })));
  const box = (minX: number) => view({ viewport: { x: "x", y: "y", minX, minY: 0, maxX: minX + 50, maxY: 200 } });
  const screen = new Screen();
  const handle = stream.open(box(0), screen);
  await wait(300);
  const scanned = stream.bytes;
  handle.update(box(10));
  await wait(300);
  // 200 points.
  expect(stream.bytes - scanned).toBeGreaterThan(200 * 100);
  const planned = stream.bytes;
  handle.update(box(20));
  expect(stream.bytes).toBe(planned);
  await wait(300);
  expect([...screen.rows.values()].map(({ key }) => key).toSorted()[0]).toBe("k00020");
  handle.close();
});

test("only a stream that grows ends for want of room", async () => {
  let taken = 0;
  const { stream, change, wait } = await viewWorld({ maxStateBytes: 1_000_000, otherBytes: () => taken });
  await change(...inserts(10, (n) => ({ n })));
  const screen = new Screen();
  stream.open(view({}), screen);
  await wait(300);
  taken = 2_000_000;
  await change({ operation: "delete", key: "k00001" });
  await wait(300);
  expect([screen.ended, screen.rows.size]).toEqual([null, 9]);
  await change({ operation: "upsert", key: "more", value: { n: 0 } });
  await wait(20);
  expect([screen.ended, stream.bytes]).toEqual([{ kind: "state-too-large" }, 0]);
});
