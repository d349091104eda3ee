/**
 * Retention: `Stream-Retention` at creation or later (`PUT …/_retention`), enforced by the server in bounded time. What
 * is gone answers 410, what is kept reads whole, offsets never shift, and storage of what is gone is freed.
 */

import { describe, expect, test } from "bun:test";
import { sharedServer, temporaryServers } from "../support/shared-server.ts";
import { openSse } from "../support/sse.ts";
import { call, errorOf, newStream, nextOffset, streamAt, type StreamUnderTest } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const start = temporaryServers();
const server = sharedServer();
const TRIM_DEADLINE_MS = 15_000;
const KiB = 1024;

/** Appends `count` JSON strings of about 1 KiB, numbered from `from`, in batches of 64; gives the offset after each batch. */
async function fill(stream: StreamUnderTest, from: number, count: number): Promise<string[]> {
  const offsets: string[] = [];
  for (let at = from; at < from + count; at += 64) {
    const batch = Array.from({ length: Math.min(64, from + count - at) }, (_, index) => padded(at + index));
    offsets.push(nextOffset(await stream.post(`[${batch.join(",")}]`)));
  }
  return offsets;
}

function padded(number: number): string {
  return JSON.stringify(`${number} ${"x".repeat(1014)}`);
}

async function numbersFrom(stream: StreamUnderTest, query = ""): Promise<number[]> {
  return (await stream.records(query)).map((record) => Number.parseInt(String(record), 10));
}

/** Waits until the oldest record that a read from the start gives is no longer `first`. */
async function trimmed(stream: StreamUnderTest, first = 0): Promise<number[]> {
  return until(
    "retention trimmed the stream",
    async () => {
      const numbers = await numbersFrom(stream);
      return numbers[0] !== first && numbers;
    },
    TRIM_DEADLINE_MS,
  );
}

describe("max-bytes", () => {
  test("keeps the newest records, at least that many bytes and not much more", async () => {
    const stream = await newStream(server, "retention/bytes", undefined, {
      headers: { "stream-retention": "max-bytes=1MiB" },
    });
    await fill(stream, 0, 4096);
    const kept = await until(
      "the stream shrank to its bound",
      async () => {
        const numbers = await numbersFrom(stream);
        return numbers.length < 1024 + 512 && numbers;
      },
      TRIM_DEADLINE_MS,
    );
    expect(kept.length).toBeGreaterThanOrEqual(1024);
    expect(kept).toEqual(Array.from({ length: kept.length }, (_, index) => 4096 - kept.length + index));
  }, 60_000);

  test("answers 410 below the retained start, says where it is, and keeps later offsets valid", async () => {
    const stream = await newStream(server, "retention/gone", undefined, {
      headers: { "stream-retention": "max-bytes=256KiB" },
    });
    const offsets = await fill(stream, 0, 2048);
    const kept = await trimmed(stream);
    for (const live of ["", "&live=long-poll", "&live=sse"]) {
      const gone = await stream.get(`offset=${String(offsets[0])}${live}`);
      expect(gone.status).toBe(410);
      expect((await errorOf(gone)).message).not.toBe("");
      const earliest = String(gone.headers.get("stream-earliest-offset"));
      expect((await numbersFrom(stream, `offset=${earliest}`))[0]).toBe(Number(kept[0]));
    }
    const last = offsets.at(-2);
    expect(await numbersFrom(stream, `offset=${String(last)}`)).toEqual(
      Array.from({ length: 64 }, (_, index) => 1984 + index),
    );
    expect(kept.at(-1)).toBe(2047);
    expect(await stream.tail()).toBe(String(offsets.at(-1)));
  }, 60_000);

  test("a tail that reaches below the retained start gives what is kept", async () => {
    const stream = await newStream(server, "retention/tail", undefined, {
      headers: { "stream-retention": "max-bytes=256KiB" },
    });
    await fill(stream, 0, 1024);
    const kept = await trimmed(stream);
    const tailed = await numbersFrom(stream, "tail=100000");
    expect(tailed.at(-1)).toBe(1023);
    expect(tailed.length).toBeLessThanOrEqual(kept.length);
    expect(await numbersFrom(stream, "from=-1h")).toEqual(await numbersFrom(stream));
  }, 60_000);
});

describe("max-age", () => {
  test("drops what is older, and keeps what is appended later", async () => {
    const stream = await newStream(server, "retention/age", undefined, {
      headers: { "stream-retention": "max-age=1s" },
    });
    const old = nextOffset(await stream.post("[1,2,3]"));
    await until("the old records were gone", async () => (await stream.records()).length === 0, TRIM_DEADLINE_MS);
    expect(await stream.tail()).toBe(old);
    const started = Date.now();
    await stream.post("4");
    const records = await stream.records();
    if (Date.now() - started < 900) expect(records).toEqual([4]);
    expect((await stream.head()).status).toBe(200);
  }, 60_000);
});

