/** `GET …/aggregate` (docs/analytics.md, "Aggregates"): exact against what is computed naively, for any span, group and percentiles. */

import { describe, expect, test } from "bun:test";
import { assert, asyncProperty, array, constantFrom, double, option, record, tuple } from "fast-check";
import {
  analyticsStreams,
  measured,
  naive,
  postAll,
  windowsOf,
  type Aggregate,
  type Dimensions,
  type Figures,
} from "../support/analytics-client.ts";
import { sharedServer } from "../support/shared-server.ts";
import { call, errorOf, newStream, streamAt, type StreamUnderTest } from "../support/streams.ts";
import { jsonOf } from "../support/subscription-client.ts";

const server = sharedServer();
const MINUTE_MS = 60_000;
const HOUR_MS = 3_600_000;
const { analyticsStream, reconfigure } = analyticsStreams(server, "ana-aggregate", {
  maxBatchSize: 10_000,
  batchIntervalMs: 5,
  samplingRates: {},
  aggregationWindowMs: 1000,
  allowedLatenessMs: 0,
});

interface Value {
  readonly at: number;
  readonly value: number;
  readonly context?: Dimensions;
}

const eventOf = ({ at, value, context }: Value, metric = "m") => measured(metric, value, at, context);

function query(stream: StreamUnderTest, params: Readonly<Record<string, string | number>>): Promise<Response> {
  const pairs = Object.entries(params).map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
  return call("GET", `${stream.url}/aggregate?${pairs.join("&")}`);
}

async function aggregate(
  stream: StreamUnderTest,
  params: Readonly<Record<string, string | number>>,
): Promise<Aggregate> {
  return jsonOf(query(stream, params));
}

const floorTo = (at: number, size: number): number => Math.floor(at / size) * size;

/** What differs by more than rounding. */
function differences(told: Figures | null | undefined, expected: Figures | null): unknown[] {
  if (told === null || told === undefined || expected === null)
    return told === expected ? [] : [["told", told, expected]];
  const slack = Math.max(1e-9, Math.abs(expected.min), Math.abs(expected.max)) * expected.count * 1e-9;
  const flat = ({ percentiles, ...rest }: Figures): [string, unknown][] => [
    ...Object.entries(rest),
    ...Object.entries(percentiles).map(([p, value]): [string, number] => [`p${p}`, value]),
  ];
  const found = new Map(flat(told));
  const keys = [...found.keys()].filter((key) => key.startsWith("p")).length;
  const missing = keys === Object.keys(expected.percentiles).length ? [] : [["percentiles", told.percentiles]];
  return [
    ...missing,
    ...flat(expected).flatMap(([name, value]) => {
      const other = found.get(name);
      const isSame =
        typeof value === "number" && typeof other === "number" ? Math.abs(value - other) <= slack : value === other;
      return isSame ? [] : [[name, other, value]];
    }),
  ];
}

