/** Following streams on a WebSocket: every start, every kind of content, many at once, and what becomes of a subscription. */

import { describe, expect, test } from "bun:test";
import { sharedServer } from "../support/shared-server.ts";
import { bytesOf, temporarySockets } from "../support/socket-client.ts";
import { call, errorOf, newStream, nextOffset, streamAt, type StreamUnderTest } from "../support/streams.ts";
import { clockPast, until } from "../support/wait.ts";
import { touchStream } from "../touch/touch-client.ts";

const server = sharedServer({ args: ["--live-metrics-interval", "100ms"] });
const connect = temporarySockets();

const numbers = (count: number, from = 0): number[] => Array.from({ length: count }, (_, at) => from + at);

describe("starts", () => {
  test("at the beginning, and goes on live", async () => {
    const stream = await newStream(server, "follow/all");
    await stream.post("[1,2]");
    const client = await connect(server);
    const begun = await client.subscribe({ stream: stream.name, offset: "-1" });
    expect(begun).toMatchObject({ id: stream.name, stream: stream.name, contentType: "application/json" });
    expect(begun.upToDate).toBeUndefined();
    expect(await client.records(stream.name, 2)).toEqual([1, 2]);
    expect(client.position(stream.name)).toBe(await stream.tail());
    await stream.post("3");
    const more = await client.next("records");
    expect(more).toMatchObject({ id: stream.name, offset: await stream.tail(), upToDate: true, records: [3] });
  });

  test("now, with the tail as offset", async () => {
    const stream = await newStream(server, "follow/now");
    await stream.post("[1,2]");
    const client = await connect(server);
    const begun = await client.subscribe({ stream: stream.name, offset: "now" });
    expect([begun.offset, begun.upToDate]).toEqual([await stream.tail(), true]);
    await stream.post("3");
    expect(await client.records(stream.name, 1)).toEqual([3]);
  });

  test("at an offset, the last records, or a time", async () => {
    const stream = await newStream(server, "follow/starts");
    const first = nextOffset(await stream.post("[1,2]"));
    const middle = new Date((await clockPast(Date.now(), 20)) - 5);
    await clockPast(middle.getTime(), 20);
    await stream.post("[3,4]");
    const client = await connect(server);
    const starts = [
      [{ offset: first }, [3, 4]],
      [{ tail: 1 }, [4]],
      [{ tail: 3 }, [2, 3, 4]],
      [{ tail: 99 }, [1, 2, 3, 4]],
      [{ from: middle.toISOString() }, [3, 4]],
      [{ from: "-1h" }, [1, 2, 3, 4]],
    ] as const;
    for (const [index, [start, expected]] of starts.entries()) {
      const id = `start ${index}`;
      await client.subscribe({ stream: stream.name, id, ...start });
      expect(await client.records(id, expected.length)).toEqual([...expected]);
    }
    expect(await client.subscribe({ stream: stream.name, id: "none", tail: 0 })).toMatchObject({ upToDate: true });
  });

  test.each([
    ["no start", {}, "offset-missing"],
    ["two starts", { offset: "-1", tail: 1 }, "start-ambiguous"],
    ["an offset that nobody gave out", { offset: "12" }, "offset-invalid"],
    ["an offset behind the tail", { offset: "9".repeat(16) }, "offset-invalid"],
    ["a time that is none", { from: "yesterday" }, "from-invalid"],
    ["an empty key", { offset: "-1", key: "" }, "key-invalid"],
    ["a filter that does not parse", { offset: "-1", filter: "a ==" }, "filter-invalid"],
  ])("refuses %s as HTTP does", async (name, fields, code) => {
    const stream = await newStream(server, `follow/refused ${name}`.replaceAll(" ", "-"));
    const client = await connect(server);
    const refused = await client.refusal({ type: "subscribe", stream: stream.name, ...fields });
    expect(refused).toMatchObject({ id: stream.name, error: { code } });
    const query = new URLSearchParams({ live: "sse" });
    for (const [field, value] of Object.entries(fields)) query.set(field, String(value));
    const overHttp = await stream.get(query.toString());
    expect([overHttp.status, await errorOf(overHttp)]).toEqual([400, refused.error]);
    await client.subscribe({ stream: stream.name, offset: "-1" });
  });

  test("refuses streams that are not there, names that are none, filters of text", async () => {
    const client = await connect(server);
    const text = await newStream(server, "follow/no-filter", "text/plain");
    for (const [stream, filter, code] of [
      ["follow/nobody", undefined, "not-found"],
      ["../follow", undefined, "name-invalid"],
      ["a\nb", undefined, "name-invalid"],
      [text.name, "a = 1", "filter-needs-json"],
    ] as const) {
      const more = filter === undefined ? {} : { filter };
      const refused = await client.refusal({ type: "subscribe", stream, id: "x", offset: "-1", ...more });
      expect([stream, refused.id, refused.error.code]).toEqual([stream, "x", code]);
    }
  });

  test("a name is not percent-encoded", async () => {
    await newStream(server, "follow/%25%C3%BC%20x");
    const client = await connect(server);
    expect(await client.subscribe({ stream: "follow/%ü x", offset: "-1" })).toMatchObject({ id: "follow/%ü x" });
    expect((await client.refusal({ type: "subscribe", stream: "follow/%25%C3%BC%20x", offset: "-1" })).error.code).toBe(
      "not-found",
    );
  });

  test("the metrics of the server can be followed", async () => {
    const client = await connect(server);
    const begun = await client.subscribe({ stream: "live.metrics", offset: "-1" });
    expect(begun.contentType).toBe("application/json");
    const observed = await touchStream(server, "follow/observed", []);
    await observed.wait({ keys: ["0123456789abcdef"], cursor: "now", timeoutMs: 0 });
    const { records, offset } = await client.next("records");
    const read: readonly unknown[] = await streamAt(server, "live.metrics").records();
    expect(read.slice(0, records?.length)).toEqual(records ?? []);
    expect(records).not.toEqual([]);
    expect(offset).toBe(client.position("live.metrics"));
  });
});

