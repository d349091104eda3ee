/** The streams that the server writes beside an analytics stream (docs/analytics.md, "What it writes" and "Patterns"). */

import { describe, expect, test } from "bun:test";
import { analyticsStreams, measured, outputOf, post, type Settings, type Window } from "../support/analytics-client.ts";
import { sharedServer } from "../support/shared-server.ts";
import { openSse } from "../support/sse.ts";
import { call, errorOf, type StreamUnderTest } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const server = sharedServer();
const { analyticsStream } = analyticsStreams(server, "ana-outputs", {
  batchIntervalMs: 5,
  samplingRates: {},
  aggregationWindowMs: 1000,
  allowedLatenessMs: 0,
  onInvalid: "dead-letter",
});

interface Pattern {
  readonly type: string;
  readonly pattern: string;
  readonly eventType: string;
  readonly eventKey: string;
  readonly context?: Settings;
  readonly value: number;
  readonly confidence: number;
  readonly description: string;
  readonly start: number;
  readonly end: number;
}

/** Its records once there are that many. */
async function recordsOf<T>(stream: StreamUnderTest, count: number, deadlineMs = 5000): Promise<T[]> {
  return until(
    `${stream.name} has ${count} records`,
    async () => {
      if ((await stream.head()).status !== 200) return false;
      const records = (await stream.records()) as T[];
      return records.length >= count && records;
    },
    deadlineMs,
  );
}

/** An output of a stream that has been written. */
async function written(name: string, suffix: "windows" | "dead-letter"): Promise<[StreamUnderTest, StreamUnderTest]> {
  const stream = await analyticsStream(name);
  await post(stream, measured("m", 1, Date.now() - 5000), { no: "event" });
  const output = outputOf(stream, suffix);
  await recordsOf(output, 1);
  return [stream, output];
}

test("they are made when there is something to write", async () => {
  const stream = await analyticsStream("made");
  const suffixes = ["windows", "patterns", "rollups/1h", "rollups/1d", "rollups/1w", "dead-letter"];
  for (const suffix of suffixes) expect((await outputOf(stream, suffix).head()).status).toBe(404);
  await post(stream, { type: "command", data: { commandName: "a" } });
  for (const suffix of suffixes) expect((await outputOf(stream, suffix).head()).status).toBe(404);
  await post(stream, { no: "event" });
  expect((await outputOf(stream, "dead-letter").head()).status).toBe(200);
  expect((await outputOf(stream, "windows").head()).status).toBe(404);
});

test.each(["windows", "dead-letter"] as const)("the server writes %s alone, and anybody reads it", async (suffix) => {
  const [, output] = await written(`alone-${suffix}`, suffix);
  const before = await output.text();
  const refusals = [
    await output.post('{"mine":1}'),
    await output.post('{"mine":1}', { "stream-closed": "true" }),
    await output.close(),
    await output.post(JSON.stringify(measured("m", 1))),
  ];
  for (const answer of refusals)
    expect([answer.status, (await errorOf(answer)).code]).toEqual([403, "stream-internal"]);
  expect(await output.text()).toBe(before);
  expect((await output.head()).headers.get("stream-closed")).toBeNull();
  const listed = await (await call("GET", `${server.url}/v1/streams?prefix=${encodeURIComponent(output.name)}`)).text();
  expect(listed).toContain(output.name);
});

test("windows and patterns are followed live, from before the first event is sent", async () => {
  const stream = await analyticsStream("live");
  await post(stream, measured("m", 1, Date.now() - 5000));
  const windows = outputOf(stream, "windows");
  await recordsOf(windows, 1);
  const sse = await openSse(`${windows.url}?offset=now&live=sse`);
  for (const value of [2, 3]) {
    await post(stream, measured("m", value, Date.now() - 4000));
    expect(await sse.records(1)).toMatchObject([{ type: "analytics.window", eventKey: "m", count: 1, sum: value }]);
  }
  await post(stream, measured("now", 4));
  const [told] = (await sse.records(1)) as Window[];
  expect(told).toMatchObject({ eventKey: "now", count: 1, sum: 4 });
  // A window is told `allowedLatenessMs` after its end.
  expect(Date.now() - (told?.endTime ?? 0)).toBeLessThan(500);
  sse.close();
});

