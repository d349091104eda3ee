/** What a sender is answered, and when (docs/analytics.md, "Answers"). */

import { describe, expect, test } from "bun:test";
import {
  aggregateOf,
  analyticsStreams,
  batchesOf,
  command,
  measured,
  outputOf,
  times,
  waiting,
  type CommandEvent,
} from "../support/analytics-client.ts";
import { sharedServer } from "../support/shared-server.ts";
import { type Message, temporarySockets } from "../support/socket-client.ts";
import { errorOf, nextOffset, type StreamUnderTest } from "../support/streams.ts";
import { until, within } from "../support/wait.ts";

const server = sharedServer();
const connect = temporarySockets();
const LONG_MS = 60_000;
/** So long that an answer comes well before it, and what a write may take on a machine that others use. */
const INTERVAL_MS = 1_000;
const WRITE_MS = 4_000;
const { analyticsStream, reconfigure } = analyticsStreams(server, "ana-answers", {
  compression: "none",
  samplingRates: {},
});

const failure = (commandName: string) => ({ type: "command", data: { commandName, success: false } });

const post = (stream: StreamUnderTest, ...events: readonly unknown[]): Promise<Response> =>
  stream.post(JSON.stringify(events));

async function storedNames(stream: StreamUnderTest): Promise<string[]> {
  return (await batchesOf<CommandEvent>(stream)).flatMap(({ events }) => events.map(({ data }) => data.commandName));
}

async function timed<T>(promise: Promise<T>): Promise<{ value: T; ms: number }> {
  const started = performance.now();
  return { value: await promise, ms: performance.now() - started };
}

describe("durable", () => {
  test("204 comes when the event can be read, stored or measured", async () => {
    const stream = await analyticsStream("readable", { batchIntervalMs: 5 });
    for (let at = 0; at < 20; at++) {
      const answer = await post(stream, command(`c${at}`), measured("m", at));
      expect([answer.status, nextOffset(answer)]).toEqual([204, await stream.tail()]);
      expect((await storedNames(stream)).at(-1)).toBe(`c${at}`);
      const observed = (await batchesOf<CommandEvent>(stream)).flatMap((batch) =>
        batch.windows.map(({ stats }) => stats.observed),
      );
      expect(observed.reduce((sum, one) => sum + one, 0)).toBe(at + 1);
      const told = await aggregateOf(stream, "metric=m");
      expect(told.result).toMatchObject({ count: at + 1 });
    }
  });

  test("a lone event takes about batchIntervalMs, a stored one as well as a measured one", async () => {
    const stream = await analyticsStream("lone", { batchIntervalMs: 300 });
    for (const event of [command("a"), measured("m", 1), failure("b")]) {
      const { value, ms } = await timed(post(stream, event));
      expect([value.status, ms > 200, ms < 1000]).toEqual([204, true, true]);
    }
  });

  test("the default interval is a second", async () => {
    const stream = await analyticsStream("default");
    const { value, ms } = await timed(post(stream, command("a")));
    expect([value.status, ms > 800, ms < 2000]).toEqual([204, true, true]);
  });

  test("a hundred come at once, together or one by one", async () => {
    const stream = await analyticsStream("hundred", { batchIntervalMs: LONG_MS });
    expect((await within("the answer", post(stream, ...times(100, (at) => command(`a${at}`))), 2000)).status).toBe(204);
    const answers = times(100, (at) => post(stream, command(`b${at}`)));
    const statuses = (await within("the answers", Promise.all(answers), 3000)).map(({ status }) => status);
    expect(new Set(statuses)).toEqual(new Set([204]));
    expect((await storedNames(stream)).length).toBe(200);
    expect((await stream.records()).length).toBe(2);
  });

  test("maxBatchSize is how many", async () => {
    const stream = await analyticsStream("size", { batchIntervalMs: LONG_MS, maxBatchSize: 7 });
    const first = times(6, (at) => post(stream, command(`a${at}`)));
    await waiting(stream, 6);
    expect(await storedNames(stream)).toEqual([]);
    await within("the answers", Promise.all([...first, post(stream, command("a6"))]), 2000);
    expect((await storedNames(stream)).length).toBe(7);
  });

  test("as many high events as the threshold says do not wait, nor does what came before them", async () => {
    const stream = await analyticsStream("threshold", { batchIntervalMs: LONG_MS, highPriorityFlushThreshold: 3 });
    const early = [
      post(stream, command("normal")),
      post(stream, failure("f1")),
      post(stream, { type: "error", data: {} }),
    ];
    await waiting(stream, 3);
    expect(await storedNames(stream)).toEqual([]);
    early.push(post(stream, failure("f2")));
    const answers = await within("the answers", Promise.all(early), 2000);
    expect(answers.map(({ status }) => status)).toEqual([204, 204, 204, 204]);
    expect((await stream.records()).length).toBe(1);
  });

  test("ten high events by default", async () => {
    const stream = await analyticsStream("ten", { batchIntervalMs: LONG_MS });
    const nine = post(stream, ...times(9, (at) => failure(`f${at}`)));
    await waiting(stream, 9);
    const all = Promise.all([nine, post(stream, failure("f9"))]);
    expect((await within("the answers", all, 2000)).map(({ status }) => status)).toEqual([204, 204]);
  });

  test("a request larger than a batch is answered when its last event is durable", async () => {
    const stream = await analyticsStream("large", { batchIntervalMs: 400, maxBatchSize: 10 });
    expect((await post(stream, ...times(25, (at) => command(`c${at}`)))).status).toBe(204);
    expect((await storedNames(stream)).length).toBe(25);
    expect((await batchesOf<CommandEvent>(stream)).map(({ events }) => events.length)).toEqual([10, 10, 5]);
  });

  test("what is all sampled out is answered too", async () => {
    const stream = await analyticsStream("none-left", { samplingRates: { a: 0 }, batchIntervalMs: 50 });
    const { value, ms } = await timed(post(stream, command("a")));
    expect([value.status, ms < 2000]).toEqual([204, true]);
  });
});

