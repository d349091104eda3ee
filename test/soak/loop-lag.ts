/** How long the event loop of this process is deaf while something goes on in it: the longest turn, seen by a timer. */

const LAG_PROBE_MS = 5;

/** How late a timer is while `work` goes on, at most. */
export async function longestLagMs(work: () => Promise<void>): Promise<number> {
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
  return longestMs;
}
