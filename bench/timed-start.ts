/**
 * How long a server takes from being spawned to its first right answer, and ending one without a warning. Owns nothing: the
 * caller stops what it started.
 */

import { HttpConnection } from "./http-connection.ts";
import type { BenchServer, RunningServer } from "./peers.ts";
import { simpleRequest } from "./workloads.ts";

export interface TimedStart {
  readonly running: RunningServer;
  /** Looking for a free port is in it, and up to 2 ms between two attempts. */
  readonly readyMs: number;
}

const ANSWER_DEADLINE_MS = 20_000;
const RETRY_MS = 2;

/** Until a read at the tail of `path` answers `status`: 200 for a stream that is stored, 404 on an empty directory. */
export async function startTimed(
  server: BenchServer,
  dataDir: string,
  path: string,
  status: 200 | 404,
): Promise<TimedStart> {
  const startMs = performance.now();
  const running = await server.start(dataDir);
  try {
    for (;;) {
      const connection = await HttpConnection.open(running.url);
      const answer = await connection.exchange(simpleRequest("GET", running.url, `${path}?offset=now`));
      const readyMs = performance.now() - startMs;
      connection.close();
      if (answer.status === status) return { running, readyMs };
      if (readyMs > ANSWER_DEADLINE_MS) throw new Error(`a read of ${path} answered ${answer.status}, not ${status}`);
      await Bun.sleep(RETRY_MS);
    }
  } catch (cause) {
    await running.stop();
    throw cause;
  }
}

/** As a crash would end it. */
export async function killHard(running: RunningServer): Promise<void> {
  process.kill(running.pid, "SIGKILL");
  await running.stop();
}
