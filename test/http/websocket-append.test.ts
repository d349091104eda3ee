/** Appends on a WebSocket: the same rules, codes and durability as over HTTP, decided in the order they were sent. */

import { describe, expect, test } from "bun:test";
import type { TestServer } from "../support/server.ts";
import { sharedServer, temporaryServers } from "../support/shared-server.ts";
import { type AppendAnswer, type SocketClient, temporarySockets } from "../support/socket-client.ts";
import { call, errorOf, newStream, nextOffset, streamAt, type StreamUnderTest } from "../support/streams.ts";

const server = sharedServer();
const start = temporaryServers();
const connect = temporarySockets();
/** Below what a connection may have under way. */
const WINDOW = 200;

const numbers = (count: number): number[] => Array.from({ length: count }, (_, at) => at);

function codeOf(answer: AppendAnswer): string {
  return answer.type === "error" ? answer.error.code : answer.type;
}

test("what is answered is there for everybody, with the offset that HTTP would say", async () => {
  const stream = await newStream(server, "append/one");
  const client = await connect(server);
  client.send({ type: "append", ref: "mine", stream: stream.name, body: ' [1.0 , {"a" :2}]\n' });
  const answer = await client.next("appended");
  expect(await stream.text()).toBe('[1.0,{"a" :2}]');
  expect(answer).toEqual({ type: "appended", ref: "mine", stream: stream.name, offset: await stream.tail() });
  client.send({ type: "append", stream: stream.name, body: "3" });
  expect(await client.next("appended")).toEqual({
    type: "appended",
    stream: stream.name,
    offset: await stream.tail(),
  });
});

test("survives kill -9 once it is answered", async () => {
  const first = await start();
  await newStream(first, "append/durable");
  const client = await connect(first);
  for (const n of numbers(200)) client.send({ type: "append", stream: "append/durable", body: String(n) });
  await client.next("appended");
  await first.kill("SIGKILL");
  await client.closed();
  const sure = client.received.filter(({ message }) => message.type === "appended").length;
  const second = await start({ dataDir: first.dataDir });
  const kept = await streamAt(second, "append/durable").records();
  expect(kept.length).toBeGreaterThanOrEqual(sure);
  expect(kept).toEqual(numbers(kept.length));
}, 60_000);

test("bytes, text and keys arrive as they were sent", async () => {
  const client = await connect(server);
  const binary = await newStream(server, "append/bytes", "application/octet-stream");
  const bytes = Uint8Array.from({ length: 700_000 }, (_, at) => (at * 7919) >> 3);
  const sent = await client.append({
    stream: binary.name,
    base64: bytes.toBase64(),
    contentType: "application/octet-stream",
  });
  expect(sent).toMatchObject({ type: "appended", offset: await binary.tail() });
  expect(Buffer.from(await (await binary.get()).arrayBuffer()).equals(bytes)).toBe(true);

  const text = await newStream(server, "append/text", "text/plain; charset=utf-8");
  for (const [body, contentType] of [
    ["\ufeffa\u0000\u2028é😀", "text/plain"],
    ["\r\n", "Text/Plain; charset=latin1"],
  ] as const) {
    expect(codeOf(await client.append({ stream: text.name, body, contentType }))).toBe("appended");
  }
  expect(Buffer.from(await (await text.get()).arrayBuffer()).toString()).toBe("\ufeffa\u0000\u2028é😀\r\n");

  const json = await newStream(server, "append/keyed");
  await client.append({ stream: json.name, body: "1", key: "é \"a'" });
  await client.append({ stream: json.name, body: "[2,3]", key: "b" });
  await client.append({ stream: json.name, base64: btoa("4") });
  expect(await json.records(`key=${encodeURIComponent("é \"a'")}`)).toEqual([1]);
  expect(await json.records("key=b")).toEqual([2, 3]);
  expect(await json.records()).toEqual([1, 2, 3, 4]);
});

test("five hundred in a row keep their order, and so do their answers", async () => {
  const stream = await newStream(server, "append/order");
  const client = await connect(server);
  const offsets: string[] = [];
  const answers: Promise<unknown>[] = [];
  for (const n of numbers(500)) {
    if (n >= WINDOW) await answers[n - WINDOW];
    answers.push(
      client.append({ stream: stream.name, body: String(n) }).then((answer) => {
        offsets.push(answer.type === "appended" ? answer.offset : answer.error.code);
      }),
    );
  }
  await Promise.all(answers);
  expect(await stream.records()).toEqual(numbers(500));
  expect(offsets).toEqual(offsets.toSorted());
  expect(offsets.at(-1)).toBe(await stream.tail());
});

