/** The metrics stream in its odd hours: somebody else's, closed, deleted, full of events; and what its records say. */

import { expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../../src/kit/clock.ts";
import { open, type StreamsServer } from "../../src/server/open.ts";
import { MemoryStore } from "../../src/storage/memory/memory-store.ts";
import { IDENTITY, METRICS, observedWorld, type ObservedWorld, type Told } from "./observed-world.ts";

const TEMPLATE = { entity: "todo", fields: [{ name: "userId", encoding: "string" }] };
const CHANGE = { type: "todo", key: "1", value: { id: 1, userId: "a" }, headers: { operation: "insert" } };

function world(options: Partial<Parameters<typeof observedWorld>[0]> = {}): ObservedWorld {
  return observedWorld({ store: new MemoryStore(systemClock), clock: systemClock, ...options });
}

/** Requests of a user, all of which must succeed whatever happens to the metrics. */
async function use({ json }: ObservedWorld, stream: string): Promise<void> {
  await json("POST", `${stream}/touch/templates/activate`, { templates: [TEMPLATE] });
  await json("POST", stream, [CHANGE]);
  await json("POST", `${stream}/touch/wait`, { keys: ["0123456789abcdef"], cursor: "now", timeoutMs: 0 });
}

const ticks = (told: readonly Told[]): Told[] => told.filter(({ type }) => type === "live.tick");

test("the stream is made once: JSON, internal, with its retention; a second call changes nothing", async () => {
  const { metrics, engine, json } = world();
  expect((await metrics.ensureStreamResult()).isOk()).toBe(true);
  const { durableCommit } = engine.status();
  expect((await metrics.ensureStreamResult()).isOk()).toBe(true);
  expect(engine.status().durableCommit).toBe(durableCommit);
  expect(await json("GET", `${METRICS}/_details`)).toMatchObject({
    contentType: "application/json",
    retention: `max-age=${7 * 86_400_000}ms, max-bytes=${1024 ** 3}`,
  });
  expect(await json("GET", `${METRICS}/_profile`)).toMatchObject({ profile: { kind: "internal" } });
  await engine.close();
});

test("a JSON stream that was there before becomes internal and keeps its records", async () => {
  const { metrics, engine, json, told } = world();
  await json("PUT", METRICS);
  await json("POST", METRICS, [{ old: true }]);
  expect((await metrics.ensureStreamResult()).isOk()).toBe(true);
  expect(await json("GET", `${METRICS}/_profile`)).toMatchObject({ profile: { kind: "internal" } });
  expect(await told()).toEqual([{ old: true }] as unknown as Told[]);
  await engine.close();
});

test.each([
  ["another content type", "live_metrics_stream_content_type_mismatch"],
  ["a closed stream", "live_metrics_stream_closed"],
])("%s is a verdict, and no user's request fails", async (how, code) => {
  const observed = world();
  const { metrics, engine, ask, faults, told } = observed;
  if (how === "a closed stream") {
    await ask("PUT", METRICS);
    await engine.append({
      name: METRICS,
      contentType: null,
      body: new Uint8Array(),
      producer: null,
      streamSeq: null,
      ifMatch: null,
      key: null,
      close: true,
    });
  } else expect((await ask("PUT", METRICS, undefined, "text/plain")).status).toBe(201);
  const verdict = await metrics.ensureStreamResult();
  expect(verdict.isErr() && verdict.error.code).toBe(code as never);
  await observed.touchStream("app");
  await use(observed, "app");
  for (let turn = 0; turn < 5; turn++) await metrics.tick();
  // Said once, not every second; and nothing of the interval is lost.
  expect(faults.filter((fault) => fault.includes(code))).toHaveLength(1);
  expect(metrics.getMemoryStats()).toEqual({ counterStreams: 1 });
  expect((await ask("DELETE", METRICS)).status).toBe(204);
  await metrics.tick();
  const [tick, ...more] = ticks(await told());
  expect(more).toEqual([]);
  expect(tick).toMatchObject({ stream: "app", wait: { calls: 1, timeout: 1 }, processor: { eventsIn: 1 } });
  await engine.close();
});

test("deleted while the server runs, it is made anew, and the interval is told there", async () => {
  const observed = world();
  const { metrics, engine, ask, told } = observed;
  await observed.touchStream("app");
  await use(observed, "app");
  await metrics.tick();
  expect((await ask("DELETE", METRICS)).status).toBe(204);
  await use(observed, "app");
  await metrics.tick();
  await metrics.tick();
  expect(ticks(await told())).toMatchObject([{ processor: { eventsIn: 1 } }]);
  await engine.close();
});

test("a stream in use is ticked, and once it is quiet no more: nothing is appended", async () => {
  const observed = world();
  const { metrics, engine, json, told } = observed;
  await observed.touchStream("app");
  await observed.touchStream("idle");
  await use(observed, "app");
  const waiting = json("POST", "app/touch/wait", { keys: ["0123456789abcdef"], cursor: "now", timeoutMs: 60_000 });
  await json("GET", "app/touch/meta");
  await metrics.tick();
  await metrics.tick();
  // A waiter alone is worth a tick.
  expect(ticks(await told())).toMatchObject([
    { wait: { calls: 1, activeWaiters: 1 }, touch: { fineWaitersActive: 1 } },
    { wait: { calls: 0, activeWaiters: 1 }, touch: { fineWaitersActive: 1, touchesEmitted: 0 } },
  ]);
  await json("POST", "app", [CHANGE]);
  await json("POST", "app", [{ headers: { control: "reset" } }]);
  await waiting;
  await metrics.tick();
  const { durableCommit } = engine.status();
  for (let turn = 0; turn < 5; turn++) await metrics.tick();
  expect(engine.status().durableCommit).toBe(durableCommit);
  expect(ticks(await told())).toHaveLength(3);
  expect(new Set(ticks(await told()).map(({ stream }) => stream))).toEqual(new Set(["app"]));
  await engine.close();
});

test("what a deleted stream had counted goes with it", async () => {
  const broken = { is: true };
  const sabotage = () => (broken.is ? ({ kind: "rejected", rejection: { kind: "disk-full" } } as const) : null);
  const observed = world({ sabotage });
  const { metrics, engine, ask, told } = observed;
  await observed.touchStream("app");
  await observed.touchStream("other");
  await use(observed, "app");
  await use(observed, "other");
  await metrics.tick();
  expect(metrics.getMemoryStats()).toEqual({ counterStreams: 2 });
  expect((await ask("DELETE", "app")).status).toBe(204);
  expect(metrics.getMemoryStats()).toEqual({ counterStreams: 1 });
  broken.is = false;
  await metrics.tick();
  expect(ticks(await told()).map(({ stream }) => stream)).toEqual(["other"]);
  await engine.close();
});

test("template events: activated and evicted, each under its key, after they are durable", async () => {
  const observed = world();
  const { metrics, engine, ask, json, told } = observed;
  await observed.touchStream("app", { templates: { maxActiveTemplatesPerEntity: 1 } });
  const other = { entity: "todo", fields: [{ name: "ownerId", encoding: "int64" }] };
  const first = await json("POST", "app/touch/templates/activate", { templates: [TEMPLATE], inactivityTtlMs: 60_000 });
  await json("POST", "app/touch/templates/activate", { templates: [other] });
  await metrics.tick();
  const [activated] = first["activated"] as { templateId: string; activeFromTouchOffset: string }[];
  const about = { liveSystemVersion: "v2", stream: "app", ...IDENTITY };
  const events = (await told()).filter(({ type }) => type !== "live.tick");
  expect(events).toMatchObject([
    {
      ...about,
      type: "live.template_activated",
      templateId: activated?.templateId,
      entity: "todo",
      fields: ["userId"],
      encodings: ["string"],
      reason: "declared",
      activeFromTouchOffset: activated?.activeFromTouchOffset,
      inactivityTtlMs: 60_000,
    },
    { ...about, type: "live.template_evicted", templateId: activated?.templateId, reason: "cap_exceeded", cap: 1 },
    { ...about, type: "live.template_activated", fields: ["ownerId"], encodings: ["int64"] },
  ]);
  for (const { ts } of events) expect(new Date(String(ts)).toISOString()).toBe(String(ts));
  const keyed = await ask("GET", `${METRICS}?offset=-1&key=${encodeURIComponent("app|live.template_evicted")}`);
  expect(await keyed.json()).toHaveLength(1);
  await engine.close();
});

test("an unused template is retired with its reason", async () => {
  const time = { ms: 1_000_000 };
  const clock = { nowMs: () => time.ms, monotonicMs: () => time.ms };
  const observed = world({ clock, store: new MemoryStore(clock) });
  const { metrics, engine, json, told } = observed;
  await observed.touchStream("app", { templates: { gcIntervalMs: 1000 } });
  await json("POST", "app/touch/templates/activate", { templates: [TEMPLATE], inactivityTtlMs: 5_000 });
  time.ms += 6_000;
  engine.deadlines.tick();
  await metrics.tick();
  expect((await told()).filter(({ type }) => type === "live.template_retired")).toMatchObject([
    {
      fields: ["userId"],
      encodings: ["string"],
      reason: "inactivity",
      inactiveForMs: 6_000,
      lastSeenAt: "1970-01-01T00:16:40.000Z",
    },
  ]);
  await engine.close();
});

test("a snapshot: start, chunks of 200, end, tied by one id; one broken stream does not stop the others", async () => {
  const observed = world();
  const { metrics, engine, touch, json, told, faults } = observed;
  const settings = { templates: { activationRateLimitPerMinute: 0, maxActiveTemplatesPerEntity: 2048 } };
  await observed.touchStream("broken", settings);
  await observed.touchStream("app", settings);
  await json("POST", "broken/touch/templates/activate", { templates: [TEMPLATE] });
  const names = Array.from({ length: 450 }, (_, at) => `f${at}`);
  for (let at = 0; at < names.length; at += 225) {
    const templates = names
      .slice(at, at + 225)
      .map((name) => ({ ...TEMPLATE, fields: [{ name, encoding: "string" }] }));
    await json("POST", "app/touch/templates/activate", { templates });
  }
  for (const stream of touch.snapshots()) {
    if (stream.name !== "broken") continue;
    Object.assign(stream, {
      snapshot: () => {
        throw new Error("broken on purpose");
      },
    });
  }
  await metrics.snapshot();
  expect(faults).toHaveLength(1);
  const parts = (await told()).filter(({ type }) => type.startsWith("live.templates_snapshot"));
  expect(parts.map(({ type }) => type.replace("live.templates_snapshot_", ""))).toEqual([
    "start",
    "chunk",
    "chunk",
    "chunk",
    "end",
  ]);
  expect(new Set(parts.map(({ snapshotId }) => snapshotId)).size).toBe(1);
  expect(parts[0]).toMatchObject({ stream: "app", activeTemplates: 450, chunkSize: 200 });
  const chunks = parts
    .slice(1, -1)
    .map(({ chunkIndex, templates }) => ({ chunkIndex, templates: templates as object[] }));
  expect(chunks.map(({ chunkIndex, templates }) => [chunkIndex, templates.length])).toEqual([
    [0, 200],
    [1, 200],
    [2, 50],
  ]);
  const listed = chunks.flatMap(
    ({ templates }) => templates as { fields: string[]; state: string; lastSeenAgoMs: number }[],
  );
  expect(listed.map(({ fields }) => fields[0] ?? "").toSorted()).toEqual(names.toSorted());
  expect(listed.every(({ state, lastSeenAgoMs }) => state === "active" && lastSeenAgoMs >= 0)).toBe(true);
  await engine.close();
});

test("events wait while appends fail, within their bound, and come in their order", async () => {
  const broken = { is: true };
  const sabotage = () => (broken.is ? ({ kind: "rejected", rejection: { kind: "disk-full" } } as const) : null);
  const observed = world({ sabotage });
  const { metrics, engine, told } = observed;
  const event = (cap: number) =>
    ({ type: "live.template_evicted", reason: "cap_exceeded", templateId: "t", entity: "e", cap }) as const;
  for (let cap = 0; cap < 10_100; cap++) metrics.emitLifecycle("app", event(cap));
  await metrics.tick();
  metrics.emitLifecycle("app", event(-1));
  broken.is = false;
  await metrics.tick();
  const caps = (await told()).map(({ cap }) => cap);
  expect([caps.length, caps[0], caps[9_999]]).toEqual([10_000, 0, 9_999]);
  await engine.close();
});

test("switched off, it does nothing at all", async () => {
  const observed = world({ liveMetrics: { enabled: false } });
  const { metrics, engine, ask } = observed;
  const timers = engine.deadlines.size;
  metrics.start();
  expect(engine.deadlines.size).toBe(timers);
  await observed.touchStream("app");
  await use(observed, "app");
  await metrics.tick();
  await metrics.snapshot();
  await metrics.stop();
  expect((await ask("GET", METRICS)).status).toBe(404);
  await engine.close();
});

test("start and stop are idempotent, and stop leaves no timer; successful appends are told", async () => {
  const appended: string[] = [];
  const liveMetrics = {
    intervalMs: 20,
    onAppended: ({ lastOffset }: { lastOffset: string }) => void appended.push(lastOffset),
  };
  const observed = world({ liveMetrics });
  const { metrics, engine, told } = observed;
  const timers = engine.deadlines.size;
  metrics.start();
  metrics.start();
  await observed.touchStream("app");
  await use(observed, "app");
  while (ticks(await told()).length === 0) await Bun.sleep(5);
  expect(appended.at(-1)).toMatch(/^\d+_\d+$/);
  await metrics.stop();
  await metrics.stop();
  // The upkeep of the touched stream goes on, and one look at uploads may be due, which is the last when there are none.
  expect(engine.deadlines.size).toBeLessThanOrEqual(timers + 2);
  await engine.close();
});

test("a server that is closed tells its last interval before it goes", async () => {
  const directory = mkdtempSync(join(tmpdir(), "streams-last-"));
  const start = () => open({ dataDir: directory, durability: "os", liveMetrics: { intervalMs: 3_600_000 } });
  const ask = async (server: StreamsServer, method: string, path: string, body?: unknown): Promise<unknown> => {
    const headers = { host: "localhost", "content-type": "application/json" };
    const init = body === undefined ? { method, headers } : { method, headers, body: JSON.stringify(body) };
    const response = await server.fetch(new Request(`http://localhost/v1/stream/${path}`, init));
    const text = await response.text();
    return text === "" ? null : JSON.parse(text);
  };
  const first = await start();
  await ask(first, "PUT", "app");
  await ask(first, "POST", "app/_profile", { profile: { kind: "state-protocol", touch: { enabled: true } } });
  await ask(first, "POST", "app/touch/wait", { keys: ["0123456789abcdef"], cursor: "now", timeoutMs: 0 });
  await ask(first, "POST", "app", [CHANGE]);
  await first.close();
  const second = await start();
  const told = (await ask(second, "GET", `${METRICS}?offset=-1`)) as Told[];
  expect(ticks(told)).toMatchObject([{ stream: "app", wait: { calls: 1 }, processor: { eventsIn: 1 } }]);
  await second.close();
  rmSync(directory, { recursive: true, force: true });
});
