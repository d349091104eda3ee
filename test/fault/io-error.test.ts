/**
 * A disk that fails. A sync that answers EIO ends the server at once (what the page cache then holds can no longer be
 * trusted), with the reason on stderr and without another ack. A full disk only refuses appends, and passes.
 * Needs strace for the first, root and loop mounts for the second; says so where it cannot run.
 */

import { expect, test } from "bun:test";
import { rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { call } from "../support/streams.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { until } from "../support/wait.ts";
import { createLoopDisk, loopDiskObstacle } from "./loop-disk.ts";
import { writerGroup } from "./writers.ts";

const FAIL_STOP_MS = 2_000;
const JSON_TYPE = { "content-type": "application/json" };

const straceObstacle = await findStraceObstacle();
if (straceObstacle !== null) console.log(`sync error: not run here, ${straceObstacle}`);

/** With one writer no earlier ack can still be on its way when the sync fails: then there must be none after it. */
test.if(straceObstacle === null).each([1, 8])(
  "EIO from a sync, %d writers: the server ends itself, acknowledges nothing more, has everything after a restart",
  async (writers) => {
    const server = await startServer();
    try {
      const group = writerGroup({ writers, streams: 2, idempotent: true, paddingBytes: 300 });
      await group.createStreams(server);
      const fault = (async () => {
        await until("writers are at work", () => group.ackedCount > 200);
        return failSyncs(server);
      })();
      await group.write(server, fault);
      const { injected, acksAfterError, endedAfterMs } = await fault;
      expect(injected).toBeGreaterThan(0);
      expect(acksAfterError).toBeLessThanOrEqual(writers === 1 ? 0 : writers);
      expect(endedAfterMs).toBeLessThan(FAIL_STOP_MS);
      expect(server.stderr()).toMatch(/EIO|I\/O error|input\/output error/i);
      expect(await server.kill("SIGKILL")).toBeNull();

      const restarted = await startServer({ dataDir: server.dataDir });
      const { acked, unackedPresent, ...problems } = await group.audit(restarted);
      expect(problems).toEqual({ lost: 0, duplicated: 0, outOfOrder: 0, firstProblem: null });
      expect(unackedPresent).toBeLessThanOrEqual(writers);
      await group.finish(restarted);
      expect((await group.audit(restarted)).duplicated).toBe(0);
      await restarted.stop();
      console.log(`sync error: ${acked} acknowledged, 0 lost; ended after ${Math.round(endedAfterMs)} ms`);
    } finally {
      await server.kill("SIGKILL");
      await server.remove();
    }
  },
  30_000,
);

const diskObstacle = await loopDiskObstacle();
if (diskObstacle !== null) console.log(`full disk: not run here, ${diskObstacle}`);

test.if(diskObstacle === null)(
  "a full disk: appends get 507, reads go on, and appends come back with the space, without a restart",
  async () => {
    const disk = await createLoopDisk();
    let server: TestServer | null = null;
    try {
      server = await startServer({ dataDir: join(disk.mountPoint, "data") });
      const { url } = server;
      // Large records: commits are being sealed and the log checkpointed when the room runs out.
      const group = writerGroup({ writers: 4, streams: 2, idempotent: true, paddingBytes: 60_000 });
      await group.createStreams(server);
      const writing = group.write(server, Bun.sleep(20_000));
      await until("writers are at work", () => group.ackedCount > 300);
      const ballast = await fillDisk(disk.mountPoint);
      await writing;
      expect([...group.refusals.keys()]).toEqual([507]);
      const before = group.ackedCount;
      const append = (): Promise<Response> =>
        call("POST", `${url}/v1/stream/fault/0`, {
          body: `{"w":-1,"pad":"${"x".repeat(200_000)}"}`,
          headers: JSON_TYPE,
        });
      await until("appends are refused", async () => (await append()).status === 507, 15_000);
      expect((await call("GET", `${url}/v1/stream/fault/1?offset=-1`)).status).toBe(200);
      expect((await group.audit(server)).lost).toBe(0);

      await rm(ballast);
      await until("appends come back", async () => (await append()).status === 204, 10_000);
      await group.finish(server);
      const { acked, ...audit } = await group.audit(server);
      expect(audit).toEqual({ lost: 0, duplicated: 0, outOfOrder: 0, unackedPresent: 0, firstProblem: null });
      expect(acked).toBeGreaterThan(before);
      await server.stop();
    } finally {
      await server?.kill("SIGKILL");
      await disk.destroy();
    }
  },
  60_000,
);

/** Whether strace may attach to a process of ours. */
async function findStraceObstacle(): Promise<string | null> {
  if (Bun.which("strace") === null) return "needs strace";
  const tried = Bun.spawn(["strace", "-f", "-o", "/dev/null", "true"], { stdout: "ignore", stderr: "pipe" });
  const [stderr, code] = await Promise.all([tried.stderr.text(), tried.exited]);
  return code === 0 ? null : `strace cannot trace: ${stderr.trim()}`;
}

interface SyncFault {
  readonly injected: number;
  /** Answers 2xx that left after the first failed sync. */
  readonly acksAfterError: number;
  readonly endedAfterMs: number;
}

/** From now on every sync of the server fails. Waits for the server's end. */
async function failSyncs(server: TestServer): Promise<SyncFault> {
  const log = join(tmpdir(), `streams-strace-${server.pid}.log`);
  const filters = ["trace=fsync,fdatasync,sendto,write,writev", "inject=fsync,fdatasync:error=EIO"];
  const tracer = Bun.spawn(
    ["strace", "-f", "-qq", "-o", log, "-p", `${server.pid}`, ...filters.flatMap((filter) => ["-e", filter])],
    { stdout: "ignore", stderr: "ignore" },
  );
  const linesNow = async (): Promise<string[]> =>
    ((await Bun.file(log).exists()) ? await Bun.file(log).text() : "").split("\n");
  try {
    await until("a sync failed", async () => (await linesNow()).some(isInjected), 10_000);
    const failedAt = performance.now();
    await until("the server ended", () => !isAlive(server.pid), 10_000);
    const endedAfterMs = performance.now() - failedAt;
    await tracer.exited;
    const lines = await linesNow();
    const afterError = lines.slice(lines.findIndex(isInjected) + 1);
    return {
      injected: lines.filter(isInjected).length,
      acksAfterError: afterError.filter((line) => line.includes('"HTTP/1.1 2')).length,
      endedAfterMs,
    };
  } finally {
    tracer.kill("SIGKILL");
    await tracer.exited;
    await rm(log, { force: true });
  }
}

const isInjected = (line: string): boolean => line.includes("(INJECTED)");

function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ESRCH") return false;
    throw cause;
  }
}

/** Takes all the room there is, in ever smaller pieces. Returns the file to delete. */
async function fillDisk(mountPoint: string): Promise<string> {
  const ballast = join(mountPoint, "ballast");
  let size = 0;
  for (let piece = 1024 ** 3; piece >= 4096;) {
    const { exitCode } = await Bun.$`fallocate -o ${size} -l ${piece} ${ballast}`.nothrow().quiet();
    if (exitCode === 0) size += piece;
    else piece /= 4;
  }
  return ballast;
}