describe("memory", () => {
  test("202 comes at once, and within the interval it is durable", async () => {
    const stream = await analyticsStream("memory", { ack: "memory", batchIntervalMs: INTERVAL_MS });
    const { value, ms } = await timed(post(stream, command("a"), measured("m", 1)));
    expect([value.status, ms < INTERVAL_MS / 2, value.headers.get("stream-next-offset")]).toEqual([202, true, null]);
    expect(await stream.records()).toEqual([]);
    const { ms: later } = await timed(until("it is durable", async () => (await storedNames(stream)).length === 1));
    expect([ms + later > INTERVAL_MS / 2, later < INTERVAL_MS + WRITE_MS]).toEqual([true, true]);
    const told = await aggregateOf(stream, "metric=m");
    expect(told.result).toMatchObject({ count: 1 });
  });

  test("what is wrong is refused all the same", async () => {
    const stream = await analyticsStream("memory-wrong", { ack: "memory" });
    const refused = await post(stream, command("a"), { type: "no" });
    expect([refused.status, (await errorOf(refused)).code]).toEqual([400, "record-invalid"]);
  });
});

describe("closing", () => {
  test.each(["durable", "memory"] as const)("writes what waits, and closes the stream (%s)", async (ack) => {
    const stream = await analyticsStream(`close-${ack}`, { ack, batchIntervalMs: LONG_MS });
    const before = post(stream, command("waits"), measured("m", 1));
    await waiting(stream, 1);
    const closing = await within("the close", stream.close(), 3000);
    expect(closing.status).toBe(204);
    expect((await within("the answer", before, 1000)).status).toBe(ack === "durable" ? 204 : 202);
    expect(await storedNames(stream)).toEqual(["waits"]);
    expect((await stream.head()).headers.get("stream-closed")).toBe("true");
    const late = await post(stream, command("late"));
    expect([late.status, late.headers.get("stream-closed")]).toEqual([409, "true"]);
    expect(await storedNames(stream)).toEqual(["waits"]);
    expect((await stream.close()).status).toBe(204);
    const told = await aggregateOf(stream, "metric=m");
    expect(told.result).toMatchObject({ count: 1, sum: 1 });
  });

  test.each(["durable", "memory"] as const)("with a body: its events are the last ones (%s)", async (ack) => {
    const stream = await analyticsStream(`close-body-${ack}`, { ack, batchIntervalMs: LONG_MS });
    const before = post(stream, command("waits"));
    await waiting(stream, 1);
    const last = JSON.stringify([command("last"), measured("m", 2)]);
    const closing = await within("the close", stream.post(last, { "stream-closed": "true" }), 3000);
    expect([closing.status, closing.headers.get("stream-closed")]).toEqual([204, "true"]);
    await within("the answer", before, 1000);
    expect(await storedNames(stream)).toEqual(["waits", "last"]);
    expect((await stream.head()).headers.get("stream-closed")).toBe("true");
    const again = await stream.post(last, { "stream-closed": "true" });
    expect(again.status).toBe(409);
  });

  test("with a body that is refused the stream stays open", async () => {
    const stream = await analyticsStream("close-refused", { batchIntervalMs: 10 });
    expect((await stream.post('{"type":"no"}', { "stream-closed": "true" })).status).toBe(400);
    expect((await post(stream, command("a"))).status).toBe(204);
  });

  test("windows of a closed stream are told when they expire", async () => {
    const stream = await analyticsStream("close-windows", {
      batchIntervalMs: LONG_MS,
      aggregationWindowMs: 1000,
      allowedLatenessMs: 0,
    });
    const before = post(stream, measured("m", 1), command("a"));
    await waiting(stream, 1);
    await stream.close();
    await before;
    const windows = outputOf(stream, "windows");
    const told = await until("the window is told", async () => {
      if ((await windows.head()).status !== 200) return false;
      const records = await windows.records();
      return records.length > 0 && records;
    });
    expect(told).toMatchObject([{ eventKey: "m", count: 1 }]);
  });

  test("while many write: what was acknowledged is there, the rest is refused as closed", async () => {
    const stream = await analyticsStream("close-race", { batchIntervalMs: 5, maxBatchSize: 10 });
    const answers = times(200, async (at) => ({
      name: `c${at}`,
      status: (await post(stream, command(`c${at}`))).status,
    }));
    const closing = stream.close();
    const told = await Promise.all(answers);
    expect((await closing).status).toBe(204);
    expect(told.filter(({ status }) => status !== 204 && status !== 409)).toEqual([]);
    const acknowledged = told.filter(({ status }) => status === 204).map(({ name }) => name);
    expect((await storedNames(stream)).toSorted()).toEqual(acknowledged.toSorted());
  });

  test("while many write and many close: who comes too late is told that it is closed", async () => {
    for (let round = 0; round < 10; round++) {
      const stream = await analyticsStream(`close-many-${round}`, { batchIntervalMs: 1, maxBatchSize: 2 });
      const writers = times(6, async (writer) => {
        const statuses: number[] = [];
        for (let at = 0; at < 10; at++) {
          const headers: Readonly<Record<string, string>> = at > writer ? { "stream-closed": "true" } : {};
          statuses.push((await stream.post(JSON.stringify(command(`${writer}.${at}`)), headers)).status);
        }
        return statuses;
      });
      const told = (await Promise.all(writers)).flat();
      expect(told.filter((status) => status !== 204 && status !== 409)).toEqual([]);
      expect((await storedNames(stream)).length).toBe(told.filter((status) => status === 204).length);
    }
  });
});