describe("content", () => {
  test("JSON arrives as it was spelled", async () => {
    const stream = await newStream(server, "follow/spelling");
    const client = await connect(server);
    await client.subscribe({ stream: stream.name, id: 'odd "records":[ id', offset: "-1" });
    const values = [
      "1.0",
      "-0.0e-0",
      "1e400",
      "123456789012345678901234567890",
      '{"b":1,"a":2,"b":3}',
      '{ "spaced" :  [ 1 ,2 ] }',
      '"\\u00e9\\/\\ud800 \u2028é😀"',
      '{"__proto__":{"a":1}}',
      '""',
      "null",
      "[]",
      `${"[".repeat(255)}${"]".repeat(255)}`,
    ];
    for (const live of [false, true]) {
      const posted = live ? [await stream.post(`[${values.join(" ,\n")}]`)] : [];
      for (const value of live ? [] : values) posted.push(await stream.post(`[${value}]`));
      expect(posted.every(({ status }) => status === 204)).toBe(true);
      expect(await client.spellings('odd "records":[ id', values.length)).toEqual(values);
    }
  });

  test("text arrives to the byte: marks, controls, line ends and all", async () => {
    const stream = await newStream(server, "follow/text", "text/plain; charset=utf-8");
    const client = await connect(server);
    expect(await client.subscribe({ stream: stream.name, offset: "-1" })).toMatchObject({
      contentType: "text/plain; charset=utf-8",
    });
    for (const text of ["\ufeffwith a mark", "\u0000\u001f\u007f\r\n\n\r", "\u2028é😀", '"\\']) {
      await stream.post(text);
      expect(await client.next("records")).toMatchObject({ text, upToDate: true });
    }
  });

  test("text that is cut inside a character arrives as base64, and nothing of it is lost", async () => {
    const stream = await newStream(server, "follow/cut-text", "text/plain");
    const client = await connect(server);
    await client.subscribe({ stream: stream.name, offset: "-1" });
    const whole = Buffer.from("a😀b\ufeffé");
    for (const cut of [3, 7, 10]) {
      await stream.post(Uint8Array.from(whole.subarray(0, cut)));
      const half = await client.next("records");
      expect([half.text, half.base64]).toEqual([undefined, whole.subarray(0, cut).toString("base64")]);
      await stream.post(Uint8Array.from(whole.subarray(cut)));
      expect(Buffer.from(bytesOf(await client.next("records")))).toEqual(whole.subarray(cut));
    }
    await client.subscribe({ stream: stream.name, id: "again", offset: "-1" });
    expect(Buffer.from(await client.bytes("again", 3 * whole.length))).toEqual(Buffer.concat([whole, whole, whole]));
  });

  test("text that is none arrives as base64", async () => {
    const stream = await newStream(server, "follow/no-text", "text/csv");
    await stream.post(Uint8Array.of(0x61, 0xff, 0xed, 0xa0, 0x80));
    const client = await connect(server);
    await client.subscribe({ stream: stream.name, offset: "-1" });
    expect((await client.next("records")).base64).toBe("Yf/toIA=");
  });

  test("every other type arrives as base64, also when it looks like text", async () => {
    const bytes = Uint8Array.from({ length: 1000 }, (_, at) => at);
    for (const type of ["application/octet-stream", "application/x-ndjson", "image/png"]) {
      const stream = await newStream(server, `follow/${type}`, type);
      await stream.post("abc");
      await stream.post(bytes);
      const client = await connect(server);
      await client.subscribe({ stream: stream.name, offset: "-1" });
      const expected = Buffer.concat([Buffer.from("abc"), bytes]);
      expect(Buffer.from(await client.bytes(stream.name, 1003))).toEqual(expected);
      expect(client.received.every(({ message }) => !("text" in message))).toBe(true);
    }
  });
});

