/**
 * What live views cost inside one process. `marks`: one mark of one of 100,000 dirty users, by the wheel, by the batcher, and by a timer
 * that is cleared and set. `interest`: finding and marking the views of a change, by clients and by views that it concerns.
 * `evaluate`: working out a view of 1,000 rows, and the longest turn of the event loop meanwhile. Without a name: all.
 */

import { Engine } from "../src/engine/engine.ts";
import { EVERY_RECORD } from "../src/engine/reader.ts";
import { HybridUserUpdateBatcher, type ProcessUser } from "../src/features/live-views/hybrid-batcher.ts";
import { InterestIndex } from "../src/features/live-views/interest-index.ts";
import { KeptRows } from "../src/features/live-views/kept-rows.ts";
import { LiveViews } from "../src/features/live-views/live-views.ts";
import { parseView, type ViewDefinition, type ViewRow } from "../src/features/live-views/view-definition.ts";
import { type ViewClient, ViewStream } from "../src/features/live-views/view-stream.ts";
import { stateProtocol } from "../src/features/state-protocol/index.ts";
import { type Follower, Followers } from "../src/http/live/follower.ts";
import { ViewMailbox } from "../src/http/live/view-port.ts";
import { systemClock } from "../src/kit/clock.ts";
import { Deadlines } from "../src/kit/deadlines.ts";
import { DeadlineWheel, type WheelPlace } from "../src/kit/deadline-wheel.ts";
import { nextTurn } from "../src/kit/turn.ts";
import { MemoryStore } from "../src/storage/memory/memory-store.ts";
import { seededRandom } from "../test/support/random.ts";

const ROUNDS = 15;
/** The first rounds meet code that is not compiled yet. */
const WARM_UP = 4;
const DEBOUNCE_MS = 200;
const random = seededRandom(1);

function spread(values: readonly number[], digits = 1) {
  const sorted = values.toSorted((left, right) => left - right);
  const at = (share: number): number =>
    Number((sorted[Math.floor(share * (sorted.length - 1))] ?? NaN).toFixed(digits));
  return { min: at(0), median: at(0.5), max: at(1) };
}

/** The numbers below `count` in random order. */
function shuffled(count: number): Uint32Array {
  const order = Uint32Array.from({ length: count }, (_, index) => index);
  for (let at = count - 1; at > 0; at--) {
    const other = random.below(at + 1);
    const held = order[at] ?? 0;
    order[at] = order[other] ?? 0;
    order[other] = held;
  }
  return order;
}

function batcherOf(process: ProcessUser): HybridUserUpdateBatcher {
  return new HybridUserUpdateBatcher(process, {}, { clock: systemClock, deadlines: new Deadlines(systemClock) });
}

/** Nothing that comes after a fault is a figure. */
function onFault(operation: string, cause: unknown): void {
  console.error(operation, cause);
  process.exit(1);
}

const USERS = 100_000;
/** Marks between two ticks of a wheel that turns: a million marks per second. */
const MARKS_PER_TICK = 5_000;
const TICK_MS = 5;

/** Marks each user once in the given order. */
type Marking = (order: Uint32Array) => void;

function never(): never {
  throw new Error("a call in the middle of a round");
}

/** A wheel on a clock of its own, with every user waiting. */
function fullWheel() {
  const time = { ms: 10_000 };
  const clock = { nowMs: () => time.ms, monotonicMs: () => time.ms };
  const entries: WheelPlace[] = Array.from({ length: USERS }, () => ({ dueMs: Infinity, slot: -1 }));
  const wheel = new DeadlineWheel<WheelPlace>({
    clock,
    deadlines: new Deadlines(clock),
    placeOf: (entry) => entry,
    onDue: never,
  });
  for (const entry of entries) wheel.set(entry, time.ms + DEBOUNCE_MS);
  return { time, wheel, entries };
}

function wheelAlone(): Marking {
  const { time, wheel, entries } = fullWheel();
  return (order) => {
    // Less than the debounce in all rounds together: the wheel stands still.
    time.ms += 1;
    const dueMs = time.ms + DEBOUNCE_MS;
    for (const at of order) {
      const entry = entries[at];
      if (entry !== undefined) wheel.set(entry, dueMs);
    }
  };
}

