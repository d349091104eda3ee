/**
 * Readers that stand at the tail of one stream and want the same records: one wait on the commit feed, one read and one
 * encoding for all of them. A step is offered in slices of readers, one slice a turn; who does not wait for it is left behind and
 * reads on from the log, so nobody slow is ever waited for and nothing is kept for them.
 */

import type { Engine } from "../../engine/engine.ts";
import type { ReadPlan } from "../../engine/reader.ts";
import { nextTurn, type TurnGate } from "../../kit/turn.ts";
import { FAN_OUT_SLICE, SSE_HEARTBEAT_MS } from "../../protocol/limits.ts";
import { advance, parkedOrChanged } from "./follow.ts";
import { SharedFrames } from "./shared-frames.ts";

/** Some records in a row; none when a selection left nothing of them. */
export interface LiveStep {
  readonly kind: "step";
  readonly from: number;
  readonly parts: readonly Uint8Array[];
  /** Of all its parts. */
  readonly size: number;
  /** Where its reader stands afterwards. */
  readonly rest: ReadPlan;
  readonly bytes: SharedFrames<Uint8Array>;
  readonly texts: SharedFrames<string>;
  /** Of answers to long-polls. */
  readonly heads: SharedFrames<Headers>;
}

export function liveStep(from: number, parts: readonly Uint8Array[], rest: ReadPlan): LiveStep {
  return {
    kind: "step",
    from,
    parts,
    size: parts.reduce((size, part) => size + part.length, 0),
    rest,
    bytes: new SharedFrames(),
    texts: new SharedFrames(),
    heads: new SharedFrames(),
  };
}

export interface TailReader {
  readonly plan: ReadPlan;
  /** Takes the step that begins at its position; false when it does not wait for one, or has no room for it. */
  offer(step: LiveStep): boolean;
  /** The feed goes on without it: it reads by itself. */
  leave(): void;
}

export class TailFeed {
  readonly #engine: Engine;
  readonly #readers = new Set<TailReader>();
  readonly #abort = new AbortController();
  /** Shared by all feeds: one commit may wake thousands of them. */
  readonly #gate: TurnGate;
  #plan: ReadPlan;

  constructor(engine: Engine, plan: ReadPlan, gate: TurnGate) {
    this.#engine = engine;
    this.#plan = plan;
    this.#gate = gate;
  }

  /** The next record it will offer. */
  get seq(): number {
    return this.#plan.from;
  }

  add(reader: TailReader): void {
    this.#readers.add(reader);
  }

  remove(reader: TailReader): void {
    this.#readers.delete(reader);
    if (this.#readers.size === 0) this.#abort.abort();
  }

  /** Ends when nobody is left, or nothing more will come; throws what a read throws. Then call `leaveAll`. */
  async run(): Promise<void> {
    const { signal } = this.#abort;
    while (!signal.aborted && !this.#plan.closed) {
      const wake = await parkedOrChanged(this.#engine, this.#plan, this.#lookMs(), signal);
      if (wake === "aborted" || wake === "closing") return;
      await this.#gate.pass();
      const next = await advance(this.#engine, this.#plan, true);
      if ("kind" in next) return;
      this.#plan = next;
      while (this.#plan.from < this.#plan.to && !signal.aborted) {
        const { from } = this.#plan;
        const { parts, rest } = await this.#engine.reader.step(this.#plan);
        // First, so that who comes now waits for what follows.
        this.#plan = rest;
        await this.#offer(liveStep(from, parts, rest));
        // Who took this step asks for the next one by then.
        if (rest.from < rest.to) await nextTurn();
      }
    }
  }

  /** Each reader goes on by itself, and hears by itself why there is nothing more. */
  async leaveAll(): Promise<void> {
    await inSlices(this.#readers, (reader) => {
      this.#readers.delete(reader);
      reader.leave();
    });
  }

  /** Each look is an access, for all of its readers: a stream with a TTL does not end while somebody follows it. */
  #lookMs(): number {
    const expiry = this.#engine.peek(this.#plan.name)?.config.expiry;
    return expiry?.kind === "ttl" ? Math.min(SSE_HEARTBEAT_MS, expiry.seconds * 500) : SSE_HEARTBEAT_MS;
  }

  async #offer(step: LiveStep): Promise<void> {
    await inSlices(this.#readers, (reader) => {
      const at = reader.plan.from;
      // It came by itself to where this step ends.
      if (at >= step.rest.from) return;
      if (at === step.from && reader.offer(step)) return;
      this.remove(reader);
      reader.leave();
    });
  }
}

/** A delivery is a socket write of some 6 µs: a thousand of them would hold up everybody else. */
async function inSlices(readers: Iterable<TailReader>, visit: (reader: TailReader) => void): Promise<void> {
  let inTurn = 0;
  for (const reader of readers) {
    if (inTurn++ === FAN_OUT_SLICE) {
      inTurn = 1;
      await nextTurn();
    }
    visit(reader);
  }
}
