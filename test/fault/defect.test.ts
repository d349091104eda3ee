/**
 * A promise that nobody awaited is rejected in a running server, or a timer throws: the process says why and dies by SIGKILL, so
 * nothing tidies up over a state that nobody knows; what was acknowledged is there after the next start.
 */

import { expect, test } from "bun:test";
import { join } from "node:path";
import { temporaryServers } from "../support/shared-server.ts";
import { until, within } from "../support/wait.ts";
import { isAlive } from "./observation.ts";
import { writerGroup } from "./writers.ts";

const start = temporaryServers();
const PRELOAD = { BUN_OPTIONS: `--preload=${join(import.meta.dir, "planted-defect.ts")}` };

test.each([
  ["rejection", "a rejected promise nobody awaited"],
  ["exception", "an exception nobody caught"],
])(
  "a planted %s under load: last words, SIGKILL, nothing lost",
  async (defect, words) => {
    const server = await start({ env: { ...PRELOAD, PLANTED_DEFECT: defect } });
    const group = writerGroup({ writers: 8, streams: 2, idempotent: true, paddingBytes: 300 });
    await group.createStreams(server);
    const ended = until("writers are at work", () => group.ackedCount > 200).then(async () => {
      // The control: up to here it lives.
      expect(isAlive(server.pid)).toBe(true);
      return within("the end", server.kill("SIGUSR2"), 2_000);
    });
    await group.write(server, ended);
    // Null: ended by a signal; the only one that ends it without its handlers is SIGKILL.
    expect(await ended).toBeNull();
    expect(server.stderr()).toContain(`fatal: ${words}`);
    expect(server.stderr()).toContain("planted defect");

    const restarted = await start({ dataDir: server.dataDir });
    const { acked, unackedPresent, ...problems } = await group.audit(restarted);
    expect(problems).toEqual({ lost: 0, duplicated: 0, outOfOrder: 0, firstProblem: null });
    expect(unackedPresent).toBeLessThanOrEqual(8);
    expect(acked).toBeGreaterThan(200);
    await restarted.stop();
  },
  60_000,
);
