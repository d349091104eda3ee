/** The parser of the load client: answers of every form, cut at every byte; and what is no answer is refused. */

import { describe, expect, test } from "bun:test";
import { AnswerParser } from "./bench-answer.ts";

interface Taken {
  readonly status: number;
  readonly body: string;
  /** Pieces that ended an answer. */
  readonly ends: number;
}

/** Feeds the answer in two pieces, cut at `at`. */
function take(answer: string, at: number): Taken {
  const parser = new AnswerParser();
  parser.begin();
  let body = "";
  let ends = 0;
  for (const piece of [answer.slice(0, at), answer.slice(at)]) {
    if (parser.take(Buffer.from(piece), (part) => (body += part.toString())) && piece !== "") ends++;
  }
  return { status: parser.status, body, ends };
}

const [HELLO, WORLD] = ["hello", ", world and more"];
const CHUNKED = [
  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
  `${HELLO.length.toString(16)}\r\n${HELLO}\r\n`,
  `${WORLD.length.toString(16)};x=y\r\n${WORLD}\r\n`,
  "0\r\n\r\n",
].join("");

describe.each([
  ["no body", "HTTP/1.1 204 No Content\r\nStream-Next-Offset: a\r\n\r\n", 204, ""],
  ["a length", "HTTP/1.1 200 OK\r\ncontent-LENGTH:  5 \r\n\r\nhello", 200, "hello"],
  ["a length of nothing", "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", 201, ""],
  ["chunks", CHUNKED, 200, HELLO + WORLD],
  ["a trailer", `${CHUNKED.slice(0, -2)}Digest: x\r\n\r\n`, 200, HELLO + WORLD],
  ["a word before it", `HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n`, 204, ""],
])("an answer with %s", (_, answer, status, body) => {
  test("is whole exactly once, wherever it is cut", () => {
    for (let at = 0; at <= answer.length; at++) expect(take(answer, at)).toEqual({ status, body, ends: 1 });
  });
});

test("headers are found whatever their case", () => {
  const parser = new AnswerParser();
  parser.begin();
  const head = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nStream-Next-Offset: 1_2\r\n\r\nab";
  expect(parser.take(Buffer.from(head), () => undefined)).toBe(true);
  expect(parser.header("stream-next-offset")).toBe("1_2");
  expect(parser.header("offset")).toBeNull();
});

test("one connection, one answer after the other", () => {
  const parser = new AnswerParser();
  for (const status of [204, 429, 204]) {
    parser.begin();
    const end = status === 204 ? "\r\n" : "Content-Length: 1\r\n\r\nx";
    expect(parser.take(Buffer.from(`HTTP/1.1 ${status} X\r\n${end}`), () => undefined)).toBe(true);
    expect(parser.status).toBe(status);
  }
});

test.each([
  ["another protocol", "SSH-2.0-x\r\n\r\n"],
  ["a status that is none", "HTTP/1.1 abc OK\r\n\r\n"],
  ["no length", "HTTP/1.1 200 OK\r\n\r\nhello"],
  ["a length that is none", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"],
  ["a chunk without a size", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"],
  ["a second answer", "HTTP/1.1 204 No Content\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n"],
  ["an endless head", `HTTP/1.1 200 OK\r\nX: ${"x".repeat(70_000)}`],
])("refuses %s", (_, answer) => {
  expect(() => take(answer, 0)).toThrow(RangeError);
});