describe("against a naive computation", () => {
  const aValue = record({
    age: double({ min: 0, max: 1, noNaN: true }),
    value: double({ min: -1e4, max: 1e4, noNaN: true }),
    a: option(constantFrom<(string | number | boolean)[]>("x", "y", 1, true, "1"), { nil: undefined }),
    b: option(constantFrom("p", "q"), { nil: undefined }),
  });
  const aQuestion = record({
    span: tuple(double({ min: 0, max: 1.1, noNaN: true }), double({ min: -0.05, max: 1.1, noNaN: true })),
    isAligned: constantFrom(false, true),
    p: constantFrom([50], [1, 50, 99.9], [25, 75]),
    group: option(constantFrom("a", "b", "c"), { nil: null }),
  });

  async function check(
    stream: StreamUnderTest,
    values: readonly Value[],
    size: number,
    { from, to, p, group }: { from: number; to: number; p: readonly number[]; group: string | null },
  ): Promise<void> {
    const [first, last] = [floorTo(from, size), floorTo(to + size - 1, size)];
    const within = values.filter(({ at }) => at >= first && at < last);
    const asked = { metric: "performance.m", from, to, p: p.join(",") };
    if (group === null) {
      const { result } = await aggregate(stream, asked);
      const expected =
        within.length === 0
          ? null
          : naive(
              within.map(({ value }) => value),
              p,
            );
      expect({ asked, off: differences(result, expected) }).toEqual({ asked, off: [] });
      return;
    }
    const groups = new Map<string, number[]>();
    for (const { context, value } of within) {
      const key = JSON.stringify(context?.[group] ?? null);
      groups.set(key, [...(groups.get(key) ?? []), value]);
    }
    const told = (await aggregate(stream, { ...asked, group })).groups ?? [];
    expect(told.map((one) => JSON.stringify(one.group ?? null)).toSorted()).toEqual([...groups.keys()].toSorted());
    for (const one of told) {
      const { group: _, ...rest } = one;
      const expected = naive(groups.get(JSON.stringify(one.group ?? null)) ?? [], p);
      expect({ asked, group: one.group, off: differences(rest, expected) }).toEqual({
        asked,
        group: one.group,
        off: [],
      });
    }
  }

  test.each([
    ["the last hour, windows of a second", HOUR_MS - 5000, 1000, HOUR_MS],
    ["the last minutes, windows of a second", 3 * MINUTE_MS, 1000, HOUR_MS],
    ["the last hour, windows of a minute", HOUR_MS - 5000, MINUTE_MS, HOUR_MS],
    ["the last day, windows of a minute", 23.9 * HOUR_MS, MINUTE_MS, 24 * HOUR_MS],
    ["the last day, windows of an hour", 23.9 * HOUR_MS, HOUR_MS, 24 * HOUR_MS],
    ["the last day, windows of 7.2 s", 23.9 * HOUR_MS, 7200, 24 * HOUR_MS],
  ] as const)(
    "%s",
    async (name, spanMs, size, maxLatenessMs) => {
      let run = 0;
      await assert(
        asyncProperty(
          array(array(aValue, { minLength: 1, maxLength: 60 }), { minLength: 1, maxLength: 4 }),
          array(aQuestion, { minLength: 1, maxLength: 5 }),
          async (requests, questions) => {
            const stream = await analyticsStream(`${name.replaceAll(/\W/g, "-")}-${run++}`, {
              aggregationWindowMs: size,
              maxLatenessMs,
            });
            const now = Date.now();
            const values: Value[] = [];
            for (const request of requests) {
              const more = request.map(({ age, value, a, b }): Value => {
                const context = { ...(a !== undefined && { a }), ...(b !== undefined && { b }) };
                return { at: now - Math.floor(age * spanMs), value, context };
              });
              values.push(...more);
              await postAll(
                stream,
                more.map((value) => eventOf(value)),
              );
            }
            for (const { span, isAligned, p, group } of questions) {
              const ends = span.map((age) => now - Math.floor(age * spanMs)).toSorted((left, right) => left - right);
              const [from = 0, to = 0] = isAligned ? ends.map((at) => floorTo(at, HOUR_MS)) : ends;
              if (from < to) await check(stream, values, size, { from, to, p, group });
            }
            await check(stream, values, size, {
              from: now - spanMs - HOUR_MS,
              to: now + MINUTE_MS,
              p: [50],
              group: null,
            });
          },
        ),
        { numRuns: 20, interruptAfterTimeLimit: 4000 },
      );
    },
    60_000,
  );

  test("while values come and windows are told, the sum is that of what was acknowledged", async () => {
    const stream = await analyticsStream("meanwhile");
    let acknowledged = 0;
    const until = Date.now() + 1500;
    const writing = (async () => {
      while (Date.now() < until) {
        await postAll(stream, [{ type: "performance", data: { metric: "m", value: 1 } }]);
        acknowledged++;
      }
    })();
    const looks: [number, number, number][] = [];
    while (Date.now() < until) {
      const before = acknowledged;
      const { result } = await aggregate(stream, { metric: "m" });
      looks.push([before, result?.count ?? 0, acknowledged + 1]);
    }
    await writing;
    expect(looks.filter(([least, count, most]) => count < least || count > most)).toEqual([]);
    expect(looks.length).toBeGreaterThan(20);
    expect((await aggregate(stream, { metric: "m" })).result).toMatchObject({ count: acknowledged, sum: acknowledged });
  });
});

