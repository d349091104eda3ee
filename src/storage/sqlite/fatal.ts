/**
 * Fail-stop. After a failed sync nobody knows what is on disk: the kernel may drop the dirty pages and report success to
 * the next sync. So the reason is written at once and the process ends without giving SQLite a chance to sync, checkpoint
 * or delete the WAL (`process.exit` and an uncaught throw would do all three).
 */

import { writeSync } from "node:fs";

/** Ends the process. `operation` is what failed; `hint` tells the operator what to look at. */
export function failStop(operation: string, cause: unknown, hint: string): never {
  const reason = cause instanceof Error ? `${cause.name}: ${cause.message}` : String(cause);
  writeSync(2, `fatal: ${operation} failed (${reason}); stopping so that nothing unproven is acknowledged. ${hint}\n`);
  process.kill(process.pid, "SIGKILL");
  // SIGKILL is delivered before this returns on every platform we run on; never go on if it were not.
  for (;;) Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 1000);
}
