/**
 * Bodies so large that they lie in files of their own (`large/<commit number>`): a file is there before the commit that refers to it, and
 * goes only after the transaction that deleted its last record; whatever is killed in between, nothing acknowledged is lost or doubled and no
 * file stays behind. Retention, forks and streams that share a file know that. A missing or damaged file is an error that names its
 * records. `LARGE_ROUNDS` asks for more kills, `LARGE_REMOVED` for more files removed under readers. Every test sees by `large/` that its bodies did lie in files.
 */

import { describe, expect, test } from "bun:test";
import { readFileSync, rmSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { runCommand } from "../support/command.ts";
import type { TestServer } from "../support/server.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { call, errorOf, newStream, nextOffset, streamAt } from "../support/streams.ts";
import { rejection, until } from "../support/wait.ts";
import {
  appendTogether,
  bytesOf,
  BYTES_TYPE,
  fileAt,
  filesOf,
  fillUntil,
  LARGE_BYTES,
  lastCommitOf,
  lookInto,
  noise,
  readOutcome,
  sameBytes,
  sealAll,
  sharedFiles,
} from "./large-world.ts";
import { writerGroup } from "./writers.ts";

const ROUNDS = Number(process.env["LARGE_ROUNDS"] ?? 3);
const WRITERS = 6;
const ACKS_PER_ROUND = 30;
/** Files that retention removes while others read. */
const READ_WHILE_REMOVED = Number(process.env["LARGE_REMOVED"] ?? 40);
/** No commit of a test has such a number. */
const PLANTED = 999_999_999;
const SOUND = { lost: 0, duplicated: 0, outOfOrder: 0, firstProblem: null };

const start = temporaryServers();

test(
  `kill -9 under load, ${ROUNDS} rounds: nothing lost, nothing twice, no file of a commit that was never made`,
  async () => {
    let server = await start();
    const { dataDir } = server;
    const group = writerGroup({ writers: WRITERS, streams: 3, idempotent: true, paddingBytes: LARGE_BYTES });
    await group.createStreams(server);
    let orphans = 0;
    for (let round = 0; round < ROUNDS; round++) {
      const enough = group.ackedCount + ACKS_PER_ROUND;
      const killed = until("enough is written", () => group.ackedCount > enough, 20_000).then(() =>
        server.kill("SIGKILL"),
      );
      await group.write(server, killed);
      await killed;
      writeFileSync(fileAt(dataDir, PLANTED + round), "of a commit that was never made");
      const found = filesOf(dataDir);
      server = await start({ dataDir });
      const last = await lastCommitOf(server);
      orphans += found.filter((file) => file > last && file < PLANTED).length;
      expect(filesOf(dataDir).filter((file) => file > last)).toEqual([]);
      expect(filesOf(dataDir).length).toBeGreaterThan(0);
      const { acked: _acked, unackedPresent, ...problems } = await group.audit(server);
      expect({ round, ...problems }).toEqual({ round, ...SOUND });
      expect(unackedPresent).toBeLessThanOrEqual(WRITERS);
    }
    await group.finish(server);
    const { acked, ...audit } = await group.audit(server);
    expect(audit).toEqual({ ...SOUND, unackedPresent: 0 });
    console.log(
      `large bodies: ${ROUNDS} kills, ${acked} acknowledged, 0 lost, 0 twice; ${orphans} files of no commit removed`,
    );
    await server.stop();
    await expectNothingFound(dataDir);
  },
  30_000 + ROUNDS * 5_000,
);

describe("files go when nothing refers to them any more", () => {
  test("of streams that were deleted, with a kill -9 right after the answer", async () => {
    let server = await start();
    const { dataDir } = server;
    const sealed = await filled(server, "sealed", 6);
    await sealAll(server);
    const hot = await filled(server, "hot", 6);
    expect(filesOf(dataDir)).toHaveLength(12);
    for (const { name } of [sealed, hot]) expect((await streamAt(server, name).delete()).status).toBe(204);
    await server.kill("SIGKILL");
    server = await start({ dataDir });
    for (const { name } of [sealed, hot]) expect((await streamAt(server, name).get()).status).toBe(404);
    await fillUntil(server, "the files are gone", () => filesOf(dataDir).length === 0);
    await server.stop();
    await expectNothingFound(dataDir);
  }, 60_000);

  test("below the retained start, and no others", async () => {
    const server = await start();
    const stream = await newStream(server, "trimmed", BYTES_TYPE, {
      headers: { "stream-retention": "max-bytes=1MiB" },
    });
    const bodies: Uint8Array[] = [];
    for (let n = 0; n < 40; n++) {
      const body = noise(LARGE_BYTES);
      bodies.push(body);
      expect((await stream.post(body)).status).toBe(204);
    }
    const most = Math.ceil((1024 * 1024) / LARGE_BYTES) + 1;
    await fillUntil(server, "retention has freed files", () => filesOf(server.dataDir).length <= most);
    const kept = await bytesOf(server, "trimmed", "");
    expect(kept.length).toBeGreaterThanOrEqual(1024 * 1024 - LARGE_BYTES);
    expect(sameBytes(kept, Buffer.concat(bodies).subarray(-kept.length))).toBe(true);
    const again = await restarted(server);
    expect(sameBytes(await bytesOf(again, "trimmed", ""), kept)).toBe(true);
    await again.stop();
    await expectNothingFound(server.dataDir);
  }, 60_000);

  test("under readers: nobody is told of damage, and what comes is whole and in order", async () => {
    const server = await start();
    const headers = { "stream-retention": "max-bytes=1MiB" };
    const stream = await newStream(server, "trimmed", BYTES_TYPE, { headers });
    const state = { sent: 0, isOver: false, removed: 0 };
    const write = async (): Promise<void> => {
      while (!state.isOver) {
        const body = noise(LARGE_BYTES);
        new DataView(body.buffer).setUint32(0, state.sent++);
        expect((await stream.post(body)).status).toBe(204);
        state.removed = state.sent - filesOf(server.dataDir).length;
      }
    };
    const seen = new Map<string, number>();
    const read = async (query: string): Promise<void> => {
      while (!state.isOver) {
        const outcome = await inOrder(stream.get(query));
        seen.set(outcome, (seen.get(outcome) ?? 0) + 1);
      }
    };
    const work = [write(), read(""), read("offset=-1"), read("tail=3")];
    await until("many files went under the readers", () => state.removed > READ_WHILE_REMOVED, 40_000);
    state.isOver = true;
    await Promise.all(work);
    console.log(
      `large bodies: ${state.removed} files removed under readers: ${JSON.stringify(Object.fromEntries(seen))}`,
    );
    expect([...seen.keys()].filter((outcome) => !["whole", "410", "broken off"].includes(outcome))).toEqual([]);
    expect(seen.get("whole") ?? 0).toBeGreaterThan(0);
    expect(server.stderr()).not.toMatch(/damaged/);
  }, 60_000);

  test("not while a fork reads them: its source is deleted, then the fork", async () => {
    const server = await start();
    const source = await filled(server, "source", 4);
    const headers = { "stream-forked-from": "/v1/stream/source", "stream-fork-offset": source.offsets[2] ?? "" };
    expect((await call("PUT", `${server.url}/v1/stream/fork`, { headers })).status).toBe(201);
    const own = noise(LARGE_BYTES);
    expect((await streamAt(server, "fork", BYTES_TYPE).post(own)).status).toBe(204);
    const expected = Buffer.concat([...source.bodies.slice(0, 3), own]);
    expect((await streamAt(server, "source").delete()).status).toBe(204);
    await sealAll(server);
    expect(sameBytes(await bytesOf(server, "fork"), expected)).toBe(true);
    const again = await restarted(server);
    await sealAll(again);
    expect(sameBytes(await bytesOf(again, "fork"), expected)).toBe(true);
    expect((await streamAt(again, "fork").delete()).status).toBe(204);
    await fillUntil(again, "the files are gone", () => filesOf(again.dataDir).length === 0);
    await again.stop();
    await expectNothingFound(server.dataDir);
  }, 60_000);

  test.each(["before it is sealed", "after it was sealed"])(
    "not while another stream of the same commit has records there; one is deleted %s",
    async (when) => {
      const server = await start();
      const { dataDir } = server;
      const names = ["a", "b", "c", "d"];
      for (const name of names) await newStream(server, name, BYTES_TYPE);
      const bodies = await appendTogether(server, names);
      expect(filesOf(dataDir).length).toBeLessThan(names.length);
      const early = when.startsWith("before");
      if (!early) {
        await sealAll(server);
        expect(sharedFiles(dataDir).length).toBeGreaterThan(0);
      }
      // The first append travelled alone: the next ones share.
      const gone = ["b", "d"];
      for (const name of gone) expect((await streamAt(server, name).delete()).status).toBe(204);
      await sealAll(server);
      if (!early) await sealAll(server);
      const expectKept = async (at: { readonly url: string }): Promise<void> => {
        for (const [index, name] of names.entries()) {
          if (gone.includes(name)) expect((await streamAt(at, name).get()).status).toBe(404);
          else expect(sameBytes(await bytesOf(at, name), bodies[index] ?? new Uint8Array())).toBe(true);
        }
      };
      await expectKept(server);
      const again = await restarted(server);
      await expectKept(again);
      for (const name of ["a", "c"]) expect((await streamAt(again, name).delete()).status).toBe(204);
      await fillUntil(again, "the files are gone", () => filesOf(dataDir).length === 0);
    },
    60_000,
  );
});

describe("a file that is missing or damaged is told", () => {
  const WAYS: readonly (readonly [way: string, damage: (path: string) => void])[] = [
    ["missing", (path) => rmSync(path)],
    ["a flipped bit", flip],
    ["cut off", (path) => truncateSync(path, statSync(path).size - 1)],
    ["empty", (path) => truncateSync(path, 0)],
  ];

  test("sealed: reads of its records answer 500 and name them, others go on; the doctor names them too", async () => {
    const server = await start();
    const streams = [];
    for (const [index, [way, damage]] of WAYS.entries()) {
      const before = new Set(filesOf(server.dataDir));
      const stream = await filled(server, `harmed/${index}`, 3);
      const [, file = expect.unreachable("three files")] = filesOf(server.dataDir).filter((each) => !before.has(each));
      streams.push({ ...stream, file, way, damage });
    }
    await sealAll(server);
    for (const { file, damage } of streams) damage(fileAt(server.dataDir, file));
    for (const stream of streams) await expectSecondIsTold(server, stream);
    const again = await restarted(server);
    for (const stream of streams) await expectSecondIsTold(again, stream);
    await again.stop();
    const { code, stdout } = await runCommand(["doctor", "--data-dir", server.dataDir]);
    expect(code).toBe(1);
    for (const { name, file } of streams) {
      expect(stdout).toMatch(new RegExp(`error \\[batch\\] record 1 of stream \\d+ \\(${name}\\).*large/${file}\\b`));
    }
  }, 60_000);

  test.each(WAYS.slice(0, ROUNDS > 3 ? WAYS.length : 1))(
    "%s, not sealed: a start is refused and names the commits",
    async (_way, damage) => {
      const server = await start();
      const { bodies } = await filled(server, "harmed", 3);
      const [, , third = expect.unreachable("three files")] = filesOf(server.dataDir);
      await server.stop();
      damage(fileAt(server.dataDir, third));
      const { message } = await rejection(start({ dataDir: server.dataDir }));
      expect(message).toContain(`commits ${third} to`);
      expect(message).toContain(`large/${third}`);
      const accepting = await start({ dataDir: server.dataDir, args: ["--accept-loss"] });
      expect(sameBytes(await bytesOf(accepting, "harmed"), Buffer.concat(bodies.slice(0, 2)))).toBe(true);
      expect(filesOf(server.dataDir)).not.toContain(third);
      await accepting.stop();
      await (await start({ dataDir: server.dataDir })).stop();
    },
    60_000,
  );
});

/** `whole`: bodies with numbers that follow each other, and nothing else. */
async function inOrder(answer: Promise<Response>): Promise<string> {
  try {
    const response = await answer;
    const bytes = await response.bytes();
    if (response.status !== 200) return String(response.status);
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
    if (bytes.length % LARGE_BYTES !== 0) return `${bytes.length} bytes`;
    for (let at = LARGE_BYTES; at < bytes.length; at += LARGE_BYTES) {
      if (view.getUint32(at) !== view.getUint32(at - LARGE_BYTES) + 1) return `a gap at ${at}`;
    }
    return "whole";
  } catch (cause) {
    if (!(cause instanceof Error)) throw cause;
    return "broken off";
  }
}

/** The middle one of three records is told as damaged, and is never a gap. */
async function expectSecondIsTold(
  server: TestServer,
  { name, bodies, offsets, way }: Filled & { way: string },
): Promise<void> {
  const harmed = streamAt(server, name, BYTES_TYPE);
  const refused = await harmed.get(`offset=${offsets[0]}`);
  expect({ way, status: refused.status }).toEqual({ way, status: 500 });
  expect(await errorOf(refused)).toMatchObject({
    code: "records-damaged",
    message: expect.stringContaining("records 1 to 1 of stream"),
  });
  expect(sameBytes(await bytesOf(server, name, `offset=${offsets[1]}`), bodies[2] ?? new Uint8Array())).toBe(true);
  // From the start the answer has begun when the damage is met: it breaks off, and is never a shorter or another one.
  expect({ way, outcome: await readOutcome(server, name) }).toEqual({
    way,
    outcome: expect.stringMatching(/^(?:500 |broken off)/),
  });
}

interface Filled {
  readonly name: string;
  readonly bodies: readonly Uint8Array[];
  /** After each body. */
  readonly offsets: readonly string[];
}

/** A new stream with so many large bodies, one commit each. */
async function filled(server: TestServer, name: string, count: number): Promise<Filled> {
  const stream = await newStream(server, name, BYTES_TYPE);
  const bodies = Array.from({ length: count }, () => noise(LARGE_BYTES));
  const offsets: string[] = [];
  for (const body of bodies) {
    const answer = await stream.post(body);
    expect(answer.status).toBe(204);
    offsets.push(nextOffset(answer));
  }
  return { name, bodies, offsets };
}

async function restarted(server: TestServer): Promise<TestServer> {
  await server.kill("SIGKILL");
  return start({ dataDir: server.dataDir });
}

function flip(path: string): void {
  const bytes = readFileSync(path);
  bytes[100] = (bytes[100] ?? 0) ^ 4;
  writeFileSync(path, bytes);
}

/** The doctor finds nothing, no file without a record among it; every file is one that something refers to. */
async function expectNothingFound(dataDir: string): Promise<void> {
  const { code, stdout } = await runCommand(["doctor", "--data-dir", dataDir, "--json"]);
  expect({ code, found: stdout.trim().split("\n").slice(0, -1) }).toEqual({ code: 0, found: [] });
  const select =
    "SELECT DISTINCT file FROM batches WHERE file IS NOT NULL UNION SELECT no FROM commits WHERE substr(hdr, 1, 1) = x'02'";
  const referred = lookInto(dataDir, (db) => db.query<{ file: number }, []>(select).all()).map(({ file }) => file);
  expect(new Set(filesOf(dataDir))).toEqual(new Set(referred));
}