/** With what it costs to look at the entries when their slot comes, and to put them further on. */
function wheelTurning(): Marking {
  const { time, wheel, entries } = fullWheel();
  return (order) => {
    for (let start = 0; start < order.length; start += MARKS_PER_TICK) {
      const dueMs = time.ms + DEBOUNCE_MS;
      for (const at of order.subarray(start, start + MARKS_PER_TICK)) {
        const entry = entries[at];
        if (entry !== undefined) wheel.set(entry, dueMs);
      }
      time.ms += TICK_MS;
      wheel.tick();
    }
  };
}

function userNames(): string[] {
  return Array.from({ length: USERS }, (_, index) => `user-${index}`);
}

function batcherMarks(): Marking {
  const batcher = batcherOf(never);
  const names = userNames();
  const context = { reason: "event_update" };
  for (const name of names) batcher.markUserAsDirty(name, context);
  return (order) => {
    for (const at of order) batcher.markUserAsDirty(names[at] ?? "", context);
  };
}

/** What `markUserAsDirty` cannot do without as long as users are named: one look into a map. */
function mapLookups(): Marking {
  const names = userNames();
  const map = new Map(names.map((name) => [name, { marks: 0 }]));
  return (order) => {
    for (const at of order) {
      const user = map.get(names[at] ?? "");
      if (user !== undefined) user.marks++;
    }
  };
}

/** The founding guide's way: a map of timers. */
function clearAndSet(): Marking {
  const names = userNames();
  const timers = new Map<string, ReturnType<typeof setTimeout>>();
  const action = (): void => undefined;
  for (const name of names) timers.set(name, setTimeout(action, DEBOUNCE_MS));
  return (order) => {
    for (const at of order) {
      const name = names[at] ?? "";
      clearTimeout(timers.get(name));
      timers.set(name, setTimeout(action, DEBOUNCE_MS));
    }
  };
}

function clearAndSetAlone(): Marking {
  const action = (): void => undefined;
  const timers = Array.from({ length: USERS }, () => setTimeout(action, DEBOUNCE_MS));
  return (order) => {
    for (const at of order) {
      clearTimeout(timers[at]);
      timers[at] = setTimeout(action, DEBOUNCE_MS);
    }
  };
}

/** In one turn of the event loop: no timer fires in between. */
function markCost(): void {
  const ways: Readonly<Record<string, Marking>> = {
    "wheel.set": wheelAlone(),
    "wheel.set and its ticks": wheelTurning(),
    "map lookup": mapLookups(),
    markUserAsDirty: batcherMarks(),
    "clearTimeout + setTimeout": clearAndSetAlone(),
    "the same in a map": clearAndSet(),
  };
  const figures = new Map<string, number[]>(Object.keys(ways).map((name) => [name, []]));
  for (let round = 0; round < WARM_UP + ROUNDS; round++) {
    const order = shuffled(USERS);
    for (const [name, mark] of Object.entries(ways)) {
      const startMs = performance.now();
      mark(order);
      const ns = ((performance.now() - startMs) * 1e6) / USERS;
      if (round >= WARM_UP) figures.get(name)?.push(ns);
    }
  }
  console.log(`ns per mark, ${USERS} users in random order, ${ROUNDS} rounds in turns`);
  console.table(Object.fromEntries([...figures].map(([name, ns]) => [name, spread(ns, 0)])));
}

const WORLD = { width: 360, height: 180 };
const POINTS = 10_000;
const CHANGES_PER_SECOND = 1_000;
/** Changes that come together, every 10 ms. */
const BURST = 10;
const PACED_SECONDS = 5;
const TIGHT_CHANGES = 20_000;

/** A client that takes all. */
const idle: ViewClient = { isReady: () => true, send: () => undefined, end: () => undefined };

interface Interest {
  readonly definition: ViewDefinition;
}

function viewOf(request: object): ViewDefinition {
  const parsed = parseView(request);
  if (typeof parsed === "string") throw new Error(parsed);
  return parsed;
}

