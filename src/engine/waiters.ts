/**
 * Parked requests: each waits for the next change of one stream, with a deadline and an abort signal. Woken by the commit
 * feed in the turn a commit became durable. Register first, then look at the head: a change in between wakes at once.
 * Bounded by who registers; a wait that ended leaves nothing behind.
 */

import type { Deadline, Deadlines } from "../kit/deadlines.ts";
import { type Commit, isAccessOnly } from "../protocol/stream.ts";

export type Wake = "changed" | "timeout" | "aborted" | "closing";

interface Waiter {
  settle(wake: Wake): void;
}

/** A registered wait. `woken` never rejects; `cancel` settles it as aborted. */
export interface Wait {
  readonly woken: Promise<Wake>;
  cancel(): void;
}

export class Waiters {
  readonly #deadlines: Deadlines;
  readonly #byStream = new Map<number, Set<Waiter>>();
  #count = 0;
  #closing = false;

  constructor(deadlines: Deadlines) {
    this.#deadlines = deadlines;
  }

  /** Waits parked now. */
  get size(): number {
    return this.#count;
  }

  register(streamId: number, timeoutMs: number, signal: AbortSignal): Wait {
    const waiting = this.#byStream.get(streamId) ?? new Set<Waiter>();
    if (this.#closing) return settled("closing");
    if (signal.aborted) return settled("aborted");
    let resolve: (wake: Wake) => void;
    const woken = new Promise<Wake>((resolveWoken) => (resolve = resolveWoken));
    const abort = (): void => waiter.settle("aborted");
    const waiter: Waiter = {
      settle: (wake) => {
        if (!waiting.delete(waiter)) return;
        if (waiting.size === 0) this.#byStream.delete(streamId);
        this.#count--;
        deadline.cancel();
        resolve(wake);
      },
    };
    const deadline: Deadline = this.#deadlines.after(timeoutMs, () => waiter.settle("timeout"));
    waiting.add(waiter);
    this.#byStream.set(streamId, waiting);
    this.#count++;
    // Not a listener: to remove one costs 5 µs, and what is set here is replaced by the request's next wait.
    signal.onabort = abort;
    return { woken, cancel: abort };
  }

  /** Follows the commit feed. */
  onCommit(commit: Commit): void {
    if (this.#count === 0) return;
    for (const change of commit.changes) {
      const waiting = this.#byStream.get(change.id);
      // A reader that woke by its own reading would read, and wake, for ever.
      if (waiting !== undefined && !isAccessOnly(change)) for (const waiter of waiting) waiter.settle("changed");
    }
  }

  /** Ends every wait, now and from now on. */
  close(): void {
    this.#closing = true;
    for (const waiting of this.#byStream.values()) for (const waiter of waiting) waiter.settle("closing");
  }
}

function settled(wake: Wake): Wait {
  return { woken: Promise.resolve(wake), cancel: () => undefined };
}
