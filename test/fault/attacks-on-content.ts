/**
 * Attacks on what requests say: headers that are echoed or stored, bodies, numbers, WebSocket handshakes and frames. A table, one line
 * a case. What is allowed is what the RFCs and the protocol want, not what the server happened to do.
 */

import { cases, chunked, get, type Group, JSON_TYPE, post, REFUSED, SMUGGLED, TOO_LARGE } from "./attack-words.ts";

const LINES = [
  "X-Request-Id",
  "Traceparent",
  "Origin",
  "Stream-Seq",
  "Stream-Key",
  "Producer-Id",
  "If-Match",
  "Last-Event-ID",
];
export const headers: Group = [
  ...cases(
    Object.fromEntries(
      LINES.map((name) => [`a bare CR in ${name}`, post(`Content-Length: 1\r\n${name}: a\rX-Evil: injected\r\n`, "7")]),
    ),
    REFUSED,
    { records: 0 },
  ),
  ...cases(
    Object.fromEntries(
      LINES.map((name) => [
        `bytes beyond ASCII and escapes in ${name}`,
        post(`Content-Length: 1\r\n${name}: \xff\xc3\xa9%0d%0aX-Evil: injected\r\n`, "7"),
      ]),
    ),
    [200, 204, 400, 403, 412],
    { records: "if answered" },
  ),
  ...cases(
    {
      "a header of 64 kB": get("/health", `Host: {host}\r\nX-A: ${"x".repeat(65_536)}\r\n`),
      "a header of 1 MB": get("/health", `Host: {host}\r\nX-A: ${"x".repeat(1_048_576)}\r\n`),
      "300 headers": get("/health", `Host: {host}\r\n${"X-A: b\r\n".repeat(300)}`),
      "100,000 headers": get("/health", `Host: {host}\r\n${"a:\r\n".repeat(100_000)}`),
      "a name of 64 kB": get("/health", `Host: {host}\r\n${"x".repeat(65_536)}: b\r\n`),
    },
    TOO_LARGE,
  ),
  {
    name: "a Content-Type that breaks the line",
    bytes: `PUT {stream}-type HTTP/1.1\r\nHost: {host}\r\nContent-Type: text/plain\rX-Evil: injected\r\nContent-Length: 0\r\n\r\n`,
    allowed: REFUSED,
  },
  {
    name: "a Content-Type in Latin-1",
    bytes: `PUT {stream}-type HTTP/1.1\r\nHost: {host}\r\nContent-Type: text/pl\xe4in\r\nContent-Length: 0\r\n\r\n`,
    allowed: [201, 400],
  },
  {
    name: "an Expect that nobody knows",
    bytes: post("Content-Length: 1\r\nExpect: the-unexpected\r\n", "7"),
    allowed: [204, 400, 417],
    records: "if answered",
  },
  {
    name: "an upgrade to HTTP/2",
    bytes: get(
      "/health",
      "Host: {host}\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\n",
    ),
    allowed: [200, 400, 426],
  },
  {
    name: "a method in a header",
    bytes: get("{stream}", "Host: {host}\r\nX-HTTP-Method-Override: DELETE\r\nX-Original-URL: /metrics\r\n"),
    allowed: [200],
    records: 0,
  },
  {
    name: "a range",
    bytes: get("{stream}", `Host: {host}\r\nRange: bytes=${"0-,".repeat(1_000)}0-\r\n`),
    allowed: [200, 400, 416],
  },
  {
    name: "a list of a thousand ETags",
    bytes: get("{stream}", `Host: {host}\r\nIf-None-Match: ${'"a",'.repeat(1_000)}"b"\r\n`),
    allowed: [200, 400],
  },
];

const of = (body: string, lines = ""): string =>
  post(`Content-Length: ${Buffer.byteLength(body, "latin1")}\r\n${lines}`, body);