test("can be set, changed and lifted later", async () => {
  const stream = await newStream(server, "retention/changed");
  await fill(stream, 0, 1024);
  expect(await numbersFrom(stream)).toHaveLength(1024);
  const retain = (value: string) => call("PUT", `${stream.url}/_retention`, { headers: { "stream-retention": value } });

  expect((await retain("max-age=1h, max-bytes=128KiB")).ok).toBe(true);
  const kept = await trimmed(stream);
  expect(kept.length).toBeLessThan(1024);

  expect((await retain("none")).ok).toBe(true);
  const before = (await numbersFrom(stream)).length;
  await fill(stream, 1024, 512);
  expect(await numbersFrom(stream)).toHaveLength(before + 512);
}, 60_000);

test("is told by HEAD or _details and survives a restart", async () => {
  const first = await start();
  const stream = await newStream(first, "retention/durable", undefined, {
    headers: { "stream-retention": "max-bytes=128KiB" },
  });
  const offsets = await fill(stream, 0, 1024);
  await trimmed(stream);
  await first.kill("SIGKILL");
  const second = await start({ dataDir: first.dataDir });
  const again = streamAt(second, "retention/durable");
  expect((await again.get(`offset=${String(offsets[0])}`)).status).toBe(410);
  const described = await (await call("GET", `${again.url}/_details`)).text();
  expect(described).toContain(String(128 * KiB));
  await fill(again, 1024, 1024);
  await until("retention goes on", async () => (await numbersFrom(again)).length < 512, TRIM_DEADLINE_MS);
}, 60_000);

test("a live reader at the tail is not disturbed", async () => {
  const stream = await newStream(server, "retention/live", undefined, {
    headers: { "stream-retention": "max-bytes=64KiB" },
  });
  const sse = await openSse(`${stream.url}?offset=-1&live=sse`);
  const reading = (async () => {
    const seen: number[] = [];
    while (seen.length < 1024) {
      const event = await sse.next(TRIM_DEADLINE_MS);
      if (event === null) throw new Error("the live response ended");
      if (event.event !== "data") continue;
      seen.push(...(JSON.parse(event.data) as string[]).map((record) => Number.parseInt(record, 10)));
    }
    return seen;
  })();
  await fill(stream, 0, 1024);
  expect(await reading).toEqual(Array.from({ length: 1024 }, (_, index) => index));
  sse.close();
}, 60_000);

test.each([
  "max-bytes=0",
  "max-bytes=-1",
  "max-bytes=",
  "max-bytes=1XB",
  "max-bytes=99999999999999999999",
  "max-age=0",
  "max-age=1.5h",
  "max-age=forever",
  "max-age=1h, max-age=2h",
  "max-records=5",
  "nonsense",
  "",
  ",",
])("refuses Stream-Retention: %p", async (value) => {
  const stream = streamAt(server, `retention/refused-${Bun.hash(value)}`);
  const refused = await stream.put({ headers: { "stream-retention": value } });
  expect(refused.status).toBe(400);
  await errorOf(refused);
  expect((await stream.head()).status).toBe(404);
});

test("PUT _retention refuses what it cannot do", async () => {
  const stream = await newStream(server, "retention/put");
  const url = `${stream.url}/_retention`;
  for (const [response, status] of [
    [await call("PUT", url), 400],
    [await call("PUT", url, { headers: { "stream-retention": "nonsense" } }), 400],
    [
      await call("PUT", `${server.url}/v1/stream/retention/none/_retention`, {
        headers: { "stream-retention": "none" },
      }),
      404,
    ],
    [await call("DELETE", url), 405],
  ] as const) {
    expect(response.status).toBe(status);
    await errorOf(response);
  }
});

test("in memory what was trimmed takes no room, and a stream deleted under its reader ends that reader only", async () => {
  const inMemory = await start({ args: ["--memory"] });
  const stream = await newStream(inMemory, "memory/kept", undefined, {
    headers: { "stream-retention": `max-bytes=${64 * KiB}` },
  });
  await fill(stream, 0, 2_048);
  await until("it was trimmed", async () => {
    const health = (await (await call("GET", `${inMemory.url}/health`)).json()) as { storage: { storedBytes: number } };
    return health.storage.storedBytes < 512 * KiB;
  });
  const [first = NaN, ...rest] = await numbersFrom(stream);
  expect([first, ...rest]).toEqual(Array.from({ length: 2_048 - first }, (_, index) => first + index));

  const doomed = await newStream(inMemory, "memory/doomed");
  await fill(doomed, 0, 64);
  const sse = await openSse(`${doomed.url}?offset=-1&live=sse`);
  await sse.next();
  expect((await doomed.delete()).status).toBe(204);
  await until("the reader has ended", async () => (await sse.next()) === null);
  expect(await numbersFrom(stream)).toEqual([first, ...rest]);
  expect(inMemory.stderr()).not.toContain("no stream");
});
