/**
 * Following by long-polls: one request waits at the tail, and the moment its answer is here the next one leaves, from the
 * offset that the answer names; the first one begins at the tail. An answer is small, so it is held until it is whole. Pure: no
 * sockets. Invariant: a poller that is refused does not come back, and so misses what follows, which is counted.
 */

import { headerOf } from "./http-connection.ts";
import { chunkDecoder, isChunked } from "./live-framing.ts";
import type { LiveTransport } from "./live-transport.ts";

const HEAD_END = "\r\n\r\n";
const LAST_CHUNK = Buffer.from(`\r\n0${HEAD_END}`);
const NOTHING: Buffer = Buffer.alloc(0);

export const longPollFollow: LiveTransport = {
  // The answer to the first poll comes with the first record: that the stream is there, and where it ends, is asked before.
  request: (url, path) => Buffer.from(`HEAD ${path} HTTP/1.1\r\nHost: ${new URL(url).host}\r\n\r\n`),
  headEnd: HEAD_END,
  refusal: (head) => (statusOf(head) === 200 ? null : `status ${statusOf(head)}`),
  greeting: () => null,
  decoder(firstHead, onPayload, { url, path, send }) {
    const { host } = new URL(url);
    const comeBack = (head: string): void => {
      const offset = headerOf(head, "stream-next-offset");
      if (offset !== null && statusOf(head) < 300) send(poll(host, path, offset, headerOf(head, "stream-cursor")));
    };
    let held = NOTHING;
    comeBack(firstHead);
    return (bytes) => {
      const seen = held.length === 0 ? bytes : Buffer.concat([held, bytes]);
      const answer = wholeAnswer(seen);
      // Copied, because the socket reuses its buffer.
      held = answer === null ? Buffer.from(seen) : NOTHING;
      if (answer === null) return;
      const { head, body } = answer;
      if (isChunked(head)) chunkDecoder(onPayload)(body);
      else onPayload(body);
      comeBack(head);
    };
  },
};

function poll(host: string, path: string, offset: string, cursor: string | null): Uint8Array {
  const query = `offset=${offset}&live=long-poll${cursor === null ? "" : `&cursor=${cursor}`}`;
  return Buffer.from(`GET ${path}?${query} HTTP/1.1\r\nHost: ${host}\r\n\r\n`);
}

function wholeAnswer(seen: Buffer): { readonly head: string; readonly body: Buffer } | null {
  const end = seen.indexOf(HEAD_END);
  if (end === -1) return null;
  const head = seen.toString("latin1", 0, end);
  const body = seen.subarray(end + HEAD_END.length);
  const isWhole = isChunked(head)
    ? body.subarray(-LAST_CHUNK.length).equals(LAST_CHUNK)
    : body.length >= Number(headerOf(head, "content-length") ?? 0);
  return isWhole ? { head, body } : null;
}

function statusOf(head: string): number {
  return Number(head.slice(9, 12));
}
