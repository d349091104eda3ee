/** The profile `analytics` (docs/analytics.md): its settings, what is refused, and that a change holds at once. */

import { expect, test } from "bun:test";
import {
  aggregateOf,
  analyticsStreams,
  batchesOf,
  configure,
  measured,
  outputOf,
  post,
  setProfile,
  shownOf,
  type Counts,
  type Settings,
} from "../support/analytics-client.ts";
import { sharedServer, temporaryServers } from "../support/shared-server.ts";
import { call, errorOf, newStream, nextOffset, streamAt, type StreamUnderTest } from "../support/streams.ts";
import { clockPast, until, within } from "../support/wait.ts";

const server = sharedServer();
const temporary = temporaryServers();
/** Streams whose batches are quick and readable. */
const { analyticsStream: quickStream } = analyticsStreams(server, "ana-profile", {
  batchIntervalMs: 20,
  compression: "none",
  samplingRates: {},
});

const DEFAULTS: Settings = {
  ack: "durable",
  enabled: true,
  onInvalid: "reject",
  maxBatchSize: 100,
  batchIntervalMs: 1000,
  highPriorityFlushThreshold: 10,
  samplingRates: {
    message_processed: 0.1,
    cache_hit: 0.05,
    "performance.response_time": 0.5,
    "performance.memory_usage": 0.1,
    "performance.cache_hit_rate": 0.05,
  },
  aggregate: ["performance", "error", "datastore"],
  aggregationWindowMs: 60_000,
  allowedLatenessMs: 5000,
  maxLatenessMs: 3_600_000,
  percentilesToCalculate: [50, 90, 95, 99],
  maxValuesPerWindow: 1000,
  enablePatternDetection: true,
  patternThreshold: 0.8,
  compression: "none",
  maxQueuedEvents: 100_000,
};

async function profileOf(stream: StreamUnderTest): Promise<Settings> {
  const response = await call("GET", `${stream.url}/_profile`);
  expect(response.status).toBe(200);
  return ((await response.json()) as { profile: Settings }).profile;
}

const command = (commandName: string, more: object = {}) => ({
  type: "command",
  data: { commandName, success: true },
  ...more,
});

test("what is left out has the documented default, and GET shows all of it", async () => {
  const stream = await newStream(server, "ana-profile/defaults");
  const set = await setProfile(stream, {});
  expect(set.status).toBe(200);
  const resource = (await set.json()) as { apiVersion: string; profile: Settings };
  expect(resource.apiVersion).toBe("durable.streams/profile/v1");
  expect(resource.profile).toMatchObject({ kind: "analytics", ...DEFAULTS });
  expect(resource.profile["maxQueuedBytes"]).toBe(64 * 1024 * 1024);
  expect(await profileOf(stream)).toEqual(resource.profile);
  const shown = await shownOf(stream);
  expect(shown.settings).toMatchObject(DEFAULTS);
});

test("a setting that is given is kept, and the others are defaults again when it is left out", async () => {
  const stream = await newStream(server, "ana-profile/given");
  const given = {
    ack: "memory",
    maxBatchSize: 500,
    batchIntervalMs: 5000,
    aggregationWindowMs: 300_000,
    samplingRates: { chat: 0.01 },
    adaptiveSampling: { "*": { targetPerSecond: 100, minRate: 0.001 }, chat: { targetPerSecond: 5 } },
    percentilesToCalculate: [10, 99.9],
  };
  await configure(stream, given);
  const shown = await profileOf(stream);
  expect(shown).toMatchObject({ ...DEFAULTS, ...given, samplingRates: { chat: 0.01 } });
  expect(shown["samplingRates"]).toEqual({ chat: 0.01 });
  await configure(stream, { maxBatchSize: 50, batchIntervalMs: 500, aggregationWindowMs: 30_000 });
  expect(await profileOf(stream)).toMatchObject({
    ...DEFAULTS,
    maxBatchSize: 50,
    batchIntervalMs: 500,
    aggregationWindowMs: 30_000,
  });
});

