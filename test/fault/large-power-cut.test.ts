/**
 * The power goes just after files of large bodies were removed: whatever the disk still knew of them, in the end only files that something
 * refers to are there, and what was kept reads whole. Needs root and loop mounts; says so where it cannot run.
 */

import { expect, test } from "bun:test";
import { join } from "node:path";
import { startServer, type TestServer } from "../support/server.ts";
import { newStream, streamAt } from "../support/streams.ts";
import { until } from "../support/wait.ts";
import { bytesOf, BYTES_TYPE, filesOf, fillUntil, LARGE_BYTES, noise, sameBytes, sealAll } from "./large-world.ts";
import { createLoopDisk, loopDiskObstacle } from "./loop-disk.ts";

const obstacle = await loopDiskObstacle();
if (obstacle !== null) console.log(`power cut after removals: not run here, ${obstacle}`);

const FILES = 8;

test.if(obstacle === null)(
  "a power cut after files were removed: none of them stays for ever",
  async () => {
    const disk = await createLoopDisk();
    let server: TestServer | null = null;
    try {
      const dataDir = join(disk.mountPoint, "data");
      server = await startServer({ dataDir });
      const kept = await newStream(server, "kept", BYTES_TYPE);
      const body = noise(LARGE_BYTES);
      expect((await kept.post(body)).status).toBe(204);
      const referred = filesOf(dataDir);
      const gone = await newStream(server, "gone", BYTES_TYPE);
      for (let n = 0; n < FILES; n++) expect((await gone.post(noise(LARGE_BYTES))).status).toBe(204);
      expect(filesOf(dataDir)).toHaveLength(1 + FILES);
      await sealAll(server);
      expect((await gone.delete()).status).toBe(204);
      await fillUntil(server, "the files are gone", () => filesOf(dataDir).length === 1);
      // Makes all that was committed so far durable, that the files are forgotten too.
      const last = streamAt(server, "kept", BYTES_TYPE);
      for (let n = 0; n < 3; n++) expect((await last.post("small")).status).toBe(204);
      await disk.cutPower();
      await server.kill("SIGKILL");
      await disk.remount();
      const back = filesOf(dataDir).length - 1;
      server = await startServer({ dataDir });
      console.log(`power cut after removals: ${back} of ${FILES} removed files came back`);
      const expected = Buffer.concat([body, Buffer.from("small".repeat(3))]);
      expect(sameBytes(await bytesOf(server, "kept"), expected)).toBe(true);
      await until("only what is referred to is there", () => filesOf(dataDir).length === referred.length);
      expect(filesOf(dataDir)).toEqual(referred);
      await server.stop();
    } finally {
      await server?.kill("SIGKILL");
      await disk.destroy();
    }
  },
  60_000,
);
