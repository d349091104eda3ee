/**
 * Attacks on how requests are told apart and addressed: lengths, chunks, grammar, Host and target. A table, one line a case.
 * What is allowed is what the RFCs and the protocol want, not what the server happened to do.
 */

import { cases, CHUNKED, chunked, get, type Group, JSON_TYPE, post, REFUSED, SMUGGLED } from "./attack-words.ts";

/** A body in one chunk whose end and the smuggled request look different to who goes by the length. */
const CHUNKED_BODY = `1\r\n7\r\n0\r\n\r\n${SMUGGLED}`;
const LENGTH = "Content-Length: 5\r\n";

export const lengthsAndCodings: Group = [
  ...cases(
    {
      "a length, then chunked": post(LENGTH + CHUNKED, CHUNKED_BODY),
      "chunked, then a length": post(CHUNKED + LENGTH, CHUNKED_BODY),
      "a length of 0, then chunked": post(`Content-Length: 0\r\n${CHUNKED}`, CHUNKED_BODY),
      "two lengths that differ": post(`Content-Length: 1\r\nContent-Length: ${SMUGGLED.length}\r\n`, `7${SMUGGLED}`),
      "two lengths that differ, the other way": post(
        `Content-Length: ${SMUGGLED.length}\r\nContent-Length: 1\r\n`,
        `7${SMUGGLED}`,
      ),
      "two lengths in one header": post("Content-Length: 1, 1\r\n", "7"),
      "two lengths that differ in one header": post("Content-Length: 1, 30\r\n", `7${SMUGGLED}`),
      "an encoding that is not known": post("Transfer-Encoding: xchunked\r\n", CHUNKED_BODY),
      "chunked is not the last": post("Transfer-Encoding: chunked, identity\r\n", CHUNKED_BODY),
      "chunked behind gzip": post("Transfer-Encoding: gzip, chunked\r\n", CHUNKED_BODY),
      "chunked twice": post("Transfer-Encoding: chunked, chunked\r\n", CHUNKED_BODY),
      "two codings, the second identity": post(`${CHUNKED}Transfer-Encoding: identity\r\n`, CHUNKED_BODY),
      "two codings, the first identity": post(`Transfer-Encoding: identity\r\n${CHUNKED}`, CHUNKED_BODY),
      "chunked behind a vertical tab": post("Transfer-Encoding: \x0bchunked\r\n", CHUNKED_BODY),
      "chunked with a NUL": post("Transfer-Encoding: chunked\0\r\n", CHUNKED_BODY),
      "chunked with a parameter": post("Transfer-Encoding: chunked;q=1\r\n", CHUNKED_BODY),
      "chunked in quotes": post('Transfer-Encoding: "chunked"\r\n', CHUNKED_BODY),
      "a space before the colon of the coding": post(`${LENGTH}Transfer-Encoding : chunked\r\n`, CHUNKED_BODY),
      "a coding on a folded line": post("Transfer-Encoding:\r\n chunked\r\n", CHUNKED_BODY),
      "a coding behind a bare CR": post(`${LENGTH}X: y\rTransfer-Encoding: chunked\r\n`, CHUNKED_BODY),
      "a coding behind a bare LF": post(`${LENGTH}X: y\nTransfer-Encoding: chunked\r\n`, CHUNKED_BODY),
      "chunked on HTTP/1.0": post(CHUNKED, CHUNKED_BODY, "1.0"),
      "an empty coding": post("Transfer-Encoding: \r\n", CHUNKED_BODY),
      "only identity": post("Transfer-Encoding: identity\r\n", CHUNKED_BODY),
    },
    [400, 501, 505, "close"],
    { records: "if answered" },
  ),
  ...cases(
    Object.fromEntries(
      [
        "+1",
        "-1",
        "0x1",
        "1e0",
        "1;",
        "1 1",
        "",
        " ",
        "٣",
        "1\0",
        "18446744073709551617",
        "9223372036854775808",
        "1_000",
        "NaN",
      ].map((length) => [`the length ${JSON.stringify(length)}`, post(`Content-Length: ${length}\r\n`, "7")]),
    ),
    [400, 413, 505, "close"],
    { records: "if answered" },
  ),
  {
    name: "one length said twice the same way",
    bytes: post("Content-Length: 1\r\nContent-Length: 1\r\n", "7"),
    allowed: [204, 400, "close"],
    records: "if answered",
  },
  {
    name: "a length with a zero in front and a space behind",
    bytes: post("Content-Length: 01 \r\n", "7"),
    allowed: [204, 400, "close"],
    records: "if answered",
  },
  {
    name: "chunked in capitals is chunked",
    bytes: post("Transfer-Encoding: CHUNKED\r\n", "1\r\n7\r\n0\r\n\r\n"),
    allowed: [204, 400],
    records: "if answered",
  },
  {
    name: "an underscore makes another header of it",
    bytes: post("Content-Length: 1\r\nTransfer_Encoding: chunked\r\n", "7"),
    allowed: [204, 400],
    records: "if answered",
  },
  {
    name: "a GET with a body that is a request",
    bytes: `GET {stream} HTTP/1.1\r\nHost: {host}\r\nContent-Length: ${SMUGGLED.length}\r\n\r\n${SMUGGLED}`,
    allowed: [200, 400],
    records: 0,
  },
  {
    name: "a HEAD with a chunked body that is a request",
    bytes: `HEAD {stream} HTTP/1.1\r\nHost: {host}\r\n${CHUNKED}\r\n${SMUGGLED.length.toString(16)}\r\n${SMUGGLED}\r\n0\r\n\r\n`,
    allowed: [200, 400],
    records: 0,
  },
];