test("past 1,000 groups values go to the group (other), and none is lost", async () => {
  const stream = await analyticsStream("groups");
  const now = Date.now();
  // Two windows of 800 users, who have nobody in common, and one of all of them.
  const users = Array.from({ length: 1600 }, (_, at) => at);
  const value = (user: number, age: number) => eventOf({ at: now - age, value: user, context: { user } });
  await postAll(
    stream,
    users.slice(0, 800).map((user) => value(user, 60_000)),
  );
  await postAll(
    stream,
    users.slice(800).map((user) => value(user, 50_000)),
  );
  await postAll(
    stream,
    users.filter((user) => user % 2 === 0).map((user) => value(user, 40_000)),
  );
  await windowsOf(stream, 2400);
  const groups = (await aggregate(stream, { metric: "m", group: "user" })).groups ?? [];
  expect(groups).toHaveLength(1001);
  const other = groups.find(({ group }) => group === "(other)");
  const own = groups.filter((one) => one !== other);
  // Who has a group has it with all values.
  for (const { group, count, sum } of own) {
    const user = Number(group);
    expect([user, count, sum]).toEqual([user, user % 2 === 0 ? 2 : 1, user % 2 === 0 ? 2 * user : user]);
  }
  const [count, sum] = groups.reduce(([counts, sums], one) => [counts + one.count, sums + one.sum], [0, 0]);
  expect([count, sum]).toEqual([2400, 1600 * 799.5 + 800 * 799]);
  expect(other?.count).toBe(2400 - own.reduce((all, one) => all + one.count, 0));
});

describe("spans", () => {
  test("in every format, and an hour by default", async () => {
    const stream = await analyticsStream("formats", { aggregationWindowMs: 60_000 });
    const now = Date.now();
    const ages = [10, 70, 130, 14 * 60, 16 * 60, 29 * 60, 31 * 60, 58 * 60];
    await postAll(
      stream,
      ages.map((age) => eventOf({ at: now - age * 1000, value: 1 })),
    );
    const count = async (params: Readonly<Record<string, string | number>>): Promise<number> =>
      (await aggregate(stream, { metric: "m", ...params })).result?.count ?? 0;
    const since = (from: number, to = now): number => {
      const [first, last] = [floorTo(from, MINUTE_MS), floorTo(to + MINUTE_MS - 1, MINUTE_MS)];
      return ages.filter((age) => now - age * 1000 >= first && now - age * 1000 < last).length;
    };
    expect(await count({})).toBe(8);
    for (const minutes of [5, 15, 30, 45]) {
      const at = now - minutes * MINUTE_MS;
      const iso = new Date(at).toISOString();
      const east = new Date(at + 2 * HOUR_MS).toISOString().replace("Z", "+02:00");
      const seconds = iso.replace(/\.\d+Z/, "Z");
      for (const from of [at, iso, east, `-${minutes}m`, `-${minutes * 60}s`]) {
        expect([minutes, from, await count({ from })]).toEqual([minutes, from, since(at)]);
      }
      expect([seconds, await count({ from: seconds })]).toEqual([seconds, since(Date.parse(seconds))]);
      expect([minutes, await count({ from: "-1h", to: iso })]).toEqual([minutes, since(now - HOUR_MS, at)]);
      expect([minutes, await count({ to: `-${minutes}m` })]).toEqual([minutes, since(at - HOUR_MS, at)]);
    }
    for (const from of ["-1h", "-2h", "-1d", "-7d", 0, "1970-01-01T00:00:00Z"]) {
      expect([from, await count({ from })]).toEqual([from, 8]);
    }
  });

  test("widened to whole windows, also to windows of the size that was set before", async () => {
    const stream = await analyticsStream("resized", { aggregationWindowMs: HOUR_MS, maxLatenessMs: 24 * HOUR_MS });
    const hour = floorTo(Date.now(), HOUR_MS) - 3 * HOUR_MS;
    await postAll(stream, [eventOf({ at: hour + 30 * MINUTE_MS, value: 7 })]);
    await reconfigure(stream, { aggregationWindowMs: MINUTE_MS, maxLatenessMs: 24 * HOUR_MS });
    await postAll(stream, [eventOf({ at: hour + 45 * MINUTE_MS, value: 8 })]);
    await windowsOf(stream, 2);
    const all = await aggregate(stream, { metric: "m", from: hour, to: hour + HOUR_MS });
    const middle = await aggregate(stream, { metric: "m", from: hour + 20 * MINUTE_MS, to: hour + 50 * MINUTE_MS });
    expect([all.result?.sum, middle.result?.sum]).toEqual([15, 15]);
  });

  test("a small window within a time when they were larger", async () => {
    const stream = await analyticsStream("larger", { aggregationWindowMs: MINUTE_MS });
    const now = Date.now();
    await postAll(stream, [eventOf({ at: now - 10 * MINUTE_MS, value: 7 })]);
    await reconfigure(stream, { aggregationWindowMs: 15 * MINUTE_MS });
    await postAll(stream, [eventOf({ at: now - 40 * MINUTE_MS, value: 8 })]);
    const { result } = await aggregate(stream, { metric: "m", from: "-1h" });
    expect(result).toMatchObject({ count: 2, sum: 15 });
  });
});

