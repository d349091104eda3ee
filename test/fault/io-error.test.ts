/**
 * A disk that fails. A sync that answers EIO ends the server at once (what the page cache then holds can no longer be
 * trusted), with the reason on stderr and without another ack. A full disk only refuses appends, and passes.
 * Needs strace for the first, root and loop mounts for the second; says so where it cannot run.
 */

import { expect, test } from "bun:test";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { call } from "../support/streams.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { until } from "../support/wait.ts";
import { createLoopDisk, loopDiskObstacle } from "./loop-disk.ts";
import { isAlive } from "./observation.ts";
import { attach, straceObstacle } from "./strace.ts";
import { writerGroup } from "./writers.ts";

const FAIL_STOP_MS = 2_000;
const RECOVERY_LIMIT_MS = 2_000;
const JSON_TYPE = { "content-type": "application/json" };

const traceObstacle = await straceObstacle();
if (traceObstacle !== null) console.log(`sync error: not run here, ${traceObstacle}`);

/** With one writer no earlier ack can still be on its way when the sync fails: then there must be none after it. */
test.if(traceObstacle === null).each([1, 8])(
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
  60_000,
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
      const refused = await until(
        "appends are refused",
        async () => {
          const response = await append();
          return response.status === 507 && response;
        },
        15_000,
      );
      expect(Number(refused.headers.get("retry-after"))).toBeGreaterThan(0);
      expect((await call("GET", `${url}/v1/stream/fault/1?offset=-1`)).status).toBe(200);
      expect((await group.audit(server)).lost).toBe(0);

      // The server has looked at the disk: from now on it refuses by itself, and has to look again.
      await until("not ready", async () => (await call("GET", `${url}/ready`)).status === 503);

      await rm(ballast);
      const freeMs = performance.now();
      await until("appends come back", async () => (await append()).status === 204, 10_000);
      const backMs = performance.now() - freeMs;
      console.log(`full disk: appends back ${Math.round(backMs)} ms after there was room (limit ${RECOVERY_LIMIT_MS})`);
      expect(backMs).toBeLessThan(RECOVERY_LIMIT_MS);
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

interface SyncFault {
  readonly injected: number;
  /** Answers 2xx that left after the first failed sync. */
  readonly acksAfterError: number;
  readonly endedAfterMs: number;
}

/** From now on every sync of the server fails. Waits for the server's end. */
async function failSyncs(server: TestServer): Promise<SyncFault> {
  const tracer = await attach(server, { calls: ["fsync", "fdatasync"], fault: "error=EIO" });
  try {
    await until("a sync failed", async () => (await tracer.injected()).length > 0, 10_000);
    const failedAt = performance.now();
    await until("the server ended", () => !isAlive(server.pid), 10_000);
    const endedAfterMs = performance.now() - failedAt;
    return {
      injected: (await tracer.injected()).length,
      acksAfterError: await tracer.acksAfterFault("log.db-wal"),
      endedAfterMs,
    };
  } finally {
    await tracer.close();
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
