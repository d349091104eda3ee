/**
 * Which users need their results worked out again, and when: soon after an isolated change, and never later than a limit while changes
 * keep coming. Every mark moves a user's deadline to the debounce after it, but not past the sweep interval after the first one; a
 * user is worked on by one call at a time, and what fails is tried again. Bounds: one entry per dirty user, calls under way, users
 * per turn.
 *
 *     const batcher = new HybridUserUpdateBatcher((userId) => views.calculateAndSendDiff(userId));
 *     batcher.markUserAsDirty("user-123", { reason: "viewport_change" });
 *     await batcher.shutdown();
 */

import { type Clock, systemClock } from "../../kit/clock.ts";
import { type Deadline, Deadlines } from "../../kit/deadlines.ts";
import { DeadlineWheel, type WheelPlace } from "../../kit/deadline-wheel.ts";
import { Histogram } from "../../kit/histogram.ts";
import { Ring } from "../../kit/ring.ts";
import { nextTurn } from "../../kit/turn.ts";
import { BACKGROUND_TURN_MS } from "../../protocol/limits.ts";

export interface HybridUserUpdateBatcherConfig {
  /** A user is worked on this long after the last mark. Default 200. */
  readonly debounceTimeoutMs?: number;
  /** And at the latest this long after the first one. Default 5,000. */
  readonly sweepIntervalMs?: number;
  /** Users taken up in one turn of the event loop. Default 100. */
  readonly maxBatchSize?: number;
  /** False: a mark works on its user at once, before it returns. Default true. */
  readonly enableBatching?: boolean;
  /** Calls under way at a time. Default 8. */
  readonly concurrency?: number;
  /** How long `shutdown` works on what is dirty. Default 5,000. */
  readonly drainTimeoutMs?: number;
}

export interface DirtyContext {
  /** Why, in a word: `viewport_change`, `event_update`, … Counted. */
  readonly reason?: string;
  readonly eventId?: string;
  readonly operation?: string;
  readonly timestamp?: number;
  /** Without waiting for more marks: somebody waits for the first answer. */
  readonly immediately?: boolean;
}

/** Works out one user's results and sends what changed. Called again later when it throws or rejects. */
export type ProcessUser = (userId: string) => void | Promise<void>;

export interface HybridUserUpdateBatcherStats {
  /** Marks. */
  readonly totalUsersMarkedDirty: number;
  /** Marks that made a clean user dirty. */
  readonly uniqueUsersMarked: number;
  /** Calls that succeeded. */
  readonly totalUsersProcessed: number;
  /** Users that became due by the debounce. */
  readonly totalDebounceTimersFired: number;
  /** Times that users became due because they had waited for the sweep interval. */
  readonly totalSweeperRuns: number;
  readonly totalBatchesProcessed: number;
  readonly totalErrors: number;
  /** Users marked again because their call failed, or while it was under way. */
  readonly totalRequeued: number;
  readonly currentDirtyUsers: number;
  /** Dirty users that are not due yet. */
  readonly currentActiveTimers: number;
  readonly oldestDirtyAgeMs: number;
  /** From the first mark to the end of the call; upper bounds of buckets. */
  readonly latencyP50Ms: number;
  readonly latencyP99Ms: number;
  readonly marksByReason: Readonly<Record<string, number>>;
  readonly config: Required<HybridUserUpdateBatcherConfig>;
}

export interface BatcherParts {
  /** Default: the machine's. */
  readonly clock?: Clock;
  /** The timer that it shares with others; default: one of its own. */
  readonly deadlines?: Deadlines;
  /** Told of each failed call. Must not throw. */
  readonly onError?: (userId: string, cause: unknown) => void;
}

