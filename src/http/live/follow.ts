/**
 * The follow loop that all live modes share: catch up from the store, then wait for the commit feed, and when overrun catch
 * up again. State is one plan: a stalled reader costs an offset, not a buffer.
 */

import type { Engine } from "../../engine/engine.ts";
import { nextTurn } from "../../kit/turn.ts";
import { type ReadPlan, selectsAll } from "../../engine/reader.ts";
import type { Wake } from "../../engine/waiters.ts";
import type { Rejection } from "../../protocol/verdicts.ts";

export const tooManyLive: Rejection = { kind: "overloaded", reason: "too many live requests" };

/** The same read from where `plan` stands to the present tail, or why there is none any more. */
export async function advance(engine: Engine, plan: ReadPlan): Promise<ReadPlan | Rejection> {
  const head = await engine.find(plan.name, "read");
  if ("kind" in head) return head;
  // The name was deleted and created again while we waited: this position belongs to the former stream.
  if (head.id !== plan.id) return { kind: "offset-gone" };
  return engine.reader.plan(head, { kind: "seq", seq: plan.from }, plan);
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

/** `plan` from its first record that it selects, or null when it has none. Without a selection that is the plan itself. */
export async function findMatch(engine: Engine, plan: ReadPlan, signal: AbortSignal): Promise<ReadPlan | null> {
  if (selectsAll(plan)) return plan.from < plan.to ? plan : null;
  for (let at = plan; at.from < at.to && !signal.aborted;) {
    const { parts, rest } = await engine.reader.step(at);
    if (parts.length > 0) return at;
    at = rest;
    await nextTurn();
  }
  return null;
}
