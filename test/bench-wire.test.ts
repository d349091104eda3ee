/**
 * The load client of the benchmarks: a protocol that answers record by record is understood however its bytes are cut, an error
 * among many replies is never taken for an acknowledgement, and what is counted and read back is what was appended. The
 * servers that are programs of the machine are tested where they are installed. And a client that limits a figure is told of.
 */

import { describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { clientWarnings } from "../bench/figures-table.ts";
import { benchServers, type RunningServer } from "../bench/peers.ts";
import { RespReplies } from "../bench/resp-replies.ts";
import type { WireConnection } from "../bench/wire.ts";
import { RECORD_BYTES, streamPath } from "../bench/workloads.ts";

const PIECES = [1, 2, 3, 7, 1_000];
const PAGE =
  "*2\r\n*2\r\n$3\r\n1-0\r\n*2\r\n$1\r\nd\r\n$5\r\na\r\nbc\r\n*2\r\n$3\r\n1-1\r\n*2\r\n$1\r\nd\r\n$0\r\n\r\n";

/** Whether the answer is complete, after each piece; the strings in it. */
function feed(replies: RespReplies, text: string, pieceBytes: number): boolean[] {
  const bytes = Buffer.from(text);
  const pieces = Math.ceil(bytes.length / pieceBytes);
  return Array.from({ length: pieces }, (_, at) =>
    replies.take(bytes.subarray(at * pieceBytes, (at + 1) * pieceBytes)),
  );
}

describe("replies of RESP2", () => {
  test.each(PIECES)("in pieces of %p bytes, an answer is complete with its last byte and not before", (pieceBytes) => {
    const strings: string[] = [];
    const replies = new RespReplies((bytes, from, to, index) => {
      strings[index] = (strings[index] ?? "") + bytes.toString("latin1", from, to);
    });
    for (const text of [PAGE, "*-1\r\n", "$-1\r\n", ":42\r\n", "+OK\r\n"]) {
      replies.expect(1);
      const isWhole = feed(replies, text, pieceBytes);
      expect(isWhole.filter(Boolean)).toEqual([true]);
      expect(isWhole.at(-1)).toBe(true);
      expect(replies.isRefused).toBe(false);
      if (text === ":42\r\n") expect(replies.number).toBe(42);
    }
    expect(strings.slice(0, 5)).toEqual(["1-0", "d", "a\r\nbc", "1-1", "d"]);
  });

  test.each(PIECES)("in pieces of %p bytes, one error among many replies refuses the request", (pieceBytes) => {
    const replies = new RespReplies();
    replies.expect(3);
    expect(feed(replies, "$3\r\n1-0\r\n-ERR no\r\n$3\r\n1-1\r\n", pieceBytes).at(-1)).toBe(true);
    expect(replies.isRefused).toBe(true);
    replies.expect(2);
    expect(feed(replies, "$3\r\n1-0\r\n", pieceBytes).at(-1)).toBe(false);
    expect(replies.isRefused).toBe(false);
  });
});

test("a client that used more than 80 % of a core is warned of, another one is not", () => {
  const measured = [0.79, 0.81].map((figures, round) => ({
    workload: "A2",
    server: "ours",
    form: "burst",
    round,
    figures,
  }));
  const warnings = clientWarnings<number>(measured, (share) => share);
  expect(warnings).toEqual([expect.stringContaining("A2 burst on ours, round 1: the client used 81 % of a core")]);
});

/** Passes answers on in small pieces; how many there were. */
async function startCutter(target: string, pieceBytes: number) {
  const upstream = new URL(target);
  const open = new Set<Socket>();
  let pieces = 0;
  const listener = createServer((client) => {
    const server = connect({ host: upstream.hostname, port: Number(upstream.port), noDelay: true });
    client.setNoDelay(true);
    for (const socket of [client, server]) open.add(socket.on("error", () => socket.destroy()));
    client.on("data", (bytes) => server.write(bytes));
    client.on("close", () => server.destroy());
    server.on("close", () => client.destroy());
    server.on("data", (bytes: Buffer) => {
      for (let at = 0; at < bytes.length; at += pieceBytes, pieces++) client.write(bytes.subarray(at, at + pieceBytes));
    });
  });
  await new Promise<void>((resolve) => listener.listen(0, "127.0.0.1", resolve));
  const address = listener.address();
  if (address === null || typeof address === "string") throw new Error("the cutter has no port");
  return {
    url: `http://127.0.0.1:${address.port}`,
    pieces: () => pieces,
    close() {
      listener.close();
      for (const socket of open) socket.destroy();
    },
  };
}

function statusOf(connection: WireConnection, request: Uint8Array): Promise<number> {
  return new Promise((resolve) => connection.start(request, resolve));
}

const CONNECTIONS = 3;
const RECORDS = 50;
const REQUESTS = 30;

/** Appends to two streams from several connections at once; the records that each was acknowledged. */
async function appendTo(url: string, { wire }: RunningServer): Promise<readonly number[]> {
  for (const stream of [0, 1]) {
    const maker = await wire.open(url, 0, 1);
    const request = wire.createRequest(url, stream, 0);
    if (request !== null) expect(await statusOf(maker, request)).toBe(200);
    maker.close();
  }
  const acked = [0, 0];
  const writer = wire.appendWriter(url, CONNECTIONS, RECORDS);
  const append = async (index: number): Promise<void> => {
    const connection = await wire.open(url, index, RECORDS);
    for (let turn = 0; turn < REQUESTS; turn++) {
      const stream = (index + turn) % 2;
      expect(await statusOf(connection, writer.next(index, stream))).toBe(200);
      acked[stream] = (acked[stream] ?? 0) + RECORDS;
    }
    connection.close();
  };
  await Promise.all(Array.from({ length: CONNECTIONS }, (_, index) => append(index)));
  return acked;
}

const programs = (await benchServers()).filter(({ wire }) => wire.follows !== null);

describe.each(programs.map((server) => [server.name, server] as const))("%s", (_, server) => {
  test.skipIf(server.lacks !== null)("acknowledges, counts and reads back the same records", async () => {
    const directory = mkdtempSync(join(tmpdir(), "streams-wire-"));
    const running = await server.start(directory);
    const cutter = await startCutter(running.url, 5);
    try {
      const acked = await appendTo(cutter.url, running);
      const single = await running.wire.open(cutter.url, 0, 1);
      expect(await statusOf(single, running.wire.appendRequest(cutter.url, streamPath(1), "{}"))).toBe(200);
      single.close();
      const reader = await running.wire.openReader(cutter.url, 0);
      expect([await reader.count(0), await reader.count(1)]).toEqual([acked[0] ?? 0, (acked[1] ?? 0) + 1]);
      expect(await reader.readAll(0)).toBe((acked[0] ?? 0) * RECORD_BYTES);
      expect(await reader.readAll(1)).toBe((acked[1] ?? 0) * RECORD_BYTES + 2);
      reader.close();
      // The control: answers really came cut.
      expect(cutter.pieces()).toBeGreaterThan(((acked[0] ?? 0) * RECORD_BYTES) / 5);

      const broken = await running.wire.open(cutter.url, 0, 1);
      cutter.close();
      expect(await statusOf(broken, running.wire.appendRequest(cutter.url, streamPath(0), "{}"))).toBe(0);
    } finally {
      cutter.close();
      await running.stop();
      rmSync(directory, { recursive: true, force: true });
    }
  });

  test.skipIf(server.lacks !== null)("what the server refuses is not acknowledged", async () => {
    const directory = mkdtempSync(join(tmpdir(), "streams-wire-"));
    const running = await server.start(directory);
    try {
      const connection = await running.wire.open(running.url, 0, 1);
      const status = await statusOf(connection, Buffer.from("NONSENSE\r\n"));
      expect([0, 500]).toContain(status);
      connection.close();
    } finally {
      await running.stop();
      rmSync(directory, { recursive: true, force: true });
    }
  });
});
