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
import type { Deadline, Deadlines } from "../../kit/deadlines.ts";
import { BACKGROUND_TURN_MS } from "../../protocol/limits.ts";
import { offsetAt } from "../../protocol/offset.ts";
import type { Rejection } from "../../protocol/verdicts.ts";
import type { Follower } from "../../http/live/follower.ts";
import type { LiveStep } from "../../http/live/tail-feed.ts";
import { joinBytes } from "../../kit/bytes.ts";
import type { Clock } from "../../kit/clock.ts";
import { readStateRecords } from "../state-protocol/index.ts";
import { HybridUserUpdateBatcher, type HybridUserUpdateBatcherConfig } from "./hybrid-batcher.ts";
import { type KeptRows, rowIn } from "./kept-rows.ts";
import { InterestIndex } from "./interest-index.ts";
import { MaterialisedState, type RowChange } from "./materialised-state.ts";
import type { ViewDefinition, ViewRow } from "./view-definition.ts";
import { diffView, type SentRows, sentRows, type ViewDiff } from "./view-diff.ts";
import { evaluateView, rowsKnownAt } from "./view-evaluation.ts";

/** What a client is sent: the difference, and the position in the stream that its view then shows. */
export interface ViewMessage {
  readonly diff: ViewDiff;
  readonly offset: string;
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
  readonly kept: KeptRows;
  /** Whether there is room for the states of all streams as they are. */
  readonly hasRoom: () => boolean;
  readonly onFault: (operation: string, cause: unknown) => void;
}

/** One view at a time: several would each take their slice of the same turn. */
const BATCHING: HybridUserUpdateBatcherConfig = { concurrency: 1 };
/** Rows that changed are kept this much later. */
const SAVE_AFTER_MS = 2_000;

/** One row of what a view was sent, besides the row itself. */
const SHOWN_ROW_BYTES = 50;

/** Views that show the same. */
interface Cohort {
  readonly definition: ViewDefinition;
  readonly views: Set<View>;
  /** Rows that they were sent last. */
  shown: number;
}

interface View {
  cohort: Cohort;
  readonly client: ViewClient;
  sent: SentRows | null;
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
  readonly #follower: Follower;
  readonly #parts: ViewStreamParts;
  readonly #state: MaterialisedState;
  readonly #interests = new InterestIndex<Cohort>();
  readonly #cohorts = new Map<string, Cohort>();
  readonly #views = new Set<View>();
  readonly #batcher: HybridUserUpdateBatcher;
  readonly #caughtUp = Promise.withResolvers<void>();
  readonly #closed = Promise.withResolvers<void>();
  /** Ids of rows that changed since the last save. */
  #unsaved = new Set<string>();
  /** All rows were forgotten since the last save. */
  #wasReset = false;
  #saving: Promise<void> | null = null;
  #saveLater: Deadline | null = null;
  readonly #count = { diffs: 0, fulls: 0, noops: 0 };
  #offset: string;
  /** How many records of the stream the state shows. */
  #seq: number;
  /** Rows that views were sent, each view that shows something else counted for itself. */
  #shown = 0;
  #isCurrent = false;
  #ended: ViewEnd | null = null;

