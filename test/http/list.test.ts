/** `GET /v1/streams`: cursor paging, prefix filter, what an entry says, hostile parameters. */

import { expect, test } from "bun:test";
import { sharedServer } from "../support/shared-server.ts";
import { call, errorOf, newStream, streamAt } from "../support/streams.ts";

interface Listing {
  readonly streams: readonly { readonly name: string; readonly [field: string]: unknown }[];
  readonly cursor: string | null;
}

const server = sharedServer();

async function list(query: Readonly<Record<string, string>>): Promise<Listing> {
  const response = await call("GET", `${server.url}/v1/streams?${new URLSearchParams(query)}`);
  expect(response.status).toBe(200);
  return (await response.json()) as Listing;
}

async function namesUnder(prefix: string, limit = 1000): Promise<string[]> {
  const names: string[] = [];
  let cursor: string | null = null;
  do {
    const page: Listing = await list({ prefix, limit: String(limit), ...(cursor === null ? {} : { cursor }) });
    expect(page.streams.length).toBeLessThanOrEqual(limit);
    names.push(...page.streams.map(({ name }) => name));
    ({ cursor } = page);
  } while (cursor !== null);
  return names;
}

test("pages through all streams once, in the order of their names", async () => {
  const names = Array.from({ length: 25 }, (_, index) => `paged/${String(index).padStart(2, "0")}`);
  await Promise.all(names.toReversed().map((name) => newStream(server, name)));
  const pages = await list({ prefix: "paged/", limit: "10" });
  expect(pages.streams).toHaveLength(10);
  expect(await namesUnder("paged/", 10)).toEqual(names);
  expect(await namesUnder("paged/", 25)).toEqual(names);
});

test("a page is not disturbed by streams that come and go meanwhile", async () => {
  await Promise.all(["a", "b", "c", "d"].map((name) => newStream(server, `moving/${name}`)));
  const first = await list({ prefix: "moving/", limit: "2" });
  await streamAt(server, "moving/b").delete();
  await streamAt(server, "moving/c").delete();
  await newStream(server, "moving/bb");
  await newStream(server, "moving/e");
  const rest = await list({ prefix: "moving/", limit: "10", cursor: String(first.cursor) });
  expect(first.streams.map(({ name }) => name)).toEqual(["moving/a", "moving/b"]);
  expect(rest.streams.map(({ name }) => name)).toEqual(["moving/bb", "moving/d", "moving/e"]);
  expect(rest.cursor).toBeNull();
});

test("a prefix is literal text", async () => {
  const names = ["lit/a%b", "lit/a_b", "lit/axb", "lit/a'b", "lit/é", "lit/日本", "LIT/a"];
  await Promise.all(names.map((name) => newStream(server, encodeURIComponent(name))));
  expect(await namesUnder("lit/a%")).toEqual(["lit/a%b"]);
  expect(await namesUnder("lit/a_")).toEqual(["lit/a_b"]);
  expect(await namesUnder("lit/a'")).toEqual(["lit/a'b"]);
  expect(await namesUnder("lit/é")).toEqual(["lit/é"]);
  expect(await namesUnder("lit/日")).toEqual(["lit/日本"]);
  expect((await namesUnder("lit/")).toSorted()).toEqual(names.filter((name) => name.startsWith("lit/")).toSorted());
  expect(await namesUnder("nothing-has-this-prefix")).toEqual([]);
});

test("an entry says what HEAD says, and follows appends, close and delete", async () => {
  const stream = await newStream(server, "entry/one", "text/plain");
  const entry = async () => (await list({ prefix: "entry/" })).streams[0];
  const created = await entry();
  expect(created).toMatchObject({ name: "entry/one", contentType: "text/plain", closed: false });
  expect(created?.["nextOffset"]).toBe(await stream.tail());
  expect(Math.abs(Date.now() - Date.parse(String(created?.["createdAt"])))).toBeLessThan(60_000);
  await stream.post("hello");
  await stream.close();
  expect(await entry()).toMatchObject({ closed: true, nextOffset: await stream.tail() });
  await stream.delete();
  expect(await entry()).toBeUndefined();
});

test("the last record's stream is listed as soon as its creation is acknowledged", async () => {
  for (let round = 0; round < 20; round++) {
    await newStream(server, `fresh/${String(round).padStart(2, "0")}`);
    expect(await namesUnder("fresh/")).toHaveLength(round + 1);
  }
});

test.each([
  ["limit=0"],
  ["limit=-1"],
  ["limit=abc"],
  ["limit=1e3"],
  ["limit=1.5"],
  ["limit="],
  ["limit=5&limit=6"],
  ["limit=99999999999999999999"],
  ["prefix=a&prefix=b"],
  ["cursor=a&cursor=b"],
])("refuses %s with an error that says why", async (query) => {
  const response = await call("GET", `${server.url}/v1/streams?${query}`);
  expect(response.status).toBe(400);
  expect((await errorOf(response)).message.length).toBeGreaterThan(10);
});

test.each([
  ["cursor=%00"],
  ["cursor=%ff%fe"],
  ["cursor=' OR 1=1 --"],
  [`cursor=${"x".repeat(5000)}`],
  ["prefix=%00"],
  ["prefix=%zz"],
  ["prefix=%ff"],
  ["prefix=%ed%a0%80"],
  [`prefix=${"x".repeat(10_000)}`],
  ["prefix=../"],
  ["unknown=1"],
  ["limit=1000000"],
])("survives %s", async (query) => {
  const response = await call("GET", `${server.url}/v1/streams?${query}`);
  expect([200, 400]).toContain(response.status);
  if (response.status === 400) await errorOf(response);
});

test("other methods are refused, HEAD and OPTIONS are not", async () => {
  for (const method of ["POST", "PUT", "DELETE", "PATCH"]) {
    const refused = await call(method, `${server.url}/v1/streams`);
    expect(refused.status).toBe(405);
    expect(refused.headers.get("allow")).toContain("GET");
    await errorOf(refused);
  }
  expect((await call("OPTIONS", `${server.url}/v1/streams`)).status).toBeLessThan(300);
});
