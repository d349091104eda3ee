/** `?filter=` on reads of every kind and in the CLI: the same language, the same records, offsets that go on. */

import { expect, test } from "bun:test";
import { runCommand } from "../support/command.ts";
import { sharedServer } from "../support/shared-server.ts";
import { openSse } from "../support/sse.ts";
import { call, errorOf, newStream, nextOffset, type StreamUnderTest } from "../support/streams.ts";

const server = sharedServer({ args: ["--long-poll-timeout", "1s"] });
const OPEN = `filter=${encodeURIComponent('status = "open"')}`;

interface Order {
  readonly n: number;
  readonly status: string;
}

const order = (n: number): Order => ({ n, status: n % 3 === 0 ? "open" : "closed" });

async function orders(name: string, count: number): Promise<StreamUnderTest> {
  const stream = await newStream(server, name);
  // Spelling survives: records come back as they were written.
  const records = Array.from({ length: count }, (_, n) => `{ "n": ${n}.0,  "status": "${order(n).status}"}`);
  expect((await stream.post(`[${records.join(",")}]`)).status).toBe(204);
  return stream;
}

test("catch-up gives what matches, as it was written, and goes on from the tail", async () => {
  const stream = await orders("filter/catch-up", 10);
  const response = await stream.get(OPEN);
  expect(response.status).toBe(200);
  expect(nextOffset(response)).toBe(await stream.tail());
  expect(await response.text()).toBe(
    [0, 3, 6, 9]
      .map((n) => `{ "n": ${n}.0,  "status": "open"}`)
      .join(",")
      .replace(/^/, "[") + "]",
  );
  expect(await stream.records(`filter=${encodeURIComponent("n >= 8")}`)).toEqual([8, 9].map(order));
  expect(await stream.records(`filter=${encodeURIComponent("n > 100")}`)).toEqual([]);
  expect(await stream.records(`filter=${encodeURIComponent("has(n)")}`)).toHaveLength(10);
});

test("with a key and a start, all of them hold", async () => {
  const stream = await newStream(server, "filter/key");
  for (let n = 0; n < 12; n++) await stream.post(JSON.stringify(order(n)), { "stream-key": n < 6 ? "a" : "b" });
  expect(await stream.records(`${OPEN}&key=b`)).toEqual([6, 9].map(order));
  expect(await stream.records(`${OPEN}&tail=4`)).toEqual([order(9)]);
});

test("over many chunks, sealed or not, against the records themselves", async () => {
  const stream = await newStream(server, "filter/many");
  const expected: Order[] = [];
  for (let batch = 0; batch < 20; batch++) {
    const records = Array.from({ length: 500 }, (_, at) => ({ ...order(batch * 500 + at), pad: "x".repeat(100) }));
    expected.push(...records.filter(({ status }) => status === "open"));
    await stream.post(JSON.stringify(records));
  }
  const query = `filter=${encodeURIComponent('status = "open" and not prefix(pad, "y") and n in (3, 9, 15) or n = 9999')}`;
  expect(await stream.records(query)).toEqual(expected.filter(({ n }) => [3, 9, 15, 9999].includes(n)));
  expect(await stream.records(OPEN)).toEqual(expected);
});

test("a long-poll waits until something matches, and passes over what does not", async () => {
  const stream = await orders("filter/long-poll", 3);
  const waiting = stream.get(`${OPEN}&live=long-poll&offset=now`);
  await stream.post(JSON.stringify(order(1)));
  await stream.post(JSON.stringify(order(3)));
  const response = await waiting;
  expect([response.status, await response.json()]).toEqual([200, [order(3)]]);
  const nothing = await stream.get(`${OPEN}&live=long-poll&offset=${nextOffset(response)}`);
  expect([nothing.status, nextOffset(nothing)]).toEqual([204, await stream.tail()]);
});

test("SSE delivers what matches, and its control events go past what does not", async () => {
  const stream = await orders("filter/sse", 4);
  const sse = await openSse(`${stream.url}?${OPEN}&live=sse&offset=-1`);
  await stream.post(JSON.stringify(order(4)));
  await stream.post(JSON.stringify(order(6)));
  expect(await sse.records(3)).toEqual([0, 3, 6].map(order));
  sse.close();
});

test("answers to different filters do not share an ETag", async () => {
  const stream = await orders("filter/etag", 3);
  const etag = async (query: string): Promise<string | null> => (await stream.get(query)).headers.get("etag");
  const tags = await Promise.all(["", OPEN, `filter=${encodeURIComponent("n = 1")}`].map(etag));
  expect(new Set(tags).size).toBe(3);
  const known = await stream.get(OPEN, { headers: { "if-none-match": tags[1] ?? "" } });
  expect(known.status).toBe(304);
});

test.each([
  ["filter=", "filter-invalid"],
  ["filter=status", "filter-invalid"],
  [`filter=${encodeURIComponent("status = 'open'")}`, "filter-invalid"],
  [`filter=${"x".repeat(3000)}`, "filter-invalid"],
  [`${OPEN}&${OPEN}`, "parameter-repeated"],
])("%s is refused with a reason", async (query, code) => {
  const stream = await orders(`filter/refused-${Bun.hash(query)}`, 1);
  const response = await stream.get(query);
  expect([response.status, (await errorOf(response)).code]).toEqual([400, code]);
});

test("a stream of bytes has no fields", async () => {
  const { url } = await newStream(server, "filter/bytes", "text/plain");
  const response = await call("GET", `${url}?${OPEN}`);
  expect([response.status, (await errorOf(response)).code]).toEqual([400, "filter-needs-json"]);
});

test("the command line filters too", async () => {
  await orders("filter/cli", 4);
  const read = await runCommand(["read", "filter/cli", "--filter", 'status = "open"', "--url", server.url]);
  expect([read.code, JSON.parse(read.stdout)]).toEqual([0, [0, 3].map(order)]);
  const wrong = await runCommand(["read", "filter/cli", "--filter", "status", "--url", server.url]);
  expect([wrong.code, wrong.stderr]).toEqual([1, expect.stringContaining("position 6")]);
});
