/**
 * The long-poll subscriber of the benchmark, on answers as servers write them, cut at every place: the payload comes out
 * whole, the next poll leaves once and from the offset that was named, and a refused poller stays away.
 */

import { expect, test } from "bun:test";
import { longPollFollow } from "../bench/live-long-poll.ts";

const HEAD = "HTTP/1.1 200 OK\r\nStream-Next-Offset: 1\r\nContent-Length: 99";

/** What a subscriber takes and sends when `answer` comes in these pieces. */
function follow(pieces: readonly Buffer[]): { readonly payload: string; readonly polls: readonly string[] } {
  let payload = "";
  const polls: string[] = [];
  const decode = longPollFollow.decoder(HEAD, (piece) => (payload += piece.toString()), {
    url: "http://localhost:1",
    path: "/v1/stream/a",
    send: (request) => void polls.push(Buffer.from(request).toString().split(" ")[1] ?? ""),
  });
  for (const piece of pieces) decode(piece);
  return { payload, polls };
}

function cutEverywhere(answer: string): readonly (readonly Buffer[])[] {
  const bytes = Buffer.from(answer);
  const cuts = Array.from({ length: bytes.length }, (_, at) => [bytes.subarray(0, at), bytes.subarray(at)]);
  return [[bytes], Array.from(bytes, (byte) => Buffer.from([byte])), ...cuts];
}

const FIRST = "/v1/stream/a?offset=1&live=long-poll";
const OK = "HTTP/1.1 200 OK\r\n";

for (const { name, answer, payload, next } of [
  {
    name: "a body with its length",
    answer: `${OK}Content-Length: 7\r\nStream-Next-Offset: 2\r\nStream-Cursor: 9\r\n\r\n["one"]`,
    payload: '["one"]',
    next: "/v1/stream/a?offset=2&live=long-poll&cursor=9",
  },
  {
    name: "a body in chunks",
    answer: `${OK}stream-next-offset: 2\r\ntransfer-encoding: chunked\r\n\r\n3\r\n["o\r\n4\r\nne"]\r\n0\r\n\r\n`,
    payload: '["one"]',
    next: "/v1/stream/a?offset=2&live=long-poll",
  },
  {
    name: "nothing yet",
    answer: "HTTP/1.1 204 No Content\r\nStream-Next-Offset: 1\r\n\r\n",
    payload: "",
    next: FIRST,
  },
]) {
  test(`${name}, cut anywhere`, () => {
    for (const pieces of cutEverywhere(answer)) expect(follow(pieces)).toEqual({ payload, polls: [FIRST, next] });
  });
}

test("an answer that is not whole brings no next poll", () => {
  const short = Buffer.from(`${OK}Content-Length: 8\r\nStream-Next-Offset: 2\r\n\r\n["one"]`);
  expect(follow([short]).polls).toEqual([FIRST]);
});

test("a refused poller does not come back", () => {
  const refusal = Buffer.from("HTTP/1.1 429 Too Many\r\nContent-Length: 0\r\nStream-Next-Offset: 2\r\n\r\n");
  expect(follow([refusal]).polls).toEqual([FIRST]);
});
