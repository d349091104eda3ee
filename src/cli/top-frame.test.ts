/** Frames of `top`: figures from two samples, ticks from the metrics stream, and text that fits. */

import { expect, test } from "bun:test";
import { parseExposition } from "./exposition-parser.ts";
import {
  figuresOf,
  type Figures,
  fitLines,
  type Frame,
  type MetricsSample,
  renderFrame,
  TouchBoard,
  touchRow,
  type TouchRow,
  UNLIMITED,
} from "./top-frame.ts";

const NOW_MS = Date.UTC(2030, 0, 2, 3, 4, 5);
const SERVER = "http://127.0.0.1:4437";

/** Families of these types, each with its lines; a name without a suffix of its own is a gauge. */
function sample(atMs: number, ...lines: readonly string[]): MetricsSample {
  const text: string[] = [];
  let open = "";
  for (const line of lines) {
    const name = /^[a-z_0-9]+/.exec(line)?.[0] ?? "";
    const family = name.replace(/_(?:bucket|sum|count)$/, "");
    if (family !== open) text.push(`# TYPE ${family} ${name.endsWith("_total") ? "counter" : typeOf(name, family)}`);
    open = family;
    text.push(line);
  }
  return { families: parseExposition(text.map((line) => `${line}\n`).join("")), atMs };
}

function typeOf(name: string, family: string): string {
  return name === family ? "gauge" : "histogram";
}

/** A histogram of seconds with the bounds 0.001, 0.01 and 0.1. */
function histogram(name: string, ...counts: readonly [number, number, number, number]): string[] {
  const [a, b, c, all] = counts;
  const buckets = [a, b, c, all].map((count, index) => {
    return `${name}_bucket{le="${["0.001", "0.01", "0.1", "+Inf"][index]}"} ${count}`;
  });
  return [...buckets, `${name}_sum 1`, `${name}_count ${all}`];
}

const started = (seconds: number): string => `process_start_time_seconds ${NOW_MS / 1000 - seconds}`;

function between(before: readonly string[], after: readonly string[], seconds = 2): Figures {
  return figuresOf(sample(500, ...before), sample(500 + seconds * 1000, ...after), NOW_MS);
}

test("rates are differences over the time between the samples; gauges are as they are", () => {
  const before = [
    started(60),
    'streams_appends_total{outcome="appended"} 10',
    'streams_appends_total{outcome="duplicate"} 1',
    'streams_appends_total{outcome="rejected"} 0',
    "streams_appended_bytes_total 1000",
    "streams_touch_table_touches_total 5",
    "streams_touch_fine_touches_total 5",
    "streams_sse_stalled_total 3",
    "process_cpu_seconds_total 1",
  ];
  const after = [
    started(60),
    'streams_appends_total{outcome="appended"} 30',
    'streams_appends_total{outcome="duplicate"} 1',
    'streams_appends_total{outcome="rejected"} 5',
    "streams_appended_bytes_total 5096",
    "streams_touch_table_touches_total 9",
    "streams_touch_fine_touches_total 11",
    "streams_sse_stalled_total 4",
    "process_cpu_seconds_total 2.5",
    "streams_memory_shedding 1",
    "streams_wal_bytes 7",
  ];
  expect(between(before, after)).toMatchObject({
    at: "2030-01-02T03:04:05.000Z",
    unreachable: false,
    intervalSeconds: 2,
    uptimeSeconds: 60,
    appendedPerSecond: 10,
    duplicatePerSecond: 0,
    rejectedPerSecond: 2.5,
    appendedBytesPerSecond: 2048,
    touchesPerSecond: 5,
    slowClients: 1,
    slowClientsTotal: 4,
    cpuSecondsPerSecond: 0.75,
    shedding: true,
    walBytes: 7,
    memoryLimitBytes: null,
  });
});

test("what a server does not tell is null, whatever it is", () => {
  const { at, unreachable, intervalSeconds, ...figures } = between([], []);
  expect([at, unreachable, intervalSeconds]).toEqual(["2030-01-02T03:04:05.000Z", false, 2]);
  expect(Object.keys(figures).length).toBeGreaterThan(25);
  expect(new Set(Object.values(figures))).toEqual(new Set([null]));
});

