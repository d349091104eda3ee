/**
 * Live queries against a real server: many of them over a Map that plays the database, with writers that change it at the same
 * time. Afterwards every query shows what the database has (no wake was lost), and none ran oftener than changes concerned it.
 * The server is killed and replaced under them, the stream deleted; queries that are aborted leave nothing parked.
 */

import { expect, test } from "bun:test";
import { connect, hash64, type StreamHandle, touchKeys, type TouchTemplate } from "../../src/client/client.ts";
import { runSeed, type SeededRandom, seededRandom } from "../support/random.ts";
import type { TestServer } from "../support/server.ts";
import { sharedServer, temporaryServers } from "../support/shared-server.ts";
import { rejection, until, within } from "../support/wait.ts";
import { touchAt, touchStream } from "../touch/touch-client.ts";

interface Todo {
  readonly id: string;
  readonly userId: string;
  readonly title: string;
}

const USERS = 12;
const ROWS = 40;
const WRITERS = 6;
const CHANGES_PER_WRITER = 60;
const QUERIES_PER_USER = 2;
const NEVER_MS = 300;
/** A client whose server is gone and comes back: asks again soon. */
const RETRY = { maxAttempts: 1000, baseDelayMs: 5, maxDelayMs: 50 };

const shared = sharedServer();
const temporary = temporaryServers();
const keys = touchKeys(await hash64());
const byUser: TouchTemplate = { entity: "todo", fields: [{ name: "userId", encoding: "string" }] };
const watch = (user: string): string => keys.watch(byUser, [user]);
let turn = 0;

/** A database of one table whose every change goes into the stream once it is in the table. */
class Todos {
  readonly rows = new Map<string, Todo>();
  /** How many changes concerned the list of a user. */
  readonly concerned = new Map<string, number>();
  readonly #append: (change: unknown) => Promise<void>;

  constructor(append: (change: unknown) => Promise<void>) {
    this.#append = append;
  }

  of(user: string): string[] {
    return [...this.rows.values()]
      .filter(({ userId }) => userId === user)
      .map(({ id, title }) => `${id}: ${title}`)
      .sort();
  }

  /** Null deletes the row. */
  async save(id: string, next: Omit<Todo, "id"> | null): Promise<void> {
    const old = this.rows.get(id);
    const value = next === null ? null : { id, ...next };
    if (value === null) this.rows.delete(id);
    else this.rows.set(id, value);
    if (old === undefined && value === null) return;
    const users = new Set([old?.userId, value?.userId].filter((user) => user !== undefined));
    for (const user of users) this.concerned.set(user, (this.concerned.get(user) ?? 0) + 1);
    const operation = value === null ? "delete" : old === undefined ? "insert" : "update";
    await this.#append({
      type: "todo",
      key: id,
      ...(value === null ? {} : { value }),
      ...(old === undefined ? {} : { old_value: old }),
      headers: { operation },
    });
  }
}

/** A live query of one user's list, and what it showed last. */
interface Shown {
  readonly user: string;
  last: readonly string[] | null;
  runs: number;
  runningNow: number;
  readonly ended: Promise<Error>;
}

function show(stream: StreamHandle, todos: Todos, user: string, signal: AbortSignal, runMs = 0): Shown {
  async function run(): Promise<readonly string[]> {
    shown.runs++;
    expect(++shown.runningNow).toBe(1);
    const rows = todos.of(user);
    // What changes from here on is not in the result: the wait must tell.
    await Bun.sleep(runMs);
    shown.runningNow--;
    return rows;
  }
  async function follow(): Promise<void> {
    const query = { templates: [byUser], keys: [watch(user)], run, signal };
    for await (const rows of stream.liveQuery(query)) shown.last = rows;
  }
  const shown: Shown = { user, last: null, runs: 0, runningNow: 0, ended: rejection(Promise.resolve().then(follow)) };
  return shown;
}

/** The stream by a client of its own, and the database in front of it. */
async function world(server: { readonly url: string }, name = `live-${turn++}`) {
  const touch = await touchStream(server, name, []);
  const stream = connect({ url: server.url, retry: RETRY }).stream(name);
  return { touch, stream, todos: new Todos((change) => touch.append(change)) };
}

