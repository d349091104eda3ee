/** Analytics over restarts (docs/analytics.md, "Exactly once"): after SIGTERM and after kill -9 the figures are the same, and nothing acknowledged is lost. */

import { describe, expect, test } from "bun:test";
import {
  aggregateOf,
  batchesOf,
  command,
  measured,
  newAnalyticsStream,
  postAll,
  sum,
  waiting,
  windowsSoFar,
  type CommandEvent,
  type Settings,
} from "../support/analytics-client.ts";
import { temporaryServers } from "../support/shared-server.ts";
import type { TestServer } from "../support/server.ts";
import { streamAt, type StreamUnderTest } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const start = temporaryServers();
const HOUR_MS = 3_600_000;

function analyticsStream(server: TestServer, name: string, settings: Settings = {}): Promise<StreamUnderTest> {
  const fast = { batchIntervalMs: 5, samplingRates: {}, compression: "none", allowedLatenessMs: 0 };
  return newAnalyticsStream(server, name, { ...fast, ...settings });
}

async function figures(stream: StreamUnderTest, query: string): Promise<unknown> {
  const { result, groups } = await aggregateOf(stream, query);
  // In which order groups come and in how many parts a window is held says nothing.
  return (
    result ?? groups?.toSorted((left, right) => (JSON.stringify(left.group) < JSON.stringify(right.group) ? -1 : 1))
  );
}

/** Rounds the last digits away: another order of adding makes another rounding. */
function rounded(value: unknown): unknown {
  return JSON.parse(
    JSON.stringify(value, (_, part: unknown) => (typeof part === "number" ? Number(part.toPrecision(9)) : part)),
  );
}

describe.each(["SIGTERM", "SIGKILL"] as const)("after %s", (signal) => {
  test("aggregates are the same, over open windows, told ones and rollups", async () => {
    const first = await start();
    const sizes = [1000, 60_000, HOUR_MS];
    const now = Date.now();
    const values = Array.from({ length: 300 }, (_, at) => ({
      value: ((at * 7919) % 1009) / 10,
      at: now - ((at * 104_729) % (23 * HOUR_MS)),
      context: { part: at % 3 },
    }));
    const streams = await Promise.all(
      sizes.map((aggregationWindowMs) =>
        analyticsStream(first, `same/${aggregationWindowMs}`, { aggregationWindowMs, maxLatenessMs: 24 * HOUR_MS }),
      ),
    );
    await Promise.all(
      streams.flatMap((stream) => [
        postAll(
          stream,
          values.map(({ value, at, context }) => measured("m", value, at, context)),
        ),
        postAll(
          stream,
          values.slice(0, 50).map(({ value }) => measured("now", value)),
        ),
      ]),
    );
    const minute = Math.floor(now / HOUR_MS) * HOUR_MS;
    const queries = [
      `metric=m&from=${minute - 24 * HOUR_MS}&to=${minute + HOUR_MS}`,
      `metric=m&from=${minute - 5 * HOUR_MS}&to=${minute}&group=part`,
      `metric=m&from=${minute - 7 * HOUR_MS}&to=${minute - 2 * HOUR_MS}&p=10,50`,
      `metric=now&from=${minute - HOUR_MS}&to=${minute + HOUR_MS}`,
    ];
    const all = (at: readonly StreamUnderTest[]) =>
      Promise.all(at.map(async (stream) => Promise.all(queries.map((query) => figures(stream, query)))));
    const before = rounded(await all(streams));
    expect(before).toMatchObject(
      sizes.map(() => [{ count: 300 }, expect.any(Array), expect.any(Object), { count: 50 }]),
    );
    await first.kill(signal);
    const second = await start({ dataDir: first.dataDir });
    const again = sizes.map((size) => streamAt(second, `same/${size}`));
    expect(rounded(await all(again))).toEqual(before);
    // Told by now, and once more after another end.
    await until("windows are told", async () =>
      (await Promise.all(again.map((stream) => windowsSoFar(stream)))).every((windows) => windows.length > 0),
    );
    await second.kill(signal);
    const third = await start({ dataDir: first.dataDir });
    const last = sizes.map((size) => streamAt(third, `same/${size}`));
    expect(rounded(await all(last))).toEqual(before);
    await postAll(last[0] ?? expect.unreachable("no stream"), [measured("m", 1, now - 60_000, { part: 0 })]);
    expect(await figures(last[0] ?? expect.unreachable("no stream"), queries[0] ?? "")).toMatchObject({ count: 301 });
  }, 60_000);

  test("windows that were open are told, without anybody asking, and once", async () => {
    const first = await start();
    const stream = await analyticsStream(first, "open", { aggregationWindowMs: 2000 });
    const at = Date.now();
    for (const value of [1, 2, 3]) await postAll(stream, [measured("m", value, at)]);
    await first.kill(signal);
    const second = await start({ dataDir: first.dataDir });
    const again = streamAt(second, "open");
    const windows = await until("the window is told", async () => {
      const told = await windowsSoFar(again);
      return sum(told.map(({ count }) => count)) >= 3 && told;
    });
    expect([sum(windows.map(({ count }) => count)), sum(windows.map((window) => window.sum))]).toEqual([3, 6]);
    expect(new Set(windows.map(({ startTime }) => startTime)).size).toBe(1);
    expect(await figures(again, "metric=m")).toMatchObject({ count: 3, sum: 6 });
  }, 60_000);

  test("batches go on, and what was stored is there", async () => {
    const first = await start();
    const stream = await analyticsStream(first, "batches");
    await postAll(stream, [command("one"), measured("m", 1)]);
    await first.kill(signal);
    const second = await start({ dataDir: first.dataDir });
    const again = streamAt(second, "batches");
    await postAll(again, [command("two"), measured("m", 2)]);
    expect(await again.records()).toMatchObject([
      { type: "analytics.batch", events: [command("one")], counts: { received: 2 } },
      { type: "analytics.batch", events: [command("two")], counts: { received: 2 } },
    ]);
  }, 60_000);
});

