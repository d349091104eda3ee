/**
 * A mixed, moderate life for a server: streams that are made, written, read back and deleted, one name over and over; streams
 * that expire; one that retention trims; one with SSE readers that reconnect. Every record is numbered.
 * Invariant: what was acknowledged and is not there, twice there, or not in order when it is read, is told as a problem.
 */

import { openSse, type SseControl } from "../support/sse.ts";
import { newStream, streamAt, type StreamUnderTest } from "../support/streams.ts";

type Server = { readonly url: string };

const ROTATIONS = 3;
const RECORDS_PER_STREAM = 400;
const APPEND_PAUSE_MS = 5;
const TTL_PAUSE_MS = 1_000;
const KEPT_PAUSE_MS = 80;
/** So large that retention has something to trim after a hundred appends. */
const KEPT_RECORD_BYTES = 16_000;
const READERS = 4;
const READ_MS = 2_000;
const READ_DEADLINE_MS = 10_000;
export const KEPT_BYTES = 1024 * 1024;

export interface SoakLife {
  readonly appended: number;
  readonly recreated: number;
  readonly followed: number;
  readonly reconnects: number;
  readonly shortLived: number;
  readonly problems: readonly string[];
  /** Ends every part of the life, then reads back what is left. */
  end(): Promise<void>;
  /** Reads the stream that is never deleted once more, e.g. after a restart. */
  auditLive(server: Server): Promise<void>;
}

export function liveLife(server: Server): SoakLife {
  const count = { appended: 0, recreated: 0, followed: 0, reconnects: 0, shortLived: 0 };
  const problems: string[] = [];
  const state = { isOver: false, liveNext: 0 };
  const over = Promise.withResolvers<null>();
  // Other bytes in every record, as many stored as sent.
  const noise = Buffer.from(crypto.getRandomValues(new Uint8Array(16_384))).toString("base64");
  const record = (n: number, bytes: number): string =>
    JSON.stringify({ n, pad: noise.slice(n % 4_096, (n % 4_096) + bytes) });

  async function append(stream: StreamUnderTest, n: number, bytes: number): Promise<void> {
    const response = await stream.post(record(n, bytes), {
      "producer-id": "soak",
      "producer-epoch": "0",
      "producer-seq": String(n),
    });
    await response.arrayBuffer();
    if (response.ok) count.appended++;
    else problems.push(`append ${n} to ${stream.path}: ${response.status}`);
  }

  /** From the start to the tail: dense, in order, all of them. */
  async function audit(stream: StreamUnderTest, expected: number): Promise<void> {
    const found = (await stream.records()) as { n: number }[];
    const wrongAt = found.findIndex(({ n }, at) => n !== at);
    if (wrongAt !== -1) problems.push(`${stream.path}: record ${found[wrongAt]?.n} at ${wrongAt}`);
    if (found.length !== expected) problems.push(`${stream.path}: ${found.length} of ${expected} acknowledged`);
  }

  /** One name per writer, deleted and made again. */
  async function rotate(writer: number): Promise<void> {
    while (!state.isOver) {
      const stream = await newStream(server, `soak/rotating/${writer}`);
      let n = 0;
      for (; n < RECORDS_PER_STREAM && !state.isOver; n++) {
        await append(stream, n, 200 + ((n * 37) % 1_800));
        await Bun.sleep(APPEND_PAUSE_MS);
      }
      await audit(stream, n);
      const deleted = await stream.delete();
      if (deleted.status !== 204) problems.push(`DELETE ${stream.path}: ${deleted.status}`);
      count.recreated++;
    }
  }

  async function expire(): Promise<void> {
    while (!state.isOver) {
      const name = `soak/short/${count.shortLived++}`;
      await (await newStream(server, name, undefined, { headers: { "stream-ttl": "2" } })).post("[1,2,3]");
      await Bun.sleep(TTL_PAUSE_MS);
    }
  }

  async function trim(): Promise<void> {
    const headers = { "stream-retention": `max-bytes=${KEPT_BYTES}` };
    const stream = await newStream(server, "soak/kept", undefined, { headers });
    for (let n = 0; !state.isOver; n++) {
      await append(stream, n, KEPT_RECORD_BYTES);
      await Bun.sleep(KEPT_PAUSE_MS);
    }
  }

  async function writeLive(stream: StreamUnderTest): Promise<void> {
    while (!state.isOver) {
      await append(stream, state.liveNext++, 100);
      await Bun.sleep(APPEND_PAUSE_MS * 2);
    }
  }

  /** Follows for a while, hangs up, goes on where it was. */
  async function follow(stream: StreamUnderTest): Promise<void> {
    let offset = "-1";
    let next = 0;
    while (!state.isOver) {
      const sse = await openSse(`${stream.url}?offset=${offset}&live=sse`);
      const endMs = performance.now() + READ_MS;
      while (performance.now() < endMs && !state.isOver) {
        const event = await Promise.race([sse.next(READ_DEADLINE_MS), over.promise]);
        if (event === null) break;
        if (event.event !== "data") {
          offset = (JSON.parse(event.data) as SseControl).streamNextOffset;
          continue;
        }
        const records = JSON.parse(event.data) as { n: number }[];
        if (records.some(({ n }, at) => n !== next + at)) problems.push(`SSE from ${offset}: not dense after ${next}`);
        next += records.length;
        count.followed += records.length;
        // Only this says that they are behind the offset.
        offset = (await sse.nextControl(READ_DEADLINE_MS))?.streamNextOffset ?? offset;
      }
      sse.close();
      count.reconnects++;
    }
  }

  const live = newStream(server, "soak/live");
  const parts = [
    ...Array.from({ length: ROTATIONS }, (_, writer) => rotate(writer)),
    expire(),
    trim(),
    live.then(writeLive),
    ...Array.from({ length: READERS }, () => live.then(follow)),
  ].map((part) => part.catch((cause: unknown) => void problems.push(String(cause))));

  const auditLive = (at: Server): Promise<void> => audit(streamAt(at, "soak/live"), state.liveNext);
  return {
    get appended() {
      return count.appended;
    },
    get recreated() {
      return count.recreated;
    },
    get followed() {
      return count.followed;
    },
    get reconnects() {
      return count.reconnects;
    },
    get shortLived() {
      return count.shortLived;
    },
    problems,
    end: async () => {
      state.isOver = true;
      over.resolve(null);
      await Promise.all(parts);
      await auditLive(server);
    },
    auditLive,
  };
}

/** How much of the stream that retention trims can be read. */
export async function keptBytes(server: Server): Promise<number> {
  return (await streamAt(server, "soak/kept").text()).length;
}