const DEFAULTS: Required<HybridUserUpdateBatcherConfig> = {
  debounceTimeoutMs: 200,
  sweepIntervalMs: 5_000,
  maxBatchSize: 100,
  enableBatching: true,
  concurrency: 8,
  drainTimeoutMs: 5_000,
};
/** Of the sweep interval: 50 ms of 5 s for the wheel's tick, a late timer and the users before this one. So the limit holds. */
const LIMIT_RESERVE = 0.01;
/** A failing user is tried again after the debounce, then after twice that, up to the sweep interval. */
const BACKOFF_FACTOR = 2;
/** Reasons counted by name; past it a new one counts as `other`. */
const MAX_REASONS = 32;
const LATENCY_MS = [1, 5, 25, 100, 200, 225, 250, 300, 500, 1_000, 2_500, 5_000, 5_100, 6_000, 10_000, 30_000];

/** Waits for its deadline, or in the queue of those that are due, or is being worked on. */
class DirtyUser implements WheelPlace {
  readonly id: string;
  dueMs = Infinity;
  slot = -1;
  /** When the first mark came that no call has taken up; null = clean. */
  dirtySinceMs: number | null = null;
  lastMarkMs = 0;
  isDue = false;
  isRunning = false;
  /** Not worked on again for what was marked so far. */
  isForgotten = false;
  failures = 0;
  /** Told when the next call has ended. */
  readonly waiting: (() => void)[] = [];

  constructor(id: string) {
    this.id = id;
  }
}

export class HybridUserUpdateBatcher {
  readonly #process: ProcessUser;
  readonly #config: Required<HybridUserUpdateBatcherConfig>;
  readonly #clock: Clock;
  readonly #deadlines: Deadlines;
  readonly #onError: (userId: string, cause: unknown) => void;
  readonly #wheel: DeadlineWheel<DirtyUser>;
  /** Dirty users and those being worked on. */
  readonly #users = new Map<string, DirtyUser>();
  readonly #due = new Ring<DirtyUser>();
  readonly #reasons = new Map<string, number>();
  readonly #latency = new Histogram(LATENCY_MS);
  readonly #count = { marked: 0, unique: 0, processed: 0, debounced: 0, swept: 0, batches: 0, errors: 0, requeued: 0 };
  #dirty = 0;
  #running = 0;
  #pumping = false;
  #stopped: Promise<void> | null = null;
  #refusing = false;

