/**
 * Background work on the writing connection, in slices: each slice is one short transaction in one turn, between the turns
 * of requests, and never while commits are held.
 */

import type { Database } from "bun:sqlite";
import { BACKGROUND_TURN_MS } from "../../protocol/limits.ts";
import { nextTurn } from "../../kit/turn.ts";
import { DiskFull } from "../../protocol/faults.ts";
import { asDamage } from "./corruption.ts";
import { isDiskFull } from "./system-errors.ts";
import type { Hold } from "./hold.ts";

/** One small piece of work. Returns the bytes it wrote, or null when there is nothing left to do. */
export type Step = () => number | null;

export class Background {
  readonly #db: Database;
  readonly #hold: Hold;
  readonly #wrote: (bytes: number) => void;

  constructor(db: Database, hold: Hold, wrote: (bytes: number) => void) {
    this.#db = db;
    this.#hold = hold;
    this.#wrote = wrote;
  }

  /** Repeats `step` until it returns null; `committed` is called after each transaction. Throws `DiskFull`. */
  async run(step: Step, committed: () => void = () => undefined): Promise<void> {
    for (let more = true; more;) {
      await nextTurn();
      more = await this.#hold.whenFree(() => {
        const goesOn = this.#slice(step);
        committed();
        return goesOn;
      });
    }
  }

  /** One transaction of its own. */
  async once(work: () => void): Promise<void> {
    await this.#hold.whenFree(() => {
      this.#transact(work);
      this.#wrote(0);
    });
  }

  #slice(step: Step): boolean {
    const endMs = performance.now() + BACKGROUND_TURN_MS;
    let bytes = 0;
    let more = true;
    this.#transact(() => {
      do {
        const wrote = step();
        if (wrote === null) more = false;
        else bytes += wrote;
      } while (more && performance.now() < endMs);
    });
    this.#wrote(bytes);
    return more;
  }

  #transact(work: () => void): void {
    try {
      this.#db.transaction(work)();
    } catch (cause) {
      if (isDiskFull(cause)) throw new DiskFull("no room for background writes", { cause });
      throw asDamage(cause);
    }
  }
}