test("quantiles are of the interval, not of all time", () => {
  const before = histogram("streams_append_seconds", 1000, 1000, 1000, 1000);
  const quantiles = (...counts: readonly [number, number, number, number]) => {
    const { appendP50Seconds, appendP99Seconds } = between(before, histogram("streams_append_seconds", ...counts));
    return [appendP50Seconds, appendP99Seconds];
  };
  expect(quantiles(1000, 1000, 1000, 1000)).toEqual([null, null]);
  expect(quantiles(1000, 1010, 1010, 1010)).toEqual([0.01, 0.01]);
  expect(quantiles(1060, 1060, 1100, 1100)).toEqual([0.001, 0.1]);
  // Above the last bound nothing is known but that.
  expect(quantiles(1000, 1000, 1000, 1001)).toEqual([0.1, 0.1]);
  // A counter that went back counts from 0.
  expect(quantiles(0, 4, 4, 4)).toEqual([0.01, 0.01]);
});

test("a restarted server has counted from 0, even when it is past where it was", () => {
  const total = (value: number) => `streams_appended_records_total ${value}`;
  expect(between([total(100)], [total(30)]).recordsPerSecond).toBe(15);
  expect(between([started(60), total(100)], [started(1), total(130)]).recordsPerSecond).toBe(65);
  expect(between([started(60), total(100)], [started(60), total(130)]).recordsPerSecond).toBe(15);
  const waits = histogram("streams_sync_seconds", 5, 5, 5, 5);
  const more = histogram("streams_sync_seconds", 5, 5, 9, 9);
  expect(between([started(60), ...waits], [started(1), ...more]).syncP50Seconds).toBe(0.001);
  expect(between([started(60), ...waits], [started(60), ...more]).syncP50Seconds).toBe(0.1);
});

const tick = (stream: string, second: number, touches: number, more: object = {}) => ({
  type: "live.tick",
  ts: new Date(NOW_MS + second * 1000).toISOString(),
  stream,
  touch: { touchesEmitted: touches },
  wait: { activeWaiters: second, touched: 2, timeout: 3, stale: 4 },
  processor: { lagSourceOffsets: 10 - second, commitLagMsP99: 5 },
  ...more,
});

function row(stream: string, second: number, touches: number): TouchRow {
  return touchRow(tick(stream, second, touches)) ?? expect.unreachable("a tick");
}

test("a tick becomes a row; other records do not", () => {
  expect(touchRow(tick("a/b", 1, 7))).toEqual({
    stream: "a/b",
    tickAt: "2030-01-02T03:04:06.000Z",
    ticks: 1,
    waitersActive: 1,
    touchesEmitted: 7,
    waitsTouched: 2,
    waitsTimedOut: 3,
    waitsStale: 4,
    lagRecords: 9,
    commitLagP99Seconds: 0.005,
  });
  expect(touchRow(tick("a", 1, 7, { wait: null, processor: "?" }))).toMatchObject({
    waitersActive: null,
    touchesEmitted: 7,
    commitLagP99Seconds: null,
  });
  for (const record of [
    null,
    1,
    "live.tick",
    [],
    {},
    tick("a", 1, 1, { type: "live.snapshot" }),
    { type: "live.tick" },
  ]) {
    expect(touchRow(record)).toBeNull();
  }
});

test("ticks between two frames add up, and each is told in rows of one time only", () => {
  const board = new TouchBoard(3000);
  board.add(row("a", 1, 5), 1000);
  board.add(row("a", 2, 6), 2000);
  const merged = { tickAt: row("a", 2, 0).tickAt, ticks: 2, touchesEmitted: 11, waitsTouched: 4, waitersActive: 2 };
  expect(board.take(2000)).toMatchObject([{ ...merged, lagRecords: 9 }]);
  expect(board.take(5000)).toMatchObject([merged]);
  board.add(row("a", 3, 1), 5000);
  expect(board.take(5000)).toMatchObject([{ ticks: 1, touchesEmitted: 1 }]);
  expect(board.take(8001)).toEqual([]);
});

test("the ten busiest are shown, and the board is bounded", () => {
  const board = new TouchBoard(3000);
  for (let index = 0; index < 5000; index++) board.add(row(`s${index}`, 1, index % 100), 0);
  const rows = board.take(0);
  expect(rows.map(({ touchesEmitted }) => touchesEmitted)).toEqual(Array.from({ length: 10 }, () => 99));
  expect(rows.map(({ stream }) => stream)).toEqual(rows.map(({ stream }) => stream).sort());
  // The first 4000 streams had to go.
  expect(rows.every(({ stream }) => Number(stream.slice(1)) >= 4000)).toBe(true);
});

