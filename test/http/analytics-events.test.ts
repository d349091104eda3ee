/** What an analytics event is, and how it comes (docs/analytics.md, "Events"): every field, format and limit. */

import { describe, expect, test } from "bun:test";
import {
  accepted,
  aggregateOf,
  analyticsStreams,
  batchesOf,
  command,
  outputOf,
  type Counts,
  type Figures,
} from "../support/analytics-client.ts";
import { sharedServer } from "../support/shared-server.ts";
import { rawArrayValues } from "../support/json-values.ts";
import { call, errorOf, type StreamUnderTest } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const server = sharedServer();
const KiB = 1024;
const HOUR_MS = 3_600_000;
const NDJSON = { "content-type": "application/x-ndjson" };
const { analyticsStream } = analyticsStreams(server, "ana-events", {
  batchIntervalMs: 10,
  compression: "none",
  samplingRates: {},
});

/** The events of all batches as the text they are stored as. */
async function storedTexts(stream: StreamUnderTest): Promise<string[]> {
  return rawArrayValues(await stream.text()).flatMap((batch) => {
    const from = batch.indexOf('"events":[');
    return from < 0 ? [] : rawArrayValues(batch.slice(from));
  });
}

async function resultOf(stream: StreamUnderTest, metric: string): Promise<Figures | null | undefined> {
  return (await aggregateOf(stream, `metric=${encodeURIComponent(metric)}`)).result;
}

async function refused(response: Response, status: number, code: string): Promise<string> {
  const error = await errorOf(response);
  expect([response.status, error.code]).toEqual([status, code]);
  return error.message;
}

const good = '{"type":"command","data":{"commandName":"help","success":true}}';
const performanceOf = (metric: unknown, value: unknown, more: object = {}) => ({
  type: "performance",
  data: { metric, value, ...more },
});