describe("delete and create again", () => {
  test.each(["durable", "memory"] as const)("what waited is not in the new stream (%s)", async (ack) => {
    const settings = { ack, batchIntervalMs: 300, aggregationWindowMs: 3_600_000 };
    const stream = await analyticsStream(`delete-${ack}`, settings);
    const before = post(stream, command("old"), measured("m", 1));
    await waiting(stream, 1);
    expect((await stream.delete()).status).toBe(204);
    const answer = await within("the answer", before, 3000);
    expect(answer.status).toBe(ack === "memory" ? 202 : answer.status);
    if (ack === "durable") expect(answer.status).toBeGreaterThanOrEqual(400);
    expect((await stream.put()).status).toBe(201);
    await reconfigure(stream, { ...settings, ack: "durable" });
    expect((await post(stream, command("new"), measured("m", 10))).status).toBe(204);
    expect(await storedNames(stream)).toEqual(["new"]);
    const told = await aggregateOf(stream, "metric=m");
    expect(told.result).toMatchObject({ count: 1, sum: 10 });
  });

  test("what was told of the old stream is not told of the new one", async () => {
    const settings = { batchIntervalMs: 5, aggregationWindowMs: 1000, allowedLatenessMs: 0 };
    const stream = await analyticsStream("delete-told", settings);
    await post(stream, measured("m", 1));
    const windows = outputOf(stream, "windows");
    await until("the window is told", async () => (await windows.head()).status === 200);
    await stream.delete();
    expect((await stream.put()).status).toBe(201);
    await reconfigure(stream, settings);
    const aggregate = async () => (await aggregateOf(stream, "metric=m")).result;
    const atFirst = await aggregate();
    await post(stream, measured("m", 10));
    const whileOpen = await aggregate();
    await until("the new window is told", async () => {
      if ((await windows.head()).status !== 200) return false;
      return ((await windows.records()) as { sum: number }[]).some(({ sum }) => sum === 10);
    });
    expect([atFirst, whileOpen?.sum, (await aggregate())?.sum]).toEqual([null, 10, 10]);
  });

  test("a plain stream of the same name takes anything", async () => {
    const stream = await analyticsStream("delete-plain", { batchIntervalMs: 100 });
    const before = post(stream, command("old"));
    await waiting(stream, 1);
    await stream.delete();
    await stream.put();
    expect((await stream.post('{"anything":1}')).status).toBe(204);
    await before;
    expect(await stream.records()).toEqual([{ anything: 1 }]);
  });
});

