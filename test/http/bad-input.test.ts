/**
 * Bad input of every kind: never a 5xx, never a crash, never a lost record. Requests go out as bytes, because `fetch`
 * would repair them. Where Bun's own parser refuses, the connection may simply be closed.
 */

import { beforeAll, describe, expect, test } from "bun:test";
import { exchangeRaw, type RawAnswer } from "../support/raw-socket.ts";
import { sharedServer } from "../support/shared-server.ts";
import { errorOf, newStream, streamAt, type StreamUnderTest } from "../support/streams.ts";

const server = sharedServer({ args: ["--long-poll-timeout", "200ms"] });
let canary: StreamUnderTest;

beforeAll(async () => {
  canary = await newStream(server, "canary");
  await canary.post('[1,{"two":2}]');
});

function request(
  method: string,
  target: string,
  headers: Readonly<Record<string, string>> = {},
  body = "",
): Uint8Array {
  const all = { host: new URL(server.url).host, "content-length": String(Buffer.byteLength(body)), ...headers };
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  return Buffer.from(`${method} ${target} HTTP/1.1\r\n${lines.join("")}\r\n${body}`);
}

/** No server error; a closed connection without an answer is how Bun's parser refuses. */
function expectNoFault(answer: RawAnswer, label: string): void {
  expect(`${label}: ${(answer.status ?? 0) < 500 ? "fine" : answer.text.slice(0, 500)}`).toBe(`${label}: fine`);
}

describe("paths", () => {
  const paths = [
    "/v1/stream/%zz",
    "/v1/stream/%",
    "/v1/stream/%ff",
    "/v1/stream/%c3%28",
    "/v1/stream/%ed%a0%80",
    "/v1/stream/%00",
    "/v1/stream/a%00b",
    "/v1/stream/a%0d%0aSet-Cookie:%20x=1",
    "/v1/stream/..%2f..",
    "/v1/stream/..%2f..%2fetc%2fpasswd",
    "/v1/stream/%2e%2e/%2e%2e/etc",
    "/v1/stream/../../etc/passwd",
    "/v1/stream/.",
    "/v1/stream/a//b",
    "/v1/stream//",
    "/v1/stream/",
    "/v1/stream/a/",
    "/v1/stream/a%2f%2fb",
    "/v1/stream/a%5cb",
    "/v1/stream/%e2%80%a8",
    `/v1/stream/${"n".repeat(10_000)}`,
    `/v1/stream/${"%41".repeat(3000)}`,
    `/v1/stream/${"a/".repeat(3000)}`,
    "/v1/stream/_details",
    "/v1/stream/_retention",
    "/v1/stream/a/_unknown",
    "/v1/stream/__ds/subscriptions/x",
    "/v1/stream/__proto__",
    "/v1/stream/constructor",
    "/v1/stream/toString/_details",
    "http://evil.example/v1/stream/a",
    "//evil.example/v1/stream/a",
    "*",
  ];
  const methods = [
    "GET",
    "HEAD",
    "PUT",
    "POST",
    "DELETE",
    "OPTIONS",
    "PATCH",
    "TRACE",
    "CONNECT",
    "PROPFIND",
    "FOO",
    "get",
  ];
  test.each(paths.map((path) => [path.slice(0, 60), path]))("%s never faults", async (_label, path) => {
    for (const method of methods) {
      const body = method === "PUT" || method === "POST" ? "1" : "";
      const headers = { "content-type": "application/json", "stream-retention": "none" };
      const answer = await exchangeRaw(server, request(method, path, headers, body));
      expectNoFault(answer, `${method} ${path.slice(0, 60)}`);
      expect(answer.text).not.toMatch(/^set-cookie:/im);
    }
  });

  const noNames = [
    "/v1/stream/%zz",
    "/v1/stream/%ff",
    "/v1/stream/%00",
    "/v1/stream/..%2f..",
    "/v1/stream/a//b",
    "/v1/stream/a%2f%2fb",
    `/v1/stream/${"n".repeat(10_000)}`,
  ];
  test.each(noNames.map((path) => [path.slice(0, 60), path]))(
    "%s is no name: 400, with the reason",
    async (_label, path) => {
      for (const method of ["PUT", "GET", "POST", "DELETE"]) {
        const answer = await exchangeRaw(server, request(method, path, { "content-type": "text/plain" }));
        expect(`${method} ${answer.status}`).toBe(`${method} 400`);
        expect(answer.text).toContain('"error"');
      }
    },
  );

  test("names keep their bytes: percent-escapes, UTF-8, reserved characters", async () => {
    for (const name of [
      "a b",
      "ü/日本",
      "100%",
      "a?b",
      "a#b",
      "a+b",
      "a&b=c",
      "'\"<>",
      "__proto__",
      "constructor",
      "a%2Fb",
    ]) {
      const stream = await newStream(server, name.split("/").map(encodeURIComponent).join("/"), "text/plain");
      await stream.post(name);
      expect(await stream.text()).toBe(name);
    }
  });
});