describe("what is no event", () => {
  const bad: [name: string, event: unknown][] = [
    ["a number", 1],
    ["a string", "command"],
    ["null", null],
    ["an array", [JSON.parse(good)]],
    ["an empty object", {}],
    ["no type", { data: { commandName: "a" } }],
    ["an unknown type", { type: "purchase", data: { commandName: "a" } }],
    ["a type in capitals", { type: "Command", data: { commandName: "a" } }],
    ["a type that is a list", { type: ["command"], data: { commandName: "a" } }],
    ["a type that every object has", { type: "constructor", data: { commandName: "a" } }],
    ["no data", { type: "command" }],
    ["data null", { type: "command", data: null }],
    ["data a list", { type: "command", data: [] }],
    ["data a string", { type: "command", data: "help" }],
    ["no commandName", { type: "command", data: {} }],
    ["an empty commandName", command("")],
    ["commandName a number", command(1)],
    ["commandName null", command(null)],
    ["commandName of 201 characters", command("x".repeat(201))],
    ["no eventType", { type: "engagement", data: { commandName: "a" } }],
    ["an empty eventType", { type: "engagement", data: { eventType: "" } }],
    ["eventType of 201 characters", { type: "engagement", data: { eventType: "x".repeat(201) } }],
    ["an empty errorHash", { type: "error", data: { errorHash: "" } }],
    ["errorHash a number", { type: "error", data: { errorHash: 7 } }],
    ["errorHash of 201 characters", { type: "error", data: { errorHash: "x".repeat(201) } }],
    ["no metric", { type: "performance", data: { value: 1 } }],
    ["metric of 201 characters", performanceOf("x".repeat(201), 1)],
    ["no value", { type: "performance", data: { metric: "m" } }],
    ["value a string", performanceOf("m", "1")],
    ["value null", performanceOf("m", null)],
    ["value true", performanceOf("m", true)],
    [
      "nine dimensions",
      performanceOf("m", 1, { context: Object.fromEntries("abcdefghi".split("").map((k) => [k, 1])) }),
    ],
    ["a dimension that is an object", performanceOf("m", 1, { context: { a: {} } })],
    ["a dimension that is a list", performanceOf("m", 1, { context: { a: [1] } })],
    ["context a list", performanceOf("m", 1, { context: ["a"] })],
    ["context a string", performanceOf("m", 1, { context: "a" })],
    ["no operation", { type: "datastore", data: { storeType: "kv" } }],
    ["no storeType", { type: "datastore", data: { operation: "get" } }],
    ["operation of 101 characters", { type: "datastore", data: { operation: "x".repeat(101), storeType: "kv" } }],
    ["storeType of 101 characters", { type: "datastore", data: { operation: "get", storeType: "x".repeat(101) } }],
    ["durationMs a string", { type: "datastore", data: { operation: "get", storeType: "kv", durationMs: "5" } }],
    ["an unknown priority", command("a", { priority: "urgent" })],
    ["priority a number", command("a", { priority: 1 })],
    ["timestamp a string", command("a", { timestamp: "2026-01-01T00:00:00Z" })],
    ["timestamp true", command("a", { timestamp: true })],
    ["timestamp two minutes ahead", command("a", { timestamp: Date.now() + 120_000 })],
    ["timestamp far ahead", command("a", { timestamp: 1e15 })],
    ["sampleRate 0", command("a", { sampleRate: 0 })],
    ["sampleRate too small", command("a", { sampleRate: 0.000009 })],
    ["sampleRate above 1", command("a", { sampleRate: 1.001 })],
    ["sampleRate negative", command("a", { sampleRate: -0.5 })],
    ["sampleRate a string", command("a", { sampleRate: "0.5" })],
    ["sampled a number", command("a", { sampled: 1 })],
    ["sampleKey a number", command("a", { sampleKey: 1 })],
  ];

  test(`${bad.length} of them each refuse the whole request, which is told where it stands`, async () => {
    const stream = await analyticsStream("bad");
    const found: unknown[] = [];
    for (const [name, event] of bad) {
      for (const at of [0, 2]) {
        const events = Array.from({ length: 3 }, (_, index) => (index === at ? event : JSON.parse(good)));
        const response = await stream.post(JSON.stringify(events));
        const text = await response.text();
        const isTold = text.includes('"record-invalid"') && text.includes(`record ${at}`);
        if (response.status !== 400 || !isTold) found.push([name, at, response.status, text]);
      }
    }
    expect(found).toEqual([]);
    expect(await stream.records()).toEqual([]);
  });

  test(`dead-letter: each of the ${bad.length} goes there with its reason, and the others are taken`, async () => {
    const stream = await analyticsStream("letters", { onInvalid: "dead-letter" });
    const before = Date.now();
    const mixed = bad.flatMap(([, event]) => [JSON.stringify(event), good]);
    await accepted(await stream.post(`[${mixed.join(",")}]`));
    expect(await storedTexts(stream)).toEqual(bad.map(() => good));
    const letters = outputOf(stream, "dead-letter");
    await until("the dead letters are written", async () => (await letters.head()).status === 200);
    const records = (await letters.records()) as { type: string; at: number; reason: string; event: unknown }[];
    expect(records.map(({ event }) => event)).toEqual(bad.map(([, event]) => event));
    for (const { type, at, reason } of records) {
      expect([type, at >= before && at <= Date.now(), reason.length > 5]).toEqual([
        "analytics.dead-letter",
        true,
        true,
      ]);
    }
    expect((await call("POST", letters.url, { headers: NDJSON, body: good })).status).toBe(403);
    await accepted(await stream.post("[1]"));
    expect((await letters.records()).length).toBe(bad.length + 1);
    const counts = (await batchesOf(stream)).map((batch) => batch.counts);
    const sum = (field: keyof Counts): number => counts.reduce((total, one) => total + one[field], 0);
    expect(sum("stored") + sum("aggregated") + sum("sampledOut") + sum("dropped")).toBe(sum("received"));
  });
});