  /** @throws RangeError when a number of the config is not positive. */
  constructor(process: ProcessUser, config: HybridUserUpdateBatcherConfig = {}, parts: BatcherParts = {}) {
    this.#process = process;
    this.#config = { ...DEFAULTS, ...config };
    for (const [name, value] of Object.entries(this.#config)) {
      if (typeof value === "number" && !(Number.isFinite(value) && value > 0))
        throw new RangeError(`${name} is a positive number, not ${value}`);
    }
    const { clock = systemClock, deadlines = new Deadlines(clock), onError = () => undefined } = parts;
    this.#clock = clock;
    this.#deadlines = deadlines;
    this.#onError = onError;
    this.#wheel = new DeadlineWheel({
      clock,
      deadlines,
      placeOf: (user) => user,
      onDue: (users) => this.#onDue(users),
    });
  }

  /** Has a user worked on soon. False after `shutdown`: then nothing happens. */
  markUserAsDirty(userId: string, context: DirtyContext = {}): boolean {
    if (this.#refusing) return false;
    this.#count.marked++;
    if (context.reason !== undefined) this.#countReason(context.reason);
    let user = this.#users.get(userId);
    if (user === undefined) {
      user = new DirtyUser(userId);
      this.#users.set(userId, user);
    }
    const nowMs = this.#clock.monotonicMs();
    user.lastMarkMs = nowMs;
    user.isForgotten = false;
    if (user.dirtySinceMs === null) {
      user.dirtySinceMs = nowMs;
      this.#dirty++;
      this.#count.unique++;
    }
    if (user.isDue) return true;
    if (user.isRunning) return true;
    if (!this.#config.enableBatching) this.#run(user);
    else if (context.immediately === true) this.#wheel.set(user, nowMs);
    else this.#schedule(user);
    return true;
  }

  /** Forgets a user: what is dirty is not worked on any more. */
  forgetUser(userId: string): void {
    const user = this.#users.get(userId);
    if (user === undefined) return;
    this.#wheel.clear(user);
    this.#clean(user);
    user.isForgotten = true;
    if (!user.isRunning) this.#drop(user);
  }

  /** Works on all that are dirty now; resolves when each of them was tried. */
  async forceProcessBatch(): Promise<void> {
    const ended: Promise<void>[] = [];
    for (const user of this.#users.values()) {
      if (user.dirtySinceMs === null && !user.isRunning) continue;
      ended.push(this.#ended(user));
    }
    await Promise.all(ended);
  }

  /** Works on what is dirty, for so long as the config allows, then refuses marks. Idempotent. */
  shutdown(): Promise<void> {
    return (this.#stopped ??= this.#drain());
  }

  getStats(): HybridUserUpdateBatcherStats {
    const { marked, unique, processed, debounced, swept, batches, errors, requeued } = this.#count;
    return {
      totalUsersMarkedDirty: marked,
      uniqueUsersMarked: unique,
      totalUsersProcessed: processed,
      totalDebounceTimersFired: debounced,
      totalSweeperRuns: swept,
      totalBatchesProcessed: batches,
      totalErrors: errors,
      totalRequeued: requeued,
      currentDirtyUsers: this.#dirty,
      ...this.#waiting(),
      latencyP50Ms: this.#latency.quantile(0.5),
      latencyP99Ms: this.#latency.quantile(0.99),
      marksByReason: Object.fromEntries(this.#reasons),
      config: this.#config,
    };
  }

  #countReason(reason: string): void {
    const known = this.#reasons.get(reason);
    const name = known === undefined && this.#reasons.size >= MAX_REASONS ? "other" : reason;
    this.#reasons.set(name, (known ?? this.#reasons.get(name) ?? 0) + 1);
  }

  /** To the debounce after the last mark, or the backoff after a failure; at the latest so long after the first mark. */
  #schedule(user: DirtyUser): void {
    const { debounceTimeoutMs, sweepIntervalMs } = this.#config;
    const backoffMs = Math.min(sweepIntervalMs, debounceTimeoutMs * BACKOFF_FACTOR ** user.failures);
    this.#wheel.set(user, Math.min(user.lastMarkMs + backoffMs, this.#limitOf(user)));
  }

  #limitOf({ dirtySinceMs, lastMarkMs }: DirtyUser): number {
    return (dirtySinceMs ?? lastMarkMs) + this.#config.sweepIntervalMs * (1 - LIMIT_RESERVE);
  }

  #onDue(users: readonly DirtyUser[]): void {
    const nowMs = this.#clock.monotonicMs();
    let swept = 0;
    for (const user of users) {
      if (user.dirtySinceMs === null || user.isRunning || user.isDue) continue;
      if (nowMs >= this.#limitOf(user)) swept++;
      else this.#count.debounced++;
      this.#enqueue(user);
    }
    if (swept > 0) this.#count.swept++;
    this.#pump();
  }

  #enqueue(user: DirtyUser): void {
    user.isDue = true;
    this.#due.push(user);
  }

  #pump(): void {
    if (this.#pumping || this.#due.length === 0) return;
    this.#pumping = true;
    this.#runBatches().catch((cause: unknown) => this.#onError("", cause));
  }

  /** Takes up those that are due, in order, as many at a time as may be under way, with a pause between batches. */
  async #runBatches(): Promise<void> {
    const { maxBatchSize, concurrency } = this.#config;
    while (this.#due.length > 0 && this.#running < concurrency) {
      this.#count.batches++;
      const endMs = this.#clock.monotonicMs() + BACKGROUND_TURN_MS;
      for (let taken = 0; taken < maxBatchSize && this.#running < concurrency; taken++) {
        const user = this.#due.shift();
        if (user === undefined) break;
        user.isDue = false;
        // Forgotten meanwhile.
        if (user.dirtySinceMs !== null) this.#run(user);
        if (this.#clock.monotonicMs() >= endMs) break;
      }
      await nextTurn();
    }
    this.#pumping = false;
  }

  /** One call for one user. Synchronous ones have ended when this returns. */
  #run(user: DirtyUser): void {
    const sinceMs = user.dirtySinceMs ?? user.lastMarkMs;
    this.#clean(user);
    user.isRunning = true;
    this.#running++;
    try {
      const ending = this.#process(user.id);
      if (ending === undefined) return this.#end(user, sinceMs, null);
      ending.then(
        () => this.#end(user, sinceMs, null),
        (cause: unknown) => this.#end(user, sinceMs, { cause }),
      );
    } catch (cause) {
      this.#end(user, sinceMs, { cause });
    }
  }

  #end(user: DirtyUser, sinceMs: number, failed: { readonly cause: unknown } | null): void {
    const nowMs = this.#clock.monotonicMs();
    user.isRunning = false;
    this.#running--;
    if (failed === null) {
      user.failures = 0;
      this.#count.processed++;
      this.#latency.observe(nowMs - sinceMs);
    } else {
      user.failures++;
      this.#count.errors++;
      this.#onError(user.id, failed.cause);
      this.#dirtyAgain(user, nowMs);
    }
    for (const resolve of user.waiting.splice(0)) resolve();
    if (user.dirtySinceMs === null) this.#drop(user);
    else {
      this.#count.requeued++;
      if (this.#config.enableBatching || failed !== null) this.#schedule(user);
      else this.#enqueue(user);
    }
    this.#pump();
  }

  /** What failed is not lost; but a user that was forgotten meanwhile stays so. */
  #dirtyAgain(user: DirtyUser, nowMs: number): void {
    if (this.#refusing || user.isForgotten) return;
    user.lastMarkMs = nowMs;
    if (user.dirtySinceMs !== null) return;
    user.dirtySinceMs = nowMs;
    this.#dirty++;
  }

  #clean(user: DirtyUser): void {
    if (user.dirtySinceMs === null) return;
    user.dirtySinceMs = null;
    this.#dirty--;
  }

  #drop(user: DirtyUser): void {
    this.#users.delete(user.id);
    for (const resolve of user.waiting.splice(0)) resolve();
  }

  /** Resolves when a user that is dirty now was tried: by the call under way if it is not dirty besides. */
  async #ended(user: DirtyUser): Promise<void> {
    if (user.isRunning) await this.#nextEnd(user);
    // It was dirty besides, or its call failed: once more, and that is all.
    if (user.dirtySinceMs === null) return;
    const end = this.#nextEnd(user);
    if (!user.isDue && !user.isRunning) {
      this.#wheel.clear(user);
      this.#enqueue(user);
    }
    this.#pump();
    await end;
  }

  #nextEnd(user: DirtyUser): Promise<void> {
    return new Promise((resolve) => user.waiting.push(resolve));
  }

  async #drain(): Promise<void> {
    let limit: Deadline | null = null;
    const late = new Promise<void>((resolve) => {
      limit = this.#deadlines.after(this.#config.drainTimeoutMs, resolve);
    });
    await Promise.race([this.forceProcessBatch(), late]);
    (limit as Deadline | null)?.cancel();
    this.#refusing = true;
    this.#wheel.close();
  }

  #waiting(): { currentActiveTimers: number; oldestDirtyAgeMs: number } {
    const nowMs = this.#clock.monotonicMs();
    let [currentActiveTimers, oldestMs] = [0, nowMs];
    for (const { dirtySinceMs, isDue, isRunning } of this.#users.values()) {
      if (dirtySinceMs === null) continue;
      oldestMs = Math.min(oldestMs, dirtySinceMs);
      if (!isDue && !isRunning) currentActiveTimers++;
    }
    return { currentActiveTimers, oldestDirtyAgeMs: nowMs - oldestMs };
  }
}