test("a name cannot be spelled so that another address answers for it", async () => {
  for (const suffix of ["_details", "_retention"]) {
    const created = await streamAt(server, `spelled%2F${suffix}`).put();
    expect(created.status).toBe(400);
    await errorOf(created);
  }
});

describe("Host", () => {
  const withHost = (lines: string): string => `PUT /v1/stream/host-test HTTP/1.1\r\n${lines}content-length: 0\r\n\r\n`;
  test.each([
    ["missing", ""],
    ["empty", "host: \r\n"],
    ["nonsense", "host: a b/<>\r\n"],
    ["half an address", "host: [::1\r\n"],
    ["an impossible port", "host: localhost:99999\r\n"],
    ["two of them", "host: localhost\r\nhost: evil.example\r\n"],
    ["two, other order", "host: evil.example\r\nhost: localhost\r\n"],
    ["very long", `host: ${"h".repeat(5000)}\r\n`],
    ["user info", "host: user@localhost\r\n"],
    ["a path", "host: localhost/evil\r\n"],
    ["letters beyond ASCII", "host: löcalhost\r\n"],
  ])("%s: no fault, no foreign Location", async (label, lines) => {
    const answer = await exchangeRaw(server, withHost(lines));
    expectNoFault(answer, label);
    expect(answer.text).not.toMatch(/^location:.*evil/im);
  });

  test("HTTP/1.0 without Host is answered or refused", async () => {
    expectNoFault(await exchangeRaw(server, "GET /v1/stream/canary HTTP/1.0\r\n\r\n"), "HTTP/1.0");
  });
});

describe("headers", () => {
  const values: Readonly<Record<string, readonly string[]>> = {
    "stream-ttl": [
      "",
      "-1",
      "+1",
      "01",
      "1.5",
      "1e3",
      "abc",
      "99999999999999999999",
      "9007199254740993",
      "NaN",
      "1, 2",
    ],
    "stream-expires-at": [
      "",
      "tomorrow",
      "0",
      "2020-13-45T99:99:99Z",
      "9999999-01-01T00:00:00Z",
      "2030-01-01",
      "2030-01-01T00:00:00",
    ],
    "content-type": ["", "/", ";", "text", "a/b/c", 'application/json; charset="', "\u00ff", "x".repeat(5000)],
    "stream-closed": ["", "maybe", "TRUE", "true, false", "1"],
    "stream-retention": ["", "=", ",,,", "max-age", "max-age=99999999999999d"],
    "stream-forked-from": [
      "",
      "x",
      "/",
      "/v1/stream/",
      "/v1/stream/%zz",
      "/v1/stream/..%2f..",
      "http://evil.example/v1/stream/a",
      "//",
      "/v1/stream/none",
    ],
    "stream-fork-offset": ["x", "-1", "now", "9999999999999999_9999999999999999", "1_1", "99999999999999999_0"],
    "stream-fork-sub-offset": ["", "-1", "1.5", "05", "99999999999999999999"],
    "stream-seq": ["", "\u0001", "x".repeat(5000)],
    "stream-key": ["", "\u00ff", "x".repeat(5000)],
    "producer-id": ["", "p"],
    "producer-epoch": ["", "-1", "1.5", "0x1", "9007199254740993"],
    "producer-seq": ["", "-1", "1e3", "9007199254740993", "99999999999999999999999999"],
    "if-match": ["", "*", "x", '"', "9999999999999999_9999999999999999"],
    "if-none-match": ["", "*", '"', "x, y", "W/", '"a","b"'],
    "content-encoding": ["gzip", "br", "nonsense", "gzip, gzip"],
    "content-length": ["", "-1", "+3", "1, 1", "0x1", "99999999999999999999"],
    "transfer-encoding": ["gzip", "chunked, identity", "xchunked"],
    origin: ["null", "http://evil.example", "x", "http://localhost:1"],
    range: ["bytes=0-", "bytes=9-1", "x"],
    "last-event-id": ["x", "\u00ff"],
    expect: ["100-continue", "x"],
    authorization: ["Bearer", "Basic \u00ff", "x".repeat(5000)],
    accept: ["", "x", "text/html"],
  };
  test.each(Object.entries(values))("%s never faults", async (name, badValues) => {
    for (const value of badValues) {
      const stream = await newStream(server, `bad-header/${name}/${Bun.hash(value)}`);
      await stream.post("0");
      for (const method of ["PUT", "POST", "GET", "HEAD", "DELETE"]) {
        const body = method === "POST" ? "1" : "";
        const answer = await exchangeRaw(
          server,
          request(method, stream.path, { "content-type": "application/json", [name]: value }, body),
        );
        expectNoFault(answer, `${method} ${name}: ${value.slice(0, 40)}`);
      }
    }
  });

  const producer = { "producer-id": "p", "producer-epoch": "0", "producer-seq": "0" };
  test.each(["producer-id", "producer-epoch", "producer-seq"])(
    "a bad %s is refused and stores nothing",
    async (name) => {
      for (const value of values[name] ?? []) {
        const stream = await newStream(server, `bad-producer/${name}/${Bun.hash(value)}`);
        const answer = await exchangeRaw(
          server,
          request("POST", stream.path, { "content-type": "application/json", ...producer, [name]: value }, "1"),
        );
        const isFine = name === "producer-id" && value !== "";
        expect(`${value}: ${answer.status}`).toBe(`${value}: ${isFine ? 200 : 400}`);
        expect(await stream.records()).toEqual(isFine ? [1] : []);
      }
    },
  );
});