describe("what is an event", () => {
  const names = [
    "x",
    "x".repeat(200),
    "a.b",
    "ü",
    "日".repeat(200),
    "😀".repeat(100),
    " ",
    "a\nb",
    "__proto__",
    "(other)",
  ];
  const fine: unknown[] = [
    ...names.map((name) => command(name)),
    ...names.map((eventType) => ({ type: "engagement", data: { eventType } })),
    { type: "command", data: { commandName: "a", more: { "": [null, { deep: true }] } }, unknown: [1] },
    { type: "error", data: {} },
    command("a", { priority: "high" }),
    command("a", { priority: "normal" }),
    command("a", { priority: "low" }),
    command("a", { timestamp: 0 }),
    command("a", { timestamp: Date.now() - HOUR_MS }),
    command("a", { timestamp: Date.now() + 30_000 }),
    command("a", { sampleRate: 1 }),
    command("a", { sampleRate: 0.00001 }),
    command("a", { sampled: true }),
    command("a", { sampled: false }),
    command("a", { sampleKey: "session 1" }),
  ];
  test.each(["json", "ndjson"] as const)("is stored as it was sent (%s)", async (format) => {
    const stream = await analyticsStream(`fine-${format}`);
    const texts = fine.map((event) => JSON.stringify(event));
    const answer = format === "json" ? stream.post(`[${texts.join(",")}]`) : stream.post(texts.join("\n"), NDJSON);
    await accepted(await answer);
    expect((await storedTexts(stream)).toSorted()).toEqual(texts.toSorted());
  });

  test("values are taken of every type that has one", async () => {
    const stream = await analyticsStream("values");
    const events = [
      ...names.map((metric, at) => performanceOf(metric, at)),
      ...names.map((errorHash) => ({ type: "error", data: { errorHash } })),
      { type: "datastore", data: { operation: "o".repeat(100), storeType: "s".repeat(100) } },
      { type: "datastore", data: { operation: "get", storeType: "kv", durationMs: 2.5 } },
      { type: "datastore", data: { operation: "get", storeType: "kv" } },
    ];
    await accepted(await stream.post(JSON.stringify(events)));
    const counts = (await batchesOf(stream)).map((batch) => batch.counts);
    expect(counts).toMatchObject([{ received: events.length, aggregated: events.length, stored: 0 }]);
    for (const [at, name] of names.entries()) {
      expect([name, await resultOf(stream, `performance.${name}`)]).toMatchObject([name, { count: 1, sum: at }]);
      expect([name, await resultOf(stream, `error.${name}`)]).toMatchObject([name, { count: 1, sum: 1 }]);
    }
    expect(await resultOf(stream, "datastore.get:kv")).toMatchObject({ count: 2, sum: 3.5 });
    expect(await resultOf(stream, `datastore.${"o".repeat(100)}:${"s".repeat(100)}`)).toMatchObject({ count: 1 });
  });

  test("an error without a hash is stored, one with a hash is counted", async () => {
    const stream = await analyticsStream("errors");
    const bare = '{"type":"error","data":{"message":"boom"}}';
    await accepted(await stream.post(`[${bare},{"type":"error","data":{"errorHash":"h","message":"boom"}}]`));
    expect(await storedTexts(stream)).toEqual([bare]);
    expect(await batchesOf(stream)).toMatchObject([{ counts: { received: 2, stored: 1, aggregated: 1 } }]);
  });

  test("what is not among `aggregate` is stored", async () => {
    const stream = await analyticsStream("no-aggregate", { aggregate: ["error"] });
    const texts = [performanceOf("m", 1), { type: "datastore", data: { operation: "get", storeType: "kv" } }];
    await accepted(await stream.post(JSON.stringify([...texts, { type: "error", data: { errorHash: "h" } }])));
    expect(await batchesOf(stream)).toMatchObject([{ events: texts, counts: { stored: 2, aggregated: 1 } }]);
  });
});

test("the text of an event is kept byte for byte: numbers, escapes, duplicate keys, white space inside", async () => {
  const stream = await analyticsStream("bytes");
  const texts = [
    '{"type":"command","data":{"commandName":"n","a":1e400,"b":-0,"c":1e-320,"d":12345678901234567890,"e":1.0,"f":1E+2}}',
    '{"type":"command","data":{"commandName":"\\u0061\\ud800\\/\\ud83d\\ude00"}}',
    '{"type":"error","type":"command","data":{"commandName":"dup","commandName":"dup2"}}',
    '{ "type" : "command" ,\t"data":{"commandName":"spaces" , "list":[ 1 ,2 ]} }',
    '{"type":"command","data":{"commandName":"proto","__proto__":{"polluted":true},"constructor":1}}',
    '{"__proto__":1,"type":"command","data":{"commandName":"proto2"}}',
    '{"type":"command","data":{"commandName":"\u2028 \u0000"}}'.replace("\u0000", "\\u0000"),
  ];
  await accepted(await stream.post(`[${texts.join(" , ")}]`));
  expect((await storedTexts(stream)).toSorted()).toEqual(texts.toSorted());
});

