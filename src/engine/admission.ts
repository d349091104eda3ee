/**
 * A counted bound: takes units while they last, hands them back. For body bytes in flight and for live requests.
 */

import { assert } from "../kit/assert.ts";

export class Admission {
  readonly #limit: number;
  #used = 0;

  constructor(limit: number) {
    this.#limit = limit;
  }

  get used(): number {
    return this.#used;
  }

  /** False when `units` would pass the limit; then nothing is taken. */
  take(units: number): boolean {
    if (this.#used + units > this.#limit) return false;
    this.#used += units;
    return true;
  }

  give(units: number): void {
    this.#used -= units;
    assert(this.#used >= 0, "more was given back than taken");
  }
}
