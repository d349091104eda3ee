/** So many at a time; the others wait for their turn, in order, or until they give up. */

import { Ring } from "./ring.ts";

interface Waiting {
  /** Null once it has given up. */
  enter: (() => void) | null;
}

export class Gate {
  readonly #places: number;
  readonly #queue = new Ring<Waiting>();
  #inside = 0;
  #waiting = 0;

  constructor(places: number) {
    this.#places = places;
  }

  get isEmpty(): boolean {
    return this.#inside === 0 && this.#waiting === 0;
  }

  /** True when it is inside, and has to leave; false when `signal` came first. */
  async enter(signal: AbortSignal): Promise<boolean> {
    if (signal.aborted) return false;
    if (this.#inside < this.#places) {
      this.#inside++;
      return true;
    }
    const { promise, resolve } = Promise.withResolvers<boolean>();
    const waiting: Waiting = { enter: () => resolve(true) };
    const giveUp = (): void => {
      // It may just have been let in.
      if (waiting.enter === null) return;
      waiting.enter = null;
      this.#waiting--;
      resolve(false);
    };
    signal.addEventListener("abort", giveUp);
    this.#queue.push(waiting);
    this.#waiting++;
    try {
      return await promise;
    } finally {
      signal.removeEventListener("abort", giveUp);
    }
  }

  leave(): void {
    for (let next = this.#queue.shift(); next !== undefined; next = this.#queue.shift()) {
      const { enter } = next;
      if (enter === null) continue;
      // Its place is handed over.
      next.enter = null;
      this.#waiting--;
      enter();
      return;
    }
    this.#inside--;
  }
}