describe("metrics", () => {
  const odd = [
    "a.b.c",
    "error",
    "error.x",
    "performance.m",
    "a b",
    "ü/日?&=#%",
    "x+y",
    "-1",
    "__proto__",
    '"',
    "a\nb",
    "(other)",
    "*",
  ];

  test("by any name, of any type, and none is mistaken for another", async () => {
    const stream = await analyticsStream("names");
    const at = Date.now() - 5000;
    await postAll(stream, [
      ...odd.map((metric, index) => eventOf({ at, value: 2 ** index }, metric)),
      ...odd.map((errorHash) => ({ type: "error", data: { errorHash }, timestamp: at })),
      ...odd.map((storeType) => ({
        type: "datastore",
        data: { operation: "get", storeType, durationMs: 3 },
        timestamp: at,
      })),
    ]);
    for (let round = 0; round < 2; round++) {
      for (const [index, name] of odd.entries()) {
        const sums = await Promise.all(
          [`performance.${name}`, `error.${name}`, `datastore.get:${name}`].map(
            async (metric) => (await aggregate(stream, { metric })).result?.sum,
          ),
        );
        expect([name, ...sums]).toEqual([name, 2 ** index, 1, 3]);
      }
      for (const name of ["a.b.c", "a b", "ü/日?&=#%", "-1", "error"]) {
        const { result } = await aggregate(stream, { metric: name });
        expect([name, result?.sum]).toEqual([name, 2 ** odd.indexOf(name)]);
      }
      await windowsOf(stream, odd.length * 3);
    }
  });

  test("an unknown metric has no result, and no groups", async () => {
    const stream = await analyticsStream("unknown");
    for (const metric of [
      "m",
      "performance.m",
      "error.m",
      "datastore.get:kv",
      "command.help",
      "nope.x",
      "performance.",
    ]) {
      expect([metric, (await aggregate(stream, { metric })).result]).toEqual([metric, null]);
      expect([metric, (await aggregate(stream, { metric, group: "g" })).groups]).toEqual([metric, []]);
    }
    await postAll(stream, [eventOf({ at: Date.now(), value: 1 })]);
    expect((await aggregate(stream, { metric: "n" })).result).toBeNull();
    expect((await aggregate(stream, { metric: "M" })).result).toBeNull();
    expect((await aggregate(stream, { metric: "m", from: "-3h", to: "-2h" })).result).toBeNull();
  });

  test("percentiles as asked, else as set; past 1,000 values within 1 %", async () => {
    const stream = await analyticsStream("percentiles", { percentilesToCalculate: [5, 75] });
    const now = Date.now();
    const values = Array.from({ length: 3000 }, (_, at) => 1 + (((at * 7919) % 3000) / 10) ** 1.5);
    await postAll(
      stream,
      values.map((value, at) => eventOf({ at: now - 60_000 - (at % 50) * 1000, value })),
    );
    const { result } = await aggregate(stream, { metric: "m" });
    expect(Object.keys(result?.percentiles ?? {})).toEqual(["5", "75"]);
    const asked = (await aggregate(stream, { metric: "m", p: "0.1,50,99.99" })).result;
    expect(Object.keys(asked?.percentiles ?? {}).toSorted()).toEqual(["0.1", "50", "99.99"]);
    const sorted = values.toSorted((left, right) => left - right);
    for (const [p, value] of Object.entries({ ...result?.percentiles, ...asked?.percentiles })) {
      const rank = (2999 * Number(p)) / 100;
      const [low = 0, high = 0] = [sorted[Math.floor(rank)], sorted[Math.ceil(rank)]];
      expect([p, value >= low * 0.9899, value <= high * 1.0101]).toEqual([p, true, true]);
    }
    expect(result).toMatchObject({ count: 3000, min: sorted[0], max: sorted.at(-1) });
  });
});