test("memory mode: a stop by SIGTERM writes what was queued, stored and measured", async () => {
  const first = await start();
  const stream = await analyticsStream(first, "queued", { ack: "memory", batchIntervalMs: 60_000 });
  await postAll(
    stream,
    Array.from({ length: 50 }, (_, at) => command(`c${at}`)),
    202,
  );
  await postAll(stream, [measured("m", 5), measured("m", 6)], 202);
  expect(await stream.records()).toEqual([]);
  await first.stop();
  const second = await start({ dataDir: first.dataDir });
  const again = streamAt(second, "queued");
  const batches = await batchesOf<CommandEvent>(again);
  expect(batches.flatMap(({ events }) => events)).toEqual(Array.from({ length: 50 }, (_, at) => command(`c${at}`)));
  expect(sum(batches.map(({ counts }) => counts.received))).toBe(52);
  expect(await figures(again, "metric=m")).toMatchObject({ count: 2, sum: 11 });
}, 60_000);

test("durable mode: requests that wait when SIGTERM comes are answered, and are there", async () => {
  const first = await start();
  const stream = await analyticsStream(first, "waiting", { batchIntervalMs: 60_000 });
  const answers = [1, 2, 3].map((at) => stream.post(JSON.stringify(command(`c${at}`))));
  await waiting(stream, 3);
  const stopped = first.stop();
  const statuses = (await Promise.all(answers)).map(({ status }) => status);
  await stopped;
  const second = await start({ dataDir: first.dataDir });
  const batches = await batchesOf<CommandEvent>(streamAt(second, "waiting"));
  const names = batches.flatMap(({ events }) => events.map(({ data }) => data.commandName));
  expect(statuses).toEqual([204, 204, 204]);
  expect(names.toSorted()).toEqual(["c1", "c2", "c3"]);
}, 60_000);

test("kill -9 again and again while events come: what was acknowledged is counted, and each value once", async () => {
  let server = await start();
  const { dataDir } = server;
  await analyticsStream(server, "chaos", { aggregationWindowMs: 1000, batchIntervalMs: 2 });
  const acknowledged: string[] = [];
  const sent = new Set<string>();
  let number = 0;
  for (let round = 0; round < 4; round++) {
    const stream = streamAt(server, "chaos");
    const writing = new AbortController();
    const writers = Array.from({ length: 8 }, async () => {
      while (!writing.signal.aborted) {
        const name = `c${number++}`;
        sent.add(name);
        // No answer: the server was killed, and nobody knows whether it was written.
        const response = await stream.post(JSON.stringify([command(name), measured("m", 1)])).catch(() => null);
        if (response === null) return;
        if (response.status === 204) acknowledged.push(name);
      }
    });
    const before = acknowledged.length;
    await until("some were acknowledged", () => acknowledged.length > before + 100 * (round + 1));
    if (round % 2 === 1) await until("windows are told", async () => (await windowsSoFar(stream)).length > round, 5000);
    await server.kill("SIGKILL");
    writing.abort();
    await Promise.all(writers);
    server = await start({ dataDir });
  }
  const stream = streamAt(server, "chaos");
  const batches = await batchesOf<CommandEvent>(stream);
  const stored = batches.flatMap(({ events }) => events.map(({ data }) => data.commandName));
  const observed = sum(batches.flatMap(({ windows }) => windows.map(({ stats }) => stats.observed)));
  expect(new Set(stored).size).toBe(stored.length);
  expect(acknowledged.filter((name) => !new Set(stored).has(name))).toEqual([]);
  expect(stored.filter((name) => !sent.has(name))).toEqual([]);
  expect(observed).toBe(stored.length);
  const counts = batches.map((batch) => batch.counts);
  expect(sum(counts.map(({ stored: one }) => one))).toBe(stored.length);
  expect(sum(counts.map(({ aggregated }) => aggregated))).toBe(stored.length);
  expect(await figures(stream, "metric=m")).toMatchObject({ count: stored.length, sum: stored.length });
  const told = await until("all windows are told", async () => {
    const windows = await windowsSoFar(stream);
    return sum(windows.map(({ count }) => count)) >= stored.length && windows;
  });
  expect(sum(told.map(({ count }) => count))).toBe(stored.length);
  expect(await figures(stream, "metric=m")).toMatchObject({ count: stored.length, sum: stored.length });
}, 60_000);