/** Below `bound`, as fine as a coordinate of a map. */
function upTo(bound: number): number {
  return (random.below(1_000_000) / 1_000_000) * bound;
}

function rectangle(width: number, height: number): object {
  const [minX, minY] = [upTo(WORLD.width - width), upTo(WORLD.height - height)];
  return { viewport: { x: "lng", y: "lat", minX, minY, maxX: minX + width, maxY: minY + height } };
}

/** Side of the squares of which `affected` lie over a point on average, among `clients`. */
function sideFor(clients: number, affected: number): number {
  return Math.sqrt((WORLD.width * WORLD.height * affected) / clients);
}

interface MovedPoint {
  readonly before: ViewRow;
  readonly after: ViewRow;
}

/** Points that move a little with each change, in random order. */
function movingPoints(): () => MovedPoint {
  let version = 0n;
  const row = (key: string, lng: number, lat: number): ViewRow => {
    return { id: `1:p${key}`, type: "p", key, value: { lng, lat, speed: 3 }, hash: version++, offset: "" };
  };
  const places = Array.from({ length: POINTS }, (_, index) => {
    const [lng, lat] = [upTo(WORLD.width), upTo(WORLD.height)];
    return { lng, lat, row: row(`k${index}`, lng, lat) };
  });
  return () => {
    const place = places[random.below(POINTS)];
    if (place === undefined) throw new Error("a point that is not there");
    place.lng = Math.min(WORLD.width, Math.max(0, place.lng + upTo(0.02) - 0.01));
    place.lat = Math.min(WORLD.height, Math.max(0, place.lat + upTo(0.02) - 0.01));
    const before = place.row;
    place.row = row(before.key, place.lng, place.lat);
    return { before, after: place.row };
  };
}

interface InterestSetup {
  readonly clients: number;
  readonly width: number;
  readonly height: number;
}

/** A time per change of `affected` with what it found, and of the marks besides. */
function interestWorld({ clients, width, height }: InterestSetup) {
  const index = new InterestIndex<Interest>();
  const batcher = batcherOf(() => undefined);
  for (let client = 0; client < clients; client++) index.add({ definition: viewOf(rectangle(width, height)) });
  const next = movingPoints();
  const time = { findMs: 0, markMs: 0, affected: 0, changes: 0 };
  const apply = (changes: readonly MovedPoint[]): void => {
    const startMs = performance.now();
    const found = changes.map(({ before, after }) => {
      const views = new Set<Interest>();
      index.affected(before, after, views);
      return views;
    });
    const foundMs = performance.now();
    for (const views of found) {
      for (const { definition } of views) batcher.markUserAsDirty(definition.identity, { reason: "event_update" });
    }
    time.markMs += performance.now() - foundMs;
    time.findMs += foundMs - startMs;
    time.changes += changes.length;
    for (const views of found) time.affected += views.size;
  };
  const burst = (): void => apply(Array.from({ length: BURST }, next));
  const take = () => {
    const { findMs, markMs, affected, changes } = time;
    time.findMs = time.markMs = time.affected = time.changes = 0;
    const per = (ms: number): number => Number(((ms * 1_000) / changes).toFixed(2));
    return { affected: Number((affected / changes).toFixed(2)), findUs: per(findMs), markUs: per(markMs) };
  };
  return { burst, take, close: () => batcher.shutdown() };
}

/** At the rate, with the event loop turning and the marked views becoming due; then as fast as it goes. */
async function interestRow(setup: InterestSetup) {
  const { burst, take, close } = interestWorld(setup);
  for (let change = 0; change < TIGHT_CHANGES; change += BURST) burst();
  take();
  for (let change = 0; change < TIGHT_CHANGES; change += BURST) burst();
  const tight = take();
  await paced(burst);
  const pace = take();
  await close();
  return {
    clients: setup.clients,
    degrees: Number(setup.width.toFixed(2)),
    "affected/change": pace.affected,
    "find µs": pace.findUs,
    "mark µs": pace.markUs,
    "sum µs": Number((pace.findUs + pace.markUs).toFixed(2)),
    "sum µs, back to back": Number((tight.findUs + tight.markUs).toFixed(2)),
  };
}

