/**
 * The live views of one stream: follows its log, keeps its state, and tells each client what its view shows. Views that show the same
 * share one evaluation. A change marks the views that it concerns; when they are due, what a client was sent is compared with
 * what it should have. A client that does not take what it is sent is not given more: it gets the difference later, however large
 * the storm in between was.
 *
 * The parts of the founding guide: EventCacheService is the materialised state, UserStateService the views of `#views`,
 * EventFilteringService this class with `calculateAndSendDiff`, ViewportProcessor the interest index.
 */

import { nextTurn } from "../../kit/turn.ts";
import type { Deadlines } from "../../kit/deadlines.ts";
import { BACKGROUND_TURN_MS } from "../../protocol/limits.ts";
import { offsetAt } from "../../protocol/offset.ts";
import type { Rejection } from "../../protocol/verdicts.ts";
import type { Follower } from "../../http/live/follower.ts";
import type { LiveStep } from "../../http/live/tail-feed.ts";
import { joinBytes } from "../../kit/bytes.ts";
import type { Clock } from "../../kit/clock.ts";
import { readStateRecords } from "../state-protocol/index.ts";
import { HybridUserUpdateBatcher, type HybridUserUpdateBatcherConfig } from "./hybrid-batcher.ts";
import { type KeptRow, type KeptState, rowIn } from "./kept-rows.ts";
import { InterestIndex } from "./interest-index.ts";
import { MaterialisedState } from "./materialised-state.ts";
import type { ViewDefinition, Viewport } from "./view-definition.ts";
import { RowKeeper } from "./row-keeper.ts";
import { Sent, SentBook, type SentHolder, type SentRows, sentRows } from "./sent-rows.ts";
import { diffView, type ViewDiff } from "./view-diff.ts";
import { evaluateView, rowsKnownAt } from "./view-evaluation.ts";

/** What a client is sent: the difference, and the position in the stream that its view then shows. */
export interface ViewMessage {
  readonly diff: ViewDiff;
  readonly offset: string;
  /** The view that shows it. */
  readonly definition: ViewDefinition;
}

/** Why views end: what the log says, that the state has grown beyond its bound, or what was thrown. */
export type ViewEnd =
  | Rejection
  | { readonly kind: "state-too-large" }
  | { readonly kind: "fault"; readonly cause: unknown };

export interface ViewClient {
  /** False while it has not taken what it was sent. When that changes, call `drained`. */
  isReady(): boolean;
  /** Must not throw. */
  send(message: ViewMessage): void;
  /** Nothing more comes. Must not throw. */
  end(why: ViewEnd): void;
}

export interface ViewHandle {
  /** Shows something else from now on: the client is told the difference. */
  update(definition: ViewDefinition): void;
  /** The client has taken what it was sent. */
  drained(): void;
  /** Idempotent. */
  close(): void;
}

export interface ViewStreamParts {
  readonly clock: Clock;
  readonly batching: HybridUserUpdateBatcherConfig;
  readonly deadlines: Deadlines;
  readonly hash: (text: string) => bigint;
  readonly kept: KeptState;
  /** Another follower of the stream, from its first record on. */
  readonly fromStart: () => Promise<Follower | Rejection>;
  /** Whether there is room for the states of all streams as they are, and so much more. */
  readonly hasRoom: (moreBytes?: number) => boolean;
  readonly onFault: (operation: string, cause: unknown) => void;
}

/** One view at a time: several would each take their slice of the same turn. */
const BATCHING: HybridUserUpdateBatcherConfig = { concurrency: 1 };
const TOO_LARGE: ViewEnd = { kind: "state-too-large" };

/** Views that show the same. */
interface Cohort {
  readonly definition: ViewDefinition;
  readonly views: Set<View>;
}

interface View extends SentHolder {
  cohort: Cohort;
  readonly client: ViewClient;
  /** It comes back, and knows what its view showed at this position; null = it knows nothing. */
  since: string | null;
  /** It was passed over because its client was not ready. */
  isBehind: boolean;
}

export interface ViewStreamStats {
  readonly rows: number;
  readonly stateBytes: number;
  readonly views: number;
  /** Views that are worked out; those that show the same count once. */
  readonly cohorts: number;
  readonly diffsSent: number;
  readonly fullSends: number;
  /** Evaluations of a view that found nothing to tell. */
  readonly noopSkipped: number;
}

