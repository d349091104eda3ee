/**
 * Who may talk to a server without authentication: programs on this machine, not the pages a browser on it has open.
 * Host must be a loopback name (no DNS rebinding), writes from other origins need `--cors-origin`.
 */

import { describe, expect, test } from "bun:test";
import { exchangeRaw } from "../support/raw-socket.ts";
import { sharedServer, temporaryServers } from "../support/shared-server.ts";
import { call, newStream, streamAt } from "../support/streams.ts";
import { rejection } from "../support/wait.ts";

const start = temporaryServers();
const EVIL = "http://evil.example";
const FRIEND = "https://app.example";

describe("on loopback, by default", () => {
  const server = sharedServer();

  test.each([
    ["127.0.0.1", 200],
    ["localhost", 200],
    ["LOCALHOST", 200],
    ["[::1]", 200],
    ["evil.example", 403],
    ["127.0.0.1.evil.example", 403],
    ["localhost.evil.example", 403],
    ["10.0.0.1", 403],
  ])("Host %s gets %d", async (host, expected) => {
    const { port } = new URL(server.url);
    for (const name of [host, `${host}:${port}`]) {
      const answer = await exchangeRaw(server, `GET /v1/streams HTTP/1.1\r\nhost: ${name}\r\n\r\n`);
      if (expected === 200) expect(answer.status).toBe(200);
      else expect([400, 403, 421]).toContain(answer.status ?? 0);
    }
  });

  test("writes from another origin are refused and change nothing", async () => {
    const stream = await newStream(server, "access/writes", "text/plain");
    await stream.post("mine");
    for (const origin of [EVIL, "null", "https://localhost.evil.example"]) {
      const headers = { origin, "content-type": "text/plain" };
      expect((await call("POST", stream.url, { headers, body: "theirs" })).status).toBe(403);
      expect((await call("PUT", streamAt(server, "access/theirs").url, { headers })).status).toBe(403);
      expect((await call("DELETE", stream.url, { headers })).status).toBe(403);
      expect(
        (await call("PUT", `${stream.url}/_retention`, { headers: { ...headers, "stream-retention": "max-age=1ms" } }))
          .status,
      ).toBe(403);
    }
    expect(await stream.text()).toBe("mine");
    expect((await streamAt(server, "access/theirs").head()).status).toBe(404);
  });

  test("another origin may not read either: no permission is given", async () => {
    const stream = await newStream(server, "access/reads", "text/plain");
    const read = await stream.get("", { headers: { origin: EVIL } });
    expect(read.headers.get("access-control-allow-origin") ?? "").not.toBe(EVIL);
  });

  test("writes from pages of this server itself are fine", async () => {
    const stream = await newStream(server, "access/own", "text/plain");
    expect((await stream.post("x", { origin: server.url })).status).toBe(204);
  });
});

describe("with --cors-origin", () => {
  const server = sharedServer({ args: ["--cors-origin", FRIEND] });

  test("that origin reads and writes, others do not", async () => {
    const stream = await newStream(server, "access/friend", "text/plain");
    const written = await stream.post("x", { origin: FRIEND });
    expect(written.status).toBe(204);
    expect(written.headers.get("access-control-allow-origin")).toBe(FRIEND);
    expect(written.headers.get("vary") ?? "").toMatch(/origin/i);
    expect((await stream.post("y", { origin: EVIL })).status).toBe(403);
    expect((await stream.get("", { headers: { origin: EVIL } })).headers.get("access-control-allow-origin")).not.toBe(
      EVIL,
    );
  });

  test("a preflight allows what the protocol needs and exposes what it answers", async () => {
    const stream = await newStream(server, "access/preflight", "text/plain");
    const preflight = await call("OPTIONS", stream.url, {
      headers: {
        origin: FRIEND,
        "access-control-request-method": "POST",
        "access-control-request-headers": "stream-key",
      },
    });
    expect(preflight.status).toBeLessThan(300);
    const allowed = (preflight.headers.get("access-control-allow-headers") ?? "").toLowerCase();
    for (const name of [
      "content-type",
      "authorization",
      "if-match",
      "if-none-match",
      "stream-key",
      "stream-seq",
      "stream-ttl",
      "stream-closed",
      "stream-retention",
      "producer-id",
      "producer-epoch",
      "producer-seq",
      "stream-forked-from",
    ]) {
      if (allowed !== "*") expect(allowed).toContain(name);
    }
    const read = await stream.get("", { headers: { origin: FRIEND } });
    const exposed = (read.headers.get("access-control-expose-headers") ?? "").toLowerCase();
    for (const name of [
      "stream-next-offset",
      "stream-cursor",
      "stream-up-to-date",
      "stream-closed",
      "etag",
      "location",
      "stream-sse-data-encoding",
      "producer-epoch",
    ]) {
      if (exposed !== "*") expect(exposed).toContain(name);
    }
  });
});

test("refuses to listen beyond loopback without authentication, unless told", async () => {
  const refusal = await rejection(start({ args: ["--host", "0.0.0.0"] }));
  expect(refusal.message).toContain("--no-auth");
  const open = await start({ args: ["--host", "0.0.0.0", "--no-auth"] });
  expect((await call("GET", `http://127.0.0.1:${new URL(open.url).port}/health`)).status).toBe(200);
}, 60_000);
