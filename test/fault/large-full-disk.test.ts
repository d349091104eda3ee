/**
 * A disk that fills up under large bodies: those that do not fit get 507 and leave nothing in `large/`, reads go on, and when there is room
 * again appends come back without a restart. Needs root and loop mounts; says so where it cannot run.
 */

import { expect, test } from "bun:test";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { startServer, type TestServer } from "../support/server.ts";
import { call, newStream } from "../support/streams.ts";
import { until } from "../support/wait.ts";
import { bytesOf, BYTES_TYPE, fileAt, filesOf, lastCommitOf, LARGE_BYTES, noise } from "./large-world.ts";
import { createLoopDisk, loopDiskObstacle } from "./loop-disk.ts";

const obstacle = await loopDiskObstacle();
if (obstacle !== null) console.log(`full disk, large bodies: not run here, ${obstacle}`);

const BEFORE = 10;
/** Left free: some bodies fit, and then none does, sooner than the server looks at the disk. */
const ROOM_BYTES = 1_000_000;
const AT_ONCE = 6;

test.if(obstacle === null)(
  "a full disk: 507, reads go on, nothing is left of what was refused, and appends come back",
  async () => {
    const disk = await createLoopDisk();
    let server: TestServer | null = null;
    try {
      server = await startServer({ dataDir: join(disk.mountPoint, "data") });
      const { dataDir } = server;
      const stream = await newStream(server, "large", BYTES_TYPE);
      const small = await newStream(server, "small");
      expect((await small.post("[1,2,3]")).status).toBe(204);
      let acked = 0;
      for (; acked < BEFORE; acked++) expect((await stream.post(numbered(acked))).status).toBe(204);

      const ballast = await fillDisk(disk.mountPoint);
      const statuses: number[] = [];
      let next = acked;
      await until("appends are refused", async () => {
        const sent = Array.from({ length: AT_ONCE }, () => next++);
        for (const { status } of await Promise.all(sent.map((n) => stream.post(numbered(n))))) statuses.push(status);
        return statuses.filter((status) => status === 507).length > AT_ONCE;
      });
      expect([...new Set(statuses)].filter((status) => status !== 204)).toEqual([507]);
      expect(await small.records("offset=-1")).toEqual([1, 2, 3]);
      const kept = numbersIn(await bytesOf(server, "large"));
      expect(kept).toHaveLength(BEFORE + statuses.filter((status) => status === 204).length);
      await expectOnlyWhole(server, kept.length);
      await until("not ready", async () => (await call("GET", `${server?.url}/ready`)).status === 503);

      await rm(ballast);
      await until("appends come back", async () => (await stream.post(numbered(next))).status === 204, 10_000);
      expect(numbersIn(await bytesOf(server, "large"))).toEqual([...kept, next]);
      await server.kill("SIGKILL");
      server = await startServer({ dataDir });
      expect(numbersIn(await bytesOf(server, "large"))).toEqual([...kept, next]);
      await expectOnlyWhole(server, kept.length + 1);
      console.log(`full disk, large bodies: ${statuses.length} sent, ${kept.length - BEFORE} taken, the rest 507`);
      await server.stop();
    } finally {
      await server?.kill("SIGKILL");
      await disk.destroy();
    }
  },
  60_000,
);

/** Every file belongs to a commit that was made, and together they hold the records and nothing else. */
async function expectOnlyWhole(server: TestServer, records: number): Promise<void> {
  const last = await lastCommitOf(server);
  const files = filesOf(server.dataDir);
  expect(files.filter((file) => file > last)).toEqual([]);
  const bytes = files.reduce((sum, file) => sum + Bun.file(fileAt(server.dataDir, file)).size, 0);
  expect(bytes).toBe(records * LARGE_BYTES);
}

function numbered(n: number): Uint8Array<ArrayBuffer> {
  const body = noise(LARGE_BYTES);
  new DataView(body.buffer).setUint32(0, n);
  return body;
}

function numbersIn(bytes: Uint8Array): readonly number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  return Array.from({ length: bytes.length / LARGE_BYTES }, (_, index) => view.getUint32(index * LARGE_BYTES));
}

/** Takes all the room there is but a little. Returns the file to delete. */
async function fillDisk(mountPoint: string): Promise<string> {
  const ballast = join(mountPoint, "ballast");
  let size = 0;
  for (let piece = 1024 ** 3; piece >= ROOM_BYTES;) {
    const { exitCode } = await Bun.$`fallocate -o ${size} -l ${piece} ${ballast}`.nothrow().quiet();
    if (exitCode === 0) size += piece;
    else piece /= 4;
  }
  return ballast;
}
