/** Rollups of hours and days (docs/analytics.md), which take seconds to be told: the tests run beside each other, each on a server of its own. */

import { expect, test } from "bun:test";
import {
  aggregateOf,
  measured,
  newAnalyticsStream,
  post,
  windowsSoFar,
  type Figures,
  type Window,
} from "../support/analytics-client.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { call, streamAt, type StreamUnderTest } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const HOUR_MS = 3_600_000;
const MINUTE_MS = 60_000;

type HalfWindow = Window<{ readonly half: number }>;

/** Runs the test with a server, and with the ones that it starts on the same directory; then they are gone. */
async function withServers(
  run: (first: TestServer, again: (before: TestServer) => Promise<TestServer>) => Promise<void>,
): Promise<void> {
  const started = [await startServer()];
  const [first] = started;
  if (first === undefined) throw new Error("no server");
  try {
    await run(first, async (before) => {
      await before.kill("SIGKILL");
      const next = await startServer({ dataDir: first.dataDir });
      started.push(next);
      return next;
    });
  } finally {
    for (const server of started) await server.kill("SIGKILL");
    await first.remove();
  }
}

function analyticsStream(server: TestServer, name: string): Promise<StreamUnderTest> {
  return newAnalyticsStream(server, name, {
    batchIntervalMs: 5,
    maxBatchSize: 1000,
    samplingRates: {},
    aggregationWindowMs: MINUTE_MS,
    allowedLatenessMs: 0,
    maxLatenessMs: 24 * HOUR_MS,
  });
}

const inHalf = (value: number, timestamp: number, half = 0) => measured("m", value, timestamp, { half });

const recordsAt = (stream: StreamUnderTest, suffix: string): Promise<HalfWindow[]> => windowsSoFar(stream, suffix);
const countOf = (windows: readonly HalfWindow[]): number => windows.reduce((sum, { count }) => sum + count, 0);
const startOf = (at: number, size: number): number => Math.floor(at / size) * size;

/** The records of an output once they hold that many values. */
function told(stream: StreamUnderTest, suffix: string, count: number): Promise<HalfWindow[]> {
  const check = async (): Promise<HalfWindow[] | false> => {
    const records = await recordsAt(stream, suffix);
    return countOf(records) >= count && records;
  };
  return until(`${suffix} holds ${count} values`, check, 20_000);
}

async function total(stream: StreamUnderTest, query: string): Promise<Figures | null | undefined> {
  return (await aggregateOf(stream, `metric=m&${query}`)).result;
}

function sumsOf(
  windows: readonly { readonly startTime: number; readonly half: number; readonly sum: number }[],
): unknown[] {
  const sums = new Map<string, number>();
  for (const { startTime, half, sum } of windows) {
    sums.set(`${startTime} ${half}`, (sums.get(`${startTime} ${half}`) ?? 0) + sum);
  }
  return [...sums].sort(([left], [right]) => (left < right ? -1 : 1));
}

test.concurrent(
  "hours are told 5 s after their windows, days some seconds later, and hold what their windows hold",
  () =>
    withServers(async (server) => {
      const stream = await analyticsStream(server, "rollups");
      const now = Date.now();
      const values = Array.from({ length: 400 }, (_, at) => ({
        at: now - 23.5 * HOUR_MS + at * 3 * MINUTE_MS,
        value: at,
        half: at % 2,
      }));
      const past = values.filter(({ at }) => at < startOf(now, HOUR_MS));
      const yesterday = values.filter(({ at }) => at < startOf(now, 24 * HOUR_MS));
      const started = performance.now();
      await post(stream, ...values.map(({ at, value, half }) => inHalf(value, at, half)));
      const hours = await told(stream, "rollups/1h", past.length);
      const hoursMs = performance.now() - started;
      expect([hoursMs > 3000, hoursMs < 8000]).toEqual([true, true]);
      const days = await told(stream, "rollups/1d", yesterday.length);
      for (const [windows, of, size] of [
        [hours, past, HOUR_MS],
        [days, yesterday, 24 * HOUR_MS],
      ] as const) {
        const naive = of.map(({ at, value, half }) => ({ startTime: startOf(at, size), half, sum: value }));
        const found = windows.map(({ startTime, metadata, sum }) => ({
          startTime,
          half: metadata.context?.half ?? Number.NaN,
          sum,
        }));
        expect(sumsOf(found)).toEqual(sumsOf(naive));
        expect([countOf(windows), windows.filter(({ startTime, endTime }) => endTime - startTime !== size)]).toEqual([
          of.length,
          [],
        ]);
      }
      // With the rollups in use the sum is still that of the values, and with two late ones more.
      const sum = (400 * 399) / 2;
      expect(await total(stream, "from=-24h")).toMatchObject({ count: 400, sum });
      await post(stream, inHalf(1000, values[0]?.at ?? 0), inHalf(1000, values[30]?.at ?? 0));
      expect(await total(stream, "from=-24h")).toMatchObject({ count: 402, sum: sum + 2000 });
    }),
  60_000,
);

const gone: [name: string, forget: (windows: StreamUnderTest) => Promise<Response>][] = [
  ["deleted", (windows) => windows.delete()],
  [
    "trimmed by their age",
    (windows) => call("PUT", `${windows.url}/_retention`, { headers: { "stream-retention": "max-age=1s" } }),
  ],
];

for (const [name, forget] of gone) {
  test.concurrent(
    `windows that were ${name} do not come again after a restart, and no value is counted twice`,
    () =>
      withServers(async (first, again) => {
        const stream = await analyticsStream(first, "forgotten");
        const hour = startOf(Date.now(), HOUR_MS) - 2 * HOUR_MS;
        await post(stream, ...[1, 2, 3].map((value) => inHalf(value, hour + 1000)));
        await told(stream, "rollups/1h", 3);
        const span = `from=${hour}&to=${hour + HOUR_MS}`;
        const windows = streamAt(first, "forgotten/windows");
        expect((await forget(windows)).status).toBe(204);
        await until("the windows are gone", async () => (await recordsAt(stream, "windows")).length === 0, 10_000);
        expect(await total(stream, span)).toMatchObject({ count: 3, sum: 6 });
        const second = streamAt(await again(first), "forgotten");
        expect(await total(second, span)).toMatchObject({ count: 3, sum: 6 });
        await post(second, inHalf(10, Date.now() - 2 * MINUTE_MS));
        await until("the new window is told", async () =>
          (await recordsAt(second, "windows")).some(({ sum }) => sum === 10),
        );
        expect(await total(second, span)).toMatchObject({ count: 3, sum: 6 });
        expect((await recordsAt(second, "windows")).filter(({ startTime }) => startTime < hour + HOUR_MS)).toEqual([]);
      }),
    60_000,
  );
}
