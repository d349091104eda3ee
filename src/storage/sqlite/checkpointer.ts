/**
 * Keeps the WAL small and reused. After about 16 MB of frames the storage thread copies them to the database while commits
 * go on; once little is left, commits are held (the event loop is not) for one last pass, and the next commit starts the
 * WAL from its beginning. A pass that cannot finish (a reader in the way) is tried again after the next 16 MB.
 */

import { LATENCY_SECONDS, type Metrics } from "../../kit/metrics.ts";
import type { Hold } from "./hold.ts";
import type { StorageThread } from "./storage-thread.ts";

/** Every checkpoint holds commits for some 5 ms: four times rarer than at 4 MB is 15 % more in batches (docs/decisions/006). */
const START_BYTES = 16 * 1024 * 1024;
/** With less than this new, the last pass takes a few milliseconds. */
const LAST_PASS_BYTES = 1.5 * 1024 * 1024;
const MAX_PASSES = 3;
const PAGE_BYTES = 4096;
const FRAME_BYTES = PAGE_BYTES + 24;

export class Checkpointer {
  readonly #thread: StorageThread;
  readonly #hold: Hold;
  /** Resolves when no commit waits for its sync. */
  readonly #quiet: () => Promise<void>;
  readonly #seconds;
  readonly #heldSeconds;
  /**
   * Nobody knows how much of the WAL a start found: it counts as full. A server killed again and again before its first
   * checkpoint would otherwise grow it, and every start reads all of it.
   */
  #bytes = START_BYTES;
  #running: Promise<void> | null = null;

  constructor(thread: StorageThread, hold: Hold, quiet: () => Promise<void>, metrics: Metrics) {
    this.#seconds = metrics.histogram("streams_checkpoint_seconds", "Whole checkpoints of the WAL.", LATENCY_SECONDS);
    this.#heldSeconds = metrics.histogram(
      "streams_checkpoint_hold_seconds",
      "How long a checkpoint's last pass held commits.",
      LATENCY_SECONDS,
    );
    this.#thread = thread;
    this.#hold = hold;
    this.#quiet = quiet;
  }

  /** Counts what a transaction wrote (content bytes; pages are estimated) and starts a checkpoint when it is time. */
  wrote(bytes: number): void {
    const pages = bytes / PAGE_BYTES;
    // The leaf, or the chain, that holds it; when a page is taken for it, also the parent or the list of free pages, and page 1.
    this.#bytes += (1 + pages + 2 * Math.min(1, pages)) * FRAME_BYTES;
    if (this.#bytes >= START_BYTES && this.#running === null) {
      this.#running = this.#run().finally(() => (this.#running = null));
    }
  }

  /** Waits for a running checkpoint, then makes one more. */
  async finish(): Promise<void> {
    await this.#running;
    await this.#run();
  }

  async #run(): Promise<void> {
    const startMs = performance.now();
    for (let pass = 0; pass < MAX_PASSES; pass++) {
      this.#bytes = 0;
      await this.#thread.checkpoint(false);
      if (this.#bytes < LAST_PASS_BYTES) break;
    }
    await this.#hold.take();
    const heldMs = performance.now();
    try {
      await this.#quiet();
      this.#bytes = 0;
      await this.#thread.checkpoint(true);
    } finally {
      this.#hold.release();
      this.#heldSeconds.observe((performance.now() - heldMs) / 1000);
      this.#seconds.observe((performance.now() - startMs) / 1000);
    }
  }
}
