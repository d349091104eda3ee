/** Rows kept beside the log: after any crash the state is what the log makes it, and a start reads only the tail. */

import { afterEach, expect, test } from "bun:test";
import { Database } from "bun:sqlite";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { KeptRows, type RowStore } from "../../src/features/live-views/kept-rows.ts";
import { ViewStream } from "../../src/features/live-views/view-stream.ts";
import { EVERY_RECORD } from "../../src/engine/reader.ts";
import { DerivedStates } from "../../src/storage/sqlite/derived.ts";
import { liveWorld, turns } from "../live-delivery/live-world.ts";
import { runSeed, seededRandom } from "../support/random.ts";
import { Screen, view } from "./view-world.ts";

const directories: string[] = [];
afterEach(() => {
  for (const directory of directories.splice(0)) rmSync(directory, { recursive: true, force: true });
});

function derivedFile(): string {
  const directory = mkdtempSync(join(tmpdir(), "kept-"));
  directories.push(directory);
  return join(directory, "derived.db");
}

function inserts(count: number): object[] {
  return Array.from({ length: count }, (_, row) => ({
    type: "t",
    key: `k${row}`,
    value: 1,
    headers: { operation: "insert" },
  }));
}

/** One stream whose state is made and dropped again and again, as by starts of a server. */
async function restartingWorld(file: string) {
  const world = liveWorld();
  await world.create("s");
  const faults: unknown[] = [];
  const { engine } = world;
  /** Begins as `LiveViews` does; `crash` leaves without a last save. */
  async function start(store: RowStore = DerivedStates.open(file, "boot"), since: string | null = null) {
    const kept = new KeptRows(store, engine.clock, (operation, cause) => void faults.push([operation, cause]));
    const head = await engine.find("s", "read");
    if ("kind" in head) throw new Error(head.kind);
    const rows = kept.of(head.id);
    const checkpoint = rows.checkpoint();
    const plan = await engine.reader.plan(head, { kind: "seq", seq: checkpoint ?? 0 }, EVERY_RECORD);
    if ("kind" in plan) throw new Error(plan.kind);
    const stream = new ViewStream(world.follow(plan), {
      clock: engine.clock,
      deadlines: engine.deadlines,
      batching: {},
      kept: rows,
      fromStart: async () => world.follow(await world.plan("s", "start")),
      hash: (text) => Bun.hash.xxHash3(text),
      hasRoom: () => true,
      onFault: (operation, cause) => void faults.push([operation, cause]),
    });
    const running = stream.run();
    const screen = new Screen();
    stream.open(view({ limit: 10_000 }), screen, since);
    return {
      screen,
      checkpoint,
      crash: async () => {
        kept.close();
        stream.close();
        await running;
      },
      close: async () => {
        stream.close();
        await running;
        kept.close();
      },
    };
  }
  return { ...world, start, faults };
}

test("after any changes, saves and crashes the rows are those of the log", async () => {
  const seed = runSeed();
  const random = seededRandom(seed);
  const world = await restartingWorld(derivedFile());
  const expected = new Map<string, number>();
  let began = 0;
  for (let round = 0; round < 30; round++) {
    const state = await world.start();
    if (state.checkpoint !== null) began++;
    for (let step = random.below(6); step > 0; step--) {
      if (random.below(12) === 0) {
        expected.clear();
        await world.append("s", [{ headers: { control: "reset" } }]);
      }
      const changes = Array.from({ length: 1 + random.below(300) }, () => {
        const key = `k${random.below(400)}`;
        if (random.below(4) === 0) {
          expected.delete(key);
          return { type: "t", key, headers: { operation: "delete" } };
        }
        const value = random.below(1_000_000);
        expected.set(key, value);
        return { type: "t", key, value, headers: { operation: "upsert" } };
      });
      await world.append("s", changes);
      // Sometimes long enough for a save, sometimes into the middle of one.
      await world.pass([5, 300, 2_100][random.below(3)] ?? 5);
      await turns(random.below(4));
    }
    await world.pass(300);
    for (let wait = 0; wait < 40; wait++) await world.pass(20);
    const shown = new Map<string, unknown>([...state.screen.rows.values()].map(({ key, value }) => [key, value]));
    expect({ seed, round, shown }).toEqual({ seed, round, shown: new Map<string, unknown>(expected) });
    await (random.below(2) === 0 ? state.crash() : state.close());
  }
  expect(began).toBeGreaterThan(10);
  expect(world.faults).toEqual([]);
}, 60_000);

test("a start reads the rows, and of the log only the tail", async () => {
  const world = await restartingWorld(derivedFile());
  const first = await world.start();
  for (let part = 0; part < 20; part++) {
    const changes = Array.from({ length: 100 }, (_, row) => ({
      type: "t",
      key: `k${row}`,
      value: { part, text: "x".repeat(100) },
      headers: { operation: "upsert" },
    }));
    await world.append("s", changes);
  }
  for (let wait = 0; wait < 20; wait++) await world.pass(20);
  await first.close();
  const before = world.metric("streams_read_bytes_total");
  await world.append("s", [{ type: "t", key: "last", value: 1, headers: { operation: "insert" } }]);
  const second = await world.start();
  for (let wait = 0; wait < 20; wait++) await world.pass(20);
  expect(second.checkpoint).toBe(2_000);
  expect(second.screen.rows.size).toBe(101);
  expect(world.metric("streams_read_bytes_total") - before).toBeLessThan(200);
  await second.close();
});