export const bodies: Group = [
  ...cases(
    {
      "arrays 100,000 deep": of("[".repeat(100_000) + "]".repeat(100_000)),
      "objects 100,000 deep": of('{"a":'.repeat(100_000) + "1" + "}".repeat(100_000)),
      "a million opening brackets": of("[".repeat(1_000_000)),
      "not UTF-8": of('"\xff\xfe"'),
      "UTF-8 cut short": of('"\xc3'),
      "overlong UTF-8": of('"\xc0\xaf"'),
      "a surrogate in UTF-8": of('"\xed\xa0\x80"'),
      "UTF-16": of('\xff\xfe"\0a\0"\0'),
      "a control character in a string": of('"a\x01b"'),
      NaN: of("NaN"),
      "a number that begins with zeros": of("[007]"),
      "an array that does not end": of("[1,2"),
      "two values": of("1 2"),
      "a gzip bomb": of(
        "\x1f\x8b\x08\0\0\0\0\0\0\x03\xed\xc1\x01\r\0\0\0\xc2\xa0\xf7Om\x0e7\xa0",
        "Content-Encoding: gzip\r\n",
      ),
      markup: of("<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>"),
      nothing: of(""),
    },
    [400, 413, 415],
    { records: 0 },
  ),
  ...cases(
    {
      "a number of 100,000 digits": of("9".repeat(100_000)),
      "a number far beyond doubles": of("1e999999999"),
      "the same member a hundred times": of(`{${'"a":1,'.repeat(100)}"a":2}`),
      "__proto__ and constructor": of('{"__proto__":{"polluted":1},"constructor":{"prototype":{"polluted":1}}}'),
      "a lone surrogate, escaped": of('"\\ud800"'),
      "a NUL, escaped": of('"\\u0000"'),
      "a string of a million": of(`"${"x".repeat(1_000_000)}"`),
      "brackets inside a string": of(JSON.stringify("[".repeat(10_000))),
    },
    [204, 400],
    { records: "if answered" },
  ),
  {
    name: "a body shorter than its length",
    bytes: post("Content-Length: 100\r\n", "7"),
    allowed: ["close"],
    after: "FIN",
    records: 0,
  },
  {
    name: "a body longer than its length",
    bytes: post("Content-Length: 1\r\n", `7${"garbage".repeat(10)}\r\n\r\n`),
    allowed: [204, 400, "close"],
    records: "at most one",
  },
  { name: "a chunked body that is cut", bytes: chunked("5\r\n[1,2"), allowed: ["close"], after: "FIN", records: 0 },
  {
    name: "a length of a terabyte",
    bytes: post("Content-Length: 1099511627776\r\n", "7"),
    allowed: [413, "close"],
    records: 0,
  },
  {
    name: "a body that waits for 100",
    bytes: post("Content-Length: 1\r\nExpect: 100-continue\r\n", ""),
    allowed: [100, 204, 417],
    after: "7",
    records: "at most one",
  },
];

export const numbers: Group = [
  ...cases(
    Object.fromEntries(
      (
        [
          ["Stream-TTL", ["99999999999999999999", "-1", "1e9", "0x10", "1.5", "9007199254740993", "٣", ""]],
          [
            "Stream-Expires-At",
            ["+275760-09-13T00:00:00.001Z", "never", "9".repeat(200), "0000-00-00T00:00:00Z", "2026-13-45T99:99:99Z"],
          ],
          ["Stream-Retention", ["max-age=99999999999999999999d", "max-bytes=-1", "max-age=NaN", ",".repeat(1_000)]],
          ["Stream-Fork-Sub-Offset", ["1", "-1"]],
          [
            "Stream-Forked-From",
            [
              "../../etc/passwd",
              "/v1/stream/%ff",
              "http://evil.example/v1/stream/a",
              "/v1/stream/__ds/x",
              `/v1/stream/${"n".repeat(5_000)}`,
            ],
          ],
        ] as const
      ).flatMap(([name, values]) =>
        values.map((value) => [
          `${name}: ${value.slice(0, 40)}`,
          `PUT {stream}-numbers HTTP/1.1\r\nHost: {host}\r\n${JSON_TYPE}${name}: ${value}\r\nContent-Length: 0\r\n\r\n`,
        ]),
      ),
    ),
    [400, 404, 409],
  ),
  ...cases(
    Object.fromEntries(
      [
        "offset=99999999999999999999_0000000000000000",
        "offset=9007199254740993_9007199254740993",
        "offset=-2",
        "offset=now%00",
        "offset=0000000000000000_-000000000000001",
        "offset=-1&offset=-1",
        "tail=-1",
        "tail=99999999999",
        "from=-99999999999999999999d",
        "from=%2b275760-09-13T00:00:00.001Z",
        "live=yes&offset=-1",
        "live=sse",
        `filter=${"(".repeat(5_000)}`,
        `filter=${"a%3D1%20and%20".repeat(1_000)}a%3D1`,
        "key=",
        "key=%ff",
      ].map((query) => [`?${query.slice(0, 40)}`, get(`{stream}?${query}`)]),
    ),
    [200, 400, 410],
    { records: 0 },
  ),
  ...cases(
    Object.fromEntries(
      ["99999999999999999999", "9007199254740993", "-1", "1.5", "1e3", "0x1", "", "NaN"].map((value) => [
        `Producer-Seq: ${value}`,
        post(`Content-Length: 1\r\nProducer-Id: a\r\nProducer-Epoch: 0\r\nProducer-Seq: ${value}\r\n`, "7"),
      ]),
    ),
    [400],
    { records: 0 },
  ),
];

