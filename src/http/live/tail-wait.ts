/**
 * One wait at the tail of a stream, for a request that takes one step and is answered: it waits in the feed of its like, so that a
 * thousand of them cost one read and one encoding. Bounded by `Followers`, which admits it; leaves nothing behind.
 */

import type { ReadPlan } from "../../engine/reader.ts";
import { feedName, type Followers } from "./follower.ts";
import { READ_CHUNK_BYTES } from "../../protocol/limits.ts";
import type { FrameRoom } from "./frame-room.ts";
import type { LiveStep, TailReader } from "./tail-feed.ts";

/**
 * Why a wait ended. `left`: the feed ended, or is ahead; read on from the log. `over`: nobody waits any longer. `crowded`: a large record
 * came, and there is no room for it.
 */
export interface Waited {
  readonly why: "step" | "left" | "over" | "crowded";
  /** Null without one. A large one takes up room, for the caller to give back. */
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
    const wait = new TailWait(plan, followers.room, resolve);
    wait.begin(followers, timeoutMs, signal);
  });
}

/** An answer with such a step is counted until its client has taken it: a thousand of them wait for the same one. */
export function isLarge({ size }: LiveStep): boolean {
  return size > READ_CHUNK_BYTES;
}

class TailWait implements TailReader {
  readonly #resolve: (waited: Waited) => void;
  readonly #room: FrameRoom;
  #plan: ReadPlan;
  #end: (() => void) | null = null;

  constructor(plan: ReadPlan, room: FrameRoom, resolve: (waited: Waited) => void) {
    this.#room = room;
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
    if (isLarge(step) && !this.#room.take(step.size)) {
      this.#settle("crowded", null);
      return true;
    }
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