export const chunks: Group = [
  ...cases(
    {
      "a size of 0x1": chunked("0x1\r\n7\r\n0\r\n\r\n"),
      "a negative size": chunked("-1\r\n7\r\n0\r\n\r\n"),
      "a signed size": chunked("+1\r\n7\r\n0\r\n\r\n"),
      "a size that is none": chunked("g\r\n7\r\n0\r\n\r\n"),
      "no size": chunked("\r\n7\r\n0\r\n\r\n"),
      "a size of 17 digits": chunked("ffffffffffffffff1\r\n7\r\n0\r\n\r\n"),
      "a size of 2^64 and one": chunked("10000000000000001\r\n7\r\n0\r\n\r\n"),
      "a size in two words": chunked("1 1\r\n7\r\n0\r\n\r\n"),
      "sizes that end in LF": chunked("1\n7\r\n0\r\n\r\n"),
      "an extension that ends in LF": chunked(`1;a\n7\r\n0\r\n\r\n`),
      "data longer than its size": chunked("1\r\n77\r\n0\r\n\r\n"),
      "no CRLF behind the data": chunked("1\r\n70\r\n\r\n"),
      "data that ends in LF": chunked("1\r\n7\n0\r\n\r\n"),
      "a size behind a NUL": chunked("\x001\r\n7\r\n0\r\n\r\n"),
    },
    [400, 413, "close"],
    { records: "if answered" },
  ),
  {
    name: "an extension",
    bytes: chunked("1;name=value\r\n7\r\n0\r\n\r\n"),
    allowed: [204, 400],
    records: "if answered",
  },
  {
    name: "an extension of 100 kB",
    bytes: chunked(`1;${"x".repeat(100_000)}\r\n7\r\n0\r\n\r\n`),
    allowed: [204, 400, 413, 431, "close"],
    records: "if answered",
  },
  {
    name: "leading zeros of a size",
    bytes: chunked("0000001\r\n7\r\n0\r\n\r\n"),
    allowed: [204, 400, "close"],
    records: "if answered",
  },
  {
    name: "trailers",
    bytes: chunked("1\r\n7\r\n0\r\nX-Trailer: 1\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n"),
    allowed: [204, 400, "close"],
    // Its body was whole when that came: it may be carried out, and its answer lost.
    records: "at most one",
  },
  {
    name: "a last chunk whose end is a request",
    bytes: chunked(`1\r\n7\r\n0\r\n${SMUGGLED}`),
    allowed: [204, 400, "close"],
    records: "at most one",
  },
  {
    name: "ten thousand chunks of one byte",
    bytes: chunked(`${"1\r\n \r\n".repeat(10_000)}1\r\n7\r\n0\r\n\r\n`),
    allowed: [204, 400, 429],
    records: "if answered",
  },
];

