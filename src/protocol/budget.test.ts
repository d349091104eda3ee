/** How a memory limit is shared out. */

import { expect, test } from "bun:test";
import { memoryBudget, MIN_MEMORY_LIMIT_BYTES } from "./budget.ts";
import { MAX_BYTES_IN_FLIGHT, MAX_LIVE_REQUESTS, MAX_WINDOW_BYTES } from "./limits.ts";

const MiB = 1024 * 1024;

test("without a limit, and with a large one, every part is full", () => {
  for (const budget of [memoryBudget(null), memoryBudget(8192 * MiB)]) {
    expect(budget).toMatchObject({
      share: 1,
      bodyBytes: MAX_BYTES_IN_FLIGHT,
      windowBytes: MAX_WINDOW_BYTES,
      liveRequests: MAX_LIVE_REQUESTS,
    });
  }
});

test.each([MIN_MEMORY_LIMIT_BYTES / MiB, 256, 512, 1024])(
  "in %d MiB what is held fits, with room for the process",
  (mebibytes) => {
    const limit = mebibytes * MiB;
    const { bodyBytes, windowBytes, sealPassBytes, pageCacheBytes, idleHeads, liveRequests, liveFrameBytes, share } =
      memoryBudget(limit);
    // Two copies of a sealing pass besides the window; sockets of live requests; journal and keys of touch.
    const held =
      windowBytes + 2 * sealPassBytes + pageCacheBytes + idleHeads * 400 + liveRequests * 15_000 + share * 90 * MiB;
    expect(held + liveFrameBytes + 100 * MiB).toBeLessThan(limit * 1.05);
    // One of the largest body fits into what large frames may take of it.
    expect(liveFrameBytes * 0.75).toBeGreaterThanOrEqual(16 * MiB);
    expect(bodyBytes).toBeGreaterThanOrEqual(16 * MiB);
  },
);

test("more memory is never less of anything", () => {
  let before = memoryBudget(MIN_MEMORY_LIMIT_BYTES);
  for (let mebibytes = 200; mebibytes < 2000; mebibytes += 100) {
    const budget = memoryBudget(mebibytes * MiB);
    for (const [name, value] of Object.entries(budget)) {
      expect([name, value >= before[name as keyof typeof before]]).toEqual([name, true]);
    }
    before = budget;
  }
});