test("appends of every kind in a row are decided in the order they were sent", async () => {
  const stream = await newStream(server, "append/mixed");
  const client = await connect(server);
  const tail = await stream.tail();
  const big = JSON.stringify("x".repeat(900_000));
  const bodies = ["0", "1", big, "3", "[4,5]", "6"];
  const fields = [{ ifMatch: tail }, {}, {}, { seq: "a" }, { producer: { id: "p", epoch: 0, seq: 0 } }, { key: "k" }];
  const answers = await Promise.all(
    bodies.map((body, at) => client.append({ stream: stream.name, body, ...fields[at] })),
  );
  expect(answers.map(codeOf)).toEqual(bodies.map(() => "appended"));
  expect(await stream.text()).toBe(`[0,1,${big},3,4,5,6]`);
});

test("the order holds also while the stream's profile changes, and each append has to be checked again", async () => {
  const stream = await newStream(server, "append/profile");
  const other = await newStream(server, "append/no-profile");
  const client = await connect(server);
  const change = (n: number): string =>
    JSON.stringify({ type: "t", key: "k", value: n, headers: { operation: "upsert" } });
  const answers: Promise<AppendAnswer>[] = [];
  const end = new AbortController();
  const changing = (async () => {
    for (let turn = 0; !end.signal.aborted; turn++) {
      const profile = turn % 2 === 0 ? { kind: "state-protocol" } : { kind: "generic" };
      await call("POST", `${stream.url}/_profile`, { body: JSON.stringify({ profile }) });
    }
  })();
  for (const n of numbers(1000)) {
    if (n >= 30) await answers[n - 30];
    answers.push(client.append({ stream: stream.name, body: change(n) }));
    // Keeps commits busy with something else.
    client.send({ type: "append", stream: other.name, body: "1" });
  }
  const codes = new Set((await Promise.all(answers)).map(codeOf));
  end.abort();
  await changing;
  expect([...codes]).toEqual(["appended"]);
  const values = ((await stream.records()) as { value: number }[]).map(({ value }) => value);
  expect(values.filter((value, at) => value !== at)).toEqual([]);
});

describe("producers", () => {
  const producer = (seq: number, epoch = 0) => ({ producer: { id: "p", epoch, seq } });

  test("may send again what was not answered", async () => {
    const stream = await newStream(server, "append/producer");
    const client = await connect(server);
    const send = (seq: number, epoch = 0): Promise<AppendAnswer> =>
      client.append({ stream: stream.name, body: `[${seq}]`, ...producer(seq, epoch) });
    const first = await send(0);
    expect(first).toMatchObject({ type: "appended", producer: { epoch: 0, seq: 0 } });
    expect(await send(1)).toMatchObject({ type: "appended", producer: { epoch: 0, seq: 1 } });
    const again = await send(0);
    expect(again).toMatchObject({ type: "appended", duplicate: true, producer: { epoch: 0, seq: 1 } });
    expect(again).toMatchObject({ offset: await stream.tail() });
    // It is the same producer over HTTP.
    const overHttp = { "producer-id": "p", "producer-epoch": "0" };
    expect((await stream.post("[1]", { ...overHttp, "producer-seq": "1" })).status).toBe(204);
    expect((await stream.post("[2]", { ...overHttp, "producer-seq": "2" })).status).toBe(200);
    expect(await send(2)).toMatchObject({ duplicate: true });
    expect(await stream.records()).toEqual([0, 1, 2]);
  });

  test("are told of a gap, a stale epoch and a wrong start, with what HTTP says in headers", async () => {
    const stream = await newStream(server, "append/gap");
    const client = await connect(server);
    const send = (seq: number, epoch: number): Promise<AppendAnswer> =>
      client.append({ stream: stream.name, body: "[1]", ...producer(seq, epoch) });
    expect(codeOf(await send(0, 1))).toBe("appended");
    expect(await send(5, 1)).toMatchObject({
      error: { code: "producer-gap" },
      headers: { "Producer-Expected-Seq": "1", "Producer-Received-Seq": "5" },
    });
    expect(await send(0, 0)).toMatchObject({
      error: { code: "producer-stale-epoch" },
      headers: { "Producer-Epoch": "1" },
    });
    expect(await send(1, 2)).toMatchObject({ error: { code: "producer-epoch-start" } });
    expect(codeOf(await send(1, 1))).toBe("appended");
    expect(await stream.records()).toEqual([1, 1]);
  });

  test.each([
    ["no id", { id: "", epoch: 0, seq: 0 }],
    ["an id that is too long", { id: "p".repeat(257), epoch: 0, seq: 0 }],
    ["an epoch below 0", { id: "p", epoch: -1, seq: 0 }],
    ["a sequence that is not whole", { id: "p", epoch: 0, seq: 0.5 }],
    ["a sequence beyond 2^53", { id: "p", epoch: 0, seq: 2 ** 53 }],
  ])("with %s are refused", async (_, claim) => {
    const stream = streamAt(server, "append/bad-producer");
    await stream.put();
    const client = await connect(server);
    expect(codeOf(await client.append({ stream: stream.name, body: "1", producer: claim }))).toBe("producer-invalid");
    expect(await stream.records()).toEqual([]);
  });
});

