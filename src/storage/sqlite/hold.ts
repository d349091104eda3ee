/**
 * Keeps everybody off the writing connection for a short while (a checkpoint's last pass). Nobody only asks whether it is free: between
 * the answer and the work others would have their turn. So the work is handed over, and begins in the moment in which nothing is held.
 */

import { assert } from "../../kit/assert.ts";

export class Hold {
  #held: Promise<void> | null = null;
  #release: (() => void) | null = null;

  /** Begins `work` once nothing is held: at once, or later. */
  async whenFree<T>(work: () => T | Promise<T>): Promise<T> {
    while (this.#held !== null) await this.#held;
    return work();
  }

  /** Resolves when it is held for the caller, after whoever held it before. */
  take(): Promise<void> {
    return this.whenFree(() => {
      this.#held = new Promise((resolve) => (this.#release = resolve));
    });
  }

  release(): void {
    const release = this.#release;
    assert(release !== null, "no hold to release");
    this.#held = null;
    this.#release = null;
    release();
  }
}
