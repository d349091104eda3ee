/**
 * Answers waits in bounded turns: the first ones at once, in the turn of their commit, the rest a few per turn, so that a change
 * that wakes ten thousand does not stop the server for a tenth of a second. In order.
 */

import type { Clock } from "../../kit/clock.ts";
import { nextTurn } from "../../kit/turn.ts";
import { WAKES_PER_TURN } from "./limits.ts";

/** Answers one wait; `queuedMs`: how long it stood in the queue, 0 when it did not. */
export type WakeAnswer = (queuedMs: number) => void;

export class WakeQueue {
  readonly #clock: Clock;
  readonly #onFault: (operation: string, cause: unknown) => void;
  #queue: { readonly answer: WakeAnswer; readonly sinceMs: number }[] = [];
  #inTurn = 0;
  #draining = false;

  constructor(clock: Clock, onFault: (operation: string, cause: unknown) => void) {
    this.#clock = clock;
    this.#onFault = onFault;
  }

  push(answer: WakeAnswer): void {
    if (this.#inTurn < WAKES_PER_TURN && this.#queue.length === 0) {
      this.#inTurn++;
      answer(0);
    } else {
      this.#queue.push({ answer, sinceMs: this.#clock.monotonicMs() });
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
      const nowMs = this.#clock.monotonicMs();
      for (const { answer, sinceMs } of turn) answer(nowMs - sinceMs);
    } while (this.#inTurn > 0);
    this.#draining = false;
  }
}
