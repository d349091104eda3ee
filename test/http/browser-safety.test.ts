/**
 * What keeps a browser from acting on what it is sent: headers on every answer, and on stored bytes of every type. Whoever may append
 * chooses the type, its spelling and its parameters.
 */

import { beforeAll, describe, expect, test } from "bun:test";
import { exchangeRaw } from "../support/raw-socket.ts";
import { sharedServer, temporaryServers } from "../support/shared-server.ts";
import { call, type CallOptions, newStream, streamAt } from "../support/streams.ts";

const server = sharedServer({ args: ["--long-poll-timeout", "50ms", "--cors-origin", "https://app.example"] });
const temporary = temporaryServers();
const json: CallOptions = { headers: { "content-type": "application/json" }, body: "1" };

beforeAll(async () => {
  const stream = await newStream(server, "safe");
  await stream.post("1");
});

describe("every answer says not to guess its type and not to tell where a link was found", () => {
  test.each([
    ["GET", "/v1/stream/safe", {}, 200],
    ["GET", "/v1/stream/safe", { headers: { "if-none-match": "*" } }, 304],
    ["GET", "/v1/stream/safe?offset=-1&live=sse", {}, 200],
    ["GET", "/v1/stream/safe?offset=now&live=long-poll", {}, 204],
    ["HEAD", "/v1/stream/safe", {}, 200],
    ["POST", "/v1/stream/safe", json, 204],
    ["PUT", "/v1/stream/safe/new", json, 201],
    ["PUT", "/v1/stream/safe/new", json, 200],
    ["DELETE", "/v1/stream/safe/new", {}, 204],
    ["GET", "/v1/stream/safe/_details", {}, 200],
    ["GET", "/v1/stream/safe/_profile", {}, 200],
    ["GET", "/v1/streams", {}, 200],
    ["GET", "/metrics", {}, 200],
    ["GET", "/health", {}, 200],
    ["GET", "/ready", {}, 200],
    ["GET", "/v1/stream/__ds/jwks.json", {}, 200],
    ["OPTIONS", "/v1/stream/safe", {}, 204],
    ["GET", "/v1/stream/safe?offset=x", {}, 400],
    ["POST", "/v1/stream/safe", { ...json, body: "{" }, 400],
    ["POST", "/v1/stream/safe", { headers: { origin: "http://evil.example" } }, 403],
    ["GET", "/nothing", {}, 404],
    ["PATCH", "/v1/stream/safe", {}, 405],
    ["POST", "/v1/stream/safe", { headers: { "content-type": "text/plain" }, body: "1" }, 409],
    ["GET", "/v1/ws", {}, 426],
  ] as const)("%s %s", async (method, path, options, status) => {
    // Without its body: some of them have no end.
    const abort = new AbortController();
    const answer = await call(method, server.url + path, { ...options, signal: abort.signal });
    abort.abort();
    expect(answer.status).toBe(status);
    expect(answer.headers.get("x-content-type-options")).toBe("nosniff");
    expect(answer.headers.get("referrer-policy")).toBe("no-referrer");
    expect(answer.headers.get("cross-origin-resource-policy")).toMatch(/^(same|cross)-origin$/);
  });

  test("also what is refused before anything is looked at", async () => {
    for (const host of ["evil.example", "a b"]) {
      const { text } = await exchangeRaw(server, `GET /health HTTP/1.1\r\nhost: ${host}\r\n\r\n`);
      expect(text).toMatch(/^x-content-type-options: nosniff\r$/im);
      expect(text).toMatch(/^referrer-policy: no-referrer\r$/im);
    }
  });
});

const MARKUP = "<script>alert(document.domain)</script>";

