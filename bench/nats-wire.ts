/**
 * NATS JetStream over its text protocol: a stream with a file store and one subject, both of the same name; a record is a
 * message that is published with a reply subject, and the reply is the acknowledgement. A batch is so many of them in one
 * write. Reads are pages of an ephemeral pull consumer; a subscriber is a push consumer of its own. Invariant: connections that are open at one time have different
 * inboxes, by their index.
 */

import { CommandWriter, type Command } from "./command-writer.ts";
import type { LiveTransport } from "./live-transport.ts";
import { NatsReplies, type PayloadPiece } from "./nats-replies.ts";
import { ReplyConnection } from "./reply-connection.ts";
import type { Wire, WireReader } from "./wire.ts";
import { streamName, streamNameOf, writeStreamDigits, type Workload } from "./workloads.ts";

/** JetStream makes about a thousand streams a second: more would only measure that. */
const MOST_STREAMS = 1_000;
const PAGE_MESSAGES = 1_000;
const PONG = Buffer.from("PONG\r\n");
const INBOX_DIGITS = 6;

const PUBLISH_HEAD = `PUB ${streamName(0)}`;
const PUBLISH_TO_INBOX = `${PUBLISH_HEAD} ${inboxOf(0)}`;

const publish: Command = {
  of: (record) => message(streamName(0), inboxOf(0), record),
  address(buffer, at, connection, stream) {
    writeStreamDigits(buffer, at + PUBLISH_HEAD.length, stream);
    writeStreamDigits(buffer, at + PUBLISH_TO_INBOX.length, connection);
  },
};

export const natsWire: Wire = {
  does,
  follows: "jetstream-push",
  isReady,
  open: (url, index, recordsPerRequest) => connect(url, index, recordsPerRequest, null),
  appendWriter: (_, connections, recordsPerRequest) => new CommandWriter(publish, connections, recordsPerRequest),
  appendRequest: (_, path, record) => message(streamNameOf(path), inboxOf(0), record),
  createRequest(_, stream, index) {
    const name = streamName(stream);
    const config = { name, subjects: [name], retention: "limits", storage: "file", num_replicas: 1 };
    return message(`$JS.API.STREAM.CREATE.${name}`, inboxOf(index), JSON.stringify(config));
  },
  openReader: (url, index) => NatsReader.open(url, index),
};

function does(workload: Workload): boolean {
  if (workload.kind === "append") return workload.streams <= MOST_STREAMS;
  return workload.kind === "read" || (workload.kind === "live-fan-out" && workload.transport === "sse");
}

function inboxOf(index: number): string {
  return `_INBOX.bench.${String(index).padStart(INBOX_DIGITS, "0")}`;
}

function message(subject: string, replyTo: string, payload: string): Buffer {
  return Buffer.from(`PUB ${subject} ${replyTo} ${Buffer.byteLength(payload)}\r\n${payload}\r\n`);
}

function greeting(inbox: string): Buffer {
  return Buffer.from(`CONNECT {"verbose":false}\r\nSUB ${inbox} 1\r\n`);
}

async function connect(
  url: string,
  index: number,
  repliesPerRequest: number,
  onPayload: PayloadPiece | null,
): Promise<ReplyConnection> {
  let opened: ReplyConnection | null = null;
  const replies = new NatsReplies(() => opened?.say(PONG), onPayload);
  opened = await ReplyConnection.open(url, replies, repliesPerRequest);
  // The server greets first; what it says about itself is of no interest here.
  await opened.exchange(Buffer.concat([greeting(inboxOf(index)), Buffer.from("PING\r\n")]));
  return opened;
}

async function isReady(url: string): Promise<boolean> {
  try {
    (await connect(url, 0, 1, null)).close();
    return true;
  } catch {
    // Not there yet.
    return false;
  }
}

class NatsReader implements WireReader {
  readonly #connection: ReplyConnection;
  readonly #payload: PayloadTally;
  readonly #inbox: string;

  private constructor(connection: ReplyConnection, payload: PayloadTally, inbox: string) {
    this.#connection = connection;
    this.#payload = payload;
    this.#inbox = inbox;
  }

  static async open(url: string, index: number): Promise<NatsReader> {
    const payload = new PayloadTally();
    const connection = await connect(url, index, 1, (bytes, from, to) => payload.take(bytes, from, to));
    return new NatsReader(connection, payload, inboxOf(index));
  }

  async count(stream: number): Promise<number> {
    const { state } = (await this.#ask(`STREAM.INFO.${streamName(stream)}`, {})) as { state: { messages: number } };
    return state.messages;
  }

  /** One page under way, as with the others; the server need not say where the stream ends. */
  async readAll(stream: number): Promise<number> {
    const name = streamName(stream);
    const messages = await this.count(stream);
    const config = { ack_policy: "none", deliver_policy: "all", replay_policy: "instant", mem_storage: true };
    const consumer = (await this.#ask(`CONSUMER.CREATE.${name}`, { stream_name: name, config })) as { name: string };
    this.#payload.begin(false);
    for (let left = messages; left > 0; left -= PAGE_MESSAGES) {
      const batch = Math.min(PAGE_MESSAGES, left);
      const next = message(
        `$JS.API.CONSUMER.MSG.NEXT.${name}.${consumer.name}`,
        this.#inbox,
        JSON.stringify({ batch, expires: 30e9 }),
      );
      await this.#connection.exchange(next, batch);
    }
    return this.#payload.bytes;
  }

  close(): void {
    this.#connection.close();
  }

  async #ask(api: string, order: unknown): Promise<unknown> {
    this.#payload.begin(true);
    await this.#connection.exchange(message(`$JS.API.${api}`, this.#inbox, JSON.stringify(order)));
    const answer = JSON.parse(this.#payload.text) as { readonly error?: { readonly description?: string } };
    if (answer.error !== undefined) throw new Error(`${api}: ${answer.error.description}`);
    return answer;
  }
}

/** The payloads of an exchange: their bytes, and their text where it is wanted. */
class PayloadTally {
  #keepsText = false;
  bytes = 0;
  text = "";

  begin(keepsText: boolean): void {
    this.#keepsText = keepsText;
    this.bytes = 0;
    this.text = "";
  }

  take(bytes: Buffer, from: number, to: number): void {
    this.bytes += to - from;
    if (this.#keepsText) this.text += bytes.toString("latin1", from, to);
  }
}

/** From the first record, also for "now": the stream is empty then, and the consumer may come into being a little later. */
export const natsFollow: LiveTransport = {
  request(_, path) {
    const [name, inbox] = [streamNameOf(path), `_INBOX.live.${crypto.randomUUID()}`];
    const config = {
      deliver_subject: inbox,
      ack_policy: "none",
      deliver_policy: "all",
      replay_policy: "instant",
      mem_storage: true,
    };
    const order = JSON.stringify({ stream_name: name, config });
    return Buffer.concat([greeting(inbox), message(`$JS.API.CONSUMER.CREATE.${name}`, inbox, order)]);
  },
  headEnd: "\r\n",
  refusal: (head) => (head.startsWith("INFO ") ? null : head),
  greeting: () => null,
  decoder(_, onPayload, { send }) {
    const replies = new NatsReplies(() => send(PONG), null);
    replies.expect(Number.POSITIVE_INFINITY);
    // A record's mark is in no protocol line: the scanner may see everything.
    return (bytes) => {
      onPayload(bytes);
      replies.take(bytes);
    };
  },
};
