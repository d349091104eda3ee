/**
 * Works off the durable feed of one stream at its own pace: every record once, in order, at most one background turn at a time.
 * Owns the position (`derived`), the lag and who waits for it. What is done with a record is the caller's.
 */

import type { Clock } from "../../kit/clock.ts";
import { nextTurn } from "../../kit/turn.ts";
import type { Run } from "../../protocol/stream.ts";
import type { StateRecord, TouchSettings } from "../state-protocol/index.ts";
import { KEYS_PER_LOOK, MAX_PENDING_RECORDS, TURN_MS } from "./limits.ts";

export interface DeriverOptions {
  readonly tail: number;
  readonly settings: TouchSettings;
  readonly clock: Clock;
  /** One record; null when it cannot be read. `nowMs` is the time of the turn. */
  readonly derive: (record: StateRecord | null, seq: number, nowMs: number) => void;
  /** Keys made so far, in all. */
  readonly work: () => number;
  /** Too much waits: everything before `derived` counts as touched in every way. */
  readonly skip: () => void;
  readonly meter: DerivationMeter;
  readonly onFault: (operation: string, cause: unknown) => void;
}

/** Hears how derivation goes. */
interface DerivationMeter {
  /** One commit's records, durable since `atMs`, are worked off. */
  batchEnded(atMs: number): void;
  turnEnded(lagRecords: number): void;
}

interface PendingRun {
  readonly firstSeq: number;
  readonly records: readonly (StateRecord | null)[];
  readonly atMs: number;
  next: number;
}

interface Settling {
  readonly seq: number;
  readonly resolve: () => void;
}

export class Deriver {
  readonly #options: DeriverOptions;
  #pending: PendingRun[] = [];
  #settling: Settling[] = [];
  #tail: number;
  #derived: number;
  #derivedMs: number;
  #working = false;
  #lagging = false;
  #runs = 0;

  constructor(options: DeriverOptions) {
    this.#options = options;
    this.#tail = this.#derived = options.tail;
    this.#derivedMs = options.clock.nowMs();
  }

  /** The durable tail. */
  get tail(): number {
    return this.#tail;
  }

  /** Records before this seq are worked off. */
  get derived(): number {
    return this.#derived;
  }

  /** When the last record worked off became durable. */
  get derivedMs(): number {
    return this.#derivedMs;
  }

  /** So far behind that changes are derived coarsely. */
  get lagging(): boolean {
    return this.#lagging;
  }

  get runs(): number {
    return this.#runs;
  }

  push(run: Run, atMs: number): void {
    const records: (StateRecord | null)[] = [];
    for (const { count, digest } of run.appends) {
      // Without a digest the records were appended under other rules.
      if (Array.isArray(digest)) for (const record of digest as readonly StateRecord[]) records.push(record);
      else for (let index = 0; index < count; index++) records.push(null);
    }
    this.#tail = run.firstSeq + run.lengths.length;
    this.#pending.push({ firstSeq: run.firstSeq, records, atMs, next: 0 });
    if (this.#tail - this.#derived > MAX_PENDING_RECORDS) this.#skip();
    // Every commit works off a turn's worth itself, so that derivation keeps its share when requests fill the loop.
    if (this.#turn() || this.#working) return;
    this.#working = true;
    this.#rest().catch((cause: unknown) => this.#options.onFault("deriving touches", cause));
  }

  /** Resolves once everything before `seq` is worked off, or never will be. */
  whenDerived(seq: number): Promise<void> {
    if (this.#derived >= seq) return Promise.resolve();
    return new Promise((resolve) => this.#settling.push({ seq, resolve }));
  }

  close(): void {
    this.#pending = [];
    this.#derived = this.#tail;
    this.#settle();
  }

  async #rest(): Promise<void> {
    try {
      do await nextTurn();
      while (!this.#turn());
    } finally {
      this.#working = false;
    }
  }

  /** Works for at most one background turn; true when nothing is left. */
  #turn(): boolean {
    const { clock } = this.#options;
    const nowMs = clock.nowMs();
    const endMs = clock.monotonicMs() + TURN_MS;
    const { derive, work } = this.#options;
    let finished = 0;
    let lookAt = work() + KEYS_PER_LOOK;
    let late = false;
    for (const run of this.#pending) {
      this.#derivedMs = run.atMs;
      while (run.next < run.records.length && !late) {
        this.#updateLag();
        const seq = run.firstSeq + run.next;
        const record = run.records[run.next++] ?? null;
        this.#derived = seq + 1;
        derive(record, seq, nowMs);
        if (work() < lookAt) continue;
        lookAt = work() + KEYS_PER_LOOK;
        late = clock.monotonicMs() >= endMs;
      }
      if (run.next < run.records.length) break;
      this.#runs++;
      finished++;
      this.#options.meter.batchEnded(run.atMs);
    }
    this.#pending.splice(0, finished);
    this.#options.meter.turnEnded(this.#tail - this.#derived);
    this.#settle();
    return this.#pending.length === 0;
  }

  /** Degrades past one mark and recovers below the other; a first mark of 0 never degrades. */
  #updateLag(): void {
    const { lagDegradeFineTouchesAtSourceOffsets: high, lagRecoverFineTouchesAtSourceOffsets: low } =
      this.#options.settings;
    const lag = this.#tail - this.#derived;
    this.#lagging = high > 0 && (this.#lagging ? lag > low : lag > high);
  }

  #skip(): void {
    this.#derived = this.#tail;
    this.#pending = [];
    this.#options.skip();
    this.#settle();
  }

  #settle(): void {
    if (this.#settling.length === 0) return;
    const waiting = this.#settling;
    this.#settling = waiting.filter(({ seq }) => seq > this.#derived);
    for (const { seq, resolve } of waiting) if (seq <= this.#derived) resolve();
  }
}
