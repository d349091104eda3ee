/**
 * The slow background of the engine, one bounded piece of work a second, in short turns: makes reads of TTL streams durable, ends
 * streams whose lifetime is over, and moves the retained start of streams with a retention policy. Costs nothing per idle stream:
 * what is due comes from the store's indexes. Invariant: an access is known here until it is durable.
 */

import type { Clock } from "../kit/clock.ts";
import { nextTurn, Pace } from "../kit/turn.ts";
import type { Deadline, Deadlines } from "../kit/deadlines.ts";
import type { Metrics } from "../kit/metrics.ts";
import {
  BACKGROUND_TURN_MS,
  EXPIRY_PAGE,
  MAX_PENDING_TOUCHES,
  MAX_REMEMBERED_TOUCHES,
  SWEEP_MS,
  SWEEP_STREAMS,
  SWEEP_TRIM_BYTES,
  SWEEP_WORK_MS,
  TOUCH_PERSIST_MS,
  TOUCH_SLICES,
} from "../protocol/limits.ts";
import type { Intent } from "../protocol/intents.ts";
import { keepsAll } from "../protocol/retention.ts";
import { isExpired, type StreamHead } from "../protocol/stream.ts";
import type { StreamStore } from "../storage/port.ts";
import type { AppendQueue } from "./append-queue.ts";

export interface SweeperParts {
  readonly store: StreamStore;
  readonly queue: AppendQueue;
  readonly clock: Clock;
  readonly deadlines: Deadlines;
  readonly metrics: Metrics;
}

/** What one step of retention freed of one stream. */
export interface Trim {
  readonly id: number;
  readonly records: number;
  readonly bytes: number;
  /** From looking for the new start to its durability. */
  readonly ms: number;
}

type TrimIntent = Extract<Intent, { kind: "trim" }>;

/** What one look found to trim of one stream. */
interface Cut {
  readonly intent: TrimIntent;
  readonly records: number;
  readonly bytes: number;
  readonly startMs: number;
  /** Not all that could go: look again. */
  readonly more: boolean;
}

export class Sweeper {
  readonly #store: StreamStore;
  readonly #queue: AppendQueue;
  readonly #clock: Clock;
  readonly #deadlines: Deadlines;
  readonly #onFault: (operation: string, cause: unknown) => void;
  /** Last reads of TTL streams that are not durable yet. */
  readonly #touched = new Map<number, number>();
  /** When the first of those came that no attempt to write them has seen, by the monotonic clock. */
  #touchedSinceMs: number | null = null;
  /** Some more reads than could be remembered were before this: any stream may have been read then. */
  #forgottenMs = 0;
  #retentionAfter = 0;
  #next: Deadline | null = null;
  #turn: Promise<void> = Promise.resolve();
  #stopped = false;
  readonly #trimListeners: ((trim: Trim) => void)[] = [];
  readonly #counters;

