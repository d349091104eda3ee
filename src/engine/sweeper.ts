/**
 * The slow background of the engine, one bounded turn a second: makes reads of TTL streams durable, ends streams whose
 * lifetime is over, and moves the retained start of streams with a retention policy. Costs nothing per idle stream:
 * what is due comes from the store's indexes.
 */

import type { Clock } from "../kit/clock.ts";
import { nextTurn } from "../kit/turn.ts";
import type { Deadline, Deadlines } from "../kit/deadlines.ts";
import type { Metrics } from "../kit/metrics.ts";
import { MAX_PENDING_TOUCHES, SWEEP_MS, SWEEP_STREAMS, TOUCH_PERSIST_MS } from "../protocol/limits.ts";
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

export class Sweeper {
  readonly #store: StreamStore;
  readonly #queue: AppendQueue;
  readonly #clock: Clock;
  readonly #deadlines: Deadlines;
  readonly #onFault: (operation: string, cause: unknown) => void;
  /** Last reads of TTL streams that are not durable yet. */
  #touched = new Map<number, number>();
  #touchedSinceMs: number | null = null;
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
    this.#touched.set(head.id, nowMs);
    this.#touchedSinceMs ??= nowMs;
  }

  /** A read of the head may come from the table: gives it the accesses that memory knows. */
  refresh(head: StreamHead): void {
    const touchedMs = this.#touched.get(head.id);
    if (touchedMs !== undefined && touchedMs > head.accessedMs) head.accessedMs = touchedMs;
  }

  onTrim(listener: (trim: Trim) => void): void {
    this.#trimListeners.push(listener);
  }

  /** One turn. Public so that tests drive it. */
  async tick(): Promise<void> {
    const nowMs = this.#clock.nowMs();
    await this.#persistTouches(nowMs);
    await this.#expire(nowMs);
    await this.#trim(nowMs);
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    this.#next?.cancel();
    await this.#turn;
    await this.#persistTouches(Infinity);
  }

  #arm(): void {
    if (this.#stopped) return;
    this.#next = this.#deadlines.after(SWEEP_MS, () => {
      this.#turn = this.tick()
        .catch((cause: unknown) => this.#onFault("a background sweep", cause))
        .finally(() => this.#arm());
    });
  }

  async #persistTouches(nowMs: number): Promise<void> {
    const sinceMs = this.#touchedSinceMs;
    if (sinceMs === null) return;
    if (nowMs - sinceMs < TOUCH_PERSIST_MS && this.#touched.size < MAX_PENDING_TOUCHES) return;
    const accesses = [...this.#touched];
    this.#touched = new Map();
    this.#touchedSinceMs = null;
    for (let at = 0; at < accesses.length; at += SWEEP_STREAMS) {
      await this.#queue.submit({ kind: "touch", accesses: accesses.slice(at, at + SWEEP_STREAMS) });
    }
  }

  async #expire(nowMs: number): Promise<void> {
    const ids = await this.#store.catalog.pastDeadline(nowMs, SWEEP_STREAMS);
    const due: number[] = [];
    await this.#each(ids, "the expiry", async (id) => {
      const head = await this.#store.catalog.byId(id);
      if (head === undefined || head.deletion !== "none") return;
      this.refresh(head);
      if (isExpired(head, nowMs)) due.push(id);
    });
    // Asked for together, they end in one commit.
    const endings = due.map((id) =>
      this.#each([id], "the expiry", async () => {
        const outcome = await this.#queue.submit({ kind: "expire", id });
        if (outcome.kind === "done") this.#counters.expired.add();
      }),
    );
    await Promise.all(endings);
  }

  /** One after the other; what is wrong with one of them does not hold up the others. */
  async #each(ids: readonly number[], what: string, work: (id: number) => Promise<void>): Promise<void> {
    for (const id of ids) {
      try {
        await work(id);
      } catch (cause) {
        this.#onFault(`${what} of stream ${id}`, cause);
      }
    }
  }

  async #trim(nowMs: number): Promise<void> {
    const ids = await this.#store.catalog.withRetention(this.#retentionAfter, SWEEP_STREAMS);
    this.#retentionAfter = ids.length < SWEEP_STREAMS ? 0 : (ids[ids.length - 1] ?? 0);
    await this.#each(ids, "the retention", async (id) => {
      const head = await this.#store.catalog.byId(id);
      if (head === undefined || head.deletion === "hard" || keepsAll(head.retention)) return;
      const { maxAgeMs, maxBytes } = head.retention;
      const before = { retainedFrom: Math.max(head.retainedFrom, head.config.from), trimmedBytes: head.trimmedBytes };
      const startMs = this.#clock.monotonicMs();
      const point = await this.#store.log.trimPoint(id, {
        beforeMs: maxAgeMs === null ? null : nowMs - maxAgeMs,
        maxBytes,
      });
      if (point.retainedFrom > before.retainedFrom) {
        const outcome = await this.#queue.submit({ kind: "trim", id, ...point });
        if (outcome.kind !== "done") return;
        const records = point.retainedFrom - before.retainedFrom;
        const bytes = point.trimmedBytes - before.trimmedBytes;
        this.#counters.trims.add();
        this.#counters.records.add(records);
        this.#counters.bytes.add(bytes);
        const trim = { id, records, bytes, ms: this.#clock.monotonicMs() - startMs };
        for (const listener of this.#trimListeners) listener(trim);
      }
      await nextTurn();
    });
  }
}
