/** Turns of the event loop: letting others run first, and sharing a turn out. */

import type { Clock } from "./clock.ts";

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

/** So many pass in one turn; who comes after them waits for a later one. For many that are woken together. */
export class TurnGate {
  readonly #perTurn: number;
  #passed = 0;
  #turn: Promise<void> | null = null;

  constructor(perTurn: number) {
    this.#perTurn = perTurn;
  }

  async pass(): Promise<void> {
    while (this.#passed >= this.#perTurn) await this.#turn;
    this.#passed++;
    this.#turn ??= this.#next();
  }

  async #next(): Promise<void> {
    await nextTurn();
    this.#passed = 0;
    this.#turn = null;
  }
}