export const grammar: Group = [
  ...cases(
    {
      "only LFs": "GET /health HTTP/1.1\nHost: {host}\n\n",
      "only CRs": "GET /health HTTP/1.1\rHost: {host}\r\r",
      "a bare CR in a value": get("/health", "Host: {host}\r\nX-A: b\rc\r\n"),
      "a bare LF in a value": get("/health", "Host: {host}\r\nX-A: b\n\tc\r\n"),
      "a NUL in a value": get("/health", "Host: {host}\r\nX-A: b\0c\r\n"),
      "a NUL in a name": get("/health", "Host: {host}\r\nX-\0A: b\r\n"),
      "a NUL in the target": get("/health\0"),
      "a control character in a name": get("/health", "Host: {host}\r\nX\x01A: b\r\n"),
      "a letter beyond ASCII in a name": get("/health", "Host: {host}\r\nX-\xe9: b\r\n"),
      "a line without colon": get("/health", "Host: {host}\r\nX-A\r\n"),
      "a line without name": get("/health", "Host: {host}\r\n: b\r\n"),
      "a space before the colon": get("/health", "Host: {host}\r\nX-A : b\r\n"),
      "a space inside a name": get("/health", "Host: {host}\r\nX A: b\r\n"),
      "a folded line": get("/health", "Host: {host}\r\nX-A: b\r\n c\r\n"),
      "a folded first line": get("/health", " Host: {host}\r\n"),
      "tabs between the words": "GET\t/health\tHTTP/1.1\r\nHost: {host}\r\n\r\n",
      "two spaces": "GET  /health HTTP/1.1\r\nHost: {host}\r\n\r\n",
      "a space in the target": get("/hea lth"),
      "no version": "GET /health\r\nHost: {host}\r\n\r\n",
      "HTTP/0.9": "GET /health\r\n",
      "HTTP/2.0": get("/health", undefined, "2.0"),
      "HTTP/1.9": get("/health", undefined, "1.9"),
      "HTTP/1.1x": get("/health", undefined, "1.1x"),
      "http/1.1": "GET /health http/1.1\r\nHost: {host}\r\n\r\n",
      "HTTPS/1.1": "GET /health HTTPS/1.1\r\nHost: {host}\r\n\r\n",
      "the preface of HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
      "a hello of TLS": "\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n\r\n",
      SOCKS: "\x05\x01\x00\r\n\r\n",
      SSH: "SSH-2.0-OpenSSH_9.0\r\n\r\n",
      "a message of a database": "\0\0\0\x08\x04\xd2\x16\x2f\r\n\r\n",
      "a method in small letters": "get /health HTTP/1.1\r\nHost: {host}\r\n\r\n",
      "a method that does not exist": "FROBNICATE /health HTTP/1.1\r\nHost: {host}\r\n\r\n",
      "a method of 10 kB": `${"G".repeat(10_000)} /health HTTP/1.1\r\nHost: {host}\r\n\r\n`,
      "no method": " /health HTTP/1.1\r\nHost: {host}\r\n\r\n",
      "random bytes": "\x9d\xfe\x00\x81\x03\xff\xee\x80\x91\r\n\r\n\x00\x00\x00",
    },
    [400, 405, 501, 505, "close"],
    { records: 0 },
  ),
  { name: "empty lines first", bytes: `\r\n\r\n${get("/health")}`, allowed: [200, 400, 505, "close"] },
  { name: "a header without value", bytes: get("/health", "Host: {host}\r\nX-A:\r\n"), allowed: [200, 400] },
  {
    name: "a body that nobody asked for",
    bytes: `${get("/health", "Host: {host}\r\nContent-Length: 3\r\n")}abc`,
    allowed: [200, 400],
  },
];