test("windows are filtered, and read by their key", async () => {
  const stream = await analyticsStream("filtered");
  const at = Date.now() - 5000;
  await post(stream, measured("a", 1, at), measured("b", 50, at), {
    type: "error",
    data: { errorHash: "a" },
    timestamp: at,
  });
  const windows = outputOf(stream, "windows");
  await recordsOf(windows, 3);
  const filtered = await windows.records(`offset=-1&filter=${encodeURIComponent('avg > 10 and eventKey = "b"')}`);
  expect(filtered).toMatchObject([{ eventKey: "b", sum: 50 }]);
  for (const [key, eventType, eventKey] of [
    ["performance.a", "performance", "a"],
    ["performance.b", "performance", "b"],
    ["error.a", "error", "a"],
  ]) {
    const keyed = (await windows.records(`offset=-1&key=${key}`)) as Window[];
    expect(keyed.map((window) => [window.eventType, window.eventKey])).toEqual([[eventType, eventKey]] as string[][]);
  }
});

test("windows are trimmed, and values go on being told", async () => {
  const stream = await analyticsStream("trimmed");
  const now = Date.now();
  await post(stream, ...Array.from({ length: 600 }, (_, at) => measured("m", at, now - 1_000_000 + at * 1000)));
  const windows = outputOf(stream, "windows");
  await recordsOf(windows, 600);
  const retained = await call("PUT", `${windows.url}/_retention`, {
    headers: { "stream-retention": "max-records=10" },
  });
  if (retained.status >= 400) {
    const bytes = await call("PUT", `${windows.url}/_retention`, { headers: { "stream-retention": "max-bytes=4KiB" } });
    expect([bytes.status, await bytes.text()]).toEqual([expect.any(Number), ""]);
    expect(bytes.status).toBeLessThan(300);
  }
  await until("it is trimmed", async () => ((await windows.records()) as Window[]).length < 600, 10_000);
  await post(stream, measured("m", 7777, now - 5000));
  await until("the new value is told", async () =>
    ((await windows.records()) as Window[]).some(({ sum }) => sum === 7777),
  );
}, 60_000);

test("what was deleted is made anew, and only what comes later is in it", async () => {
  for (const suffix of ["windows", "dead-letter"] as const) {
    const [stream, output] = await written(`deleted-${suffix}`, suffix);
    expect((await output.delete()).status).toBe(204);
    await post(stream, measured("later", 2, Date.now() - 5000), { later: "event" });
    const records = await recordsOf<object>(output, 1);
    expect(records.length).toBe(1);
    expect(JSON.stringify(records)).toContain("later");
    await post(stream, measured("again", 3, Date.now() - 5000), { again: "event" });
    expect(JSON.stringify(await recordsOf(output, 2))).toContain("again");
  }
});

test("somebody's own stream in the place of windows is left alone; health says so, and nothing is lost", async () => {
  const stream = await analyticsStream("occupied");
  const windows = outputOf(stream, "windows");
  await windows.put();
  await windows.post('{"mine":1}');
  await post(stream, measured("m", 5, Date.now() - 5000));
  const total = async () =>
    ((await (await call("GET", `${stream.url}/aggregate?metric=m`)).json()) as { result: object }).result;
  const health = async () =>
    (
      (await (await call("GET", `${stream.url}/_analytics`)).json()) as {
        health: { healthy: boolean; errors: unknown[] };
      }
    ).health;
  let healthy: unknown = null;
  for (let look = 0; look < 100 && healthy !== false; look++) {
    healthy = (await health()).healthy;
    await total();
  }
  expect(await windows.records()).toEqual([{ mine: 1 }]);
  expect(await total()).toMatchObject({ count: 1, sum: 5 });
  const told = await health();
  await windows.delete();
  expect(await recordsOf(windows, 1, 10_000)).toMatchObject([{ eventKey: "m", sum: 5 }]);
  expect(await total()).toMatchObject({ count: 1, sum: 5 });
  expect(told).toMatchObject({ healthy: false });
}, 60_000);