describe("a selection", () => {
  test("gives the records of a key, those that match, or both; positions tell of the others", async () => {
    const stream = await newStream(server, "follow/selection");
    const client = await connect(server);
    const selections = {
      key: { key: "a" },
      filter: { filter: "n >= 2" },
      both: { key: "a", filter: "n >= 2" },
      none: { key: "c" },
    };
    for (const [id, selection] of Object.entries(selections)) {
      await client.subscribe({ stream: stream.name, id, offset: "-1", ...selection });
    }
    for (const [n, key] of [
      [1, "a"],
      [2, "b"],
      [3, "a"],
    ] as const) {
      await stream.post(`{"n":${n}}`, { "stream-key": key });
    }
    expect(await client.records("key", 2)).toEqual([{ n: 1 }, { n: 3 }]);
    expect(await client.records("filter", 2)).toEqual([{ n: 2 }, { n: 3 }]);
    expect(await client.records("both", 1)).toEqual([{ n: 3 }]);
    const tail = await stream.tail();
    await client.next("position", ({ id, offset, upToDate }) => id === "none" && offset === tail && upToDate === true);
    for (const id of Object.keys(selections)) {
      await until(`${id} is at the tail`, () => client.position(id) === tail);
    }
  });

  test("of one reader is not taken for another's, however they are spelled", async () => {
    const stream = await newStream(server, "follow/spelled-alike");
    const client = await connect(server);
    // A filter may end in white space, a key may hold a line break.
    await client.subscribe({ stream: stream.name, id: "filter", offset: "now", key: "a", filter: "n = 1\n" });
    await client.subscribe({ stream: stream.name, id: "key", offset: "now", key: "a\nn = 1" });
    await stream.post('{"n":1}', { "stream-key": "a" });
    expect(await client.records("filter", 1)).toEqual([{ n: 1 }]);
    const answer = await client.append({ stream: stream.name, body: '{"n":2}', key: "a\nn = 1" });
    if (answer.type === "appended") expect(await client.records("key", 1)).toEqual([{ n: 2 }]);
    await client.settled();
    const ofKey = client.received.flatMap(({ message }) =>
      message.type === "records" && message.id === "key" ? (message.records ?? []) : [],
    );
    expect(ofKey).not.toContainEqual({ n: 1 });
  });
});

