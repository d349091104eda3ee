/** The producer against the real server: batches, keys, bytes, refusals of single records, and lives that follow each other. */

import { expect, test } from "bun:test";
import { connect, type EpochStore, localStorageEpochs, type StreamHandle } from "../../src/client/client.ts";
import { seededRandom } from "../support/random.ts";
import { sharedServer, temporaryServers } from "../support/shared-server.ts";
import { newStream } from "../support/streams.ts";

const server = sharedServer();
const start = temporaryServers();

function handle(name: string, url = server.url): StreamHandle {
  return connect({ url, retry: { maxAttempts: 3, baseDelayMs: 5, maxDelayMs: 50 } }).stream(name);
}

function memoryEpochs(): EpochStore {
  const texts = new Map<string, string>();
  return localStorageEpochs({
    getItem: (key) => texts.get(key) ?? null,
    setItem: (key, text) => void texts.set(key, text),
  });
}

test("thousands of appends become a few requests, in order, and an array stays one record", async () => {
  const direct = await newStream(server, "producer/many");
  let requests = 0;
  const counting = (url: string, init: RequestInit): Promise<Response> => {
    requests++;
    return fetch(url, init);
  };
  const producer = connect({ url: server.url, fetch: counting }).stream(direct.name).producer();
  const values = Array.from({ length: 5000 }, (_, index) => (index % 100 === 0 ? [index] : { index, text: "ü" }));
  for (const value of values) {
    await producer.ready();
    void producer.append(value);
  }
  (await producer.close({ closeStream: true })).unwrap();
  expect(await direct.records()).toEqual(values);
  expect(requests).toBeLessThan(20);
  const head = await direct.head();
  expect(head.headers.get("stream-closed")).toBe("true");
});

test("keys and bytes arrive as they were appended", async () => {
  const keyed = await newStream(server, "producer/keys");
  const producer = handle(keyed.name).producer();
  const keys = seededRandom(7);
  const values = Array.from({ length: 200 }, (_, index) => ({ index, key: `k${keys.below(3)}` }));
  for (const value of values) void producer.append(value, { key: value.key });
  (await producer.flush()).unwrap();
  expect(await keyed.records()).toEqual(values);
  expect(await keyed.records("key=k1")).toEqual(values.filter(({ key }) => key === "k1"));

  const raw = await newStream(server, "producer/bytes", "application/octet-stream");
  const bytes = handle(raw.name).producer({ contentType: "application/octet-stream" });
  for (let at = 0; at < 50; at++) void bytes.append(new Uint8Array([at, 255 - at]));
  (await bytes.close()).unwrap();
  const stored = new Uint8Array(await (await raw.get()).arrayBuffer());
  expect([...stored]).toEqual(Array.from({ length: 50 }, (_, at) => [at, 255 - at]).flat());
});

test("every key that is taken is the one that is stored", async () => {
  const keyed = await newStream(server, "producer/odd-keys");
  const producer = handle(keyed.name).producer();
  const keys = ["é", "a b", "a\tb", "\u00a0", "\u0080ÿ", "~".repeat(256), "ÿ".repeat(128)];
  for (const key of keys) (await producer.append(key, { key })).unwrap();
  for (const key of keys) expect(await keyed.records(`key=${encodeURIComponent(key)}`)).toEqual([key]);
  expect((await producer.append(1, { key: " é" }).catch((cause: unknown) => cause)) instanceof TypeError).toBe(true);
});

test("one bad record fails alone, also when the first answer is lost", async () => {
  const direct = await newStream(server, "producer/lost-and-bad");
  (await handle(direct.name).setProfile({ kind: "state-protocol" })).unwrap();
  let lost = 0;
  const losing = async (url: string, init: RequestInit): Promise<Response> => {
    const answer = await fetch(url, init);
    if (lost++ === 0) throw new TypeError("connection lost");
    return answer;
  };
  const retry = { maxAttempts: 3, baseDelayMs: 5, maxDelayMs: 50 };
  const producer = connect({ url: server.url, fetch: losing, retry }).stream(direct.name).producer();
  const good = (n: number): object => ({ type: "t", key: `${n}`, value: { n }, headers: { operation: "insert" } });
  const values = Array.from({ length: 100 }, (_, n) => (n === 50 ? { type: "t" } : good(n)));
  const acks = await Promise.all(values.map((value) => producer.append(value)));
  expect(acks.flatMap((acked, n) => (acked.isErr() ? [n] : []))).toEqual([50]);
  expect(await direct.records()).toEqual(values.filter((_, n) => n !== 50));
});

test("one record that the stream does not take fails alone", async () => {
  const direct = await newStream(server, "producer/too-deep");
  const producer = handle(direct.name).producer();
  const deep: unknown = JSON.parse("[".repeat(300) + "]".repeat(300));
  const acks = await Promise.all([1, 2, deep, 4, 5].map((value) => producer.append(value)));
  expect(acks.map((acked) => acked.isOk())).toEqual([true, true, false, true, true]);
  expect(await direct.records()).toEqual([1, 2, 4, 5]);
  const flushed = await producer.flush();
  expect(flushed.isErr() && flushed.error).toMatchObject({ _tag: "Refused", code: "json-too-deep" });
});

test.each([["kept", memoryEpochs()] as const, ["not kept", undefined] as const])(
  "a next life with the same id goes on and fences the one before; epochs %s",
  async (name, epochs) => {
    const direct = await newStream(server, `producer/lives-${name.replace(" ", "-")}`);
    const options = { id: "worker-1", ...(epochs === undefined ? {} : { epochs }) };
    const lives = [];
    for (let life = 0; life < 5; life++) {
      const producer = handle(direct.name).producer(options);
      (await producer.append(`life ${life}`)).unwrap();
      lives.push(producer);
    }
    for (const former of lives.slice(0, -1)) {
      const fenced = await former.append("from beyond");
      expect(fenced.isErr() && fenced.error).toMatchObject({ _tag: "Refused", code: "producer-stale-epoch" });
    }
    expect(await direct.records()).toEqual([0, 1, 2, 3, 4].map((life) => `life ${life}`));
  },
);

test("a closed and a missing stream end the producer with their error", async () => {
  const direct = await newStream(server, "producer/closed");
  await direct.close();
  const onClosed = await handle(direct.name).producer({ id: "p" }).append(1);
  expect(onClosed.isErr() && onClosed.error).toMatchObject({ status: 409, closed: true });
  const onMissing = await handle("producer/missing").producer().append(1);
  expect(onMissing.isErr() && onMissing.error).toMatchObject({ status: 404 });
});

test("appends go on over a server that was killed and started again", async () => {
  const first = await start();
  const port = new URL(first.url).port;
  const direct = await newStream(first, "producer/killed");
  const producer = handle(direct.name, first.url).producer({ maxBatchRecords: 10 });
  const values = Array.from({ length: 500 }, (_, index) => index);
  for (const value of values.slice(0, 250)) void producer.append(value);
  await first.kill("SIGKILL");
  for (const value of values.slice(250)) void producer.append(value);
  await start({ dataDir: first.dataDir, args: ["--port", port] });
  (await producer.close()).unwrap();
  expect(await direct.records()).toEqual(values);
}, 60_000);