const KEY = "dGhlIHNhbXBsZSBub25jZQ==";
function handshake(lines: Readonly<Record<string, string | null>> = {}, method = "GET", version = "1.1"): string {
  const all: Record<string, string | null> = {
    Host: "{host}",
    Connection: "Upgrade",
    Upgrade: "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": KEY,
    "Sec-WebSocket-Protocol": "streams.v1",
    ...lines,
  };
  const sent = Object.entries(all).map(([name, value]) => (value === null ? "" : `${name}: ${value}\r\n`));
  return `${method} /v1/ws HTTP/${version}\r\n${sent.join("")}\r\n`;
}

/** A frame as a client must send it: masked, here with zeros. */
function frame(firstByte: number, payload: string, masked = true): string {
  const { length } = payload;
  const bit = masked ? 0x80 : 0;
  const size =
    length < 126
      ? String.fromCharCode(bit | length)
      : length < 65_536
        ? String.fromCharCode(bit | 126, length >> 8, length & 255)
        : String.fromCharCode(
            bit | 127,
            0,
            0,
            0,
            0,
            (length >> 24) & 255,
            (length >> 16) & 255,
            (length >> 8) & 255,
            length & 255,
          );
  return String.fromCharCode(firstByte) + size + (masked ? "\0\0\0\0" : "") + payload;
}

const TEXT = 0x81;
export const sockets: Group = [
  ...cases(
    {
      "no key": handshake({ "Sec-WebSocket-Key": null }),
      "a short key": handshake({ "Sec-WebSocket-Key": "short" }),
      "no version": handshake({ "Sec-WebSocket-Version": null }),
      "another version": handshake({ "Sec-WebSocket-Version": "8" }),
      "no Connection": handshake({ Connection: null }),
      "HTTP/1.0": handshake({}, "GET", "1.0"),
    },
    [101, 400, 426, 505, "close"],
  ),
  ...cases(
    {
      "no Upgrade": handshake({ Upgrade: null }),
      "another protocol": handshake({ "Sec-WebSocket-Protocol": "chat" }),
      "a page of another origin": handshake({ Origin: "http://evil.example" }),
      "the origin null": handshake({ Origin: "null" }),
      POST: handshake({ "Content-Length": "0" }, "POST"),
    },
    [400, 403, 405, 426, "close"],
  ),
  ...cases(
    {
      "a frame without mask": frame(TEXT, '{"type":"ping"}', false),
      "a reserved opcode": frame(0x83, "x"),
      "a reserved control opcode": frame(0x8b, "x"),
      "reserved bits": frame(0xf1, "x"),
      "a ping of 126 bytes": frame(0x89, "x".repeat(126)),
      "a ping in fragments": frame(0x09, "x"),
      "a continuation of nothing": frame(0x80, "x"),
      "a message inside another": frame(0x01, "x") + frame(TEXT, "y"),
      "a text that is not UTF-8": frame(TEXT, "\xff\xfe"),
      "a close of one byte": frame(0x88, "x"),
      "a close with a code that is none": frame(0x88, "\0\x01"),
      "a length of 2^63": "\x81\xff\xff\xff\xff\xff\xff\xff\xff\xff\0\0\0\0",
      "a message of 2 MiB": frame(TEXT, " ".repeat(2 * 1024 * 1024)),
      "fragments without end": frame(0x01, "x") + frame(0x00, "x".repeat(100)).repeat(20_000),
      "a flood of pings": frame(0x89, "x").repeat(20_000) + frame(0x88, "\x03\xe8"),
      "a flood of messages": frame(TEXT, '{"type":"ping"}').repeat(20_000),
      "JSON 100,000 deep": frame(TEXT, "[".repeat(100_000)) + frame(0x88, "\x03\xe8"),
      "not JSON": frame(TEXT, "hello") + frame(0x88, "\x03\xe8"),
      "a request of HTTP": `${SMUGGLED}${SMUGGLED}`,
    },
    [101],
  ).map(({ bytes, ...attack }) => ({ ...attack, name: `frames: ${attack.name}`, bytes: handshake(), after: bytes })),
];
