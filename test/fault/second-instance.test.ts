/** One data directory, one server: a second one refuses at once, says why, and leaves the first unharmed. */

import { expect, test } from "bun:test";
import { runCommand } from "../support/command.ts";
import { startServer } from "../support/server.ts";
import { writerGroup } from "./writers.ts";

test("a second server on the same data directory refuses and harms nothing", async () => {
  const server = await startServer();
  try {
    const group = writerGroup({ writers: 4, streams: 2, idempotent: false, paddingBytes: 200 });
    await group.createStreams(server);
    const second = Promise.all(
      Array.from({ length: 3 }, async () => {
        const started = performance.now();
        const refused = await runCommand(["serve", "--port", "0", "--data-dir", server.dataDir], { deadlineMs: 5_000 });
        return { ...refused, ms: performance.now() - started };
      }),
    );
    await group.write(server, second);
    for (const refused of await second) {
      expect(refused.stdout).not.toContain("listening");
      expect(refused.code).toBeGreaterThan(0);
      expect(refused.stderr).toContain(server.dataDir);
      expect(refused.stderr).toMatch(/in use|another|already|locked/i);
      expect(refused.ms).toBeLessThan(4_000);
    }
    expect([...group.refusals]).toEqual([]);
    const { acked, ...audit } = await group.audit(server);
    expect(audit).toEqual({ lost: 0, duplicated: 0, outOfOrder: 0, unackedPresent: 0, firstProblem: null });
    expect(acked).toBeGreaterThan(0);
    await server.stop();

    // The lock does not outlive its holder.
    const after = await startServer({ dataDir: server.dataDir });
    expect((await group.audit(after)).lost).toBe(0);
    await after.stop();
  } finally {
    await server.kill("SIGKILL");
    await server.remove();
  }
}, 60_000);
