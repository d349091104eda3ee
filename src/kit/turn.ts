/** Turns of the event loop: letting others run first, and sharing a turn out. */

import type { Clock } from "./clock.ts";
import { Ring } from "./ring.ts";

/** Lets everything that waits (requests, IO, timers) run first. Long loops call it so that no turn grows long. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Keeps the turns of a long loop short: while one has time left it goes on, else in the next one. */
export class Pace {
  readonly #clock: Clock;
  readonly #turnMs: number;
  #endMs: number;

  constructor(clock: Clock, turnMs: number) {
    this.#clock = clock;
    this.#turnMs = turnMs;
    this.#endMs = clock.monotonicMs() + turnMs;
  }

  /** Whether the turn is over: then `next` is to be awaited. */
  get isOver(): boolean {
    return this.#clock.monotonicMs() >= this.#endMs;
  }

  async next(): Promise<void> {
    await nextTurn();
    this.#endMs = this.#clock.monotonicMs() + this.#turnMs;
  }
}

/** So much passes in one turn; who comes after that waits for a later one, in order. The callers bound how many wait. */
export class TurnGate {
  readonly #perTurn: number;
  readonly #queue = new Ring<Waiting>();
  #left: number;
  #isRenewing = false;

  constructor(perTurn: number) {
    this.#perTurn = perTurn;
    this.#left = perTurn;
  }

  /** Resolves when there is some left; the last one in a turn may take more than that. */
  pass(cost = 1): Promise<void> {
    if (this.#queue.length === 0 && this.#left > 0) {
      this.#spend(cost);
      return PASSED;
    }
    return new Promise((enter) => this.#queue.push({ cost, enter }));
  }

  #spend(cost: number): void {
    this.#left -= cost;
    if (this.#isRenewing) return;
    this.#isRenewing = true;
    setImmediate(this.#renew);
  }

  #renew = (): void => {
    this.#isRenewing = false;
    this.#left = this.#perTurn;
    while (this.#left > 0) {
      const next = this.#queue.shift();
      if (next === undefined) return;
      this.#spend(next.cost);
      next.enter();
    }
  };
}

interface Waiting {
  readonly cost: number;
  readonly enter: () => void;
}

const PASSED = Promise.resolve();
