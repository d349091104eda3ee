/**
 * How a memory limit is shared out: the bounds of everything that grows with load, sized so that all of them together fit. Pure.
 * Without a limit, and from FULL_AT_BYTES on, the parts have their full size:
 *   bodies 128 MiB, window 64 MiB and three copies of a sealing pass, page cache 64 MiB, heads 40 MB, journal and parked
 *   keys 90 MB, live frames 64 MiB, live requests 750 MB if all 50,000 were there at once: about 1.3 GB over a process of some 100 MB.
 */

import {
  MAX_BYTES_IN_FLIGHT,
  MAX_IDLE_HEADS,
  MAX_LIVE_FRAME_BYTES,
  MAX_LIVE_REQUESTS,
  MAX_WINDOW_BYTES,
  MAX_WINDOW_RANGES,
  SEAL_AT_BYTES,
  SEAL_AT_RANGES,
  SEAL_PASS_BYTES,
} from "./limits.ts";

const MiB = 1024 * 1024;

export interface MemoryBudget {
  /** Body bytes of all requests between arrival and ack. */
  readonly bodyBytes: number;
  readonly windowBytes: number;
  readonly windowRanges: number;
  readonly sealAtBytes: number;
  readonly sealAtRanges: number;
  readonly sealPassBytes: number;
  /** SQLite's page cache. */
  readonly pageCacheBytes: number;
  readonly idleHeads: number;
  readonly liveRequests: number;
  /** Larger frames on their way to live readers. */
  readonly liveFrameBytes: number;
  /** Part of the full bounds that features may use, 0 to 1. */
  readonly share: number;
}

/** The smallest limit that the server starts with: below it the process itself leaves no room for work. */
export const MIN_MEMORY_LIMIT_BYTES = 192 * MiB;
const FULL_AT_BYTES = 1536 * MiB;
/** The process, its code and its garbage before any load. */
const BASE_BYTES = 128 * MiB;

/** Null = no limit. */
export function memoryBudget(limitBytes: number | null): MemoryBudget {
  const share =
    limitBytes === null ? 1 : Math.min(1, Math.max(0.02, (limitBytes - BASE_BYTES) / (FULL_AT_BYTES - BASE_BYTES)));
  const part = (full: number, least: number): number => Math.max(least, Math.floor(full * share));
  return {
    // One body of the default size always fits, or it could never be sent.
    bodyBytes: part(MAX_BYTES_IN_FLIGHT, 16 * MiB),
    windowBytes: part(MAX_WINDOW_BYTES, 8 * MiB),
    windowRanges: part(MAX_WINDOW_RANGES, 50_000),
    sealAtBytes: part(SEAL_AT_BYTES, 2 * MiB),
    sealAtRanges: part(SEAL_AT_RANGES, 10_000),
    sealPassBytes: part(SEAL_PASS_BYTES, 4 * MiB),
    pageCacheBytes: part(64_000 * 1024, 8 * MiB),
    idleHeads: part(MAX_IDLE_HEADS, 5_000),
    liveRequests: part(MAX_LIVE_REQUESTS, 1_000),
    liveFrameBytes: part(MAX_LIVE_FRAME_BYTES, 24 * MiB),
    share,
  };
}
