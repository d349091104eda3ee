/**
 * One reader of one stream: its position, and what to send it next. It is pulled: at the tail it waits in the feed that it shares
 * with its like; when its connection does not take a step, its position is all that is kept, and it reads on from the log
 * later. What it may have missed by then depends on its overflow policy; what it skips, it says.
 */

import type { Engine } from "../../engine/engine.ts";
import type { ReadPlan } from "../../engine/reader.ts";
import { RecordsGone } from "../../protocol/faults.ts";
import { TurnGate } from "../../kit/turn.ts";
import {
  FEEDS_PER_TURN,
  LAG_NOTICE_MS,
  MAX_LIVE_REQUESTS_PER_STREAM,
  SMALL_READ_BYTES,
} from "../../protocol/limits.ts";
import { offsetAt } from "../../protocol/offset.ts";
import { meanRecordBytes, type StreamHead } from "../../protocol/stream.ts";
import type { Rejection } from "../../protocol/verdicts.ts";
import { DEFAULT_MAX_BYTES, DEFAULT_MAX_SIZE } from "./client-buffer.ts";
import { advance, tooManyLive, whyGone } from "./follow.ts";
import { FrameRoom, type PlaceInLine } from "./frame-room.ts";
import { type LiveStep, liveStep, TailFeed, type TailReader } from "./tail-feed.ts";

/**
 * What becomes of the records that a live reader was too slow for. `resume`: it gets them all, later. `drop-oldest`: it gets
 * the newest of them, and a gap says which it does not get. `disconnect`: its connection ends, it comes back with its offset.
 */
export const OVERFLOW_POLICIES = ["resume", "drop-oldest", "disconnect"] as const;
export type Overflow = (typeof OVERFLOW_POLICIES)[number];

export type LiveItem =
  | LiveStep
  /** It was behind for a while; what it missed follows, from the log. */
  | { readonly kind: "lagged"; readonly fromOffset: string; readonly toOffset: string; readonly ms: number }
  /** Records that it will not get. */
  | { readonly kind: "gap"; readonly fromOffset: string; readonly toOffset: string; readonly count: number }
  /** Nothing more comes; null = the stream is closed and all of it was sent. */
  | { readonly kind: "end"; readonly why: Rejection | null };

/** The live readers of a server, and the feeds they share. */
export class Followers {
  readonly engine: Engine;
  readonly room: FrameRoom;
  readonly #onFault: (operation: string, cause: unknown) => void;
  readonly #feeds = new Map<string, TailFeed>();
  readonly #gate = new TurnGate(FEEDS_PER_TURN);
  readonly #perStream = new Map<number, number>();
  readonly #lagged;
  readonly #dropped;

