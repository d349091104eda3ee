/**
 * One wait at the tail of a stream, for a request that takes one step and is answered: it waits in the feed of its like, so that a
 * thousand of them cost one read and one encoding. Bounded by `Followers`, which admits it; leaves nothing behind.
 */

import type { ReadPlan } from "../../engine/reader.ts";
import { feedName, type Followers } from "./follower.ts";
import type { LiveStep, TailReader } from "./tail-feed.ts";

/** Why a wait ended. `left`: the feed ended, or is ahead; read on from the log. `over`: nobody waits any longer. */
export interface Waited {
  readonly why: "step" | "left" | "over";
  /** Null without one. */
  readonly step: LiveStep | null;
  /** Where its reader stands: what was not selected is passed over. */
  readonly plan: ReadPlan;
}

/** Waits for the next step that selects something. `plan` has to be at the tail. Never rejects. */
export function waitAtTail(
  followers: Followers,
  plan: ReadPlan,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<Waited> {
  return new Promise((resolve) => {
    const wait = new TailWait(plan, resolve);
    wait.begin(followers, timeoutMs, signal);
  });
}

class TailWait implements TailReader {
  readonly #resolve: (waited: Waited) => void;
  #plan: ReadPlan;
  #end: (() => void) | null = null;

  constructor(plan: ReadPlan, resolve: (waited: Waited) => void) {
    this.#plan = plan;
    this.#resolve = resolve;
  }

  get plan(): ReadPlan {
    return this.#plan;
  }

  begin(followers: Followers, timeoutMs: number, signal: AbortSignal): void {
    const feed = signal.aborted ? null : followers.join(feedName(this.#plan), this);
    if (feed === null) return this.#resolve({ why: signal.aborted ? "over" : "left", step: null, plan: this.#plan });
    const over = (): void => this.#settle("over", null);
    const deadline = followers.engine.deadlines.after(timeoutMs, over);
    // Not a listener: to remove one costs 5 µs, and what is set here is replaced by the request's next wait.
    signal.onabort = over;
    this.#end = () => {
      deadline.cancel();
      feed.remove(this);
    };
  }

  offer(step: LiveStep): boolean {
    this.#plan = step.rest;
    if (step.parts.length > 0) this.#settle("step", step);
    return true;
  }

  leave(): void {
    this.#settle("left", null);
  }

  #settle(why: Waited["why"], step: LiveStep | null): void {
    if (this.#end === null) return;
    this.#end();
    this.#end = null;
    this.#resolve({ why, step, plan: this.#plan });
  }
}
