/**
 * Answers waits in bounded turns: the first ones at once, in the turn of their commit, the rest a few per turn, so that a change
 * that wakes ten thousand does not stop the server for a tenth of a second. In order.
 */

import { nextTurn } from "../../kit/turn.ts";
import { WAKES_PER_TURN } from "./limits.ts";

export class WakeQueue {
  readonly #onFault: (operation: string, cause: unknown) => void;
  #queue: (() => void)[] = [];
  #inTurn = 0;
  #draining = false;

  constructor(onFault: (operation: string, cause: unknown) => void) {
    this.#onFault = onFault;
  }

  push(answer: () => void): void {
    if (this.#inTurn < WAKES_PER_TURN && this.#queue.length === 0) {
      this.#inTurn++;
      answer();
    } else {
      this.#queue.push(answer);
    }
    if (this.#draining) return;
    this.#draining = true;
    this.#drain().catch((cause: unknown) => this.#onFault("answering touch waits", cause));
  }

  async #drain(): Promise<void> {
    do {
      await nextTurn();
      const turn = this.#queue.splice(0, WAKES_PER_TURN);
      this.#inTurn = turn.length;
      for (const answer of turn) answer();
    } while (this.#inTurn > 0);
    this.#draining = false;
  }
}