/** Bursts at the rate, whatever the timers do. */
async function paced(burst: () => void | Promise<void>): Promise<void> {
  const startMs = performance.now();
  const bursts = (CHANGES_PER_SECOND * PACED_SECONDS) / BURST;
  for (let sent = 0; sent < bursts;) {
    const due = Math.min(bursts, ((performance.now() - startMs) * CHANGES_PER_SECOND) / 1_000 / BURST);
    for (; sent < due; sent++) await burst();
    await Bun.sleep(1);
  }
}

async function interestCost(): Promise<void> {
  console.log(`µs per change at ${CHANGES_PER_SECOND} changes/s, points that move a little`);
  const rows = [await interestRow({ clients: 10_000, width: 2, height: 2 })];
  for (const clients of [100, 1_000, 10_000]) {
    const side = sideFor(clients, 1);
    rows.push(await interestRow({ clients, width: side, height: side }));
  }
  for (const affected of [3, 10, 30, 100, 300]) {
    const side = sideFor(10_000, affected);
    rows.push(await interestRow({ clients: 10_000, width: side, height: side }));
  }
  console.table(rows);
  const whole = [];
  for (const clients of [0, 100, 1_000, 10_000]) whole.push(await wholeRow(clients));
  console.log(
    "µs of CPU per change for everything: append, follow, apply, mark, work out, compare (clients that take all)",
  );
  console.table(whole);
}

/** A view stream under the same load: what the process takes, collections and all. */
async function wholeRow(clients: number) {
  const { append, stream, close } = await viewStream();
  const side = sideFor(Math.max(1, clients), 1);
  let messages = 0;
  const client: ViewClient = { ...idle, send: () => void messages++ };
  for (let at = 0; at < clients; at++) stream.open(viewOf(rectangle(side, side)), client);
  const next = movingPoints();
  for (let at = 0; at < POINTS; at += 500) await append(Array.from({ length: 500 }, () => next().after));
  await paced(() => append(Array.from({ length: BURST }, () => next().after)));
  const before = { cpu: process.cpuUsage(), messages };
  await paced(() => append(Array.from({ length: BURST }, () => next().after)));
  const { user, system } = process.cpuUsage(before.cpu);
  const row = {
    clients,
    "CPU µs/change": Number(((user + system) / (CHANGES_PER_SECOND * PACED_SECONDS)).toFixed(1)),
    "messages/s": Math.round((messages - before.messages) / PACED_SECONDS),
  };
  await close();
  return row;
}

const REPEATS = 21;
const OPENINGS = 7;
const SHOWN = 1_000;
const NAME = "rows";

/** An engine in memory with one State Protocol stream. */
async function emptyStream() {
  const store = new MemoryStore(systemClock);
  const engine = new Engine({ store, clock: systemClock, onFault, random: () => 0, profiles: [stateProtocol] });
  const contentType = "application/json";
  const created = await engine.create({
    name: NAME,
    contentType,
    expiry: { kind: "never" },
    retention: null,
    close: false,
    key: null,
    body: new Uint8Array(),
    fork: null,
  });
  if (created.kind !== "created") throw new Error(created.kind);
  const profile = stateProtocol.parse({}, "bench");
  if ("reason" in profile) throw new Error(profile.reason);
  await engine.setProfile(NAME, created.head.id, { kind: stateProtocol.kind, config: profile.config });
  const followers = new Followers(engine, onFault);
  const append = async (rows: readonly Pick<ViewRow, "type" | "key" | "value">[]): Promise<void> => {
    const records = rows.map(({ type, key, value }) => ({ type, key, value, headers: { operation: "upsert" } }));
    const body = new TextEncoder().encode(JSON.stringify(records));
    const rest = { producer: null, streamSeq: null, ifMatch: null, key: null, close: false };
    const outcome = await engine.append({ name: NAME, contentType, body, ...rest });
    if (outcome.kind !== "appended") throw new Error(outcome.kind);
  };
  return { engine, followers, append };
}