test("an append at another tail is refused, with the real one", async () => {
  const stream = await newStream(server, "append/if-match");
  const client = await connect(server);
  const empty = await stream.tail();
  const first = await client.append({ stream: stream.name, body: "1", ifMatch: empty });
  const tail = first.type === "appended" ? first.offset : "";
  expect(await client.append({ stream: stream.name, body: "2", ifMatch: empty })).toMatchObject({
    error: { code: "tail-moved" },
    headers: { "Stream-Next-Offset": tail },
  });
  expect(codeOf(await client.append({ stream: stream.name, body: "3", ifMatch: tail }))).toBe("appended");
  expect(codeOf(await client.append({ stream: stream.name, body: "4", ifMatch: "now" }))).toBe("offset-invalid");
  expect(await stream.records()).toEqual([1, 3]);
});

test("Stream-Seq may not go back", async () => {
  const stream = await newStream(server, "append/seq");
  const client = await connect(server);
  const send = async (seq: string): Promise<string> =>
    codeOf(await client.append({ stream: stream.name, body: "1", seq }));
  expect(await send("b")).toBe("appended");
  expect(await send("b")).toBe("stream-seq-regressed");
  expect(await send("a")).toBe("stream-seq-regressed");
  expect(await send("x".repeat(257))).toBe("stream-seq-invalid");
  expect(await send("c")).toBe("appended");
});

test("a stream is closed with the last record, or without one, and takes nothing more", async () => {
  const client = await connect(server);
  for (const body of ["1", ""]) {
    const stream = await newStream(server, `append/close-${body}`);
    const closed = await client.append({ stream: stream.name, body, close: true });
    expect(closed).toMatchObject({ type: "appended", closed: true, offset: await stream.tail() });
    expect((await stream.head()).headers.get("stream-closed")).toBe("true");
    const refused = await client.append({ stream: stream.name, body: "2" });
    expect(refused).toMatchObject({
      error: { code: "stream-closed" },
      headers: { "Stream-Closed": "true", "Stream-Next-Offset": await stream.tail() },
    });
    // A close that is repeated is fine, as over HTTP.
    expect(await client.append({ stream: stream.name, close: true })).toMatchObject({ closed: true });
  }
});

