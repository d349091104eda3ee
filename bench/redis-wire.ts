/**
 * Redis streams: a stream is a key, a record is an entry with one field, `d`. A batch is so many `XADD` in one write, all
 * of whose replies are awaited; reads are pages of `XRANGE`. `redisFollow` is how a subscriber follows with `XREAD BLOCK`.
 */

import { CommandWriter, type Command } from "./command-writer.ts";
import type { LiveTransport } from "./live-transport.ts";
import { ReplyConnection } from "./reply-connection.ts";
import { RespReplies } from "./resp-replies.ts";
import type { Wire, WireReader } from "./wire.ts";
import { streamName, streamNameOf, writeStreamDigits } from "./workloads.ts";

const FIELD = "d";
const PAGE_ENTRIES = 1_000;
/** An entry is three strings: its id, the name of its field, the record. */
const STRINGS_PER_ENTRY = 3;
const RECORD = 2;

const ADD_TO_KEY = ["*5", "$4", "XADD", `$${streamName(0).length}`, streamName(0)].join("\r\n");

const add: Command = {
  of: (record) => command("XADD", streamName(0), "*", FIELD, record),
  address: (buffer, at, _, stream) => writeStreamDigits(buffer, at + ADD_TO_KEY.length, stream),
};

export const redisWire: Wire = {
  does: (workload) =>
    workload.kind === "append" ||
    workload.kind === "read" ||
    (workload.kind === "live-fan-out" && workload.transport === "sse"),
  follows: "xread",
  isReady,
  open: (url, _, recordsPerRequest) => ReplyConnection.open(url, new RespReplies(), recordsPerRequest),
  appendWriter: (_, connections, recordsPerRequest) => new CommandWriter(add, connections, recordsPerRequest),
  appendRequest: (_, path, record) => command("XADD", streamNameOf(path), "*", FIELD, record),
  createRequest: () => null,
  openReader: (url) => RedisReader.open(url),
};

function command(...words: readonly string[]): Buffer {
  const strings = words.map((word) => `$${Buffer.byteLength(word)}\r\n${word}\r\n`);
  return Buffer.from(`*${words.length}\r\n${strings.join("")}`);
}

/** While it loads its file after a restart it answers with errors. */
async function isReady(url: string): Promise<boolean> {
  try {
    const connection = await ReplyConnection.open(url, new RespReplies(), 1);
    try {
      await connection.exchange(command("PING"));
      return true;
    } finally {
      connection.close();
    }
  } catch {
    // Not there yet, or loading.
    return false;
  }
}

class RedisReader implements WireReader {
  readonly #connection: ReplyConnection;
  readonly #page: EntryPage;

  private constructor(connection: ReplyConnection, page: EntryPage) {
    this.#connection = connection;
    this.#page = page;
  }

  static async open(url: string): Promise<RedisReader> {
    const page = new EntryPage(0);
    return new RedisReader(await ReplyConnection.open(url, page.replies, 1), page);
  }

  async count(stream: number): Promise<number> {
    await this.#connection.exchange(command("XLEN", streamName(stream)));
    return this.#page.replies.number;
  }

  /** The next page needs the last id of this one: only one request can be under way. */
  async readAll(stream: number): Promise<number> {
    const key = streamName(stream);
    let recordBytes = 0;
    for (let from = "-"; ; from = `(${this.#page.lastId}`) {
      this.#page.clear();
      await this.#connection.exchange(command("XRANGE", key, from, "+", "COUNT", String(PAGE_ENTRIES)));
      recordBytes += this.#page.recordBytes;
      if (this.#page.entries < PAGE_ENTRIES) return recordBytes;
    }
  }

  close(): void {
    this.#connection.close();
  }
}

/** What one answer with entries held. */
class EntryPage {
  readonly #id = Buffer.alloc(64);
  #idBytes = 0;
  #lastString = -1;
  recordBytes = 0;
  entries = 0;
  readonly replies: RespReplies;

  /** `before`: strings in front of the first entry. */
  constructor(before: number) {
    this.replies = new RespReplies((bytes, from, to, index) => {
      const part = (index - before) % STRINGS_PER_ENTRY;
      if (part === RECORD) this.recordBytes += to - from;
      if (part !== 0) return;
      if (index !== this.#lastString) {
        this.#lastString = index;
        this.#idBytes = 0;
        this.entries++;
      }
      this.#idBytes += bytes.copy(this.#id, this.#idBytes, from, to);
    });
  }

  get lastId(): string {
    return this.#id.toString("latin1", 0, this.#idBytes);
  }

  clear(): void {
    this.#lastString = -1;
    this.recordBytes = 0;
    this.entries = 0;
  }
}

/** A PING first: its answer is the sign that the server has taken the subscription that came with it. */
export const redisFollow: LiveTransport = {
  request: (_, path, offset) => Buffer.concat([command("PING"), blockingRead(path, offset === "now" ? "$" : "0")]),
  headEnd: "\r\n",
  refusal: (head) => (head === "+PONG" ? null : head),
  greeting: () => null,
  decoder(_, onPayload, { path, send }) {
    // The key stands in front of the entries. A record's mark is in no id: the scanner may see everything.
    const page = new EntryPage(1);
    page.replies.expect(1);
    return (bytes) => {
      onPayload(bytes);
      if (!page.replies.take(bytes)) return;
      page.clear();
      page.replies.expect(1);
      send(blockingRead(path, page.lastId));
    };
  },
};

function blockingRead(path: string, after: string): Buffer {
  return command("XREAD", "BLOCK", "0", "STREAMS", streamNameOf(path), after);
}
