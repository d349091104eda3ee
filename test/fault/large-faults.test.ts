/**
 * A disk that fails under a file of large bodies, call by call: while one is written, a full disk refuses that append with 507 and leaves
 * nothing of it, and any other error ends the server; while one is read, no answer is wrong. After a start without the fault everything
 * acknowledged is there. `LARGE_FAULTS=all` for every call. Needs strace; says so where it cannot run.
 */

import { describe, expect, test } from "bun:test";
import { join } from "node:path";
import type { TestServer } from "../support/server.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { call, newStream, nextOffset, streamAt } from "../support/streams.ts";
import { until } from "../support/wait.ts";
import {
  bytesOf,
  BYTES_TYPE,
  fileAt,
  filesOf,
  lastCommitOf,
  LARGE_BYTES,
  noise,
  readOutcome,
  sameBytes,
  sealAll,
} from "./large-world.ts";
import { isAlive } from "./observation.ts";
import { attach, straceObstacle, type Tracer } from "./strace.ts";

const obstacle = await straceObstacle();
if (obstacle !== null) console.log(`faults of large files: not run here, ${obstacle}`);

/** A test makes no more commits. */
const FILES = 60;
const END_LIMIT_MS = 2_000;

const start = temporaryServers();

/** From now on such calls on the files of `large/`, and on the directory itself, fail. */
async function failing(server: TestServer, calls: readonly string[], error: string): Promise<Tracer> {
  const files = Array.from({ length: FILES }, (_, index) => fileAt(server.dataDir, index + 1));
  return attach(server, { calls, fault: `error=${error}`, paths: [join(server.dataDir, "large"), ...files] });
}

/** A server with one large body in a stream. */
async function prepared(): Promise<{ server: TestServer; first: Uint8Array; offset: string }> {
  const server = await start();
  const stream = await newStream(server, "large", BYTES_TYPE);
  await newStream(server, "small");
  const first = noise(LARGE_BYTES);
  const answer = await stream.post(first);
  expect(answer.status).toBe(204);
  expect(filesOf(server.dataDir)).toHaveLength(1);
  return { server, first, offset: nextOffset(answer) };
}

/** Appends until one was refused or broken: the tracer may not be there yet at the first. Returns what was acknowledged, and the last status. */
async function appendUntilFault(server: TestServer): Promise<{ acked: readonly Uint8Array[]; status: number | null }> {
  const acked: Uint8Array[] = [];
  const status = await until("an append met the fault", async () => {
    const body = noise(LARGE_BYTES);
    const answer = await streamAt(server, "large", BYTES_TYPE)
      .post(body)
      .then(
        (response) => response.status,
        () => "broken" as const,
      );
    if (answer === 204) acked.push(body);
    return answer !== 204 && answer;
  });
  return { acked, status: status === "broken" ? null : status };
}

async function storedBytes(server: TestServer): Promise<number> {
  const details = await (await call("GET", `${server.url}/v1/server/_details`)).json();
  return (details as { storage: { storedBytes: number } }).storage.storedBytes;
}

const ALL = process.env["LARGE_FAULTS"] === "all";
const WRITING: readonly (readonly [what: string, calls: readonly string[]])[] = [
  ["openat", ["openat"]],
  ["write", ["write", "pwrite64", "writev", "pwritev"]],
  ["fdatasync of the file", ["fdatasync"]],
  ["fsync of the directory", ["fsync"]],
];

const READING: readonly (readonly [what: string, calls: readonly string[]])[] = [
  ["openat", ["openat"]],
  ["read", ["read", "pread64", "readv", "preadv", "preadv2"]],
];

describe.if(obstacle === null)("while a file is written", () => {
  test.each(ALL ? WRITING : WRITING.slice(1, 3))(
    "ENOSPC from %s: 507, nothing is left of it, small records go on, large ones come back",
    async (_what, calls) => {
      const { server, first } = await prepared();
      const tracer = await failing(server, calls, "ENOSPC");
      let acked: readonly Uint8Array[];
      try {
        const refused = await appendUntilFault(server);
        expect(refused.status).toBe(507);
        expect((await tracer.injected()).length).toBeGreaterThan(0);
        ({ acked } = refused);
        expect(filesOf(server.dataDir)).toHaveLength(1 + acked.length);
        expect((await streamAt(server, "small").post("[1]")).status).toBe(204);
      } finally {
        await tracer.close();
      }
      const later = noise(LARGE_BYTES);
      expect((await streamAt(server, "large", BYTES_TYPE).post(later)).status).toBe(204);
      const all = Buffer.concat([first, ...acked, later]);
      // What is stored is measured once a second: it is the files at least.
      await until("all files are counted", async () => (await storedBytes(server)) >= all.length);
      expect(sameBytes(await bytesOf(server, "large"), all)).toBe(true);
      await server.kill("SIGKILL");
      const again = await start({ dataDir: server.dataDir });
      expect(sameBytes(await bytesOf(again, "large"), all)).toBe(true);
      expect(filesOf(server.dataDir)).toHaveLength(2 + acked.length);
    },
    60_000,
  );

  test.each(ALL ? WRITING : WRITING.slice(2))(
    "EIO from %s: the server ends itself and says why, and acknowledges nothing more",
    async (_what, calls) => {
      const { server, first } = await prepared();
      const tracer = await failing(server, calls, "EIO");
      let acked: readonly Uint8Array[];
      try {
        const ended = await appendUntilFault(server);
        expect(ended.status).toBeNull();
        ({ acked } = ended);
        await until("the server ended", () => !isAlive(server.pid), END_LIMIT_MS);
        expect(server.stderr()).toMatch(/^fatal: .*(?:EIO|i\/o error)/im);
      } finally {
        await tracer.close();
      }
      const again = await start({ dataDir: server.dataDir });
      const all = Buffer.concat([first, ...acked]);
      expect(sameBytes(await bytesOf(again, "large"), all)).toBe(true);
      const last = await lastCommitOf(again);
      expect(filesOf(server.dataDir).filter((file) => file > last)).toEqual([]);
    },
    60_000,
  );
});

describe.if(obstacle === null)("while a file is read", () => {
  test.each(ALL ? READING : READING.slice(1))(
    "EIO from %s: no answer is wrong or hangs, and the record is whole when the fault is over",
    async (_what, calls) => {
      const { server, first, offset } = await prepared();
      await sealAll(server);
      const second = noise(LARGE_BYTES);
      expect((await streamAt(server, "large", BYTES_TYPE).post(second)).status).toBe(204);
      const tracer = await failing(server, calls, "EIO");
      let told: string;
      try {
        told = await until("a read met the fault", async () => {
          const seen = await readOutcome(server, "large");
          return (await tracer.injected()).length > 0 && seen;
        });
        expect(told).toMatch(/^(?:500 |broken off)/);
      } finally {
        await tracer.close();
      }
      console.log(`EIO while a large file is read: ${told}; the server ${isAlive(server.pid) ? "went on" : "ended"}`);
      if (!isAlive(server.pid)) expect(server.stderr()).toMatch(/^fatal: .+/m);
      else expect(sameBytes(await bytesOf(server, "large", `offset=${offset}`), second)).toBe(true);
      await server.kill("SIGKILL");
      const again = await start({ dataDir: server.dataDir });
      expect(sameBytes(await bytesOf(again, "large"), Buffer.concat([first, second]))).toBe(true);
    },
    60_000,
  );
});