export class ViewStream {
  readonly #parts: ViewStreamParts;
  #follower: Follower;
  #state: MaterialisedState;
  readonly #interests = new InterestIndex<Cohort>();
  readonly #cohorts = new Map<string, Cohort>();
  readonly #views = new Set<View>();
  readonly #batcher: HybridUserUpdateBatcher;
  readonly #caughtUp = Promise.withResolvers<void>();
  readonly #closed = Promise.withResolvers<void>();
  readonly #keeper: RowKeeper;
  readonly #sent = new SentBook();
  readonly #count = { diffs: 0, fulls: 0, noops: 0 };
  #offset: string;
  /** How many records of the stream the state shows. */
  #seq: number;
  #isCurrent = false;
  #ended: ViewEnd | null = null;

  /** `follower` begins at the first record of the stream, or where the kept rows end, and is this object's from now on. */
  constructor(follower: Follower, parts: ViewStreamParts) {
    this.#follower = follower;
    this.#parts = parts;
    this.#offset = follower.offset;
    this.#state = new MaterialisedState(parts.hash, this.#offset);
    this.#seq = follower.plan.from;
    const { clock, deadlines, kept, onFault } = parts;
    this.#keeper = new RowKeeper(kept, () => ({ state: this.#state, seq: this.#seq }), deadlines, onFault);
    this.#batcher = new HybridUserUpdateBatcher(
      (identity) => this.calculateAndSendDiff(identity),
      { ...BATCHING, ...parts.batching },
      {
        clock,
        deadlines,
        onError: (identity, cause) => onFault(`the live view ${identity}`, cause),
      },
    );
  }

  get views(): number {
    return this.#views.size;
  }

  /** The follower's position, for those who watch. */
  get follower(): Follower {
    return this.#follower;
  }

  /** What the rows take up in memory, and what clients were sent of them, about. */
  get bytes(): number {
    return this.#state.bytes + this.#sent.bytes;
  }

  /** Null while it goes on. */
  get ended(): ViewEnd | null {
    return this.#ended;
  }

  get batcher(): HybridUserUpdateBatcher {
    return this.#batcher;
  }

  getStats(): ViewStreamStats {
    return {
      rows: this.#state.size,
      stateBytes: this.#state.bytes,
      views: this.#views.size,
      cohorts: this.#cohorts.size,
      diffsSent: this.#count.diffs,
      fullSends: this.#count.fulls,
      noopSkipped: this.#count.noops,
    };
  }

  /** Follows the stream until it ends or `close`; every view hears why. When this resolves its rows are kept, or forgotten with it. */
  async run(): Promise<void> {
    try {
      this.#end((await this.#restore()) ?? (await this.#follow()));
    } catch (cause) {
      this.#parts.onFault(`live views of ${this.#follower.plan.name}`, cause);
      this.#end({ kind: "fault", cause });
    } finally {
      this.#follower.stop();
    }
    await this.#keeper.stop();
    await this.#batcher.shutdown();
    const why = this.#ended?.kind;
    if (why === "closing") await this.#keeper.finish();
    // The stream is there no more.
    if (why === "not-found" || why === "gone" || why === "offset-gone") await this.#parts.kept.forget();
  }

  /** `since`: the client knows what this view showed at that position of the stream. */
  open(definition: ViewDefinition, client: ViewClient, since: string | null = null): ViewHandle {
    const view: View = { cohort: this.#cohortOf(definition), client, sent: null, since, isBehind: false };
    this.#views.add(view);
    if (this.#ended === null) this.#join(view, "initial_request");
    else client.end(this.#ended);
    return {
      update: (next) => {
        if (!this.#views.has(view) || this.#ended !== null) return;
        const before = view.cohort;
        // What it knew was of another view.
        view.since = null;
        view.cohort = this.#cohortOf(next);
        // First, so that what both of them need stays.
        this.#join(view, "viewport_change");
        if (before !== view.cohort) this.#leave(view, before);
      },
      drained: () => {
        if (!view.isBehind || !this.#views.has(view)) return;
        this.#mark(view.cohort, "drained");
      },
      close: () => {
        if (this.#views.delete(view)) this.#leave(view, view.cohort);
        this.#sent.hold(view, null);
      },
    };
  }

  /** Ends following, and the views with it; `run` then comes to its end. */
  close(): void {
    this.#end({ kind: "closing" });
    this.#follower.stop();
  }

  /** Works out what the views of one identity show, and tells each client what it does not know yet. */
  async calculateAndSendDiff(identity: string): Promise<void> {
    await this.#caughtUp.promise;
    const cohort = this.#cohorts.get(identity);
    if (cohort === undefined || this.#ended !== null) return;
    const { definition } = cohort;
    const { viewport } = definition;
    if (viewport !== null && this.#wantsPlane(viewport, cohort)) {
      await this.#state.prepare(viewport, this.#parts.hasRoom);
    }
    const offset = this.#offset;
    const candidates = viewport === null ? [...this.#state.getAllEvents()] : this.#state.getEventsInViewport(viewport);
    // All of one moment, which is over with the first await.
    const returning = this.#returning(cohort);
    const all = returning.length === 0 ? [] : [...this.#state.getAllEvents()];
    const rows = await evaluateView(definition, candidates, this.#parts.clock);
    const known = new Map<View, SentRows | null>();
    for (const { view, since, deleted } of returning) {
      known.set(view, await rowsKnownAt(since, definition, { rows, all, deleted }, this.#parts.clock));
    }
    // Nobody waits for it any more.
    if (this.#cohorts.get(identity) !== cohort || this.ended !== null) return;
    const bytesBefore = this.#sent.bytes;
    for (const [view, told] of known) {
      if (told !== null && cohort.views.has(view)) this.#sent.hold(view, new Sent(told));
    }
    const sent = new Sent(sentRows(rows));
    /** Clients that were sent the same are told the same. */
    const messages = new Map<Sent | null, ViewMessage | null>();
    const told: [ViewClient, ViewMessage | null][] = [];
    for (const view of cohort.views) {
      view.isBehind = !view.client.isReady();
      if (view.isBehind) continue;
      let message = messages.get(view.sent);
      if (message === undefined) {
        const diff = diffView(view.sent?.rows ?? null, rows);
        message = diff === null ? null : { diff, offset, definition };
        messages.set(view.sent, message);
      }
      told.push([view.client, message]);
      this.#sent.hold(view, sent);
    }
    if (this.#sent.bytes > bytesBefore && !this.#parts.hasRoom()) this.#endCohort(cohort);
    else this.#tell(told);
  }

  #tell(told: readonly (readonly [ViewClient, ViewMessage | null])[]): void {
    for (const [client, message] of told) {
      if (message === null) {
        this.#count.noops++;
        continue;
      }
      if (message.diff.kind === "full") this.#count.fulls++;
      else this.#count.diffs++;
      client.send(message);
    }
  }

  /** Views whose clients come back, and what was deleted since; a client that was away for too long gets the whole set. */
  #returning({ views }: Cohort): { view: View; since: string; deleted: readonly string[] }[] {
    const returning = [];
    for (const view of views) {
      const { since } = view;
      view.since = null;
      if (since === null || view.sent !== null || since > this.#offset) continue;
      const deleted = this.#state.deletedSince(since);
      if (deleted !== null) returning.push({ view, since, deleted });
    }
    return returning;
  }

  /** Puts the kept rows back; where they are of no use the log is read from the start. Why it ends already, else null. */
  async #restore(): Promise<ViewEnd | null> {
    const { kept, hasRoom, fromStart, hash } = this.#parts;
    if (kept.checkpoint() === this.#follower.plan.from) {
      const restored = await kept.load((rows) => this.#putBack(rows) && this.#ended === null && hasRoom());
      if (restored || this.#ended !== null) return this.#ended;
      if (!hasRoom()) return TOO_LARGE;
      this.#follower.stop();
      const follower = await fromStart();
      if ("kind" in follower) return follower;
      this.#follower = follower;
      this.#offset = follower.offset;
      this.#seq = follower.plan.from;
      this.#state = new MaterialisedState(hash, this.#offset);
    }
    await kept.forget();
    return this.#ended;
  }

  /** False when one of them is none of ours. */
  #putBack(rows: readonly KeptRow[]): boolean {
    return rows.every(({ id, text }) => {
      const row = rowIn(id, text);
      if (row !== null) this.#state.restore(row);
      return row !== null;
    });
  }

  async #follow(): Promise<ViewEnd> {
    for (;;) {
      const { plan } = this.#follower;
      if (!this.#isCurrent && plan.from === plan.to) this.#current();
      await this.#follower.ready();
      if (this.#ended !== null) return this.#ended;
      const item = this.#follower.takeHeld() ?? (await this.#follower.take());
      if (item === null) continue;
      const before = this.#state.bytes;
      if (item.kind === "step") await this.#apply(item);
      else if (item.kind === "end") {
        if (item.why !== null) return item.why;
        // Closed: what the views show stays so.
        this.#current();
        await this.#closed.promise;
      }
      // Who does not grow is not at fault.
      if (this.#state.bytes > before && !this.#parts.hasRoom()) return TOO_LARGE;
    }
  }

  #current(): void {
    this.#isCurrent = true;
    this.#caughtUp.resolve();
  }

  /** The records of a step, in short turns; what they concern is marked as they come. */
  async #apply({ from, parts, rest }: LiveStep): Promise<void> {
    const { clock } = this.#parts;
    let endMs = clock.monotonicMs() + BACKGROUND_TURN_MS;
    const records = parts.length === 0 ? [] : readStateRecords(joinBytes(parts, COMMA));
    for (const [index, record] of records.entries()) {
      const offset = offsetAt(rest.lineage, from + index + 1);
      const change = record === null ? null : this.#state.apply(record, offset);
      this.#offset = offset;
      this.#seq = from + index + 1;
      this.#keeper.note(change);
      if (change === "reset") for (const cohort of this.#cohorts.values()) this.#mark(cohort, "reset");
      else if (change !== null && this.#isCurrent) {
        const found = new Set<Cohort>();
        this.#interests.affected(change.before, change.after, found);
        for (const cohort of found) this.#mark(cohort, "event_update");
      }
      if (clock.monotonicMs() < endMs) continue;
      await nextTurn();
      endMs = clock.monotonicMs() + BACKGROUND_TURN_MS;
    }
    this.#offset = offsetAt(rest.lineage, rest.from);
    this.#seq = rest.from;
  }

  #cohortOf(definition: ViewDefinition): Cohort {
    return this.#cohorts.get(definition.identity) ?? { definition, views: new Set() };
  }

  #join(view: View, reason: string): void {
    const { cohort } = view;
    if (cohort.views.size === 0) {
      this.#cohorts.set(cohort.definition.identity, cohort);
      this.#interests.add(cohort);
    }
    cohort.views.add(view);
    this.#mark(cohort, reason, view.sent === null);
  }

  #leave(view: View, cohort: Cohort): void {
    cohort.views.delete(view);
    if (cohort.views.size > 0) return;
    const { identity, viewport } = cohort.definition;
    this.#cohorts.delete(identity);
    this.#interests.remove(cohort);
    this.#batcher.forgetUser(identity);
    if (viewport !== null && this.#interests.overFieldsOf(viewport) === 0) this.#state.dropPlane(viewport);
  }

  /** A plane costs as much as many looks at all rows: it is for views that stay, and for many of them. */
  #wantsPlane(viewport: Viewport, { views }: Cohort): boolean {
    return this.#interests.overFieldsOf(viewport) > 1 || [...views].some(({ sent }) => sent !== null);
  }

  /** What these views show is too much: they end, and the others go on. */
  #endCohort(cohort: Cohort): void {
    for (const view of cohort.views) {
      this.#views.delete(view);
      this.#leave(view, cohort);
      this.#sent.hold(view, null);
      view.client.end(TOO_LARGE);
    }
  }

  #mark(cohort: Cohort, reason: string, immediately = false): void {
    this.#batcher.markUserAsDirty(cohort.definition.identity, { reason, immediately });
  }

  #end(why: ViewEnd): void {
    if (this.#ended !== null) return;
    this.#ended = why;
    this.#caughtUp.resolve();
    this.#closed.resolve();
    for (const view of this.#views) {
      this.#sent.hold(view, null);
      view.client.end(why);
    }
    // Only what is kept is needed any more: others may have the room.
    if (why.kind !== "closing") this.#state = new MaterialisedState(this.#parts.hash, this.#offset);
  }
}

const COMMA = 0x2c;