  /** `follower` begins at the first record of the stream, or where the kept rows end, and is this object's from now on. */
  constructor(follower: Follower, parts: ViewStreamParts) {
    this.#follower = follower;
    this.#parts = parts;
    this.#offset = follower.offset;
    this.#state = new MaterialisedState(parts.hash, this.#offset);
    this.#seq = follower.plan.from;
    const { clock, deadlines, onFault } = parts;
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

  /** What of the stream the state shows. */
  get offset(): string {
    return this.#offset;
  }

  /** What the rows take up in memory, and what clients were sent of them, about. */
  get bytes(): number {
    return this.#state.bytes + this.#shown * SHOWN_ROW_BYTES;
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

  /** Follows the stream until it ends or `close`; every view hears why. */
  async run(): Promise<void> {
    const { kept } = this.#parts;
    const { id, from } = this.#follower.plan;
    try {
      // Without what was kept it has to begin at the start: the next view does.
      this.#end((await this.#restore(id, from)) ? await this.#follow() : { kind: "closing" });
      if (this.#isGone()) await kept.forget(id);
    } catch (cause) {
      this.#parts.onFault(`live views of ${this.#follower.plan.name}`, cause);
      this.#end({ kind: "fault", cause });
    } finally {
      this.#follower.stop();
    }
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
        this.#leave(view);
        // What it knew was of another view.
        view.since = null;
        view.cohort = this.#cohortOf(next);
        this.#join(view, "viewport_change");
      },
      drained: () => {
        if (!view.isBehind || !this.#views.has(view)) return;
        this.#mark(view.cohort, "drained");
      },
      close: () => {
        if (this.#views.delete(view)) this.#leave(view);
      },
    };
  }

  /** Ends following; the views with it. */
  async close(): Promise<void> {
    this.#end({ kind: "closing" });
    this.#follower.stop();
    await this.#batcher.shutdown();
    this.#saveLater?.cancel();
    await this.#saving;
    if (!this.#isGone()) await this.#save();
  }

  /** Works out what the views of one identity show, and tells each client what it does not know yet. */
  async calculateAndSendDiff(identity: string): Promise<void> {
    await this.#caughtUp.promise;
    const cohort = this.#cohorts.get(identity);
    if (cohort === undefined || this.#ended !== null) return;
    const { definition } = cohort;
    const { viewport } = definition;
    if (viewport !== null) await this.#state.prepare(viewport);
    const offset = this.#offset;
    const candidates = viewport === null ? [...this.#state.getAllEvents()] : this.#state.getEventsInViewport(viewport);
    // All of one moment, which is over with the first await.
    const returning = this.#returning(cohort);
    const all = returning.length === 0 ? [] : [...this.#state.getAllEvents()];
    const rows = await evaluateView(definition, candidates, this.#parts.clock);
    this.#shown += rows.length - cohort.shown;
    cohort.shown = rows.length;
    if (!this.#parts.hasRoom()) return this.#endCohort(cohort);
    const sent = sentRows(rows);
    for (const { view, since, deleted } of returning) {
      view.sent = await rowsKnownAt(since, definition, { rows, all, deleted }, this.#parts.clock);
    }
    /** Clients that were sent the same are told the same. */
    const messages = new Map<SentRows | null, ViewMessage | null>();
    for (const view of cohort.views) {
      view.isBehind = !view.client.isReady();
      if (view.isBehind) continue;
      let message = messages.get(view.sent);
      if (message === undefined) {
        const diff = diffView(view.sent, rows);
        message = diff === null ? null : { diff, offset };
        messages.set(view.sent, message);
      }
      view.sent = sent;
      if (message === null) {
        this.#count.noops++;
        continue;
      }
      if (message.diff.kind === "full") this.#count.fulls++;
      else this.#count.diffs++;
      view.client.send(message);
    }
  }

  /** Views whose clients come back, and what was deleted since; a client that was away for too long gets the whole set. */
  #returning({ views }: Cohort): { view: View; since: string; deleted: readonly ViewRow[] }[] {
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

  /** Puts the kept rows back if they are those of record `from`. False when that failed. */
  async #restore(stream: number, from: number): Promise<boolean> {
    const { kept } = this.#parts;
    if (from > 0 && kept.checkpointOf(stream) === from) {
      return kept.load(stream, (text) => this.#state.restore(rowIn(text)));
    }
    await kept.forget(stream);
    return true;
  }

  async #follow(): Promise<ViewEnd> {
    for (;;) {
      const { plan } = this.#follower;
      if (!this.#isCurrent && plan.from === plan.to) this.#current();
      await this.#follower.ready();
      if (this.#ended !== null) return this.#ended;
      const item = this.#follower.takeHeld() ?? (await this.#follower.take());
      if (item === null) continue;
      if (item.kind === "step") await this.#apply(item);
      else if (item.kind === "end") {
        if (item.why !== null) return item.why;
        // Closed: what the views show stays so.
        this.#current();
        await this.#closed.promise;
      }
      if (!this.#parts.hasRoom()) return { kind: "state-too-large" };
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
      this.#note(change);
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

  /** What a change makes of the kept rows: saved a while later, together with others. */
  #note(change: RowChange | "reset" | null): void {
    if (change === null) return;
    if (change === "reset") {
      this.#unsaved.clear();
      this.#wasReset = true;
    } else this.#unsaved.add((change.after ?? change.before)?.id ?? "");
    this.#saveSoon();
  }

  #saveSoon(): void {
    this.#saveLater ??= this.#parts.deadlines.after(SAVE_AFTER_MS, () => {
      this.#saving = this.#save().catch((cause: unknown) => this.#parts.onFault("keeping rows", cause));
    });
  }

  async #save(): Promise<void> {
    const { kept } = this.#parts;
    const { id } = this.#follower.plan;
    const ids = this.#unsaved;
    const seq = this.#seq;
    this.#unsaved = new Set();
    if (this.#wasReset) {
      this.#wasReset = false;
      await kept.forget(id);
    }
    await kept.save(id, seq, ids, (row) => this.#state.get(row));
    this.#saveLater = null;
    if (this.#unsaved.size > 0 && this.#ended === null) this.#saveSoon();
  }

  /** The stream that this state is of is there no more. */
  #isGone(): boolean {
    const why = this.#ended?.kind;
    return why === "not-found" || why === "gone" || why === "offset-gone";
  }

  #cohortOf(definition: ViewDefinition): Cohort {
    return this.#cohorts.get(definition.identity) ?? { definition, views: new Set(), shown: 0 };
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

  #leave(view: View): void {
    const { cohort } = view;
    cohort.views.delete(view);
    if (cohort.views.size > 0) return;
    this.#shown -= cohort.shown;
    cohort.shown = 0;
    this.#cohorts.delete(cohort.definition.identity);
    this.#interests.remove(cohort);
    this.#batcher.forgetUser(cohort.definition.identity);
  }

  /** What these views show is too much: they end, and the others go on. */
  #endCohort(cohort: Cohort): void {
    for (const view of cohort.views) {
      this.#views.delete(view);
      this.#leave(view);
      view.client.end({ kind: "state-too-large" });
    }
  }

  #mark(cohort: Cohort, reason: string, immediately = false): void {
    this.#batcher.markUserAsDirty(cohort.definition.identity, { reason, immediately });
  }

  #end(why: ViewEnd): void {
    if (this.#ended !== null) return;
    this.#ended = why;
    this.#saveLater?.cancel();
    this.#caughtUp.resolve();
    this.#closed.resolve();
    for (const { client } of this.#views) client.end(why);
  }
}

const COMMA = 0x2c;
