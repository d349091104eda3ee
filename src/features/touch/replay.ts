/**
 * Reads a range of the log again for a wait that the journal does not cover. Owns the pace: so many records a second for all
 * waits of a server, in short turns. Knows nothing of waits; says what it read.
 */

import type { Engine } from "../../engine/engine.ts";
import { EVERY_RECORD, type ReadPlan } from "../../engine/reader.ts";
import { nextTurn } from "../../kit/turn.ts";
import { readStateRecords, type StateRecord } from "../state-protocol/index.ts";
import { MAX_REPLAY_BYTES, KEYS_PER_LOOK, REPLAY_RECORDS_PER_SECOND, TURN_MS } from "./limits.ts";

export interface ReplayRange {
  readonly streamId: number;
  readonly from: number;
  /** Exclusive. */
  readonly to: number;
}

/** `gone`: trimmed or deleted. `stopped`: the visitor has seen enough. */
export type ReplayEnd = "done" | "stopped" | "too-long" | "gone";

/** Sees the records of a replay in order. */
export interface ReplayVisitor {
  /** One record, null when it is no State Protocol record; false stops the replay. */
  visit(record: StateRecord | null, seq: number): boolean;
  /** Keys made so far, in all. */
  work(): number;
}

export class Replayer {
  readonly #engine: Engine;
  readonly #maxRecords: number;
  /** When the records read so far are paid for. */
  #paidMs = 0;

  constructor(engine: Engine, maxRecords: number) {
    this.#engine = engine;
    this.#maxRecords = maxRecords;
  }

  async run(range: ReplayRange, visitor: ReplayVisitor): Promise<ReplayEnd> {
    if (range.to - range.from > this.#maxRecords) return "too-long";
    const engine = this.#engine;
    const head = await engine.byId(range.streamId);
    if (head === undefined) return "gone";
    const whole = await engine.reader.plan(head, { kind: "seq", seq: range.from }, EVERY_RECORD);
    if ("kind" in whole) return "gone";
    let bytes = 0;
    for (let plan: ReadPlan = { ...whole, to: range.to }; plan.from < range.to;) {
      const { parts, rest } = await engine.reader.step(plan);
      let seq = plan.from;
      for (const part of parts) {
        bytes += part.length;
        if (bytes > MAX_REPLAY_BYTES) return "too-long";
        const records = readStateRecords(part);
        if (!(await this.#visit(records, seq, visitor))) return "stopped";
        seq += records.length;
      }
      await this.#pay(rest.from - plan.from);
      plan = rest;
    }
    return "done";
  }

  async #visit(records: readonly (StateRecord | null)[], firstSeq: number, visitor: ReplayVisitor): Promise<boolean> {
    const { clock } = this.#engine;
    let turnEndMs = clock.monotonicMs() + TURN_MS;
    let lookAt = visitor.work() + KEYS_PER_LOOK;
    for (const [index, record] of records.entries()) {
      if (!visitor.visit(record, firstSeq + index)) return false;
      if (visitor.work() < lookAt) continue;
      lookAt = visitor.work() + KEYS_PER_LOOK;
      if (clock.monotonicMs() < turnEndMs) continue;
      await nextTurn();
      turnEndMs = clock.monotonicMs() + TURN_MS;
    }
    return true;
  }

  /** Waits when more was read than the pace allows; a tenth of a second may be owed. */
  async #pay(records: number): Promise<void> {
    const nowMs = this.#engine.clock.monotonicMs();
    this.#paidMs = Math.max(this.#paidMs, nowMs) + (records * 1000) / REPLAY_RECORDS_PER_SECOND;
    const owedMs = this.#paidMs - nowMs;
    if (owedMs <= 100) return;
    await new Promise<void>((resolve) => this.#engine.deadlines.after(owedMs - 100, resolve));
  }
}
