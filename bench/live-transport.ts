/**
 * How a subscriber speaks to a server: what it sends to be subscribed, which status accepts it, and how the payload is taken
 * out of the bytes that come back. Everything that differs between transports is here; the rest of the live workloads only
 * knows this interface. Pure: no sockets.
 */

import { chunkDecoder, framed, isChunked } from "./live-framing.ts";
import { longPollFollow } from "./live-long-poll.ts";
import { natsFollow } from "./nats-wire.ts";
import { redisFollow } from "./redis-wire.ts";

/** Where a subscriber begins: at the first record, or at what is appended from now on. */
export type LiveOffset = "-1" | "now";

export interface LiveTransport {
  /** What opens the connection; sent once, at once. */
  request(url: string, path: string, offset: LiveOffset): Uint8Array;
  /** Ends the head of what comes back. */
  readonly headEnd: string;
  /** Null when the head accepts the subscription, otherwise why not. */
  refusal(head: string): string | null;
  /** What is sent once it is accepted; null when the request has said everything. */
  greeting(path: string, offset: LiveOffset): Uint8Array | null;
  /** Takes the bytes after the head, cut anywhere; hands on payload. A piece is valid during the call only. */
  decoder(head: string, onPayload: (piece: Buffer) => void, subscriber: FollowingSubscriber): (bytes: Buffer) => void;
}

/** For transports that ask again after each answer. */
export interface FollowingSubscriber {
  readonly url: string;
  readonly path: string;
  readonly send: (request: Uint8Array) => void;
}

/** What a workload names; a server of another protocol follows by its own. */
export type HttpTransportName = "sse" | "websocket" | "long-poll";
export type LiveTransportName = HttpTransportName | "xread" | "jetstream-push";

const HTTP_HEAD_END = "\r\n\r\n";

export const liveTransports: Readonly<Record<LiveTransportName, LiveTransport>> = {
  sse: {
    request: (url, path, offset) =>
      Buffer.from(`GET ${path}?offset=${offset}&live=sse HTTP/1.1\r\nHost: ${new URL(url).host}\r\n\r\n`),
    headEnd: HTTP_HEAD_END,
    refusal: (head) => statusOtherThan(200, head),
    greeting: () => null,
    // Event names and control events are payload too: no record's mark is in them.
    decoder: (head, onPayload) => (isChunked(head) ? chunkDecoder(onPayload) : onPayload),
  },
  websocket: {
    request: (url) =>
      Buffer.from(
        `GET /v1/ws HTTP/1.1\r\nHost: ${new URL(url).host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n` +
          "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n" +
          "Sec-WebSocket-Protocol: streams.v1\r\n\r\n",
      ),
    headEnd: HTTP_HEAD_END,
    refusal: (head) => statusOtherThan(101, head),
    greeting: (path, offset) =>
      maskedText(JSON.stringify({ type: "subscribe", stream: path.slice(STREAM_PREFIX.length), offset })),
    decoder: (_, onPayload) => frameDecoder(onPayload),
  },
  "long-poll": longPollFollow,
  xread: redisFollow,
  "jetstream-push": natsFollow,
};

function statusOtherThan(accepted: number, head: string): string | null {
  const status = Number(head.slice(9, 12));
  return status === accepted ? null : `status ${status}`;
}

const STREAM_PREFIX = "/v1/stream/";
const TEXT_FRAME = 0x81;
const IS_MASKED = 0x80;

/** One short text frame of a client; a mask of zeros leaves the text as it is. */
function maskedText(text: string): Uint8Array {
  const payload = Buffer.from(text);
  if (payload.length > 125) throw new Error("a greeting is one short frame");
  return Buffer.concat([Buffer.from([TEXT_FRAME, IS_MASKED | payload.length, 0, 0, 0, 0]), payload]);
}

/** Takes the frames of a server apart. Pings are taken for payload, and not answered: a run is shorter than the server's patience. */
function frameDecoder(onPayload: (piece: Buffer) => void): (bytes: Buffer) => void {
  const header: number[] = [];
  return framed(onPayload, (byte) => {
    header.push(byte);
    const length = payloadLength(header);
    if (length !== null) header.length = 0;
    return length;
  });
}

/** Null while the header of a frame is not whole: 2, 4 or 10 bytes, by the length that it announces. */
function payloadLength(header: readonly number[]): number | null {
  const short = header[1];
  if (short === undefined) return null;
  if (short < 126) return short;
  const size = short === 126 ? 2 : 8;
  if (header.length < 2 + size) return null;
  return header.slice(2).reduce((length, byte) => length * 256 + byte, 0);
}