describe("on a WebSocket", () => {
  test("durable: answered when it can be read", async () => {
    const stream = await analyticsStream("socket", { batchIntervalMs: 20 });
    const client = await connect(server);
    const answer = await client.append({ stream: stream.name, body: JSON.stringify([command("a"), measured("m", 1)]) });
    expect(answer).toMatchObject({ type: "appended", offset: await stream.tail() });
    expect(await storedNames(stream)).toEqual(["a"]);
    const answers = await Promise.all(
      times(50, (at) => client.append({ stream: stream.name, body: JSON.stringify(command(`c${at}`)) })),
    );
    expect(new Set(answers.map(({ type }) => type))).toEqual(new Set(["appended"]));
    expect((await storedNames(stream)).length).toBe(51);
  });

  test("memory: queued, and durable within the interval", async () => {
    const stream = await analyticsStream("socket-memory", { ack: "memory", batchIntervalMs: 100 });
    const client = await connect(server);
    client.send({ type: "append", ref: "mine", stream: stream.name, body: JSON.stringify(command("a")) });
    const queued: Message<"queued"> = await client.next("queued");
    expect(queued).toEqual({ type: "queued", ref: "mine", stream: stream.name });
    await until("it is durable", async () => (await storedNames(stream)).length === 1);
  });

  test("refused as over HTTP: no event, a producer, a key, a closed stream", async () => {
    const stream = await analyticsStream("socket-refused", { batchIntervalMs: 10 });
    const client = await connect(server);
    const body = JSON.stringify(command("a"));
    const code = async (saying: object): Promise<string> => {
      const answer = await client.append({ stream: stream.name, body, ...saying });
      return answer.type === "error" ? answer.error.code : answer.type;
    };
    expect(await code({ body: '{"type":"no"}' })).toBe("record-invalid");
    expect(await code({ producer: { id: "p", epoch: 0, seq: 0 } })).toBe("header-unsupported");
    expect(await code({ key: "k" })).toBe("header-unsupported");
    expect(await code({ ifMatch: await stream.tail() })).toBe("header-unsupported");
    expect(await stream.records()).toEqual([]);
    await stream.close();
    expect(await code({})).toBe("stream-closed");
    expect(await code({ stream: `${stream.name}/windows` })).not.toBe("appended");
  });

  test("a client that follows the stream sees the batches as they are written", async () => {
    const stream = await analyticsStream("socket-follow", { batchIntervalMs: 20 });
    const client = await connect(server);
    await client.subscribe({ stream: stream.name, offset: "now" });
    await post(stream, command("a"));
    expect(await client.records(stream.name, 1)).toMatchObject([{ type: "analytics.batch", events: [command("a")] }]);
  });
});

test("a thousand at once are taken, in their order", async () => {
  const stream = await analyticsStream("thousand", { batchIntervalMs: 20 });
  expect((await post(stream, ...times(1000, (at) => command(`c${at}`)))).status).toBe(204);
  const names = await storedNames(stream);
  expect(names).toEqual(times(1000, (at) => `c${at}`));
});