test("keys of a prototype do not make an event", async () => {
  const stream = await analyticsStream("proto");
  await refused(await stream.post(`{"__proto__":${good}}`), 400, "record-invalid");
  await refused(
    await stream.post('{"type":"command","data":{"__proto__":{"commandName":"a"}}}'),
    400,
    "record-invalid",
  );
  await accepted(
    await stream.post(
      '{"type":"performance","data":{"metric":"m","value":3,"context":{"__proto__":"x","toString":"y"}}}',
    ),
  );
  const told = await (await call("GET", `${stream.url}/aggregate?metric=m&group=__proto__`)).json();
  expect(told).toMatchObject({ groups: [{ group: "x", count: 1, sum: 3 }] });
  const other = await (await call("GET", `${stream.url}/aggregate?metric=m&group=valueOf`)).json();
  expect(other).toMatchObject({ groups: [{ group: null, count: 1, sum: 3 }] });
});

test("values that a double does not hold are refused; the smallest and the largest leave no nonsense", async () => {
  const stream = await analyticsStream("numbers");
  for (const value of ["1e400", "-1e400"]) {
    const body = `{"type":"performance","data":{"metric":"m","value":${value}}}`;
    await refused(await stream.post(body), 400, "record-invalid");
  }
  const tiny = ["-0", "1e-320", "-1e-320", "0.1", "-0.1"];
  const events = tiny.map((value) => `{"type":"performance","data":{"metric":"tiny","value":${value}}}`);
  await accepted(await stream.post(`[${events.join(",")}]`));
  expect(await resultOf(stream, "tiny")).toMatchObject({ count: 5, min: -0.1, max: 0.1, sum: 0 });
  for (const value of ["1e308", "1e150", "-1e150", "1e100"]) {
    const name = `big${value}`;
    const body = `{"type":"performance","data":{"metric":"${name}","value":${value}}}`;
    const response = await stream.post(`[${body},${body},${body}]`);
    if (response.status === 400) continue;
    expect(response.status).toBe(204);
    const { sum, avg, min, max, stdDev } = (await resultOf(stream, name)) ?? {};
    const number = Number(value);
    expect([value, min, max, stdDev]).toEqual([value, number, number, 0]);
    expect(Math.abs(Number(sum) / number - 3) + Math.abs(Number(avg) / number - 1)).toBeLessThan(1e-9);
  }
});

test("deep nesting is taken or refused, and what is taken is read back", async () => {
  const stream = await analyticsStream("deep");
  for (const depth of [100, 1000, 10_000, 16_000]) {
    const text = `{"type":"command","data":{"commandName":"d${depth}","deep":${"[".repeat(depth)}${"]".repeat(depth)}}}`;
    const response = await stream.post(text);
    expect([depth, response.status === 204 || response.status === 400]).toEqual([depth, true]);
    if (response.status === 204) expect((await storedTexts(stream)).at(-1)).toBe(text);
  }
  await accepted(await stream.post(good));
});

