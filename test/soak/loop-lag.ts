/**
 * How long the event loop of this process is deaf while something goes on in it: the longest turn, seen by a timer, beside what
 * a process that does nothing met at the same time.
 */

import { probeMachine } from "../support/latency.ts";

const LAG_PROBE_MS = 5;

export interface LoopLag {
  /** How late a timer was, at most, in ms. */
  readonly longestMs: number;
  /** What of that may be the machine's: its longest stall and its longest sync. */
  readonly machineMs: number;
}

export async function longestLag(work: () => Promise<void>): Promise<LoopLag> {
  const machine = await probeMachine();
  let longestMs = 0;
  let dueMs = performance.now() + LAG_PROBE_MS;
  const probe = setInterval(() => {
    longestMs = Math.max(longestMs, performance.now() - dueMs);
    dueMs = performance.now() + LAG_PROBE_MS;
  }, LAG_PROBE_MS);
  try {
    await work();
  } finally {
    clearInterval(probe);
  }
  const { sleep, sync } = await machine.stop();
  return { longestMs, machineMs: sleep.max + sync.max };
}
