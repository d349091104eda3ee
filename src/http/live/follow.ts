/**
 * The follow loop that all live modes share: catch up from the store, then wait for the commit feed, and when overrun catch
 * up again. State is one plan: a stalled reader costs an offset, not a buffer.
 */

import type { Engine } from "../../engine/engine.ts";
import { assert } from "../../kit/assert.ts";
import { nextTurn } from "../../kit/turn.ts";
import { type ReadPlan, selectsAll } from "../../engine/reader.ts";
import type { Wake } from "../../engine/waiters.ts";
import type { Rejection } from "../../protocol/verdicts.ts";

export const tooManyLive: Rejection = { kind: "overloaded", reason: "too many live requests" };

/**
 * The same read from where `plan` stands to the present tail, or why there is none any more. `isCounted`: what is read of it takes up
 * room for frames, and is not refused when memory is short.
 */
export async function advance(engine: Engine, plan: ReadPlan, isCounted = false): Promise<ReadPlan | Rejection> {
  const head = await engine.find(plan.name, "read");
  if ("kind" in head) return head;
  // The name was deleted and created again while we waited: this position belongs to the former stream.
  if (head.id !== plan.id) return { kind: "offset-gone" };
  return engine.reader.plan(head, { kind: "seq", seq: plan.from, isCounted }, plan);
}

/** Why the records of `plan` are no longer there, which a read of them has found. */
export async function whyGone(engine: Engine, plan: ReadPlan): Promise<Rejection> {
  const next = await advance(engine, plan);
  assert("kind" in next, `records of ${plan.name} from ${plan.from} are gone, and nothing gave them up`);
  return next;
}

/** Parks until the stream changes; returns at once when it already has moved on from `plan`. */
export async function parkedOrChanged(
  engine: Engine,
  plan: ReadPlan,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<Wake> {
  const wait = engine.waiters.register(plan.id, timeoutMs, signal);
  const head = await engine.byId(plan.id);
  if (head === undefined || head.next > plan.to || head.closed !== plan.closed) {
    wait.cancel();
    return "changed";
  }
  return wait.woken;
}

/** Where a search of a plan stands. */
export interface Search {
  /** It begins with a record that it selects; else it is what was not searched yet, which may be nothing. */
  readonly plan: ReadPlan;
  readonly isMatch: boolean;
}

/** Goes on to the first record that `plan` selects, as far as that is not past its end, nor `endMs`, nor the end of the server. */
export async function findMatch(engine: Engine, plan: ReadPlan, signal: AbortSignal, endMs: number): Promise<Search> {
  if (selectsAll(plan)) return { plan, isMatch: plan.from < plan.to };
  for (let at = plan; ;) {
    if (at.from >= at.to) return { plan: at, isMatch: false };
    const { parts, rest } = await engine.reader.step(at);
    if (parts.length > 0) return { plan: at, isMatch: true };
    // At least one step: who comes back with a short timeout comes forward as well.
    if (signal.aborted || engine.closing || engine.clock.monotonicMs() >= endMs) return { plan: rest, isMatch: false };
    at = rest;
    await nextTurn();
  }
}
