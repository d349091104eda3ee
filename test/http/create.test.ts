/** Creation beyond the protocol's own suite: races, and links that are right behind a proxy. */

import { expect, test } from "bun:test";
import { exchangeRaw } from "../support/raw-socket.ts";
import { sharedServer, temporaryServers } from "../support/shared-server.ts";
import { newStream, streamAt } from "../support/streams.ts";

const start = temporaryServers();
const server = sharedServer();

test("of many creates of one name exactly one is 201, and one body is stored", async () => {
  const stream = streamAt(server, "create/race");
  const created = await Promise.all(Array.from({ length: 32 }, (_, index) => stream.put({ body: `[${index}]` })));
  const statuses = created.map(({ status }) => status).toSorted((left, right) => left - right);
  expect(statuses).toEqual([...Array.from({ length: 31 }, () => 200), 201]);
  const winner = created.findIndex(({ status }) => status === 201);
  expect(await stream.records()).toEqual([winner]);
});

test("of creates that disagree one wins, the others are told", async () => {
  const types = ["text/plain", "application/json", "text/html", "application/octet-stream"];
  const created = await Promise.all(types.map((type) => streamAt(server, "create/types", type).put()));
  expect(created.map(({ status }) => status).toSorted((left, right) => left - right)).toEqual([201, 409, 409, 409]);
});

test("Location is the stream's URL, and leads to it", async () => {
  const stream = streamAt(server, "create/caf%C3%A9%20%2F%3F");
  const location = (await stream.put({ body: "[1]" })).headers.get("location") ?? "";
  expect(location).toStartWith(`${server.url}/v1/stream/create/`);
  expect(await (await fetch(location)).json()).toEqual([1]);
});

test("behind a proxy: --public-url makes the links, and its host is a valid Host", async () => {
  const proxied = await start({ args: ["--public-url", "https://streams.example/base"] });
  const put = `PUT /v1/stream/a HTTP/1.1\r\nhost: streams.example\r\ncontent-length: 0\r\n\r\n`;
  const answer = await exchangeRaw(proxied, put);
  expect(answer.status).toBe(201);
  expect(answer.text).toMatch(/^location: https:\/\/streams\.example\/base\/v1\/stream\/a\r$/im);
  expect((await exchangeRaw(proxied, put.replace("streams.example", "evil.example"))).status).toBe(403);
});

test("active content is never run in the server's origin", async () => {
  const stream = await newStream(server, "create/html", "text/html");
  await stream.post("<script>alert(1)</script>");
  const { headers } = await stream.get();
  expect(headers.get("content-security-policy")).toContain("sandbox");
  expect(headers.get("x-content-type-options")).toBe("nosniff");
});