describe("subscriptions", () => {
  test("to one stream go their own ways under different ids", async () => {
    const stream = await newStream(server, "follow/twice");
    await stream.post("[1,2]");
    const client = await connect(server);
    await client.subscribe({ stream: stream.name, offset: "-1" });
    await client.subscribe({ stream: stream.name, id: "now", offset: "now" });
    await stream.post("3");
    expect(await client.records("now", 1)).toEqual([3]);
    expect(await client.records(stream.name, 3)).toEqual([1, 2, 3]);
    client.send({ type: "unsubscribe", id: "now" });
    await client.next("unsubscribed", ({ id }) => id === "now");
    await stream.post("4");
    expect(await client.records(stream.name, 1)).toEqual([4]);
  });

  test("of an id that is taken are refused, also while the first one is still being opened", async () => {
    const [one, other] = [await newStream(server, "follow/one"), await newStream(server, "follow/other")];
    const client = await connect(server);
    client.send({ type: "subscribe", stream: one.name, id: "x", offset: "-1" });
    client.send({ type: "subscribe", stream: other.name, id: "x", offset: "-1" });
    expect((await client.next("error")).error.code).toBe("subscription-exists");
    expect(await client.next("subscribed")).toMatchObject({ id: "x", stream: one.name });
    await other.post('"other"');
    await one.post('"one"');
    expect(await client.records("x", 1)).toEqual(["one"]);
  });

  test("end on request, with where they stood; the id is free again", async () => {
    const stream = await newStream(server, "follow/unsubscribe");
    await stream.post("[1,2]");
    const client = await connect(server);
    await client.subscribe({ stream: stream.name, id: "x", offset: "-1" });
    expect(await client.records("x", 2)).toEqual([1, 2]);
    client.send({ type: "unsubscribe", id: "x" });
    const ended = await client.next("unsubscribed");
    expect(ended).toEqual({ type: "unsubscribed", id: "x", offset: await stream.tail(), reason: "request" });
    await stream.post("3");
    expect((await client.refusal({ type: "unsubscribe", id: "x" })).error.code).toBe("subscription-unknown");
    await client.subscribe({ stream: stream.name, id: "x", offset: ended.offset });
    expect(await client.records("x", 1)).toEqual([3]);
  });

  test("that are asked for and ended in one breath are opened and closed", async () => {
    const stream = await newStream(server, "follow/breath");
    await stream.post("[1,2]");
    const client = await connect(server);
    for (let turn = 0; turn < 50; turn++) {
      client.send({ type: "subscribe", stream: stream.name, id: "x", offset: "-1" });
      client.send({ type: "unsubscribe", id: "x" });
    }
    await client.settled();
    const types = client.received.map(({ message }) => message.type).filter((type) => type.endsWith("subscribed"));
    expect(types).toEqual(Array.from({ length: 100 }, (_, at) => (at % 2 === 0 ? "subscribed" : "unsubscribed")));
  });

  test("that end while records stream say nothing afterwards, and resume without a gap", async () => {
    const stream = await newStream(server, "follow/interrupted");
    const client = await connect(server);
    const total = 400;
    const writing = (async () => {
      for (const n of numbers(total)) await stream.post(String(n));
    })();
    const seen = (): unknown[] =>
      client.received.flatMap(({ message }) => (message.type === "records" ? (message.records ?? []) : []));
    let offset = "-1";
    for (let round = 0; seen().length < total; round++) {
      // The client itself fails the test when something comes after `unsubscribed`.
      await client.subscribe({ stream: stream.name, id: "x", offset });
      if (round % 2 === 0) await client.next("records");
      client.send({ type: "unsubscribe", id: "x" });
      ({ offset } = await client.next("unsubscribed"));
    }
    await writing;
    expect(seen()).toEqual(numbers(total));
  }, 60_000);

  test("of a stream that is closed end when all was sent", async () => {
    const stream = await newStream(server, "follow/closed");
    await stream.post("[1,2]");
    const client = await connect(server);
    await client.subscribe({ stream: stream.name, id: "live", offset: "-1" });
    expect(await client.records("live", 2)).toEqual([1, 2]);
    await stream.close();
    expect(await client.next("position")).toMatchObject({ id: "live", closed: true, upToDate: true });
    const tail = await stream.tail();
    const closed = { type: "unsubscribed", offset: tail, reason: "closed" } as const;
    expect(await client.next("unsubscribed")).toEqual({ ...closed, id: "live" });
    await client.subscribe({ stream: stream.name, id: "later", offset: "-1" });
    expect(await client.next("records")).toMatchObject({ id: "later", closed: true, records: [1, 2] });
    expect(await client.next("unsubscribed")).toEqual({ ...closed, id: "later" });
    expect(await client.subscribe({ stream: stream.name, id: "end", offset: tail })).toMatchObject({ closed: true });
    expect(await client.next("unsubscribed")).toEqual({ ...closed, id: "end" });
  });

  test("hear of a close that came with the last record", async () => {
    const stream = await newStream(server, "follow/closed-with-record");
    const client = await connect(server);
    await client.subscribe({ stream: stream.name, offset: "-1" });
    await stream.post("1", { "stream-closed": "true" });
    expect(await client.next("records")).toMatchObject({ records: [1], upToDate: true, closed: true });
    expect(await client.next("unsubscribed")).toMatchObject({ reason: "closed" });
    expect(client.received.map(({ message }) => message.type)).not.toContain("position");
  });

  test("of a stream that is deleted end with what HTTP says of it", async () => {
    const stream = await newStream(server, "follow/deleted");
    await stream.post("1");
    const client = await connect(server);
    await client.subscribe({ stream: stream.name, offset: "-1" });
    expect(await client.records(stream.name, 1)).toEqual([1]);
    await stream.delete();
    const ended = await client.next("unsubscribed");
    expect(ended).toMatchObject({ reason: "error", error: await errorOf(await stream.get()) });
    expect(ended.error?.code).toBe("not-found");
  });

  test("of a stream that only lives on in forks end with gone", async () => {
    const stream = await newStream(server, "follow/forked");
    await stream.post("1");
    await newStream(server, "follow/fork", undefined, { headers: { "stream-forked-from": stream.path } });
    const client = await connect(server);
    await client.subscribe({ stream: stream.name, id: "parent", offset: "now" });
    await client.subscribe({ stream: "follow/fork", id: "fork", offset: "-1" });
    await stream.delete();
    expect(await client.next("unsubscribed")).toMatchObject({ id: "parent", error: { code: "gone" } });
    expect(await client.records("fork", 1)).toEqual([1]);
  });

  test("of a stream that is created again are not continued in the new one", async () => {
    const stream = await newStream(server, "follow/recreated");
    const old = nextOffset(await stream.post("1"));
    const client = await connect(server);
    await stream.delete();
    await newStream(server, stream.name);
    await stream.post("2");
    const refused = await client.refusal({ type: "subscribe", stream: stream.name, offset: old });
    expect(refused.error).toEqual(await errorOf(await stream.get(`offset=${old}`)));
    expect(refused.error.code).toBe("offset-gone");
    await client.subscribe({ stream: stream.name, offset: "-1" });
    expect(await client.records(stream.name, 1)).toEqual([2]);
  });

  test("from before what retention keeps are refused, with the earliest offset", async () => {
    const stream = await newStream(server, "follow/trimmed", undefined, {
      headers: { "stream-retention": "max-bytes=64KiB" },
    });
    const record = JSON.stringify("x".repeat(1000));
    const old = nextOffset(await stream.post(record));
    const trimmed = async (): Promise<boolean> => (await stream.get(`offset=${old}`)).status === 410;
    await stream.post(`[${Array.from({ length: 600 }, () => record).join(",")}]`);
    await until("the records are gone", trimmed, 10_000);
    const client = await connect(server);
    const refused = await client.refusal({ type: "subscribe", stream: stream.name, offset: old });
    const overHttp = await stream.get(`offset=${old}`);
    const earliest = overHttp.headers.get("stream-earliest-offset") ?? "";
    expect(refused.error).toEqual(await errorOf(overHttp));
    expect(refused.headers).toEqual({ "Stream-Earliest-Offset": earliest });
    expect((await client.subscribe({ stream: stream.name, offset: earliest })).offset).toBe(earliest);
  }, 60_000);
});

test("two hundred streams on one socket, written over HTTP and the socket at once: each arrives whole and in order", async () => {
  const client = await connect(server);
  const streams = await Promise.all(numbers(200).map((n) => newStream(server, `follow/many/${n}`)));
  await Promise.all(streams.map(({ name }) => client.subscribe({ stream: name, offset: "-1" })));
  const rounds = 6;
  const writing = async (stream: StreamUnderTest): Promise<void> => {
    for (const round of numbers(rounds)) {
      const body = `[${2 * round},${2 * round + 1}]`;
      if (round % 2 === 0) expect((await stream.post(body)).status).toBe(204);
      else expect(await client.append({ stream: stream.name, body })).toMatchObject({ type: "appended" });
    }
  };
  await Promise.all(streams.map(writing));
  for (const { name } of streams) expect(await client.records(name, 2 * rounds)).toEqual(numbers(2 * rounds));
  const health = await call("GET", `${server.url}/health/clients?limit=1000`);
  expect(await health.text()).toContain("follow/many/199");
}, 60_000);