test("somebody's own stream in the place of the dead letters: the sender is told, and nothing is acknowledged", async () => {
  const stream = await analyticsStream("occupied-letters");
  const letters = outputOf(stream, "dead-letter");
  await letters.put();
  await letters.post('{"mine":1}');
  const answer = await stream.post(JSON.stringify([{ no: "event" }]));
  expect([answer.status, answer.status >= 400 && answer.status !== 500]).toEqual([answer.status, true]);
  expect(await letters.records()).toEqual([{ mine: 1 }]);
});

describe("patterns", () => {
  /** Thirty quiet windows and one that is not, a second each, from so long ago. */
  function series(metric: string, last: number, context?: object, ageMs = 60_000): object[] {
    const from = Date.now() - ageMs;
    return Array.from({ length: 31 }, (_, at) =>
      measured(metric, at === 30 ? last : 100 + ((at * 37) % 11) - 5, from + at * 1000, context),
    );
  }

  test("a spike and a drop are told, live, with what they were seen in", async () => {
    const stream = await analyticsStream("patterns");
    const patterns = outputOf(stream, "patterns");
    const before = [undefined, 180_000] as const;
    await post(
      stream,
      ...series("up", 500, ...before),
      ...series("down", 5, ...before),
      ...series("steady", 101, ...before),
    );
    const told = await recordsOf<Pattern>(patterns, 2);
    for (const [eventKey, pattern, value] of [
      ["up", "spike", 500],
      ["down", "drop", 5],
    ] as const) {
      const [found] = told.filter((one) => one.eventKey === eventKey);
      expect(found).toMatchObject({ type: "analytics.pattern", pattern, eventType: "performance", value });
      const { confidence = 0, description = "", start = 0, end = 0 } = found ?? {};
      expect([confidence >= 0.8 && confidence <= 1, description.length > 5, end - start]).toEqual([true, true, 1000]);
      const windows = (await outputOf(stream, "windows").records(`offset=-1&key=performance.${eventKey}`)) as Window[];
      const marked = windows.filter((window) => window.patterns.length > 0);
      expect(marked.map(({ startTime }) => startTime)).toEqual([start]);
    }
    expect(told.filter(({ eventKey }) => eventKey === "steady")).toEqual([]);
    const sse = await openSse(`${patterns.url}?offset=now&live=sse`);
    await post(stream, ...series("other", 700));
    const [live] = (await sse.records(1)) as Pattern[];
    expect(live).toMatchObject({ pattern: "spike", eventKey: "other", value: 700 });
    expect((await errorOf(await patterns.post("{}"))).code).toBe("stream-internal");
    sse.close();
  });

  test("each series is watched, and each metric over all its contexts", async () => {
    const stream = await analyticsStream("contexts");
    const contexts = [{ endpoint: "/a" }, { endpoint: "/b" }];
    await post(stream, ...contexts.flatMap((context) => series("up", 900, context)));
    const told = await recordsOf<Pattern>(outputOf(stream, "patterns"), 3);
    expect(told.every(({ pattern }) => pattern === "spike")).toBe(true);
    expect(told.map(({ context }) => JSON.stringify(context ?? null)).toSorted()).toEqual(
      [...contexts.map((context) => JSON.stringify(context)), "null"].toSorted(),
    );
  });

  test("nothing is told when the detection is off, or of a steady series", async () => {
    const off = await analyticsStream("off", { enablePatternDetection: false });
    const steady = await analyticsStream("steady");
    await post(off, ...series("up", 500));
    await post(steady, ...series("m", 100));
    await recordsOf(outputOf(off, "windows"), 31);
    await recordsOf(outputOf(steady, "windows"), 31);
    for (const stream of [off, steady]) expect((await outputOf(stream, "patterns").head()).status).toBe(404);
  });
});