describe("refused", () => {
  test.each([
    ["no metric", ""],
    ["an empty metric", "metric="],
    ["two metrics", "metric=a&metric=b"],
    ["two spans", "metric=a&from=-1h&from=-2h"],
    ["from no time", "metric=a&from=yesterday"],
    ["from an empty time", "metric=a&from="],
    ["to no time", "metric=a&to=x"],
    ["a date that is none", "metric=a&from=2026-02-30T00:00:00Z"],
    ["from after to", "metric=a&from=-1h&to=-2h"],
    ["p no number", "metric=a&p=median"],
    ["p empty", "metric=a&p="],
    ["p with a gap", "metric=a&p=50,,99"],
    ["p negative", "metric=a&p=-1"],
    ["p above 100", "metric=a&p=101"],
    ["p infinite", "metric=a&p=Infinity"],
    ["p with semicolons", "metric=a&p=50;99"],
  ])("%s", async (name, params) => {
    const stream = await analyticsStream(`refused-${name.replaceAll(" ", "-")}`);
    const answer = await call("GET", `${stream.url}/aggregate?${params}`);
    expect([answer.status, (await errorOf(answer)).code]).toEqual([400, expect.stringMatching(/^[a-z]+(-[a-z]+)+$/)]);
  });

  test("what is no analytics stream, no stream, no GET", async () => {
    const plain = await newStream(server, "ana-aggregate/plain");
    const answer = await query(plain, { metric: "m" });
    expect([answer.status, (await errorOf(answer)).code]).toEqual([409, "analytics-off"]);
    const stream = await analyticsStream("methods");
    await postAll(stream, [eventOf({ at: Date.now() - 5000, value: 1 })]);
    await windowsOf(stream, 1);
    const output = await query(streamAt(server, `${stream.name}/windows`), { metric: "m" });
    expect([output.status, (await errorOf(output)).code]).toEqual([409, "analytics-off"]);
    expect((await query(streamAt(server, "ana-aggregate/none"), { metric: "m" })).status).toBe(404);
    for (const method of ["POST", "PUT", "DELETE"]) {
      for (const path of ["aggregate?metric=m", "_analytics"]) {
        expect((await call(method, `${stream.url}/${path}`)).status).toBe(405);
      }
    }
  });
});