describe("refusals", () => {
  const cases: readonly (readonly [string, Omit<Parameters<SocketClient["append"]>[0], "stream">, string])[] = [
    ["another content type", { body: "1", contentType: "text/plain" }, "content-type-mismatch"],
    ["a content type that is none", { body: "1", contentType: "json" }, "content-type-mismatch"],
    ["an empty body", { body: "" }, "body-empty"],
    ["empty base64", { base64: "" }, "body-empty"],
    ["no body", {}, "body-empty"],
    ["two bodies", { body: "1", base64: "MQ==" }, "body-ambiguous"],
    ["two empty bodies", { body: "", base64: "" }, "body-ambiguous"],
    ["half of a surrogate pair", { body: '"\ud800"' }, "body-invalid"],
    ["the other half", { body: '"a\udc00b"' }, "body-invalid"],
    ["no JSON", { body: "{" }, "json-invalid"],
    ["bytes that are no JSON", { base64: "Iv8i" }, "json-invalid"],
    ["an empty array", { body: "[]" }, "empty-array"],
    ["nesting", { body: `${"[".repeat(300)}${"]".repeat(300)}` }, "json-too-deep"],
    ["an empty key", { body: "1", key: "" }, "key-invalid"],
    ["a key that is too long", { body: "1", key: "é".repeat(129) }, "key-invalid"],
    // Not even UTF-8 could tell it from another such key.
    ["a key with half of a surrogate pair", { body: "1", key: "\ud800" }, "key-invalid"],
    [
      "a producer with half of a surrogate pair",
      { body: "1", producer: { id: "\ud800", epoch: 0, seq: 0 } },
      "producer-invalid",
    ],
    ["a sequence with half of a surrogate pair", { body: "1", seq: "\ud800" }, "stream-seq-invalid"],
  ];
  test.each(cases)("%s", async (_, fields, code) => {
    const stream = await newStream(server, `append/refused/${cases.findIndex((one) => one[1] === fields)}`);
    const client = await connect(server);
    const answer = await client.append({ stream: stream.name, ...fields });
    expect([codeOf(answer), await stream.records()]).toEqual([code, []]);
  });

  test("a surrogate pair in two escapes is a character, and an escape of half a pair in JSON is text", async () => {
    const stream = await newStream(server, "append/surrogates");
    const client = await connect(server);
    client.sendRaw(`{"type":"append","stream":"${stream.name}","body":"[\\"\\ud83d\\ude00\\",\\"\\\\ud800\\"]"}`);
    await client.next("appended");
    expect(await stream.text()).toBe('["😀","\\ud800"]');
  });

  test("streams that are not there, that are deleted, that are the server's own, and names that are none", async () => {
    const client = await connect(server);
    const deleted = await newStream(server, "append/deleted");
    await newStream(server, "append/fork", undefined, { headers: { "stream-forked-from": deleted.path } });
    await deleted.delete();
    for (const [stream, code] of [
      ["append/nobody", "not-found"],
      ["append/deleted", "gone"],
      ["live.metrics", "stream-internal"],
      ["append//x", "name-invalid"],
      ["é".repeat(600), "name-invalid"],
      ["append/\ud800", "name-invalid"],
    ] as const) {
      expect([stream, codeOf(await client.append({ stream, body: "1" }))]).toEqual([stream, code]);
    }
    expect(codeOf(await client.append({ stream: "live.metrics", close: true }))).toBe("stream-internal");
  });

  test("say the same as over HTTP", async () => {
    const client = await connect(server);
    const stream = await newStream(server, "append/same");
    for (const [body, headers] of [
      ["{", {}],
      ["[]", {}],
      ["1", { "content-type": "text/csv" }],
      ["1", { "if-match": "x" }],
      ["1", { "stream-key": "k".repeat(300) }],
    ] as const) {
      const overHttp = await sendBoth(client, stream, body, headers);
      expect(overHttp.socket).toEqual(overHttp.http);
    }
  });

  test("a body beyond --max-body-bytes is refused here as well", async () => {
    const small: TestServer = await start({ args: ["--max-body-bytes", "1KiB"] });
    const stream = await newStream(small, "append/large");
    const client = await connect(small);
    const body = JSON.stringify("x".repeat(2000));
    expect((await errorOf(await stream.post(body))).code).toBe("body-too-large");
    expect(codeOf(await client.append({ stream: stream.name, body }))).toBe("body-too-large");
  });
});

/** The error of one append over HTTP, and of the same on the socket. */
async function sendBoth(
  client: SocketClient,
  stream: StreamUnderTest,
  body: string,
  headers: Readonly<Record<string, string>>,
): Promise<{ readonly http: unknown; readonly socket: unknown }> {
  const http = await errorOf(await stream.post(body, headers));
  const { "content-type": contentType, "if-match": ifMatch, "stream-key": key } = headers;
  const answer = await client.append({
    stream: stream.name,
    body,
    ...(contentType === undefined ? {} : { contentType }),
    ...(ifMatch === undefined ? {} : { ifMatch }),
    ...(key === undefined ? {} : { key }),
  });
  return { http, socket: answer.type === "error" ? answer.error : answer };
}

test("writers on sockets and over HTTP share one order: every append is there once", async () => {
  const stream = await newStream(server, "append/writers");
  const reader = await connect(server);
  await reader.subscribe({ stream: stream.name, offset: "-1" });
  const writers = await Promise.all(numbers(4).map(() => connect(server)));
  const offsets: string[] = [];
  await Promise.all([
    ...writers.map(async (client, writer) => {
      for (const n of numbers(50)) {
        const answer = await client.append({ stream: stream.name, body: String(writer * 50 + n) });
        if (answer.type === "appended") offsets.push(answer.offset);
      }
    }),
    (async () => {
      for (const n of numbers(50)) offsets.push(nextOffset(await stream.post(String(200 + n))));
    })(),
  ]);
  const read = await reader.records(stream.name, 250);
  expect(read).toEqual(await stream.records());
  expect(new Set(offsets).size).toBe(250);
  for (const writer of numbers(5)) {
    const own = read.filter((n) => Math.floor(Number(n) / 50) === writer);
    expect(own).toEqual(numbers(50).map((n) => writer * 50 + n));
  }
});
