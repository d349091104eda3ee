/**
 * Keeps everybody off the writing connection for a short while (a checkpoint's last pass). Holds do not nest; who wants to
 * write asks `free()` first and writes in the same turn.
 */

import { assert } from "../../kit/assert.ts";

export class Hold {
  #held: Promise<void> | null = null;
  #release: (() => void) | null = null;

  /** Null when writing is allowed now; else a promise to wait for and then ask again. */
  get held(): Promise<void> | null {
    return this.#held;
  }

  /** Resolves in a turn in which nothing is held. */
  async free(): Promise<void> {
    while (this.#held !== null) await this.#held;
  }

  take(): void {
    assert(this.#held === null, "a hold is already taken");
    this.#held = new Promise((resolve) => (this.#release = resolve));
  }

  release(): void {
    const release = this.#release;
    assert(release !== null, "no hold to release");
    this.#held = null;
    this.#release = null;
    release();
  }
}