const numeric = [
  "maxBatchSize",
  "batchIntervalMs",
  "highPriorityFlushThreshold",
  "aggregationWindowMs",
  "allowedLatenessMs",
  "maxLatenessMs",
  "maxValuesPerWindow",
  "maxQueuedEvents",
  "maxQueuedBytes",
].flatMap((name) => ["10", -1, 1.5, null, 1e300, [1000], true].map((value): [string, unknown] => [name, value]));

const wrong: [name: string, value: unknown][] = [
  ["ack", "disk"],
  ["ack", true],
  ["ack", null],
  ["enabled", "false"],
  ["enabled", 0],
  ["onInvalid", "drop"],
  ["onInvalid", 1],
  ["compression", "gzip"],
  ["compression", false],
  ...numeric,
  ["maxBatchSize", 0],
  ["batchIntervalMs", 0],
  ["highPriorityFlushThreshold", 0],
  ["maxValuesPerWindow", 0],
  ["maxQueuedEvents", 0],
  ["aggregationWindowMs", 0],
  ["aggregationWindowMs", 999],
  ["aggregationWindowMs", 7000],
  ["aggregationWindowMs", 1001],
  ["aggregationWindowMs", 3_599_999],
  ["aggregationWindowMs", 7_200_000],
  ["samplingRates", []],
  ["samplingRates", 0.5],
  ["samplingRates", { chat: "0.5" }],
  ["samplingRates", { chat: -0.1 }],
  ["samplingRates", { chat: 1.01 }],
  ["samplingRates", { chat: 0.00001 }],
  ["samplingRates", { chat: null }],
  ["adaptiveSampling", { chat: 5 }],
  ["adaptiveSampling", { chat: {} }],
  ["adaptiveSampling", { chat: { targetPerSecond: 0 } }],
  ["adaptiveSampling", { chat: { targetPerSecond: -5 } }],
  ["adaptiveSampling", { chat: { targetPerSecond: "5" } }],
  ["adaptiveSampling", { chat: { targetPerSecond: 5, minRate: 2 } }],
  ["adaptiveSampling", { chat: { targetPerSecond: 5, minRate: 0 } }],
  ["adaptiveSampling", { chat: { targetPerSecond: 5, more: 1 } }],
  ["aggregate", "performance"],
  ["aggregate", ["command"]],
  ["aggregate", ["engagement"]],
  ["aggregate", [1]],
  ["percentilesToCalculate", 50],
  ["percentilesToCalculate", ["50"]],
  ["percentilesToCalculate", [-1]],
  ["percentilesToCalculate", [101]],
  ["enablePatternDetection", "yes"],
  ["patternThreshold", 2],
  ["patternThreshold", -0.1],
  ["patternThreshold", "0.8"],
  ["maxQueuedBytes", 65 * 1024 * 1024],
  ["unheardOf", 1],
  ["Ack", "memory"],
  ["__proto__x", 1],
];

test(`${wrong.length} wrong settings are each refused with their name, and change nothing`, async () => {
  const stream = await newStream(server, "ana-profile/wrong");
  await configure(stream, { maxBatchSize: 77 });
  const before = await profileOf(stream);
  const answers = await Promise.all(
    wrong.map(async ([name, value]) => {
      const response = await setProfile(stream, { [name]: value });
      const text = await response.text();
      return { name, value, status: response.status, named: text.includes(name), text };
    }),
  );
  expect(answers.filter(({ status, named }) => status !== 400 || !named)).toEqual([]);
  expect(await profileOf(stream)).toEqual(before);
});