describe("bodies", () => {
  test("one object, an array, lines; with empty lines, CRLF, and with or without the last newline", async () => {
    const stream = await analyticsStream("formats");
    const line = (name: string) => `{"type":"command","data":{"commandName":"${name}"}}`;
    const bodies: [body: string, headers: Record<string, string>, names: string[]][] = [
      [line("object"), {}, ["object"]],
      [` \n${line("spaces")}\r\n `, {}, ["spaces"]],
      [`[${line("a1")}]`, {}, ["a1"]],
      [`[ ${line("a2")}\n,${line("a3")} ]`, { "content-type": "application/json; charset=utf-8" }, ["a2", "a3"]],
      [line("l1"), NDJSON, ["l1"]],
      [`${line("l2")}\n`, NDJSON, ["l2"]],
      [`${line("l3")}\n${line("l4")}`, NDJSON, ["l3", "l4"]],
      [`\n\n${line("l5")}\n\n \n${line("l6")}\n\n`, NDJSON, ["l5", "l6"]],
      [`${line("l7")}\r\n${line("l8")}\r\n`, NDJSON, ["l7", "l8"]],
      [` \t${line("l9")}  \n`, { "content-type": "application/x-ndjson; charset=utf-8" }, ["l9"]],
    ];
    for (const [body, headers, names] of bodies) {
      await accepted(await stream.post(body, headers));
      expect([body, (await batchesOf(stream)).at(-1)?.events]).toEqual([
        body,
        names.map((commandName) => ({ type: "command", data: { commandName } })),
      ]);
    }
  });

  test.each([
    ["an invalid line", `${good}\n{"type":\n${good}`],
    ["two events on one line with a comma", `${good},${good}`],
    ["two events on one line", `${good}${good}`],
    ["an event over two lines", '{"type":"command"\n,"data":{"commandName":"a"}}'],
    ["an event broken where a comma would mend it", '{"type":"command"\n"data":{"commandName":"a"}}'],
    ["lists broken where a comma would mend them", '{"type":"command","data":{"commandName":"a","b":[1\n2]}}'],
    ["an array on a line", `[${good},${good}]`],
    ["text after an event", `${good} x`],
    ["a line of something else", `${good}\nhello\n`],
    ["what would end an array early", `${good}],[${good}`],
    ["only empty lines", "\n\r\n \n"],
    ["nothing", ""],
  ])("lines: %s is refused, and nothing of it is taken", async (name, body) => {
    const stream = await analyticsStream(`lines-${name.replaceAll(/\W/g, "-")}`);
    const response = await stream.post(body, NDJSON);
    expect([response.status, await storedTexts(stream)]).toEqual([400, []]);
    expect((await errorOf(response)).code).toMatch(/invalid|empty/);
  });

  test.each([
    ["an empty array", "[]"],
    ["nothing", ""],
    ["white space", " \n"],
    ["broken JSON", '{"type":"command"'],
    ["two objects", `${good}\n${good}`],
    ["a trailing comma", `[${good},]`],
    ["an array in an array", `[[${good}]]`],
    ["broken UTF-8", Uint8Array.from([...Buffer.from(good.slice(0, -4)), 0xff, 0xfe, ...Buffer.from(good.slice(-4))])],
  ])("JSON: %s is refused", async (name, body) => {
    const stream = await analyticsStream(`json-${name.replaceAll(" ", "-")}`);
    const response = await stream.post(typeof body === "string" ? body : Uint8Array.from(body));
    expect([response.status, await storedTexts(stream)]).toEqual([400, []]);
    expect((await errorOf(response)).code).toMatch(/invalid|empty/);
  });

  test("another content type is a conflict", async () => {
    const stream = await analyticsStream("types");
    for (const type of ["text/plain", "application/octet-stream", "text/html", "application/xml"]) {
      expect([type, (await stream.post(good, { "content-type": type })).status]).toEqual([type, 409]);
    }
  });

  test.each([
    ["Producer-Id", { "producer-id": "p", "producer-epoch": "0", "producer-seq": "0" }],
    ["Stream-Seq", { "stream-seq": "1" }],
    ["If-Match", { "if-match": '"0000000000000000_0000000000000000"' }],
    ["Stream-Key", { "stream-key": "k" }],
  ] as const)("%s means nothing here", async (name, headers) => {
    const stream = await analyticsStream(`header-${name}`);
    const offset = await stream.tail();
    const given = name === "If-Match" ? { "if-match": `"${offset}"` } : headers;
    expect(await refused(await stream.post(good, given), 400, "header-unsupported")).toContain(name);
    expect(await refused(await stream.post(good, { ...given, ...NDJSON }), 400, "header-unsupported")).toContain(name);
    expect(await stream.records()).toEqual([]);
  });
});