export const hosts: Group = [
  ...cases(
    Object.fromEntries(
      [
        "",
        " ",
        "a b/<>",
        "[::1",
        "::1",
        "[::1]x",
        "user@127.0.0.1",
        "user:pw@127.0.0.1",
        "127.0.0.1/evil",
        "127.0.0.1?x",
        "127.0.0.1#x",
        "127.0.0.1\\evil",
        "127.0.0.1:99999999",
        "127.0.0.1:80:80",
        "127.0.0.1:-1",
        "127.0.0.1:0x50",
        "127.0.0.1, evil.example",
        "localhost\0.evil.example",
        "l\xf6calhost",
        "%6c%6fcalhost",
        "evil.example",
        "127.0.0.1.evil.example",
        "localhost.",
        "h".repeat(5_000),
        "127.0.0.1:80@evil.example",
      ].map((host) => [
        `the Host ${JSON.stringify(host.slice(0, 40))}`,
        `PUT {stream} HTTP/1.1\r\nHost: ${host}\r\n${JSON_TYPE}Content-Length: 1\r\n\r\n7`,
      ]),
    ),
    [400, 403, 421, "close"],
    { records: 0 },
  ),
  { name: "no Host", bytes: get("/health", ""), allowed: REFUSED },
  { name: "no Host on HTTP/1.0", bytes: get("/health", "", "1.0"), allowed: REFUSED },
  // Bun shows both in one value, which is no Host.
  ...cases(
    {
      "two Hosts, ours first": get("/health", "Host: {host}\r\nHost: evil.example\r\n"),
      "two Hosts, theirs first": get("/health", "Host: evil.example\r\nHost: {host}\r\n"),
      "two Hosts that are the same": get("/health", "Host: {host}\r\nHOST: {host}\r\n"),
      "two Hosts apart": get("/health", "Host: {host}\r\nX-A: b\r\nHost: {host}\r\n"),
      "two Hosts, the second empty": get("/health", "Host: {host}\r\nHost: \r\n"),
    },
    [400],
  ),
  {
    name: "the whole URL of another as target",
    bytes: get("http://evil.example/health"),
    allowed: [200, 400, 403, 421],
  },
  {
    name: "the whole URL as target, with the Host of another",
    bytes: get("http://{host}/health", "Host: evil.example\r\n"),
    allowed: [400, 403, 421],
  },
  {
    name: "X-Forwarded-Host changes nothing",
    bytes: get("/health", "Host: {host}\r\nX-Forwarded-Host: evil.example\r\nForwarded: host=evil.example\r\n"),
    allowed: [200],
  },
];

export const targets: Group = [
  ...cases(
    Object.fromEntries(
      [
        "%zz",
        "%",
        "%f",
        "%ff",
        "%c3%28",
        "%ed%a0%80",
        "%c0%ae%c0%ae",
        "%00",
        "a%00b",
        "a%0d%0aX-Evil:%20injected",
        "a%0aX-Evil:%20injected",
        "..%2f..%2fetc%2fpasswd",
        "a//b",
        "a%2f%2fb",
        "n".repeat(1_025),
        "%41".repeat(4_000),
      ].map((name) => [
        `the name ${name.slice(0, 40)}`,
        `PUT /v1/stream/${name} HTTP/1.1\r\nHost: {host}\r\n${JSON_TYPE}Content-Length: 0\r\n\r\n`,
      ]),
    ),
    [400, 404, 414, 431, "close"],
  ),
  ...cases(
    {
      "out of the tree": get("/v1/stream/../../etc/passwd"),
      "out of the tree, escaped": get("/v1/stream/%2e%2e/%2e%2e/etc/passwd"),
      "out of the tree, with backslashes": get("/v1/stream/..\\..\\etc\\passwd"),
      "another server's path": get("//evil.example/v1/streams"),
      "an asterisk": get("*"),
      "no slash": get("health"),
      "a fragment": get("/health#x"),
      "a target of 100 kB": get(`/v1/stream/${"a".repeat(100_000)}`),
      "a query of 100 kB": get(`/v1/streams?prefix=${"a".repeat(100_000)}`),
      "ten thousand parameters": get(`/v1/streams?${"a=1&".repeat(3_500)}`),
      "a file of the server": get("file:///etc/passwd"),
      "a script URL": get("javascript:alert(1)"),
    },
    [200, 400, 403, 404, 414, 431, "close"],
  ),
  { name: "OPTIONS *", bytes: "OPTIONS * HTTP/1.1\r\nHost: {host}\r\n\r\n", allowed: [204, 200, 400, 404, "close"] },
  {
    name: "CONNECT",
    bytes: "CONNECT evil.example:443 HTTP/1.1\r\nHost: evil.example:443\r\n\r\n",
    allowed: [400, 403, 404, 405, 501, "close"],
  },
  {
    name: "CONNECT to ourselves",
    bytes: "CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n",
    allowed: [400, 404, 405, 501, "close"],
  },
  {
    name: "TRACE",
    bytes: "TRACE {stream} HTTP/1.1\r\nHost: {host}\r\nX-Secret: x\r\n\r\n",
    allowed: [400, 405, 501, "close"],
  },
];