test.each([
  ["aggregationWindowMs", 1000],
  ["aggregationWindowMs", 1125],
  ["aggregationWindowMs", 3_600_000],
  ["samplingRates", { a: 0, b: 0.0001, c: 1, "with a space": 0.5, 日本: 0.5 }],
  ["samplingRates", {}],
  ["aggregate", []],
  ["allowedLatenessMs", 0],
  ["maxLatenessMs", 0],
  ["maxLatenessMs", 86_400_000],
  ["percentilesToCalculate", [0.1, 50, 99.99]],
  ["patternThreshold", 0],
  ["patternThreshold", 1],
  ["maxBatchSize", 1],
] as const)("%s may be %j", async (name, value) => {
  const stream = await newStream(server, `ana-profile/fine-${name}-${Bun.hash(JSON.stringify(value))}`);
  await configure(stream, { [name]: value });
  expect((await profileOf(stream))[name]).toEqual(value);
});

test("a key named __proto__ is a key", async () => {
  const stream = await newStream(server, "ana-profile/proto");
  const body = '{"profile":{"kind":"analytics","samplingRates":{"__proto__":0,"constructor":0,"toString":0}}}';
  const response = await call("POST", `${stream.url}/_profile`, { body });
  const text = await response.text();
  if (response.status === 400) expect(text).toContain("samplingRates");
  else expect(text).toContain('"__proto__":0');
  await configure(stream, { batchIntervalMs: 20, samplingRates: { constructor: 0 } });
  await post(stream, command("toString"), command("constructor"), command("__proto__"), command("hasOwnProperty"));
  expect(await batchesOf(stream)).toMatchObject([{ counts: { received: 4, stored: 3, sampledOut: 1 } }]);
});

test("setting the same again changes nothing: what is open stays open", async () => {
  const stream = await quickStream("again", { aggregationWindowMs: 3_600_000 });
  const settings = await profileOf(stream);
  await post(stream, measured("m", 1));
  for (let round = 0; round < 3; round++) {
    await configure(stream, settings);
    await post(stream, measured("m", 2));
  }
  expect(await profileOf(stream)).toEqual(settings);
  const told = await aggregateOf(stream, "metric=m");
  expect(told.result).toMatchObject({ count: 4, sum: 7 });
});

test("a sampling rate holds for the next event", async () => {
  const stream = await quickStream("rate");
  await post(stream, command("chat"));
  await configure(stream, { batchIntervalMs: 20, compression: "none", samplingRates: { chat: 0 } });
  for (let round = 0; round < 3; round++) await post(stream, command("chat"), command("chat"));
  await configure(stream, { batchIntervalMs: 20, compression: "none", samplingRates: { chat: 1 } });
  await post(stream, command("chat"));
  const counts = (await batchesOf(stream)).map((batch) => batch.counts);
  const sum = (of: keyof Counts): number => counts.reduce((total, one) => total + one[of], 0);
  expect([sum("received"), sum("stored"), sum("sampledOut")]).toEqual([8, 2, 6]);
});

test("the acknowledgement changes with the next request, both ways", async () => {
  const stream = await quickStream("ack");
  const status = async (): Promise<number> => (await stream.post(JSON.stringify(command("a")))).status;
  expect(await status()).toBe(204);
  await configure(stream, { ack: "memory", batchIntervalMs: 20, compression: "none" });
  expect(await status()).toBe(202);
  await configure(stream, { ack: "durable", batchIntervalMs: 20, compression: "none" });
  expect(await status()).toBe(204);
  const stored = (await batchesOf(stream)).flatMap(({ events }) => events);
  expect(stored).toEqual([command("a"), command("a"), command("a")]);
});

test("a shorter interval holds for who waits already", async () => {
  const stream = await quickStream("interval", { batchIntervalMs: 60_000 });
  const waiting = stream.post(JSON.stringify(command("waits")));
  await until("the event waits", async () => {
    const shown = await shownOf(stream);
    return shown.metrics["queueDepth"] === 1;
  });
  await configure(stream, { batchIntervalMs: 20 });
  expect((await within("the answer", waiting, 3000)).status).toBe(204);
});