describe("stored bytes never act in the server's origin", () => {
  const active = [
    "text/html",
    "TEXT/HTML",
    "text/html;charset=utf-7",
    "text/html ; charset=utf-8",
    "Text/Html;x=application/json",
    "application/xhtml+xml",
    "image/svg+xml",
    "IMAGE/SVG+XML; charset=utf-8",
    "text/xml",
    "application/xml",
    "application/rss+xml",
    "text/xsl",
    "application/mathml+xml",
    "application/vnd.mozilla.xul+xml",
    "application/javascript",
    "text/javascript; charset=utf-8",
    "application/ecmascript",
    "text/jscript",
    "text/livescript",
    "text/css",
    "text/vtt",
    "text/cache-manifest",
    "application/wasm",
    "application/pdf",
    "application/x-shockwave-flash",
    "multipart/x-mixed-replace; boundary=a",
    "multipart/related; boundary=a",
    "message/rfc822",
    "text/x-anything",
    "application/x-anything",
    "unknown/unknown",
    "*/*",
    "image/x-icon",
    "image/svg",
  ];
  test.each(active)("%s", async (type) => {
    const stream = await newStream(server, `active/${active.indexOf(type)}`, type);
    await stream.post(MARKUP);
    for (const answer of [
      await stream.get(),
      await stream.get("offset=-1"),
      await stream.get("offset=-1&live=long-poll"),
    ]) {
      expect(answer.status).toBe(200);
      expect(answer.headers.get("content-security-policy")).toBe("sandbox; default-src 'none'");
      expect(answer.headers.get("content-disposition")).toBe("attachment");
      expect(answer.headers.get("x-content-type-options")).toBe("nosniff");
      expect(await answer.text()).toBe(MARKUP);
    }
  });

  const inert = [
    "text/plain",
    "text/plain; charset=utf-8",
    "application/octet-stream",
    "text/csv",
    "image/png",
    "video/mp4",
    "audio/ogg",
  ];
  test.each(inert)("%s may be shown: nothing in it runs", async (type) => {
    const stream = await newStream(server, `inert/${inert.indexOf(type)}`, type);
    await stream.post(MARKUP);
    const answer = await stream.get();
    expect(answer.headers.get("content-disposition")).toBeNull();
    expect(answer.headers.get("content-type")).toBe(type);
    expect(answer.headers.get("x-content-type-options")).toBe("nosniff");
  });

  test.each(["html", "text", "text/", "/html", "text html", "", "text/html, text/plain"])(
    "%p is no type: it is kept as bytes",
    async (type) => {
      const stream = streamAt(server, `none/${Bun.hash.xxHash32(type)}`);
      const { host } = new URL(server.url);
      const put = `PUT ${stream.path} HTTP/1.1\r\nhost: ${host}\r\ncontent-type: ${type}\r\ncontent-length: 0\r\n\r\n`;
      expect((await exchangeRaw(server, put)).status).toBe(201);
      expect((await stream.head()).headers.get("content-type")).toBe("application/octet-stream");
    },
  );

  test("live, they travel as events or as base64", async () => {
    const stream = await newStream(server, "active/live", "text/html");
    await stream.post(MARKUP);
    const abort = new AbortController();
    const answer = await stream.get("offset=-1&live=sse", { signal: abort.signal });
    abort.abort();
    expect(answer.headers.get("content-type")).toBe("text/event-stream");
  });
});

describe("Location", () => {
  const locationOf = async (at: { readonly url: string }, host: string): Promise<string | undefined> => {
    const name = `located/${encodeURIComponent(host)}`;
    const put = `PUT /v1/stream/${name} HTTP/1.1\r\nhost: ${host}\r\ncontent-length: 0\r\n\r\n`;
    const { status, text } = await exchangeRaw(at, put);
    expect(status).toBe(201);
    return /^location: (.*)\r$/im.exec(text)?.[1];
  };

  test("is absolute only for this machine's own names", async () => {
    const open = await temporary({ args: ["--host", "0.0.0.0", "--no-auth"] });
    const at = { url: `http://127.0.0.1:${new URL(open.url).port}` };
    for (const host of ["127.0.0.1:4437", "localhost", "[::1]:80"])
      expect(await locationOf(at, host)).toStartWith(`http://${host}/v1/stream/located/`);
    for (const host of ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "10.0.0.7:4437"])
      expect(await locationOf(at, host)).toStartWith("/v1/stream/located/");
  });
});