test("a store that fails is given up, said once, and the views go on", async () => {
  const world = await restartingWorld(derivedFile());
  const store = DerivedStates.open(derivedFile(), "boot");
  store.save = () => {
    throw new Error("disk I/O error");
  };
  const state = await world.start(store);
  for (let row = 0; row < 5; row++) {
    await world.append("s", [{ type: "t", key: `k${row}`, value: 1, headers: { operation: "insert" } }]);
    for (let wait = 0; wait < 120; wait++) await world.pass(20);
  }
  expect([state.screen.rows.size, world.faults.length]).toEqual([5, 1]);
  await state.close();
});

test("rows that cannot be read are made from the log, and the views go on", async () => {
  const world = await restartingWorld(derivedFile());
  const file = derivedFile();
  const first = await world.start(DerivedStates.open(file, "boot"));
  await world.append("s", inserts(150));
  for (let wait = 0; wait < 20; wait++) await world.pass(20);
  await first.close();
  const store = DerivedStates.open(file, "boot");
  store.page = () => {
    throw new Error("disk I/O error");
  };
  const second = await world.start(store);
  for (let wait = 0; wait < 20; wait++) await world.pass(20);
  expect([second.checkpoint, second.screen.rows.size, second.screen.ended]).toEqual([150, 150, null]);
  expect(world.faults.length).toBe(1);
  await second.close();
});

test("rows that another release kept under other ids are made from the log", async () => {
  const file = derivedFile();
  const world = await restartingWorld(file);
  const first = await world.start();
  await world.append("s", inserts(150));
  for (let wait = 0; wait < 20; wait++) await world.pass(20);
  await first.close();
  const store = DerivedStates.open(file, "boot");
  const [stream = NaN] = store.streams();
  store.save(stream, [["1:tk0", JSON.stringify({ type: "t", key: "k0", value: "outdated", offset: "" })]]);
  const second = await world.start(store);
  for (let wait = 0; wait < 20; wait++) await world.pass(20);
  expect([...second.screen.rows.values()].filter(({ value }) => value !== 1)).toEqual([]);
  expect(second.screen.rows.size).toBe(150);
  await second.close();
  const third = DerivedStates.open(file, "boot");
  expect(third.page(stream, "", 1_000).length).toBe(150);
  third.close();
  expect(world.faults).toEqual([]);
});

test("who comes back after a crash hears of a row that was deleted while rows were saved", async () => {
  const file = derivedFile();
  const world = await restartingWorld(file);
  const rows = 3_000;
  const first = await world.start();
  await world.append("s", inserts(rows));
  for (let wait = 0; wait < 20; wait++) await world.pass(20);
  const shownAt = first.screen.messages.at(-1)?.offset ?? "";
  expect(first.screen.rows.size).toBe(rows);
  // The save begins, and takes a turn for each hundred of them.
  await world.pass(2_000);
  await world.append("s", [{ type: "t", key: `k${rows - 1}`, headers: { operation: "delete" } }]);
  await turns(60);
  await first.crash();

  const second = await world.start(DerivedStates.open(file, "boot"), shownAt);
  expect(second.checkpoint).toBe(rows);
  second.screen.isLenient = true;
  for (const [id, row] of first.screen.rows) second.screen.rows.set(id, row);
  for (let wait = 0; wait < 20; wait++) await world.pass(20);
  expect(second.screen.rows.size).toBe(rows - 1);
  await second.close();
});

test("left open by another boot, of another release, or damaged: begun again; of the same boot: used", () => {
  const file = derivedFile();
  const save = (boot: string, isClosed: boolean): void => {
    const store = DerivedStates.open(file, boot);
    store.save(7, [["a", "1"]]);
    store.checkpoint(7, 3);
    if (isClosed) store.close();
  };
  const found = (boot: string | null): number | null => {
    const store = DerivedStates.open(file, boot);
    const seq = store.checkpointOf(7);
    store.close();
    return seq;
  };
  save("one", false);
  expect(found("one")).toBe(3);
  save("one", false);
  expect(found("two")).toBeNull();
  save("one", true);
  expect(found("two")).toBe(3);
  const other = new Database(file);
  other.run("PRAGMA user_version = 99");
  other.close();
  expect(found("two")).toBeNull();
  save("two", true);
  writeFileSync(file, "this is no database, and was never one");
  expect(found("two")).toBeNull();
});

test("what is kept of a stream is forgotten in steps, and no other with it", () => {
  const store = DerivedStates.open(derivedFile(), "boot");
  for (const stream of [1, 2]) {
    store.save(
      stream,
      Array.from({ length: 25 }, (_, row): [string, string] => [`r${row}`, "{}"]),
    );
    store.checkpoint(stream, 25);
  }
  expect([store.forget(1, 10), store.forget(1, 10), store.forget(1, 10)]).toEqual([false, false, true]);
  expect([store.checkpointOf(1), store.checkpointOf(2), store.streams()]).toEqual([null, 25, [2]]);
  expect([store.page(1, "", 100).length, store.page(2, "", 100).length, store.page(2, "r2", 5).length]).toEqual([
    0, 25, 5,
  ]);
  store.close();
});