test("not enabled: every request is one batch at once, neither sampled nor aggregated", async () => {
  const off = {
    enabled: false,
    batchIntervalMs: 60_000,
    compression: "none",
    samplingRates: { chat: 0, performance: 0 },
  };
  const stream = await quickStream("off", off);
  const started = performance.now();
  const requests = [
    [command("chat"), measured("m", 1)],
    [measured("m", 2)],
    [
      { type: "error", data: { errorHash: "e" } },
      { type: "datastore", data: { operation: "get", storeType: "kv" } },
    ],
  ];
  for (const events of requests) await post(stream, ...events);
  expect(performance.now() - started).toBeLessThan(2000);
  const batches = await batchesOf(stream);
  expect(batches.map(({ events }) => events)).toEqual(requests);
  expect(batches.map(({ counts: { stored, received } }) => [stored, received])).toEqual([
    [2, 2],
    [1, 1],
    [2, 2],
  ]);
  expect((await call("GET", `${stream.url}/windows`)).status).toBe(404);
});

test("switched off, what waited is written; switched on again, batches are collected again", async () => {
  const stream = await quickStream("off-and-on", { batchIntervalMs: 60_000 });
  const waiting = [stream.post(JSON.stringify(command("one"))), stream.post(JSON.stringify(command("two")))];
  await until("both wait", async () => {
    const shown = await shownOf(stream);
    return shown.metrics["queueDepth"] === 2;
  });
  await configure(stream, { enabled: false, batchIntervalMs: 60_000, compression: "none" });
  await post(stream, command("three"));
  const answers = await within("the answers", Promise.all(waiting), 3000);
  expect(answers.map(({ status }) => status)).toEqual([204, 204]);
  await configure(stream, { batchIntervalMs: 50, compression: "none" });
  await Promise.all([post(stream, command("four")), post(stream, command("five"))]);
  const names = (await batchesOf(stream)).flatMap(({ events }) =>
    events.map((event) => (event as { data: { commandName: string } }).data.commandName),
  );
  expect(names.toSorted()).toEqual(["five", "four", "one", "three", "two"]);
});

test("a window's size changes from the next window on, and nothing is lost between", async () => {
  const fast = { batchIntervalMs: 20, allowedLatenessMs: 0, compression: "none" };
  const stream = await quickStream("size", { aggregationWindowMs: 1000, allowedLatenessMs: 0 });
  await post(stream, measured("m", 1));
  await configure(stream, { ...fast, aggregationWindowMs: 1200 });
  await post(stream, measured("m", 2));
  const boundaryMs = (Math.floor(Date.now() / 1200) + 1) * 1200;
  await clockPast(boundaryMs - 1);
  await post(stream, measured("m", 4));
  const told = await until("all three values are told", async () => {
    const windows = await call("GET", `${stream.url}/windows`);
    if (windows.status !== 200) return false;
    const records = (await windows.json()) as { sum: number; startTime: number; endTime: number }[];
    return records.reduce((sum, one) => sum + one.sum, 0) === 7 && records;
  });
  expect(
    told.map(({ startTime, endTime }) => endTime - startTime).filter((size) => size !== 1000 && size !== 1200),
  ).toEqual([]);
  expect(told.at(-1)).toMatchObject({ sum: 4, startTime: boundaryMs, endTime: boundaryMs + 1200 });
  const all = await aggregateOf(stream, "metric=m");
  expect(all.result).toMatchObject({ count: 3, sum: 7 });
}, 60_000);