  constructor(
    { store, queue, clock, deadlines, metrics }: SweeperParts,
    onFault: (operation: string, cause: unknown) => void,
  ) {
    this.#store = store;
    this.#queue = queue;
    this.#clock = clock;
    this.#deadlines = deadlines;
    this.#onFault = onFault;
    this.#counters = {
      trims: metrics.counter("streams_retention_trims_total", "Steps in which retention moved the start of a stream."),
      records: metrics.counter("streams_retention_trimmed_records_total", "Records that retention has given up."),
      bytes: metrics.counter("streams_retention_trimmed_bytes_total", "Payload bytes that retention has given up."),
      expired: metrics.counter("streams_expired_streams_total", "Streams whose lifetime was over."),
    };
    this.#arm();
  }

  /** Slides the TTL of a stream that is read now. */
  touch(head: StreamHead, nowMs: number): void {
    if (head.config.expiry.kind !== "ttl") return;
    head.accessedMs = Math.max(head.accessedMs, nowMs);
    if (this.#touched.size >= MAX_REMEMBERED_TOUCHES && !this.#touched.has(head.id)) {
      this.#forgottenMs = Math.max(this.#forgottenMs, nowMs);
      return;
    }
    this.#touched.set(head.id, head.accessedMs);
    this.#touchedSinceMs ??= this.#clock.monotonicMs();
  }

  /** The head may have come from the table just now: gives it the accesses that memory knows. */
  refresh(head: StreamHead): void {
    if (head.config.expiry.kind !== "ttl") return;
    head.accessedMs = Math.max(head.accessedMs, this.#touched.get(head.id) ?? 0, this.#forgottenMs);
  }

  /** Whether the store knows less of accesses than this. */
  get holdsAccesses(): boolean {
    return this.#touched.size > 0 || this.#forgottenMs > 0;
  }

  onTrim(listener: (trim: Trim) => void): void {
    this.#trimListeners.push(listener);
  }

  /** One turn. Public so that tests drive it. */
  async tick(): Promise<void> {
    const nowMs = this.#clock.nowMs();
    const sinceMs = this.#touchedSinceMs;
    const isDue = sinceMs !== null && this.#clock.monotonicMs() - sinceMs >= TOUCH_PERSIST_MS;
    if (isDue || this.#touched.size >= MAX_PENDING_TOUCHES) await this.#persistTouches();
    await this.#expire(nowMs);
    await this.#trim(nowMs);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#next?.cancel();
    await this.#turn;
    try {
      await this.#persistTouches();
    } catch (cause) {
      this.#onFault("writing the last reads of streams with a TTL", cause);
    }
  }

  #arm(): void {
    if (this.#stopped) return;
    this.#next = this.#deadlines.after(SWEEP_MS, () => {
      this.#turn = this.tick()
        .catch((cause: unknown) => this.#onFault("a background sweep", cause))
        .finally(() => this.#arm());
    });
  }

  async #persistTouches(): Promise<void> {
    if (this.#touched.size === 0) return;
    this.#touchedSinceMs = null;
    const accesses = [...this.#touched];
    const slices = Array.from({ length: Math.ceil(accesses.length / SWEEP_STREAMS) }, (_, index) =>
      accesses.slice(index * SWEEP_STREAMS, (index + 1) * SWEEP_STREAMS),
    );
    try {
      for (let at = 0; at < slices.length; at += TOUCH_SLICES) {
        const done = await Promise.all(slices.slice(at, at + TOUCH_SLICES).map((slice) => this.#persistSlice(slice)));
        if (done.includes(false)) return;
      }
    } finally {
      // Read again meanwhile, or refused.
      if (this.#touched.size > 0) this.#touchedSinceMs ??= this.#clock.monotonicMs();
    }
  }

  /** False when the store did not take it. */
  async #persistSlice(accesses: readonly (readonly [id: number, atMs: number])[]): Promise<boolean> {
    const { kind } = await this.#queue.submit({ kind: "touch", accesses });
    if (kind !== "done") return false;
    for (const [id, atMs] of accesses) if (this.#touched.get(id) === atMs) this.#touched.delete(id);
    return true;
  }

  async #expire(nowMs: number): Promise<void> {
    const untilMs = this.#clock.monotonicMs() + SWEEP_WORK_MS;
    // Damaged ones stay in the store's index, before the others.
    const passedOver = new Set<number>();
    for (;;) {
      const limit = EXPIRY_PAGE + passedOver.size;
      const ids = await this.#store.catalog.pastDeadline(nowMs, limit);
      const isTaken = await this.#expirePage(ids, nowMs, passedOver);
      if (!isTaken || ids.length < limit || this.#clock.monotonicMs() >= untilMs) return;
    }
  }

  /** Asked for together, they end in one commit. False when the store refuses it. */
  async #expirePage(ids: readonly number[], nowMs: number, passedOver: Set<number>): Promise<boolean> {
    const answers: Promise<boolean>[] = [];
    const accesses: [id: number, atMs: number][] = [];
    const pace = new Pace(this.#clock, BACKGROUND_TURN_MS);
    for (const id of ids) {
      if (passedOver.has(id)) continue;
      if (pace.isOver) await pace.next();
      const head = await this.#guarded(id, "the expiry", () => this.#store.catalog.byId(id));
      if (head === undefined || head.deletion !== "none") {
        passedOver.add(id);
        continue;
      }
      this.refresh(head);
      if (isExpired(head, nowMs)) answers.push(this.#end(id, passedOver));
      // The index goes by an older access: it would name the stream again and again.
      else accesses.push([id, head.accessedMs]);
    }
    if (accesses.length > 0) answers.push(this.#persistSlice(accesses));
    return !(await Promise.all(answers)).includes(false);
  }

  async #end(id: number, passedOver: Set<number>): Promise<boolean> {
    const outcome = await this.#guarded(id, "the expiry", () => this.#queue.submit({ kind: "expire", id }));
    if (outcome?.kind === "done") this.#counters.expired.add();
    else passedOver.add(id);
    return outcome?.kind !== "rejected";
  }

  /** What is wrong with one stream does not hold up the others: then undefined. */
  async #guarded<T>(id: number, what: string, work: () => Promise<T>): Promise<T | undefined> {
    try {
      return await work();
    } catch (cause) {
      this.#onFault(`${what} of stream ${id}`, cause);
      return undefined;
    }
  }

  /** Who does not come up in its time does in the next sweep: the place is kept. */
  async #trim(nowMs: number): Promise<void> {
    const untilMs = this.#clock.monotonicMs() + SWEEP_WORK_MS;
    for (;;) {
      const ids = await this.#store.catalog.withRetention(this.#retentionAfter, SWEEP_STREAMS);
      const { through, bytes } = await this.#trimPage(ids, nowMs, untilMs);
      const isLast = ids.length < SWEEP_STREAMS && through === (ids.at(-1) ?? 0);
      this.#retentionAfter = isLast ? 0 : through;
      if (isLast || bytes < SWEEP_TRIM_BYTES || this.#clock.monotonicMs() >= untilMs) return;
    }
  }

  /** How many bytes went, and the last stream that was looked at. */
  async #trimPage(ids: readonly number[], nowMs: number, untilMs: number): Promise<{ through: number; bytes: number }> {
    let through = 0;
    let bytes = 0;
    // Those that are not done with one look are looked at again, together.
    for (let behind = ids; behind.length > 0;) {
      const trims: Promise<Cut | undefined>[] = [];
      for (const id of behind) {
        if (trims.length > 0 && this.#clock.monotonicMs() >= untilMs) break;
        const cut = await this.#guarded(id, "the retention", () => this.#cutOf(id, nowMs));
        if (cut !== undefined && cut !== null) trims.push(this.#apply(cut));
        through = Math.max(through, id);
        await nextTurn();
      }
      const done = (await Promise.all(trims)).filter((cut) => cut !== undefined);
      bytes += done.reduce((sum, cut) => sum + cut.bytes, 0);
      if (this.#clock.monotonicMs() >= untilMs) break;
      behind = done.filter((cut) => cut.more).map((cut) => cut.intent.id);
    }
    return { through, bytes };
  }

  /** What may go of a stream now, as far as one look sees; null = nothing. */
  async #cutOf(id: number, nowMs: number): Promise<Cut | null> {
    const head = await this.#store.catalog.byId(id);
    if (head === undefined || head.deletion === "hard" || keepsAll(head.retention)) return null;
    const { retention, trimmedBytes } = head;
    const retainedFrom = Math.max(head.retainedFrom, head.config.from);
    const startMs = this.#clock.monotonicMs();
    const beforeMs = retention.maxAgeMs === null ? null : nowMs - retention.maxAgeMs;
    const { more, ...point } = await this.#store.log.trimPoint(id, { beforeMs, maxBytes: retention.maxBytes });
    if (point.retainedFrom <= retainedFrom) return null;
    return {
      intent: { kind: "trim", id, retention, ...point },
      records: point.retainedFrom - retainedFrom,
      bytes: point.trimmedBytes - trimmedBytes,
      startMs,
      more,
    };
  }

  /** Undefined when the store did not take it, or the policy is another one by now. */
  async #apply(cut: Cut): Promise<Cut | undefined> {
    const { intent, records, bytes, startMs } = cut;
    const outcome = await this.#guarded(intent.id, "the retention", () => this.#queue.submit(intent));
    if (outcome?.kind !== "done") return undefined;
    this.#counters.trims.add();
    this.#counters.records.add(records);
    this.#counters.bytes.add(bytes);
    const trim = { id: intent.id, records, bytes, ms: this.#clock.monotonicMs() - startMs };
    for (const listener of this.#trimListeners) listener(trim);
    return cut;
  }
}