async function followerOf({ engine, followers }: Awaited<ReturnType<typeof emptyStream>>): Promise<Follower> {
  const head = await engine.find(NAME, "read");
  if ("kind" in head) throw new Error(head.kind);
  const plan = await engine.reader.plan(head, { kind: "offset", token: { kind: "start" } }, EVERY_RECORD);
  if ("kind" in plan) throw new Error(plan.kind);
  const follower = followers.open(plan, "resume");
  if ("kind" in follower) throw new Error(follower.kind);
  return follower;
}

/** The views of that stream, which follow it. */
async function viewStream() {
  const world = await emptyStream();
  const { deadlines } = world.engine;
  const hash = (text: string): bigint => Bun.hash.xxHash3(text);
  const kept = new KeptRows(null, systemClock, onFault).of(1);
  const fromStart = (): Promise<Follower> => followerOf(world);
  const parts = { clock: systemClock, deadlines, batching: {}, hash, kept, fromStart, hasRoom: () => true, onFault };
  const stream = new ViewStream(await followerOf(world), parts);
  const running = stream.run();
  const close = async (): Promise<void> => {
    stream.close();
    await running;
    await world.engine.close();
  };
  return { ...world, stream, close };
}

/** `count` rows on a line, 1,000 of them in each group, with scores in random order; the views have seen them all. */
async function fill({ append, stream }: Awaited<ReturnType<typeof viewStream>>, count: number): Promise<void> {
  const scores = shuffled(count);
  const row = (index: number) => {
    const value = { lng: index, lat: 0, group: index % (count / SHOWN), score: scores[index], title: `row ${index}` };
    return { type: "t", key: `k${index}`, value };
  };
  for (let at = 0; at < count; at += 1_000) await append(Array.from({ length: 1_000 }, (_, index) => row(at + index)));
  while (stream.getStats().rows < count) await nextTurn();
}

/** Time of `work`, and the longest turn of the event loop meanwhile, its own included. */
async function timed(work: () => Promise<void>): Promise<{ readonly ms: number; readonly longestMs: number }> {
  const watch = { lastMs: performance.now(), longestMs: 0, ended: false };
  const watching = (async () => {
    while (!watch.ended) {
      await nextTurn();
      const nowMs = performance.now();
      watch.longestMs = Math.max(watch.longestMs, nowMs - watch.lastMs);
      watch.lastMs = nowMs;
    }
  })();
  const startMs = performance.now();
  await work();
  const ms = performance.now() - startMs;
  watch.ended = true;
  await watching;
  return { ms, longestMs: watch.longestMs };
}

function viewsOver(count: number): Readonly<Record<string, object>> {
  const box = { x: "lng", y: "lat", minX: count / 2, minY: -1, maxX: count / 2 + SHOWN - 1, maxY: 1 };
  return {
    "viewport of 1,000": { viewport: box, limit: SHOWN },
    "viewport of all, order, limit 1,000": {
      viewport: { ...box, minX: 0, maxX: count },
      order: "-score",
      limit: SHOWN,
    },
    "filter that 1,000 pass": { filter: "group = 3", limit: SHOWN },
    "order, limit 1,000": { order: "-score", limit: SHOWN },
    "order, limit 10,000": { order: "-score", limit: 10_000 },
  };
}

async function evaluateRow(stream: ViewStream, rows: number, name: string, request: object) {
  const definition = viewOf(request);
  const shown = Promise.withResolvers<number>();
  const send: ViewClient["send"] = ({ diff }) => shown.resolve(diff.kind === "full" ? diff.rows.length : 0);
  let handle: { close(): void } = { close: () => undefined };
  const first = await timed(async () => {
    handle = stream.open(definition, { ...idle, send });
    await shown.promise;
  });
  const times: number[] = [];
  const turns: number[] = [];
  for (let repeat = 0; repeat < WARM_UP + REPEATS; repeat++) {
    const { ms, longestMs } = await timed(() => stream.calculateAndSendDiff(definition.identity));
    if (repeat < WARM_UP) continue;
    times.push(ms);
    turns.push(longestMs);
  }
  handle.close();
  const longest = spread(turns, 2);
  return {
    rows,
    view: name,
    shown: await shown.promise,
    "first ms": Number(first.ms.toFixed(1)),
    "its longest turn": Number(first.longestMs.toFixed(1)),
    "again ms": spread(times, 2).median,
    "longest turn": longest.median,
    "worst turn": longest.max,
  };
}

