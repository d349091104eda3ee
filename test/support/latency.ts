/** How long requests, or the disk, take while something else goes on: one after the other, on connections that are kept. */

import { mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface Latencies {
  readonly count: number;
  /** In milliseconds, ascending. */
  readonly sorted: readonly number[];
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
  /** Whatever was not answered as it should. */
  readonly wrong: readonly string[];
}

export interface Probe {
  /** Ends the probing; the latencies in milliseconds since the start. */
  stop(): Promise<Latencies>;
}

/** Calls `ask` again and again, `pauseMs` after each answer; `ask` says what was wrong, or null. */
export function probe(ask: () => Promise<string | null>, pauseMs: number): Probe {
  const taken: number[] = [];
  const wrong: string[] = [];
  const state = { stopped: false };
  const done = (async () => {
    while (!state.stopped) {
      const began = performance.now();
      const problem = await ask().catch(String);
      taken.push(performance.now() - began);
      if (problem !== null) wrong.push(problem);
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  })();
  return {
    stop: async () => {
      state.stopped = true;
      await done;
      const sorted = taken.toSorted((left, right) => left - right);
      const at = (share: number): number => Number((sorted[Math.floor(share * (sorted.length - 1))] ?? NaN).toFixed(1));
      return { count: sorted.length, sorted, p50: at(0.5), p99: at(0.99), max: at(1), wrong };
    },
  };
}

/** How long the disk takes meanwhile to sync a byte: that of a shared machine may stand still for a second. */
export async function probeDisk(): Promise<Probe> {
  const directory = await mkdtemp(join(tmpdir(), "streams-disk-"));
  const file = await open(join(directory, "probe"), "w");
  const syncing = probe(async () => {
    await file.write("x");
    await file.datasync();
    return null;
  }, 20);
  return {
    stop: async () => {
      const latencies = await syncing.stop();
      await file.close();
      await rm(directory, { recursive: true });
      return latencies;
    },
  };
}