  constructor(engine: Engine, onFault: (operation: string, cause: unknown) => void) {
    this.engine = engine;
    this.room = new FrameRoom(engine.budget.liveFrameBytes);
    engine.onDrain(() => this.room.open());
    this.#onFault = onFault;
    engine.metrics.gauge(
      "streams_live_frame_bytes",
      "Frames of more than 16 KiB on their way to live readers.",
      () => this.room.used,
    );
    this.#lagged = engine.metrics.counter(
      "streams_live_lagged_total",
      "Times a live reader was behind for over a second.",
    );
    this.#dropped = engine.metrics.counter(
      "streams_live_dropped_records_total",
      "Records that readers with drop-oldest did not get.",
    );
  }

  /** A reader from `start` on; it takes up a live request until it is stopped. `isBehind`: it was too slow before it came back. */
  open(start: ReadPlan, overflow: Overflow, isBehind = false): Follower | Rejection {
    return this.admit(start.id) ? new Follower(this, start, overflow, isBehind) : tooManyLive;
  }

  /** Takes a place for one live request on a stream; `closed` gives it back. */
  admit(streamId: number): boolean {
    const readers = this.#perStream.get(streamId) ?? 0;
    if (readers >= MAX_LIVE_REQUESTS_PER_STREAM || !this.engine.liveRequests.take(1)) return false;
    this.#perStream.set(streamId, readers + 1);
    return true;
  }

  closed(streamId: number): void {
    this.engine.liveRequests.give(1);
    const readers = (this.#perStream.get(streamId) ?? 0) - 1;
    if (readers > 0) this.#perStream.set(streamId, readers);
    else this.#perStream.delete(streamId);
  }

  /** Live requests per stream. */
  *sizes(): Generator<{ id: number; liveRequests: number }> {
    for (const [id, liveRequests] of this.#perStream) yield { id, liveRequests };
  }

  /** Where the feed of this name stands; null when there is none. */
  feedAt(name: string): number | null {
    return this.#feeds.get(name)?.seq ?? null;
  }

  /** Null when the reader has to read by itself first, to the tail or to where the feed stands. */
  join(name: string, reader: TailReader): TailFeed | null {
    const { plan } = reader;
    let feed = this.#feeds.get(name);
    if (feed === undefined ? plan.from < plan.to : plan.from < feed.seq) return null;
    if (feed === undefined) {
      feed = new TailFeed(this.engine, plan, this.#gate);
      this.#feeds.set(name, feed);
      feed.add(reader);
      this.#run(name, feed).catch((cause: unknown) => this.#onFault("a live feed", cause));
    } else feed.add(reader);
    return feed;
  }

  lagged(): void {
    this.#lagged.add();
  }

  dropped(records: number): void {
    this.#dropped.add(records);
  }

  async #run(name: string, feed: TailFeed): Promise<void> {
    try {
      await feed.run();
    } catch (cause) {
      // Gone under the feed is no fault: each reader now reads by itself, and hears why.
      if (!(cause instanceof RecordsGone)) this.#onFault("a live feed", cause);
    }
    this.#feeds.delete(name);
    await feed.leaveAll();
  }
}

/** Readers of one stream that want the same records share a feed. */
export function feedName({ id, key, filter }: ReadPlan): string {
  return key === null && filter === null ? String(id) : JSON.stringify([id, key, filter?.text ?? null]);
}

const AT_ONCE = Promise.resolve();

export class Follower implements TailReader {
  readonly overflow: Overflow;
  readonly #followers: Followers;
  readonly #feedName: string;
  #plan: ReadPlan;
  #feed: TailFeed | null = null;
  #held: LiveStep | null = null;
  #wake: (() => void) | null = null;
  /** Room it has taken, for what it reads next or has given out last. */
  #room = 0;
  /** Room that its next step needs, and did not get. */
  #needs = 0;
  #line: PlaceInLine | null = null;
  #behindSinceMs: number | null;
  #wasLive: boolean;
  /** When it last took something. */
  #tookMs: number;
  #stopped = false;
  #dropped = 0;

  constructor(followers: Followers, start: ReadPlan, overflow: Overflow, isBehind: boolean) {
    this.#followers = followers;
    this.#plan = start;
    this.overflow = overflow;
    this.#tookMs = followers.engine.clock.monotonicMs();
    this.#wasLive = isBehind;
    this.#behindSinceMs = isBehind ? this.#tookMs : null;
    this.#feedName = feedName(start);
  }

  /** Position: what was taken so far ends before `plan.from`. */
  get plan(): ReadPlan {
    return this.#plan;
  }

  get offset(): string {
    return offsetAt(this.#plan.lineage, this.#plan.from);
  }

  /** Records that it skipped. */
  get dropped(): number {
    return this.#dropped;
  }

  /** When it missed the first step that it has not caught up with; null when it is not behind. */
  get behindSinceMs(): number | null {
    return this.#behindSinceMs;
  }

  /** Whether what it gave out last takes up room that others may wait for. */
  get holdsRoom(): boolean {
    return this.#room > 0;
  }

  /**
   * Resolves when `take` may have something, or it was stopped. Never rejects. What was taken before counts as passed on, unless
   * its room was handed over.
   */
  ready(): Promise<void> {
    this.#giveRoom();
    if (this.#needs > 0) return this.#roomThere();
    if (this.#isDue()) return AT_ONCE;
    this.#wasLive = true;
    return new Promise((resolve) => {
      this.#wake = resolve;
    });
  }

  /** Its connection cannot take the step that came while it waited: it reads on from the log later. */
  pass(): void {
    this.#giveRoom();
    if (this.#held === null) return;
    this.#held = null;
    this.#feed?.remove(this);
    this.#feed = null;
    this.#behindSinceMs ??= this.#followers.engine.clock.monotonicMs();
  }

  /** The room that the last step takes up, for the caller to give back when its socket has passed the step on. */
  handOver(): number {
    const bytes = this.#room;
    this.#room = 0;
    return bytes;
  }

  /** The step that came while it waited; null when there is none. */
  takeHeld(): LiveStep | null {
    const held = this.#held;
    if (held === null) return null;
    this.#held = null;
    this.#plan = held.rest;
    this.#tookMs = this.#followers.engine.clock.monotonicMs();
    return held;
  }

  /** What to send now when no step is held; null = after all, nothing. Throws what a read throws. */
  async take(): Promise<LiveItem | null> {
    const { engine } = this.#followers;
    if (engine.closing) return { kind: "end", why: { kind: "closing" } };
    if (this.#isOver()) return { kind: "end", why: null };
    if (this.#needs > this.#room && !this.#reserve(this.#needs)) return null;
    const wasAtTail = this.#plan.from === this.#plan.to;
    const nowMs = engine.clock.monotonicMs();
    // It stood still while it read on from the log, where no feed goes on without it.
    if (this.#wasLive && !wasAtTail && nowMs - this.#tookMs >= LAG_NOTICE_MS) this.#behindSinceMs ??= this.#tookMs;
    this.#tookMs = nowMs;
    if (wasAtTail || this.#behindSinceMs !== null) {
      const next = await advance(engine, this.#plan, true);
      if ("kind" in next) return this.#skipOrEnd(next);
      this.#plan = next;
      const notice = await this.#overflowed();
      if (notice !== null) return notice;
      if (next.from === next.to) return next.closed ? liveStep(next.from, [], next) : null;
    }
    return this.#read();
  }

  /** Gives back what it holds; `ready` resolves. Idempotent. */
  stop(): void {
    if (this.#stopped) return;
    this.#stopped = true;
    this.#held = null;
    this.#feed?.remove(this);
    this.#line?.leave();
    this.#giveRoom();
    this.#followers.closed(this.#plan.id);
    this.#awake();
  }

  offer(step: LiveStep): boolean {
    if (this.#wake === null) return false;
    if (step.size > SMALL_READ_BYTES && !this.#reserve(step.size)) {
      this.#behindSinceMs ??= this.#followers.engine.clock.monotonicMs();
      return false;
    }
    this.#held = step;
    this.#awake();
    return true;
  }

  leave(): void {
    this.#feed = null;
    if (this.#wake === null) this.#behindSinceMs ??= this.#followers.engine.clock.monotonicMs();
    else this.#awake();
  }

  /** Takes room for the next step. When there is none, it is waited for before that is read. */
  #reserve(bytes: number): boolean {
    const more = bytes - this.#room;
    if (more > 0 && !this.#followers.room.take(more)) {
      this.#giveRoom();
      this.#needs = bytes;
      return false;
    }
    if (more < 0) this.#followers.room.give(-more);
    this.#room = bytes;
    this.#needs = 0;
    return true;
  }

  #giveRoom(): void {
    if (this.#room > 0) this.#followers.room.give(this.handOver());
  }

  #roomThere(): Promise<void> {
    if (this.#stopped) return AT_ONCE;
    return new Promise((resolve) => {
      this.#wake = resolve;
      this.#line = this.#followers.room.wait(this.#needs, () => {
        this.#room = this.#needs;
        this.#awake();
      });
    });
  }

  #isDue(): boolean {
    if (this.#held !== null || this.#stopped || this.#followers.engine.closing || this.#isOver()) return true;
    // A feed would bring what it missed as if it were new.
    if (this.#behindSinceMs !== null) return true;
    this.#feed ??= this.#followers.join(this.#feedName, this);
    return this.#feed === null;
  }

  #isOver(): boolean {
    return this.#plan.closed && this.#plan.from === this.#plan.to;
  }

  #awake(): void {
    const wake = this.#wake;
    this.#wake = null;
    wake?.();
  }

  /** Retention has taken what it was too slow for: to a reader that asked to skip, that is a gap like any other. */
  async #skipOrEnd(why: Rejection): Promise<LiveItem> {
    const { engine } = this.#followers;
    const mayGoOn = why.kind === "offset-trimmed" && this.overflow === "drop-oldest";
    const head = mayGoOn ? await engine.byId(this.#plan.id) : undefined;
    return head === undefined ? { kind: "end", why } : this.#skipTo(await engine.reader.earliest(head));
  }

  #skipTo(from: number): LiveItem {
    const fromOffset = this.offset;
    const count = from - this.#plan.from;
    this.#plan = { ...this.#plan, from, to: Math.max(from, this.#plan.to) };
    this.#dropped += count;
    this.#followers.dropped(count);
    return { kind: "gap", fromOffset, toOffset: this.offset, count };
  }

  /** What a reader that fell behind is told before it reads on. */
  async #overflowed(): Promise<LiveItem | null> {
    const { engine } = this.#followers;
    const plan = this.#plan;
    const ms = this.#behindSinceMs === null ? 0 : engine.clock.monotonicMs() - this.#behindSinceMs;
    this.#behindSinceMs = null;
    const fromOffset = this.offset;
    if (this.overflow === "drop-oldest" && this.#wasLive) {
      const head = await engine.byId(plan.id);
      const from = plan.to - (head === undefined ? plan.to - plan.from : kept(head));
      if (from > plan.from) return this.#skipTo(from);
    }
    if (ms < LAG_NOTICE_MS) return null;
    this.#followers.lagged();
    return { kind: "lagged", fromOffset, toOffset: offsetAt(plan.lineage, plan.to), ms: Math.round(ms) };
  }

  async #read(): Promise<LiveItem | null> {
    const plan = this.#plan;
    const feedAt = this.#followers.feedAt(this.#feedName);
    // To where the others are, so that the next step is theirs as well.
    const to = feedAt !== null && feedAt > plan.from ? Math.min(feedAt, plan.to) : plan.to;
    try {
      const { parts, rest } = await this.#followers.engine.reader.step({ ...plan, to });
      const step = liveStep(plan.from, parts, { ...rest, to: plan.to });
      // Read for nothing: how much it is, only the log knew.
      if (this.#stopped || !this.#reserve(step.size > SMALL_READ_BYTES ? step.size : 0)) return null;
      this.#plan = step.rest;
      return step;
    } catch (cause) {
      if (!(cause instanceof RecordsGone)) throw cause;
      return this.#skipOrEnd(await whyGone(this.#followers.engine, plan));
    }
  }
}

/** How many of the last records a reader with `drop-oldest` still gets: as many as a client buffer would hold. */
function kept(head: StreamHead): number {
  const perRecord = Math.max(1, meanRecordBytes(head) ?? 1);
  return Math.max(1, Math.min(DEFAULT_MAX_SIZE, Math.floor(DEFAULT_MAX_BYTES / perRecord)));
}
