/** Forks beyond what the public suite asks: restarts, retention, keys, foreign offsets, what the lists say. */

import { expect, test } from "bun:test";
import { sharedServer, temporaryServers } from "../support/shared-server.ts";
import { openSse } from "../support/sse.ts";
import { call, errorOf, newStream, nextOffset, streamAt, type StreamUnderTest } from "../support/streams.ts";
import { until } from "../support/wait.ts";

const start = temporaryServers();
const server = sharedServer({ args: ["--long-poll-timeout", "500ms"] });
type At = { readonly url: string };

async function fork(
  at: At,
  name: string,
  source: StreamUnderTest,
  offset?: string,
  sub?: number,
): Promise<StreamUnderTest> {
  const headers: Record<string, string> = { "stream-forked-from": source.path };
  if (offset !== undefined) headers["stream-fork-offset"] = offset;
  if (sub !== undefined) headers["stream-fork-sub-offset"] = String(sub);
  return newStream(at, name, "application/json", { headers });
}

test("offsets of the source below the fork point are offsets of the fork", async () => {
  const source = await newStream(server, "forks/offsets");
  const offsets = [];
  for (const number of [1, 2, 3]) offsets.push(nextOffset(await source.post(String(number))));
  const child = await fork(server, "forks/offsets-child", source, offsets[1]);
  await child.post("30");
  await source.post("4");
  expect(await child.records()).toEqual([1, 2, 30]);
  expect(await child.records(`offset=${String(offsets[0])}`)).toEqual([2, 30]);
  expect(await child.records(`offset=${String(offsets[1])}`)).toEqual([30]);
  const foreign = await child.get(`offset=${String(offsets[2])}`);
  expect(foreign.status).toBe(400);
  await errorOf(foreign);
  const later = await source.get(`offset=${await child.tail()}`);
  expect([400, 410]).toContain(later.status);
});

test("a chain of forks with sub-offsets reads the same after kill -9 and after its sources are deleted", async () => {
  const first = await start();
  const root = await newStream(first, "chain/root");
  await root.post("[1,2,3]");
  const middle = nextOffset(await root.post("[4,5,6]"));
  await root.post("[7]");
  const left = await fork(first, "chain/left", root, middle);
  await left.post("[80,90]");
  const right = await fork(first, "chain/right", left, middle, 1);
  await right.post('["r"]');
  const expected = { left: [1, 2, 3, 4, 5, 6, 80, 90], right: [1, 2, 3, 4, 5, 6, 80, "r"] };
  expect(await left.records()).toEqual(expected.left);
  expect(await right.records()).toEqual(expected.right);
  await first.kill("SIGKILL");

  const second = await start({ dataDir: first.dataDir });
  expect(await streamAt(second, "chain/right").records()).toEqual(expected.right);
  expect((await streamAt(second, "chain/root").delete()).status).toBe(204);
  expect((await streamAt(second, "chain/left").delete()).status).toBe(204);
  await second.kill("SIGKILL");

  const third = await start({ dataDir: first.dataDir });
  expect((await streamAt(third, "chain/root").head()).status).toBe(410);
  expect((await streamAt(third, "chain/left").head()).status).toBe(410);
  expect(await streamAt(third, "chain/right").records()).toEqual(expected.right);
  expect((await streamAt(third, "chain/right").delete()).status).toBe(204);
  for (const name of ["chain/root", "chain/left", "chain/right"]) {
    await until(`${name} is free again`, async () => (await streamAt(third, name).head()).status === 404);
  }
}, 60_000);

test("retention of a source moves the retained start of its forks", async () => {
  const source = await newStream(server, "forks/retained");
  const value = JSON.stringify("x".repeat(1000));
  const batch = `[${Array.from({ length: 64 }, () => value).join(",")}]`;
  const early = nextOffset(await source.post(batch));
  for (let round = 0; round < 15; round++) await source.post(batch);
  const child = await fork(server, "forks/retained-child", source);
  await child.post('"own"');
  expect(await child.records()).toHaveLength(16 * 64 + 1);
  const retained = await call("PUT", `${source.url}/_retention`, {
    headers: { "stream-retention": "max-bytes=64KiB" },
  });
  expect(retained.ok).toBe(true);
  await until("the source was trimmed", async () => (await source.get(`offset=${early}`)).status === 410, 15_000);
  await until("the fork was trimmed too", async () => (await child.get(`offset=${early}`)).status === 410, 15_000);
  const kept = await child.records();
  expect(kept.length).toBeLessThan(16 * 64);
  expect(kept.at(-1)).toBe("own");
  const details = (await (await call("GET", `${child.url}/_details`)).json()) as Record<string, unknown>;
  expect(details["records"]).toBe(kept.length);
  expect(await child.records(`offset=${String(details["earliestOffset"])}`)).toHaveLength(kept.length);
}, 60_000);

test("inherits keys, and tails and times reach into the source", async () => {
  const source = await newStream(server, "forks/keys");
  await source.post("1", { "stream-key": "a" });
  await source.post("2", { "stream-key": "b" });
  const child = await fork(server, "forks/keys-child", source);
  await child.post("3", { "stream-key": "a" });
  expect(await child.records("key=a")).toEqual([1, 3]);
  expect(await child.records("tail=2")).toEqual([2, 3]);
  expect(await child.records("from=-1h")).toEqual([1, 2, 3]);
});

test("live readers of a fork see the inherited records, then the fork's own only", async () => {
  const source = await newStream(server, "forks/live");
  await source.post("[1,2]");
  const child = await fork(server, "forks/live-child", source);
  const sse = await openSse(`${child.url}?offset=-1&live=sse`);
  expect(await sse.records(2)).toEqual([1, 2]);
  await source.post("3");
  await child.post("30");
  expect(await sse.records(1)).toEqual([30]);
  sse.close();
});

test("If-Match works at the fork point", async () => {
  const source = await newStream(server, "forks/if-match");
  await source.post("1");
  const child = await fork(server, "forks/if-match-child", source);
  const tail = await child.tail();
  expect((await child.post("2", { "if-match": tail })).status).toBe(204);
  expect((await child.post("3", { "if-match": tail })).status).toBe(412);
});

test("lists show forks, and no longer a source that was deleted under them", async () => {
  const source = await newStream(server, "forks-listed/source");
  await fork(server, "forks-listed/child", source);
  await source.delete();
  const listing = await call("GET", `${server.url}/v1/streams?prefix=forks-listed/`);
  const { streams } = (await listing.json()) as { streams: { name: string }[] };
  expect(streams.map(({ name }) => name)).toEqual(["forks-listed/child"]);
});

test("many forks of one stream cost no copies", async () => {
  const source = await newStream(server, "forks/many");
  const value = JSON.stringify("x".repeat(1000));
  for (let round = 0; round < 16; round++) await source.post(`[${Array.from({ length: 256 }, () => value).join(",")}]`);
  const children = Array.from({ length: 200 }, (_, index) => fork(server, `forks/many-${index}`, source));
  const started = performance.now();
  const forked = await Promise.all(children);
  expect(performance.now() - started).toBeLessThan(5000);
  expect(await forked.at(-1)?.records("tail=1")).toHaveLength(1);
  expect(await forked.at(0)?.records()).toHaveLength(4096);
}, 60_000);
