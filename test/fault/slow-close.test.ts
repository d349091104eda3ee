/** A store that is closed while the disk takes its time to say how full it is: it waits for that, and nothing of it comes afterwards. */

import { afterEach, expect, test } from "bun:test";
import { fork } from "node:child_process";
import { once } from "node:events";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { present } from "../../src/kit/assert.ts";
import { until } from "../support/wait.ts";
import { attach, straceObstacle } from "./strace.ts";

/** A store that was just opened measures the disk after a second. The trace tells of a slow call only when it is over. */
const UNDER_WAY_MS = 1_500;
const SLOW_MS = 3_000;

const obstacle = await straceObstacle();
if (obstacle !== null) console.log(`slow close: not run here, ${obstacle}`);

const directories: string[] = [];
afterEach(async () => {
  for (const directory of directories.splice(0)) await rm(directory, { recursive: true });
});

test.if(obstacle === null)(
  "a store that is closed while the disk is measured ends well",
  async () => {
    const directory = await mkdtemp(join(tmpdir(), "streams-close-"));
    directories.push(directory);
    const child = fork(join(import.meta.dir, "store-program.ts"), [directory]);
    const ended = once(child, "exit");
    await once(child, "message");
    const slow = { calls: ["statfs"], fault: `delay_exit=${SLOW_MS * 1_000}` };
    const tracer = await attach({ pid: present(child.pid, "the pid of a child that has spoken") }, slow);
    try {
      await Bun.sleep(UNDER_WAY_MS);
      child.send("close");
      await once(child, "message");
      await until("the measure is over", async () => (await tracer.injected()).length > 0);
      child.send("end");
      expect(await ended).toEqual([0, null]);
    } finally {
      child.kill("SIGKILL");
      await tracer.close();
    }
  },
  60_000,
);
