/**
 * The end of a process that must not go on: say why, then SIGKILL ourselves. Not `process.exit`, and not a plain throw:
 * both close the database on the way, which syncs again after a failed sync (and may "succeed" over lost pages) and
 * deletes the write-ahead log. A killed process leaves the files as they are, and recovery starts from them.
 */

import { writeSync } from "node:fs";

/** Never returns. `reason` is what happened; the stack goes with it. */
export function dieWithLastWords(reason: string, cause: unknown): never {
  const detail = cause instanceof Error ? (cause.stack ?? cause.message) : String(cause);
  try {
    writeSync(2, `streams-server: fatal: ${reason}\n${detail}\n`);
  } finally {
    process.kill(process.pid, "SIGKILL");
  }
  // The signal to ourselves is delivered before kill returns; this line only tells the compiler.
  throw new Error(reason);
}

/** Nobody awaited or caught it, so nobody knows what state it left behind. */
export function dieOnDefects(): void {
  process.on("uncaughtException", (cause) => dieWithLastWords("an exception nobody caught", cause));
  process.on("unhandledRejection", (cause) => dieWithLastWords("a rejected promise nobody awaited", cause));
}