/** Views that become due together, as after a storm: the longest turn while the batcher works on all of them. */
async function crowdRow(stream: ViewStream, rows: number, name: string, requests: readonly object[]) {
  const handles = requests.map((request) => stream.open(viewOf(request), idle));
  await stream.batcher.forceProcessBatch();
  const times: number[] = [];
  const turns: number[] = [];
  for (let repeat = 0; repeat < OPENINGS; repeat++) {
    for (const request of requests) stream.batcher.markUserAsDirty(viewOf(request).identity);
    const { ms, longestMs } = await timed(() => stream.batcher.forceProcessBatch());
    times.push(ms);
    turns.push(longestMs);
  }
  for (const handle of handles) handle.close();
  const longest = spread(turns);
  return { rows, views: name, ms: spread(times).median, "longest turn": longest.median, "worst turn": longest.max };
}

function crowdsOver(count: number): Readonly<Record<string, readonly object[]>> {
  const box = (at: number) => ({ x: "lng", y: "lat", minX: at, minY: -1, maxX: at + SHOWN - 1, maxY: 1 });
  const starts = Array.from({ length: 100 }, (_, index) => (index * (count - SHOWN)) / 100);
  return {
    "100 viewports of 1,000": starts.map((at) => ({ viewport: box(at) })),
    "8 orders, limit 1,000": starts.slice(0, 8).map((_, index) => ({ order: "-score", limit: SHOWN - index })),
  };
}

/** From the first view of a stream to the frame that its client is sent: the log is read, the rows worked out and encoded. */
async function openRow(views: LiveViews, rows: number, name: string, request: object) {
  const times: number[] = [];
  const turns: number[] = [];
  for (let repeat = 0; repeat < OPENINGS; repeat++) {
    const { ms, longestMs } = await timed(async () => {
      const mailbox = new ViewMailbox();
      const view = await views.open(NAME, request, null, mailbox);
      if ("code" in view) throw new Error(view.message);
      await mailbox.ready();
      if (mailbox.take() === null) throw new Error("the view showed nothing");
      view.close();
    });
    times.push(ms);
    turns.push(longestMs);
    // It lets go of the state: the next one reads the log again.
    await views.close();
  }
  const longest = spread(turns);
  return { rows, view: name, ms: spread(times).median, "longest turn": longest.median, "worst turn": longest.max };
}

async function evaluateCost(): Promise<void> {
  const evaluated = [];
  const opened = [];
  const crowds = [];
  for (const rows of [10_000, 100_000]) {
    const world = await viewStream();
    const { engine, followers, stream } = world;
    const hash64 = (text: string): bigint => Bun.hash.xxHash3(text);
    const kept = new KeptRows(null, systemClock, onFault);
    const views = new LiveViews({ engine, followers, hash64, kept, onFault });
    await fill(world, rows);
    for (const [name, request] of Object.entries(viewsOver(rows))) {
      evaluated.push(await evaluateRow(stream, rows, name, request));
      opened.push(await openRow(views, rows, name, request));
    }
    for (const [name, requests] of Object.entries(crowdsOver(rows))) {
      crowds.push(await crowdRow(stream, rows, name, requests));
    }
    await world.close();
  }
  console.log(
    `ms of calculateAndSendDiff when nothing changed, ${REPEATS} times; first: all rows looked at, and the full set sent`,
  );
  console.table(evaluated);
  console.log("ms until all that were marked together are worked out");
  console.table(crowds);
  console.log("ms from the first view of a stream to the encoded frame: the log is read, the rows worked out");
  console.table(opened);
}

const commands: Readonly<Record<string, () => void | Promise<void>>> = {
  marks: markCost,
  interest: interestCost,
  evaluate: evaluateCost,
};
const asked = process.argv.slice(2);
for (const name of asked.length > 0 ? asked : Object.keys(commands)) {
  const command = commands[name];
  if (command === undefined) throw new Error("usage: bun bench/live-views.ts [marks | interest | evaluate]…");
  await command();
}
process.exit(0);