function frame(streams: readonly TouchRow[], metricsStreamError: string | null = null): Frame {
  const lines = [started(90_061), "streams_wal_bytes 25165824", "streams_appended_records_total 0"];
  const latencies = histogram("streams_append_seconds", 0, 0, 0, 0);
  const figures = between(
    [...lines, ...latencies, "process_cpu_seconds_total 0"],
    [
      ...lines.with(2, "streams_appended_records_total 2469"),
      ...histogram("streams_append_seconds", 9, 9, 9, 9),
      "process_cpu_seconds_total 0.25",
      "streams_memory_shedding 1",
    ],
  );
  return { ...figures, metricsStreamError, streams };
}

test("the text says what the figures say, in units for people", () => {
  const lines = renderFrame(frame([{ ...row("shop/orders", 1, 9), ticks: 2 }]), SERVER, UNLIMITED);
  expect(lines[0]).toBe(`${SERVER}   up 1d 1h   2030-01-02T03:04:05.000Z`);
  const text = lines.join("\n");
  expect(text).toMatch(/^appends\/s +appended - +duplicate - +rejected -$/m);
  expect(text).toMatch(/^flow\/s +records 1\.23k +appended - +read -$/m);
  expect(text).toMatch(/^append +p50 1 ms +p99 1 ms$/m);
  expect(text).toMatch(/^memory +RSS - +shedding YES$/m);
  expect(text).toMatch(/^log +window - +WAL 24 MiB$/m);
  expect(text).toMatch(/^process +CPU 12\.5 % +loop lag p99 -$/m);
  // Per tick: half of each sum.
  expect(text).toMatch(/^shop\/orders +1 +4\.5 +1 +1\.5 +2 +9 +5 ms$/m);
});

test("why there are no touch streams is said in one line", () => {
  const last = (shown: Frame) => renderFrame(shown, SERVER, UNLIMITED).at(-1);
  expect(last(frame([]))).toBe("no touch stream did anything lately");
  expect(last(frame([], "cannot follow m: no such stream"))).toBe("no touch streams: cannot follow m: no such stream");
  expect(renderFrame(frame([row("a", 1, 1)], "it is closed"), SERVER, UNLIMITED)).toContain(
    "touch streams not up to date: it is closed",
  );
});

test("an outage is told with its beginning and its reason", () => {
  const outage = {
    at: "2030-01-02T03:04:05.000Z",
    unreachable: true,
    unreachableSince: "2030-01-02T03:02:00.000Z",
    reason: "cannot reach it",
  } as const;
  expect(renderFrame(outage, SERVER, UNLIMITED).at(-1)).toBe(
    "unreachable since 2030-01-02T03:02:00.000Z (2m 5s): cannot reach it",
  );
});

test("no line is wider, and no frame higher, than the terminal", () => {
  const names = ["a".repeat(200), "日本語".repeat(40), "👩‍👩‍👧".repeat(30), "é".repeat(99), "short"];
  const shown = frame(names.map((name, index) => row(`${name}${index}`, index, index)));
  for (const columns of [1, 2, 3, 10, 40, 79, 80, 81, 300]) {
    for (const rows of [1, 5, 24, 100]) {
      const lines = renderFrame(shown, SERVER, { columns, rows });
      expect(lines.length).toBeLessThanOrEqual(rows);
      expect(Math.max(...lines.map((line) => Bun.stringWidth(line)))).toBeLessThanOrEqual(columns);
    }
  }
  // What is cut off a name is its front, and the columns stay in line.
  const table = renderFrame(shown, SERVER, { columns: 80, rows: 100 }).slice(-5);
  expect(table.map((line) => Bun.stringWidth(line))).toEqual([80, 80, 80, 80, 80]);
  expect(table[0]).toMatch(/^…a+0 /);
  expect(table[4]).toMatch(/^short4 /);
});

test("nothing that comes from elsewhere commands the terminal", () => {
  const shown = frame([row("evil\u001b[2J\u009b\r\n\u202e", 1, 1)], "also\u0007\u001b]0;x");
  expect(renderFrame(shown, SERVER, UNLIMITED).join("")).not.toMatch(/[\p{Cc}\p{Cf}]/u);
  expect(fitLines(["a\u001bb"], UNLIMITED)).toEqual(["a\u{fffd}b"]);
});