async function write(todos: Todos, random: SeededRandom, changes: number): Promise<void> {
  for (let change = 0; change < changes; change++) {
    const next = { userId: `u${random.below(USERS)}`, title: `title ${random.below(1000)}` };
    await todos.save(`r${random.below(ROWS)}`, random.below(5) === 0 ? null : next);
    if (random.below(8) === 0) await Bun.sleep(random.below(5));
  }
}

async function expectAllShown(shown: readonly Shown[], todos: Todos): Promise<void> {
  await until(
    "every query shows what the database has",
    () => shown.every(({ user, last }) => JSON.stringify(last) === JSON.stringify(todos.of(user))),
    60_000,
  );
}

test("after many changes by several writers every query shows the database, and ran no oftener than it had to", async () => {
  const seed = runSeed();
  const { touch, stream, todos } = await world(shared);
  const abort = new AbortController();
  const shown = Array.from({ length: USERS * QUERIES_PER_USER }, (_, index) =>
    show(stream, todos, `u${index % USERS}`, abort.signal, index % 7),
  );
  await Promise.all(
    Array.from({ length: WRITERS }, (_, writer) => write(todos, seededRandom(seed + writer), CHANGES_PER_WRITER)),
  );
  await expectAllShown(shown, todos);
  const meta = await touch.meta();
  expect(meta).toMatchObject({ waitStale: 0, coarseChanges: 0 });
  for (const { user, runs } of shown) {
    if (runs > 1 + (todos.concerned.get(user) ?? 0)) expect.unreachable(`${user} ran ${runs} times, seed ${seed}`);
  }
  const runs = shown.reduce((total, one) => total + one.runs, 0);
  console.log(
    `live queries: seed ${seed}, ${WRITERS * CHANGES_PER_WRITER} changes, ${shown.length} queries, ${runs} runs`,
  );
  expect(runs).toBeGreaterThan(shown.length);

  // Nothing changes any more: every query is parked, and stays so until it is aborted.
  await until("all are parked", async () => (await touch.meta())["activeWaiters"] === shown.length);
  abort.abort(new Error("enough"));
  for (const { ended } of shown) expect((await ended).message).toBe("enough");
  await until("no wait is parked", async () => (await touch.meta())["activeWaiters"] === 0);
  expect(shown.reduce((total, one) => total + one.runs, 0)).toBe(runs);
}, 60_000);

test("a change while the query runs is told, which a cursor taken after it would hide", async () => {
  const { touch, stream, todos } = await world(shared);
  const seen: string[][] = [];
  const run = async (): Promise<string[]> => {
    const rows = todos.of("u1");
    if (seen.length === 0) await todos.save("r1", { userId: "u1", title: "late" });
    return rows;
  };
  for await (const rows of stream.liveQuery({ templates: [byUser], keys: [watch("u1")], run })) {
    seen.push(rows);
    if (seen.length === 2) break;
  }
  expect(seen).toEqual([[], ["r1: late"]]);
  // The control: the same wait from the cursor of now hears nothing of it.
  const wrong = { keys: [watch("u1")], cursor: "now", timeoutMs: NEVER_MS, declareTemplates: [byUser] };
  expect(await touch.wait(wrong)).toMatchObject({ touched: false });
});

test("a join waits for the keys of the rows it found", async () => {
  const { stream, todos } = await world(shared);
  // The list of whoever the row `who` names: its keys change with it.
  const run = () => {
    const user = todos.rows.get("who")?.userId ?? "nobody";
    return { user, rows: todos.of(user).filter((row) => !row.startsWith("who")) };
  };
  const abort = new AbortController();
  let last: ReturnType<typeof run> | null = null;
  const byId: TouchTemplate = { entity: "todo", fields: [{ name: "id", encoding: "string" }] };
  const query = stream.liveQuery({
    templates: [byUser, byId],
    keys: ({ user }: ReturnType<typeof run>) => [keys.watch(byId, ["who"]), watch(user)],
    run,
    signal: abort.signal,
  });
  const ended = rejection(
    (async () => {
      for await (const result of query) last = result;
    })(),
  );
  const shows = (user: string, ...rows: string[]) =>
    until(`the list of ${user} is shown`, () => JSON.stringify(last) === JSON.stringify({ user, rows }));
  await shows("nobody");
  await todos.save("r1", { userId: "u1", title: "one" });
  await todos.save("who", { userId: "u1", title: "-" });
  await shows("u1", "r1: one");
  await todos.save("r2", { userId: "u1", title: "two" });
  await shows("u1", "r1: one", "r2: two");
  await todos.save("who", { userId: "u2", title: "-" });
  await shows("u2");
  await todos.save("r2", { userId: "u2", title: "two" });
  await shows("u2", "r2: two");
  abort.abort(new Error("enough"));
  expect((await ended).message).toBe("enough");
});

