/** The live views of all streams in one process: a state comes and goes with its views, one at a time, and gives back what it took. */

import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { KeptRows } from "../../src/features/live-views/kept-rows.ts";
import { LiveViews } from "../../src/features/live-views/live-views.ts";
import { ViewMailbox } from "../../src/http/live/view-port.ts";
import { DerivedStates } from "../../src/storage/sqlite/derived.ts";
import { liveWorld, turns } from "../live-delivery/live-world.ts";
import { rejection } from "../support/wait.ts";

const LINGER_MS = 60_000;

const directories: string[] = [];
afterEach(() => {
  for (const directory of directories.splice(0)) rmSync(directory, { recursive: true, force: true });
});

function serverWorld() {
  const directory = mkdtempSync(join(tmpdir(), "views-"));
  directories.push(directory);
  const world = liveWorld();
  const { engine, followers, faults } = world;
  const store = DerivedStates.open(join(directory, "derived.db"), "boot");
  const onFault = (operation: string, cause: unknown): void => void faults.push([operation, cause]);
  // Every look at it finds that a turn is over: rows are read and saved in as many turns as there may be.
  let ms = 0;
  const hurried = { nowMs: () => ms, monotonicMs: () => (ms += 100) };
  const kept = new KeptRows(store, hurried, onFault);
  const hash64 = (text: string): bigint => Bun.hash.xxHash3(text);
  const views = new LiveViews({ engine, followers, hash64, kept, onFault });
  const idOf = async (name: string): Promise<number> => {
    const head = await engine.find(name, "look");
    return "kind" in head ? expect.unreachable(head.kind) : head.id;
  };
  const wait = async (ms: number): Promise<void> => {
    for (let passed = 0; passed < ms; passed += 20) await world.pass(20);
  };
  /** Opens a view of all rows; resolves when it has told, with what it told and how to leave. */
  async function show(name: string) {
    const mailbox = new ViewMailbox();
    const opened = await views.open(name, { limit: 10_000 }, null, mailbox);
    if ("code" in opened) return { told: opened.code, rows: 0, leave: () => undefined };
    const ready = mailbox.ready();
    await wait(300);
    await turns(200);
    expect(mailbox.isReady()).toBe(false);
    await ready;
    const frame = mailbox.take();
    const rows = frame === null ? 0 : (JSON.parse(`[${frame.records}]`) as { key?: string }[]);
    return {
      told: frame === null ? (mailbox.ended?.why?.code ?? "nothing") : "rows",
      rows: rows === 0 ? 0 : rows.filter(({ key }) => key !== undefined).length,
      leave: () => opened.close(),
    };
  }
  const write = (name: string, from: number, to: number, value: number): Promise<void> => {
    const row = (index: number) => ({ type: "t", key: `k${index}`, value, headers: { operation: "upsert" } });
    return world.append(
      name,
      Array.from({ length: to - from }, (_, index) => row(from + index)),
    );
  };
  const create = async (name: string): Promise<void> => {
    await world.create(name);
    await engine.setProfile(name, await idOf(name), { kind: "state-protocol", config: {} });
  };
  return { ...world, store, views, idOf, wait, show, write, create };
}

test("who comes back as a state is let go gets its rows, and nothing that is kept is taken for damaged", async () => {
  const { create, show, write, pass, wait, faults, store, idOf, metric } = serverWorld();
  await create("s");
  await write("s", 0, 1_000, 0);
  const first = await show("s");
  expect([first.told, first.rows]).toEqual(["rows", 1_000]);
  first.leave();
  await wait(LINGER_MS - 1_000);
  // There is something left to save when it goes: that takes turns.
  for (let part = 0; part < 5; part++) await write("s", part * 1_000, (part + 1) * 1_000, 1);
  const passing = pass(1_000);
  const second = await show("s");
  await passing;
  expect([faults, second.told, second.rows]).toEqual([[], "rows", 5_000]);
  // The one that went did not take the place of the one that came.
  await wait(1_000);
  expect(metric("streams_view_states")).toBe(1);
  await write("s", 0, 6_000, 2);
  await wait(3_000);
  expect(store.checkpointOf(await idOf("s"))).toBe(1_000 + 5_000 + 6_000);
  second.leave();
});

test("rows of one stream that are damaged cost the others nothing", async () => {
  const { create, show, write, wait, faults, store, idOf } = serverWorld();
  for (const name of ["bad", "good"]) {
    await create(name);
    await write(name, 0, 10, 0);
    (await show(name)).leave();
  }
  await wait(LINGER_MS + 1_000);
  // Behind the state's back: the sum is not that of the rows any more.
  const bad = await idOf("bad");
  const page = store.page.bind(store);
  store.page = (stream, after, limit) => {
    if (stream === bad) throw new Error("damaged");
    return page(stream, after, limit);
  };
  const again = await show("bad");
  expect([again.told, again.rows, faults.length]).toEqual(["rows", 10, 1]);
  const good = await show("good");
  expect(good.rows).toBe(10);
  await write("good", 10, 20, 0);
  await wait(3_000);
  expect(store.checkpointOf(await idOf("good"))).toBe(20);
});

test("a start that fails gives its permits back, and the next one goes on", async () => {
  const { create, show, write, engine, views } = serverWorld();
  await create("s");
  await write("s", 0, 10, 0);
  const earliest = engine.reader.earliest.bind(engine.reader);
  engine.reader.earliest = () => Promise.reject(new Error("a disk that fails"));
  const failed = await rejection(views.open("s", {}, null, new ViewMailbox()));
  expect([failed.message, engine.liveRequests.used]).toEqual(["a disk that fails", 0]);
  engine.reader.earliest = earliest;
  const shown = await show("s");
  expect(shown.rows).toBe(10);
  shown.leave();
  // One is that of the state, which stays a while.
  expect(engine.liveRequests.used).toBe(1);
});

test("rows of streams that are deleted after their state was let go are forgotten", async () => {
  const { create, show, write, wait, engine, store, idOf } = serverWorld();
  for (const name of ["a", "b", "c"]) {
    await create(name);
    await write(name, 0, 300, 0);
    (await show(name)).leave();
  }
  await wait(LINGER_MS + 1_000);
  expect(store.streams().length).toBe(3);
  const left = await idOf("b");
  await engine.delete("a");
  await engine.delete("c");
  await wait(70_000);
  expect(store.streams()).toEqual([left]);
});

test("what changed last is kept when the server stops", async () => {
  const { create, show, write, wait, engine, views, store, idOf } = serverWorld();
  await create("s");
  const id = await idOf("s");
  await write("s", 0, 10, 0);
  await show("s");
  await wait(3_000);
  await write("s", 10, 20, 0);
  await wait(100);
  const closed: (number | null)[] = [];
  const close = store.close.bind(store);
  store.close = () => {
    closed.push(store.checkpointOf(id));
    close();
  };
  engine.beginDrain();
  await turns(20);
  await views.close();
  expect(closed).toEqual([20]);
});
