/**
 * What a reader says on one connection and how it understands the answers, for each way to follow a stream. Every connection gets a
 * conversation of its own; the logs that it fills outlive it. A conversation throws at whatever the protocol does not allow.
 */

import { positionOf, type DeliveryLog } from "./delivery-log.ts";
import {
  type AnswerHead,
  AnswerParser,
  clientFrame,
  EventParser,
  FrameParser,
  OPCODE,
  type ServerSentEvent,
} from "./wire.ts";
import { idsIn, idsOf, type Wanted, type WrittenStream } from "./written-stream.ts";

export const MODES = ["long-poll", "sse", "sse-last-event-id", "websocket"] as const;
export type Mode = (typeof MODES)[number];
export type Overflow = "resume" | "drop-oldest" | "disconnect";

/** One stream as one reader follows it. */
export interface Following {
  /** Name of the subscription; unique among those of a connection. */
  readonly id: string;
  readonly written: WrittenStream;
  readonly wanted: Wanted;
  readonly overflow: Overflow;
  readonly log: DeliveryLog;
}

export interface Conversation {
  open(): void;
  received(bytes: Buffer): void;
  /** Leaves one subscription and takes it up again, where a connection has subscriptions. */
  renew(id: string): void;
}

type Send = (bytes: string | Uint8Array) => void;

export function conversation(mode: Mode, followings: readonly Following[], send: Send): Conversation {
  if (mode === "websocket") return webSocket(followings, send);
  const [following] = followings;
  if (following === undefined || followings.length > 1) throw new Error(`${mode} follows one stream`);
  return mode === "long-poll" ? longPoll(following, send) : serverSentEvents(following, send, mode === "sse");
}

function get({ written, wanted, overflow }: Following, params: Record<string, string>, headers = ""): string {
  const { key, filter } = wanted;
  const query = new URLSearchParams({ ...params, ...(key && { key }), ...(filter && { filter }) });
  if (params["live"] === "sse") query.set("overflow", overflow);
  return `GET ${written.stream.path}?${query} HTTP/1.1\r\nHost: localhost\r\n${headers}\r\n`;
}

/** An answer counts when its body is complete, and not before. */
function longPoll(following: Following, send: Send): Conversation {
  const { log, written } = following;
  let head: AnswerHead | null = null;
  let pieces: Buffer[] = [];
  const ask = (): void => send(get(following, { live: "long-poll", offset: log.offset }));
  const parser = new AnswerParser({
    head: (next) => (head = next),
    body: (piece) => void pieces.push(piece),
    end: () => {
      const [text, offset] = [Buffer.concat(pieces).toString(), head?.headers.get("stream-next-offset")];
      if ((head?.status !== 200 && head?.status !== 204) || offset === undefined)
        throw new Error(`a long-poll was answered ${head?.status} ${text}`);
      pieces = [];
      log.records(head.status === 204 ? [] : idsIn(written.format, text), offset);
      ask();
    },
  });
  return {
    open() {
      log.opened();
      ask();
    },
    received: (bytes) => parser.push(bytes),
    renew: () => undefined,
  };
}

/** `byUrl`: comes back with its offset in the URL; else as an EventSource does, with the id of the last event. */
function serverSentEvents(following: Following, send: Send, byUrl: boolean): Conversation {
  const { log } = following;
  let head: AnswerHead | null = null;
  const events = new EventParser((event) => take(following, event));
  const parser = new AnswerParser({
    head: (next) => (head = next),
    body: (piece) => {
      if (head?.status !== 200) throw new Error(`live=sse was answered ${head?.status} ${piece.toString()}`);
      events.push(piece);
    },
    end: () => {
      if (head?.status !== 200) throw new Error(`live=sse was answered ${head?.status}`);
    },
  });
  return {
    open() {
      log.opened();
      const last = byUrl || log.offset === "-1" ? "" : `Last-Event-ID: ${log.offset}\r\n`;
      send(get(following, { live: "sse", offset: byUrl ? log.offset : "-1" }, last));
    },
    received: (bytes) => parser.push(bytes),
    renew: () => undefined,
  };
}

interface Range {
  readonly fromOffset: string;
  readonly toOffset: string;
}