describe("limits", () => {
  const sized = (bytes: number): string => {
    const empty = '{"type":"command","data":{"commandName":"size","pad":""}}';
    return empty.replace('""', `"${"x".repeat(bytes - empty.length)}"`);
  };

  test("an event may have 32 KiB, and not a byte more", async () => {
    const stream = await analyticsStream("event-size");
    await accepted(await stream.post(sized(32 * KiB)));
    expect((await storedTexts(stream))[0]).toHaveLength(32 * KiB);
    for (const headers of [{}, NDJSON]) {
      await refused(await stream.post(sized(32 * KiB + 1), headers), 400, "record-invalid");
    }
    // Bytes, not characters.
    const wide = `{"type":"command","data":{"commandName":"wide","pad":"${"日".repeat(11_000)}"}}`;
    await refused(await stream.post(wide), 400, "record-invalid");
  });

  test("a request may have 1 MiB, and not a byte more", async () => {
    const stream = await analyticsStream("body-size");
    const events = Array.from({ length: 63 }, () => sized(16 * KiB)).join(",");
    const rest = 1024 * KiB - events.length - 3;
    await accepted(await stream.post(`[${events},${sized(rest)}]`));
    expect((await storedTexts(stream)).length).toBe(64);
    expect((await stream.post(`[${events},${sized(rest + 1)}]`)).status).toBe(413);
    expect((await stream.post(`${good}\n`.repeat(20_000), NDJSON)).status).toBe(413);
    expect((await storedTexts(stream)).length).toBe(64);
  });

  test("eight dimensions, and all of the small ones that fit 1 MiB", async () => {
    const stream = await analyticsStream("many");
    const context = Object.fromEntries("abcdefgh".split("").map((name, at) => [name, [at, "s", true][at % 3]]));
    await accepted(await stream.post(JSON.stringify(performanceOf("m", 1, { context }))));
    const body = '{"type":"command","data":{"commandName":"a"}}\n'.repeat(22_000);
    await accepted(await stream.post(body, NDJSON));
    expect((await storedTexts(stream)).length).toBe(22_000);
  });
});

describe("timestamps", () => {
  test("a value goes to the window of its time; one that is too old is stored as an event with its time", async () => {
    const stream = await analyticsStream("times", { maxLatenessMs: 600_000, aggregationWindowMs: 60_000 });
    const now = Date.now();
    const at = (ageMs: number) => ({ ...performanceOf("m", ageMs), timestamp: now - ageMs });
    await accepted(await stream.post(JSON.stringify([at(0), at(300_000), at(900_000), at(HOUR_MS), at(-30_000)])));
    const batches = await batchesOf(stream);
    const sum = (field: keyof Counts): number => batches.reduce((total, { counts }) => total + counts[field], 0);
    expect([sum("received"), sum("aggregated"), sum("stored")]).toEqual([5, 3, 2]);
    const stored = batches.flatMap(({ events, times = [] }) => {
      let time = 0;
      return events.map((event, index) => [event, (time += times[index] ?? Number.NaN)]);
    });
    expect(stored).toEqual([
      [at(900_000), now - 900_000],
      [at(HOUR_MS), now - HOUR_MS],
    ]);
    const starts = batches.flatMap(({ windows }) => windows.map(({ start, end }) => [start, end - start]));
    const startOf = (ageMs: number): number[] => [Math.floor((now - ageMs) / 60_000) * 60_000, 60_000];
    const expected = [0, 300_000, -30_000].map(startOf);
    expect(new Set(starts.map(String))).toEqual(new Set(expected.map(String)));
  });

  test("times stand beside stored events in the order they are stored", async () => {
    const stream = await analyticsStream("steps");
    const now = Date.now();
    const times = [now - 5, now - 100_000_000, now - 50, 0, now + 20_000];
    const events = times.map((timestamp, at) => command(`c${at}`, { timestamp }));
    const before = Date.now();
    await accepted(await stream.post(JSON.stringify([...events, command("untimed")])));
    const [batch] = await batchesOf(stream);
    expect(batch?.events).toEqual([...events, command("untimed")]);
    const told: number[] = [];
    for (const step of batch?.times ?? []) told.push((told.at(-1) ?? 0) + step);
    expect(told.slice(0, -1)).toEqual(times);
    expect((told.at(-1) ?? 0) >= before && (told.at(-1) ?? 0) <= Date.now()).toBe(true);
  });
});

test("the stream reads, heads, lists and deletes like any other", async () => {
  const stream = await analyticsStream("plain");
  await accepted(await stream.post(good));
  const head = await stream.head();
  expect([head.status, head.headers.get("content-type")]).toEqual([200, "application/json"]);
  const offset = await stream.tail();
  await accepted(await stream.post(good));
  expect((await stream.records(`offset=${offset}`)).length).toBe(1);
  expect((await stream.put()).status).toBe(200);
  expect((await stream.delete()).status).toBe(204);
  expect((await stream.post(good)).status).toBe(404);
  expect((await call("GET", `${stream.url}/aggregate?metric=m`)).status).toBe(404);
});