test("queries go on over a server that is killed and one that has another log; a deleted stream ends them", async () => {
  let current: TestServer = await temporary();
  const first = current;
  // The client knows one address, as it would behind a name; which server answers there changes.
  const fetchCurrent = (url: string, init: RequestInit): Promise<Response> =>
    fetch(url.replace("http://server.test", current.url), init);
  const stream = connect({ url: "http://server.test", retry: RETRY, fetch: fetchCurrent }).stream("s");
  await touchStream(first, "s", []);
  const todos = new Todos((change) => touchAt(`${current.url}/v1/stream/s`).append(change));
  const abort = new AbortController();
  const shown = ["u0", "u1", "u2"].map((user) => show(stream, todos, user, abort.signal));
  const random = seededRandom(runSeed());
  await write(todos, random, 50);
  await expectAllShown(shown, todos);

  // Killed, and started again on its data: nothing is stale, cursors are positions in the log.
  await first.kill("SIGKILL");
  current = await temporary({ dataDir: first.dataDir });
  await write(todos, random, 20);
  await expectAllShown(shown, todos);
  const again = touchAt(`${current.url}/v1/stream/s`);
  expect(await again.meta()).toMatchObject({ waitStale: 0 });

  // Another server with another, shorter log: cursors are past its tail, or of another incarnation.
  const runsBefore = shown.map(({ runs }) => runs);
  const other = await temporary();
  const elsewhere = await touchStream(other, "s", []);
  todos.rows.clear();
  await current.kill("SIGKILL");
  current = other;
  await until("all heard that they are stale", async () => Number((await elsewhere.meta())["waitStale"]) >= 3);
  await expectAllShown(shown, todos);
  for (const [index, { runs }] of shown.entries()) expect(runs).toBe((runsBefore[index] ?? 0) + 1);
  await write(todos, random, 20);
  await expectAllShown(shown, todos);

  // Deleted: queries end, with the server's word.
  expect((await stream.delete()).isOk()).toBe(true);
  for (const { ended } of shown) {
    expect(await within("the end of the query", ended)).toMatchObject({ _tag: "Refused", status: 404 });
  }
}, 60_000);

test("a query that is aborted in the middle of its run asks for nothing more", async () => {
  const { touch, stream, todos } = await world(shared);
  const abort = new AbortController();
  let entered = false;
  const query = stream.liveQuery({
    keys: [keys.table("todo")],
    signal: abort.signal,
    run: async (signal) => {
      entered = true;
      await new Promise((resolve) => signal.addEventListener("abort", resolve));
      return todos.of("u1");
    },
  });
  const ended = rejection(query.next());
  await until("it runs", () => entered);
  abort.abort(new Error("enough"));
  expect((await ended).message).toBe("enough");
  expect(await touch.meta()).toMatchObject({ activeWaiters: 0, waitTouched: 0, waitTimeout: 0 });
});

test("a stream without touch is refused in the server's words; so is a template with two meanings", async () => {
  const plain = connect({ url: shared.url }).stream(`plain-${turn++}`);
  expect((await plain.create({ contentType: "application/json" })).isOk()).toBe(true);
  const off = plain.liveQuery({ keys: [watch("u1")], run: () => 1 });
  expect(await rejection(off.next())).toMatchObject({ _tag: "Refused", status: 404, code: "touch-off" });

  const { stream } = await world(shared);
  const ok = stream.liveQuery({ templates: [byUser], keys: [watch("u1")], run: () => 1 });
  expect(await ok.next()).toEqual({ done: false, value: 1 });
  const other: TouchTemplate = { entity: "todo", fields: [{ name: "userId", encoding: "int64" }] };
  const clashing = stream.liveQuery({ templates: [other], keys: [watch("u1")], run: () => 1 });
  expect((await rejection(clashing.next())).message).toContain("keeps its encodings");
});
