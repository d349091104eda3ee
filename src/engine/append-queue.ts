/**
 * The append queue: group commit that clocks itself. When idle, a commit starts at the end of the loop turn in which an
 * intent arrived; while one is being made durable, whatever arrives is the next. No flush timer, no gate held while bodies
 * arrive. Bounds: intents queued, bytes per commit; body bytes in flight are bounded by `Admission` before they are read.
 */

import type { Clock } from "../kit/clock.ts";
import { LATENCY_SECONDS, type Metrics } from "../kit/metrics.ts";
import type { Spans } from "../kit/spans.ts";
import { MAX_COMMIT_BYTES, MAX_COMMIT_INTENTS, MAX_QUEUED_INTENTS } from "../protocol/limits.ts";
import { type Decided, type Intent, intentBytes, type Outcome } from "../protocol/intents.ts";
import type { StreamLog } from "../storage/port.ts";
import { assert, present } from "../kit/assert.ts";
import { nextTurn, Pace } from "../kit/turn.ts";

/** Groups that change nothing wait for no disk: after so long others come first. */
const TURN_MS = 5;

interface Queued {
  readonly intent: Intent;
  readonly bytes: number;
  readonly atMs: number;
  resolve(outcome: Outcome): void;
  reject(cause: unknown): void;
}

export class AppendQueue {
  readonly #log: StreamLog;
  readonly #clock: Clock;
  readonly #spans: Spans | null;
  readonly #commitSeconds;
  readonly #appendSeconds;
  readonly #intents;
  #queue: Queued[] = [];
  #running: Promise<void> | null = null;
  #closed = false;

  constructor(log: StreamLog, clock: Clock, metrics: Metrics, spans: Spans | null) {
    this.#spans = spans;
    this.#log = log;
    this.#clock = clock;
    metrics.gauge("streams_commit_queue_intents", "Requests that wait for a commit.", () => this.#queue.length);
    this.#commitSeconds = metrics.histogram(
      "streams_commit_seconds",
      "From the decision of a commit to its durability.",
      LATENCY_SECONDS,
    );
    this.#appendSeconds = metrics.histogram(
      "streams_append_seconds",
      "From an append's arrival in the queue to its acknowledgement.",
      LATENCY_SECONDS,
    );
    this.#intents = metrics.counter("streams_commit_intents_total", "Requests that commits have decided.");
  }

  get length(): number {
    return this.#queue.length;
  }

  /** Resolves once the intent is decided and, if it changed anything, durable. Outcomes come in the order of submission. */
  submit(intent: Intent): Promise<Outcome> {
    if (this.#closed) return Promise.resolve({ kind: "rejected", rejection: { kind: "closing" } });
    if (this.#queue.length >= MAX_QUEUED_INTENTS) {
      return Promise.resolve({
        kind: "rejected",
        rejection: { kind: "overloaded", reason: "too many requests wait for a commit" },
      });
    }
    return new Promise((resolve, reject) => {
      this.#queue.push({ intent, bytes: intentBytes(intent), atMs: this.#clock.monotonicMs(), resolve, reject });
      this.#running ??= this.#run();
    });
  }

  /** Takes nothing more; resolves when everything submitted is done. */
  async close(): Promise<void> {
    this.#closed = true;
    while (this.#running !== null) await this.#running;
  }

  async #run(): Promise<void> {
    await nextTurn();
    const pace = new Pace(this.#clock, TURN_MS);
    while (this.#queue.length > 0) {
      if (pace.isOver) await pace.next();
      const group = this.#takeGroup();
      const startMs = this.#clock.monotonicMs();
      try {
        const outcomes = await this.#commit(group.map((queued) => queued.intent));
        assert(outcomes.length === group.length, "an outcome per intent");
        this.#measure(group, startMs);
        group.forEach((queued, index) => settle(queued, present(outcomes[index], "an outcome per intent")));
      } catch (cause) {
        for (const queued of group) queued.reject(cause);
      }
    }
    this.#running = null;
  }

  #commit(intents: readonly Intent[]): Promise<readonly Decided[]> {
    if (this.#spans === null) return this.#log.commit(intents);
    const attributes = { "streams.intents": intents.length };
    return this.#spans.run("commit", attributes, null, () => this.#log.commit(intents));
  }

  #measure(group: readonly Queued[], startMs: number): void {
    const nowMs = this.#clock.monotonicMs();
    this.#intents.add(group.length);
    this.#commitSeconds.observe((nowMs - startMs) / 1000);
    for (const { intent, atMs } of group) {
      if (intent.kind === "append") this.#appendSeconds.observe((nowMs - atMs) / 1000);
    }
  }

  /** The longest prefix of the queue within the bounds of one commit; at least one intent. */
  #takeGroup(): Queued[] {
    let bytes = 0;
    let count = 0;
    for (const queued of this.#queue) {
      bytes += queued.bytes;
      if (count === MAX_COMMIT_INTENTS || (count > 0 && bytes > MAX_COMMIT_BYTES)) break;
      count++;
    }
    if (count === this.#queue.length) {
      const group = this.#queue;
      this.#queue = [];
      return group;
    }
    return this.#queue.splice(0, count);
  }
}

/** Damage is the fault of who asked, and of nobody who came with it. */
function settle(queued: Queued, outcome: Decided): void {
  if (outcome.kind === "failed") queued.reject(outcome.cause);
  else queued.resolve(outcome);
}