test("generic again: what waited is written, records are taken as they are; and analytics again", async () => {
  const stream = await quickStream("generic", { batchIntervalMs: 60_000 });
  const waiting = stream.post(JSON.stringify(command("waits")));
  await until("the event waits", async () => {
    const shown = await shownOf(stream);
    return shown.metrics["queueDepth"] === 1;
  });
  await configure(stream, {}, "generic");
  const answer = await within("the answer", waiting, 3000);
  expect(answer.status).toBe(204);
  expect(await profileOf(stream)).toEqual({ kind: "generic" });
  const plain = await stream.post('{"anything":1}');
  expect([plain.status, nextOffset(plain)]).toEqual([204, await stream.tail()]);
  for (const path of ["aggregate?metric=m", "_analytics"]) {
    const off = await call("GET", `${stream.url}/${path}`);
    expect([off.status, (await errorOf(off)).code]).toEqual([409, "analytics-off"]);
  }
  await configure(stream, { batchIntervalMs: 20, compression: "none" });
  expect((await stream.post('{"anything":1}')).status).toBe(400);
  await post(stream, command("after"));
  expect(await stream.records()).toMatchObject([
    { type: "analytics.batch", events: [command("waits")] },
    { anything: 1 },
    { type: "analytics.batch", events: [command("after")] },
  ]);
}, 60_000);

test("windows that were open when the stream became generic are told, or are there when it is analytics again", async () => {
  const stream = await quickStream("generic-windows", { aggregationWindowMs: 1000, allowedLatenessMs: 0 });
  await post(stream, measured("m", 5));
  await configure(stream, {}, "generic");
  await configure(stream, { batchIntervalMs: 20, aggregationWindowMs: 1000, allowedLatenessMs: 0 });
  await post(stream, measured("m", 6));
  const told = await aggregateOf(stream, "metric=m");
  expect(told.result).toMatchObject({ count: 2, sum: 11 });
});

test("from and to the State Protocol", async () => {
  const stream = await newStream(server, "ana-profile/state");
  await configure(stream, { touch: { enabled: true } }, "state-protocol");
  await configure(stream, { batchIntervalMs: 20, compression: "none" });
  await post(stream, command("a"));
  await configure(stream, {}, "state-protocol");
  expect((await stream.post(JSON.stringify(command("a")))).status).toBe(400);
  expect((await stream.records()).length).toBe(1);
});

test("only JSON streams can hold it; others, missing and closed streams say so", async () => {
  for (const type of ["text/plain", "application/octet-stream", "application/x-ndjson"]) {
    const other = await newStream(server, `ana-profile/other-${type.replace("/", "-")}`, type);
    const refused = await setProfile(other, {});
    expect([refused.status, (await errorOf(refused)).code]).toEqual([409, "profile-conflict"]);
    for (const path of ["aggregate?metric=m", "_analytics"]) {
      const off = await call("GET", `${other.url}/${path}`);
      expect([off.status, (await errorOf(off)).code]).toEqual([409, "analytics-off"]);
    }
  }
  const missing = streamAt(server, "ana-profile/missing");
  expect((await setProfile(missing, {})).status).toBe(404);
  expect((await call("GET", `${missing.url}/aggregate?metric=m`)).status).toBe(404);
  expect((await call("GET", `${missing.url}/_analytics`)).status).toBe(404);
});

test("its outputs have no profile to set", async () => {
  const stream = await quickStream("outputs", { onInvalid: "dead-letter" });
  expect((await stream.post('{"no":"event"}')).status).toBe(204);
  const letters = outputOf(stream, "dead-letter");
  await until("the dead letters are there", async () => (await letters.head()).status === 200);
  for (const kind of ["analytics", "generic"]) {
    const refused = await setProfile(letters, {}, kind);
    expect([refused.status, (await errorOf(refused)).code]).toEqual([403, "stream-internal"]);
  }
});

test("it survives a kill", async () => {
  const one = await temporary();
  const stream = await newStream(one, "kept");
  await configure(stream, { batchIntervalMs: 20, maxBatchSize: 7, samplingRates: { chat: 0 } });
  const before = await profileOf(stream);
  await one.kill("SIGKILL");
  const two = await temporary({ dataDir: one.dataDir });
  const again = streamAt(two, "kept");
  expect(await profileOf(again)).toEqual(before);
  await post(again, command("chat"), command("other"));
  expect(await batchesOf(again)).toMatchObject([{ counts: { received: 2, sampledOut: 1, stored: 1 } }]);
});