test("a body that is coded is refused: it would be stored, and served, as if it were not", async () => {
  const coded = Buffer.from(Bun.gzipSync(Buffer.from("hello")));
  const stream = await newStream(server, "bad-coding/append", "text/plain");
  for (const coding of ["gzip", "zstd", "gzip, identity", "x"]) {
    const created = streamAt(server, `bad-coding/${Bun.hash(coding)}`, "text/plain");
    const headers = { "content-encoding": coding };
    for (const refused of [await stream.post(coded, headers), await created.put({ headers, body: coded })]) {
      expect([refused.status, refused.headers.get("accept-encoding")]).toEqual([415, "identity"]);
      expect((await errorOf(refused)).code).toBe("content-encoding-unsupported");
    }
    expect((await created.head()).status).toBe(404);
  }
  for (const coding of ["identity", "Identity", ""]) {
    expect((await stream.post("hello", { "content-encoding": coding })).status).toBe(204);
  }
  expect(await stream.text()).toBe("hellohellohello");
});

describe("queries", () => {
  const wrong = [
    "offset=",
    "offset=x",
    "offset=-2",
    "offset=1,2",
    "offset=a%20b",
    "offset=..",
    "offset=%00",
    "offset=%0d%0a",
    "offset=-1&offset=-1",
    "offset=9999999999999999_9999999999999999",
    "offset=0_0",
    "offset=99999999999999999_0",
    "live=sometimes&offset=-1",
    "live=sse",
    "live=long-poll",
    "live=sse&live=sse&offset=-1",
    "key=",
  ];
  test.each(wrong)("GET ?%s is refused with a reason", async (query) => {
    const refused = await canary.get(query);
    expect(refused.status).toBe(400);
    await errorOf(refused);
  });

  const odd = [
    "%",
    "%zz",
    "&&&",
    "=",
    "offset",
    "cursor=x&offset=now&live=long-poll",
    "cursor=99999999999999999999&offset=now&live=long-poll",
    "cursor=-1&offset=now&live=long-poll",
    "cursor=&offset=now&live=long-poll",
    "unknown=1",
    "key=%ff",
    "live=&offset=-1",
    `x=${"y".repeat(9000)}`,
    "offset=%zz",
    "__proto__=1",
  ];
  test.each(odd.map((query) => [query.slice(0, 60), query]))("GET ?%s never faults", async (label, query) => {
    expectNoFault(await exchangeRaw(server, request("GET", `${canary.path}?${query}`)), label);
  });
});

describe("JSON bodies", () => {
  test.each([
    ["nothing", ""],
    ["white space", " \n "],
    ["an open array", "[1,2,"],
    ["two values", "1 2"],
    ["a trailing comma", "[1,]"],
    ["NaN", "NaN"],
    ["single quotes", "'a'"],
    ["a raw control character", '"a\u0000b"'],
    ["a bad escape", '"\\x"'],
    ["an empty array", "[]"],
    ["an endless number", "0x10"],
    ["bytes that are not UTF-8", Uint8Array.of(0x22, 0xff, 0xfe, 0x22)],
    ["a surrogate in UTF-8", Uint8Array.of(0x22, 0xed, 0xa0, 0x80, 0x22)],
  ] as const)("%s is refused", async (label, body) => {
    const stream = streamAt(server, `bad-json/${encodeURIComponent(label)}`);
    await stream.put();
    const refused = await stream.post(body);
    expect(refused.status).toBe(400);
    await errorOf(refused);
    expect(await stream.text()).toBe("[]");
  });

  test.each([
    ["an escaped lone surrogate", '"\\ud800"'],
    ["an escaped NUL", '"\\u0000"'],
    ["a number beyond doubles", "1e999999"],
    ["digits beyond doubles", "12345678901234567890.12345678901234567890"],
    ["minus zero", "-0.0"],
    ["the same member twice", '{"a":1,"a":2}'],
    ["__proto__", '{"__proto__":{"polluted":true}}'],
    ["spaces inside", '{ "a" :\t1 }'],
    ["brackets in strings", '"],[\\"{"'],
  ])("%s is kept as it was written", async (label, body) => {
    const stream = await newStream(server, `kept-json/${encodeURIComponent(label)}`);
    expect((await stream.post(`[${body}]`)).status).toBe(204);
    expect(await stream.text()).toBe(`[${body}]`);
  });
});

test("after all of that the data is whole, the process the same, and no fault was logged", async () => {
  expect(await canary.text()).toBe('[1,{"two":2}]');
  expect(() => process.kill(server.pid, 0)).not.toThrow();
  expect(server.stderr()).toBe("");
});
