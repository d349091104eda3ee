/** The load client's connection: requests as they are written, and no byte of one to a server whose certificate nobody vouches for. */

import { afterEach, expect, test } from "bun:test";
import { makeAuthority } from "../../test/support/certificates.ts";
import { BenchConnection, requestBytes } from "./bench-connection.ts";

const servers: ReturnType<typeof Bun.serve>[] = [];
afterEach(async () => {
  for (const server of servers.splice(0)) await server.stop(true);
});

test("a request carries what it says, one after the other on one connection", async () => {
  const seen: unknown[] = [];
  const server = Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: async (request) => {
      const { pathname, search } = new URL(request.url);
      const { headers, method } = request;
      seen.push([
        method,
        pathname + search,
        headers.get("authorization"),
        headers.get("content-type"),
        await request.text(),
      ]);
      return new Response(null, { status: 204 });
    },
  });
  servers.push(server);
  const target = { url: `${server.url.origin}/below`, auth: "Bearer x" };
  const connection = await BenchConnection.open(target);
  const body = new TextEncoder().encode("[1]");
  const post = requestBytes(target, { method: "POST", url: `${target.url}/a`, contentType: "application/json", body });
  const get = requestBytes(target, { method: "GET", url: `${target.url}/a?offset=-1&live=sse` });
  expect([await connection.exchange(post), await connection.exchange(get)]).toEqual([204, 204]);
  connection.close();
  expect(seen).toEqual([
    ["POST", "/below/a", "Bearer x", "application/json", "[1]"],
    ["GET", "/below/a?offset=-1&live=sse", "Bearer x", null, ""],
  ]);
  expect(await connection.exchange(get)).toBe(0);
});

test("a certificate that nobody vouches for is refused before anything is sent", async () => {
  let asked = 0;
  const tls = makeAuthority("stranger").issue(["127.0.0.1"]);
  const fetch = (): Response => {
    asked++;
    return new Response();
  };
  const server = Bun.serve({ port: 0, hostname: "127.0.0.1", tls, fetch });
  servers.push(server);
  const opening = BenchConnection.open({ url: server.url.origin });
  expect(
    await opening.then(
      () => "opened",
      (cause: unknown) => cause,
    ),
  ).toMatchObject({ _tag: "Unreachable" });
  expect(asked).toBe(0);
});
