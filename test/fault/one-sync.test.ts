/**
 * One sync of the log for each commit, whatever comes together: counted by the kernel's own calls, not by what the server says. No answer
 * is bought by leaving one out, none pays for two. Needs strace; says so where it cannot run.
 */

import { expect, test } from "bun:test";
import { temporaryServers } from "../support/shared-server.ts";
import { newStream } from "../support/streams.ts";
import { until } from "../support/wait.ts";
import { counted } from "./observation.ts";
import { attach, straceObstacle } from "./strace.ts";
import { writerGroup } from "./writers.ts";

const WRITERS = 64;
const LOAD_MS = 3_000;
const TRACE_LAG_MS = 300;

const obstacle = await straceObstacle();
if (obstacle !== null) console.log(`one sync: not run here, ${obstacle}`);

const start = temporaryServers();

test.if(obstacle === null)(
  "each commit of a group is synced once, and many appends share it",
  async () => {
    const server = await start({ args: ["--no-live-metrics"] });
    const group = writerGroup({ writers: WRITERS, streams: 8, idempotent: true, paddingBytes: 200 });
    await group.createStreams(server);
    // Not a fault, only a mark: what is delayed by a microsecond stands in the trace.
    const tracer = await attach(server, { calls: ["fsync", "fdatasync"], fault: "delay_exit=1" });
    try {
      const traced = (): Promise<number> => tracer.begun("fdatasync", "log.db-wal");
      const stream = await newStream(server, "one-sync");
      const isAttached = async (): Promise<boolean> => (await stream.post("1")).ok && (await traced()) > 0;
      await until("the tracer has attached", isAttached, 10_000);
      // Lines of the trace come a little later, and nothing says which was the last.
      await Bun.sleep(TRACE_LAG_MS);
      const before = { ...(await figures(server)), calls: await traced() };
      const end = Promise.withResolvers<void>();
      const writing = group.write(server, end.promise);
      await Bun.sleep(LOAD_MS);
      end.resolve();
      await writing;
      const after = await figures(server);
      const [commits, syncs] = [after.commits - before.commits, after.syncs - before.syncs];
      await until("the trace has them", async () => (await traced()) - before.calls >= syncs, 5_000);
      const calls = (await traced()) - before.calls;
      console.log(
        `one sync: ${group.ackedCount} acked, ${commits} commits, ${syncs} syncs, ${calls} fdatasync of the log`,
      );
      expect({ commits: syncs, calls }).toEqual({ commits, calls: syncs });
      expect(commits).toBeGreaterThan(10);
      expect(group.ackedCount / commits).toBeGreaterThan(4);
    } finally {
      await tracer.close();
    }
  },
  60_000,
);

async function figures(server: { readonly url: string }): Promise<{ commits: number; syncs: number }> {
  return {
    commits: await counted(server, "streams_commit_seconds_count"),
    syncs: await counted(server, "streams_sync_seconds_count"),
  };
}
