/** `GET …/{stream}/_details`: one JSON document, an ETag that follows every change, a long-poll on it. */

import { expect, test } from "bun:test";
import { sharedServer } from "../support/shared-server.ts";
import { call, errorOf, newStream } from "../support/streams.ts";
import { within } from "../support/wait.ts";

const server = sharedServer({ args: ["--long-poll-timeout", "500ms"] });

interface Seen {
  readonly status: number;
  readonly etag: string;
  readonly body: Record<string, unknown>;
}

async function details(url: string, query = "", etag?: string): Promise<Seen> {
  const headers: Record<string, string> = etag === undefined ? {} : { "if-none-match": etag };
  const response = await call("GET", `${url}/_details${query}`, { headers });
  const body = response.status === 200 ? ((await response.json()) as Record<string, unknown>) : {};
  return { status: response.status, etag: response.headers.get("etag") ?? "", body };
}

test("describes the stream", async () => {
  const stream = await newStream(server, "details/fields", "text/plain", { headers: { "stream-ttl": "3600" } });
  await stream.post("hello");
  const { status, etag, body } = await details(stream.url);
  expect(status).toBe(200);
  expect(etag).toMatch(/^(W\/)?".+"$/);
  expect(body).toMatchObject({
    name: "details/fields",
    contentType: "text/plain",
    closed: false,
    nextOffset: await stream.tail(),
  });
});

test("the ETag changes with each append, close and retention change, and only then", async () => {
  const stream = await newStream(server, "details/etag");
  const seen = [(await details(stream.url)).etag];
  expect((await details(stream.url)).etag).toBe(String(seen[0]));
  const changes = [
    () => stream.post("1"),
    () => stream.post("2"),
    () => call("PUT", `${stream.url}/_retention`, { headers: { "stream-retention": "max-bytes=1GiB" } }),
    () => stream.close(),
  ];
  for (const change of changes) {
    expect((await change()).ok).toBe(true);
    seen.push((await details(stream.url)).etag);
  }
  expect(new Set(seen).size).toBe(seen.length);
  expect((await details(stream.url, "", seen.at(-1))).status).toBe(304);
  expect((await details(stream.url, "", seen[0])).status).toBe(200);
});

test("a long-poll wakes on a change and times out without one", async () => {
  const stream = await newStream(server, "details/poll");
  const before = await details(stream.url);
  expect([204, 304]).toContain((await details(stream.url, "?live=long-poll", before.etag)).status);

  const polling = details(stream.url, "?live=long-poll", before.etag);
  expect((await stream.post("1")).status).toBe(204);
  const woken = await within("the long-poll", polling);
  // The append may have come first, or the timeout of 500 ms in between: both leave the reader with the truth.
  const now = woken.status === 200 ? woken : await details(stream.url, "?live=long-poll", before.etag);
  expect(now.body).toMatchObject({ nextOffset: await stream.tail() });
  expect(now.etag).not.toBe(before.etag);
});

test("a long-poll with an outdated ETag is answered at once", async () => {
  const stream = await newStream(server, "details/outdated");
  const before = await details(stream.url);
  await stream.post("1");
  const started = performance.now();
  expect((await details(stream.url, "?live=long-poll", before.etag)).status).toBe(200);
  expect(performance.now() - started).toBeLessThan(400);
});

test("a deleted stream ends the wait", async () => {
  const stream = await newStream(server, "details/deleted");
  const { etag } = await details(stream.url);
  const polling = details(stream.url, "?live=long-poll", etag);
  await stream.delete();
  expect([204, 304, 404, 410]).toContain((await within("the long-poll", polling)).status);
  expect((await details(stream.url)).status).toBe(404);
});

test("refuses what it cannot serve", async () => {
  const missing = await call("GET", `${server.url}/v1/stream/details/none/_details`);
  expect(missing.status).toBe(404);
  await errorOf(missing);
  const stream = await newStream(server, "details/refusals");
  const nonsense = await call("GET", `${stream.url}/_details?live=sometimes`);
  expect(nonsense.status).toBe(400);
  await errorOf(nonsense);
  expect((await call("POST", `${stream.url}/_details`, { body: "x" })).status).toBe(405);
});