function take({ log, written }: Following, { event, id, data }: ServerSentEvent): void {
  if (id === null) throw new Error(`an event without an id: ${event}`);
  if (event === "data") {
    const text = written.format === "bytes" ? Buffer.from(data, "base64").toString() : data;
    return log.records(idsIn(written.format, text), id);
  }
  const facts = JSON.parse(data) as Range & { streamNextOffset: string; count: number };
  let expectedId = log.offset;
  if (event === "control") {
    expectedId = facts.streamNextOffset;
    log.records([], facts.streamNextOffset);
  } else if (event === "gap") {
    expectedId = facts.toOffset;
    log.gap(facts.fromOffset, facts.toOffset, facts.count);
  } else if (event === "lagged") {
    // It moves nobody: whoever is cut here comes back to the first record of the range.
    expectedId = facts.fromOffset;
    log.lagged(facts.fromOffset, facts.toOffset);
  } else throw new Error(`an unknown event: ${event}`);
  if (id !== expectedId) throw new Error(`the id of a ${event} is ${id}: ${data}`);
}

interface SocketMessage extends Range {
  readonly type: string;
  readonly id: string;
  readonly offset: string;
  readonly count: number;
  readonly reason: string;
  readonly records?: unknown[];
  readonly text?: string;
  readonly base64?: string;
}

function webSocket(followings: readonly Following[], send: Send): Conversation {
  const byId = new Map(followings.map((following) => [following.id, following]));
  /** Subscribed, or asked to be. */
  const active = new Set<string>();
  const renewing = new Set<string>();
  const say = (message: object): void => send(clientFrame(OPCODE.text, Buffer.from(JSON.stringify(message))));
  const subscribe = (id: string, following: Following): void => {
    const { written, wanted, overflow, log } = following;
    const { key, filter } = wanted;
    log.opened();
    active.add(id);
    say({ type: "subscribe", id, stream: written.stream.name, offset: log.offset, key, filter, overflow });
  };
  const hear = (message: SocketMessage): void => {
    if (message.type === "connected" || message.type === "heartbeat") return;
    const following = byId.get(message.id);
    if (following === undefined || !active.has(message.id)) throw new Error(`uncalled-for: ${JSON.stringify(message)}`);
    const { log } = following;
    switch (message.type) {
      case "subscribed":
        if (positionOf(message.offset) !== log.position) throw new Error(`subscribed elsewhere: ${message.offset}`);
        return;
      case "records":
        return log.records(recordsIn(message), message.offset);
      case "position":
        return log.records([], message.offset);
      case "lagged":
        return log.lagged(message.fromOffset, message.toOffset);
      case "gap":
        return log.gap(message.fromOffset, message.toOffset, message.count);
      case "unsubscribed":
        if (!renewing.delete(message.id) || message.reason !== "request") break;
        if (positionOf(message.offset) !== log.position)
          throw new Error(`the last message ended at ${log.offset}, unsubscribed says ${message.offset}`);
        return subscribe(message.id, following);
    }
    throw new Error(`unexpected: ${JSON.stringify(message).slice(0, 300)}`);
  };
  const frames = new FrameParser((opcode, payload) => {
    if (opcode === OPCODE.ping) send(clientFrame(OPCODE.pong, payload));
    else if (opcode === OPCODE.text) hear(JSON.parse(payload.toString()) as SocketMessage);
    else if (opcode !== OPCODE.close) throw new Error(`a frame of opcode ${opcode}`);
  });
  const parser = new AnswerParser({
    head: ({ status }) => {
      if (status !== 101) throw new Error(`the upgrade was answered ${status}`);
      for (const [id, following] of byId) subscribe(id, following);
    },
    body: (piece) => frames.push(piece),
    end: () => undefined,
  });
  return {
    open: () =>
      send(
        "GET /v1/ws HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n" +
          "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Protocol: streams.v1\r\n\r\n",
      ),
    received: (bytes) => parser.push(bytes),
    renew(id) {
      if (!active.has(id) || renewing.has(id)) return;
      renewing.add(id);
      say({ type: "unsubscribe", id });
    },
  };
}

function recordsIn({ records, text, base64 }: SocketMessage): number[] {
  if (records !== undefined) return idsOf(records);
  if (text !== undefined) return idsIn("text", text);
  if (base64 !== undefined) return idsIn("bytes", Buffer.from(base64, "base64").toString());
  throw new Error("a records message without records");
}
