/**
 * Touch of one stream while clients use it: derives keys from the durable feed, keeps the journal, parks waits and answers them.
 * Invariants: a wait is in the index before anything it does not know of can be derived; every change at or after its cursor
 * wakes it, or was looked at and does not concern it; what cannot be told (lag, no old value, unreadable) wakes coarsely.
 */

import type { Deadline } from "../../kit/deadlines.ts";
import { nextTurn } from "../../kit/turn.ts";
import { RecordsGone } from "../../protocol/faults.ts";
import type { StreamChange } from "../../protocol/stream.ts";
import { keyIdOf } from "../../protocol/touch-keys.ts";
import type { StateRecord, TouchSettings } from "../state-protocol/index.ts";
import { ChangeView, type DerivedAs, deriveKeys } from "./derive.ts";
import { Deriver } from "./deriver.ts";
import { type Interest, Interests, type Waiter } from "./interests.ts";
import { Journal } from "./journal.ts";
import { HOT_MS, MAX_KEYS_PER_CHANGE, MAX_REPLAY_DELAY_MS, MAX_WAITERS_PER_STREAM } from "./limits.ts";
import { type Holding, Meter } from "./meter.ts";
import { type Naming, type ResolvedInterest, resolveInterest, TableKeys } from "./naming.ts";
import type { TemplateSnapshot, TouchReport } from "./report.ts";
import { type ActiveTemplate, Templates, type TemplateSurroundings } from "./templates.ts";
import type { TouchParts } from "./touch-parts.ts";

/** `ended`: the stream was deleted, its profile changed, or the server shuts down. */
export type WaitEnd = "touched" | "timeout" | "stale" | "aborted" | "ended" | "overloaded";

export interface WaitAnswer {
  readonly end: WaitEnd;
  /** Where the next wait goes on. */
  readonly cursor: number;
  readonly atMs: number;
}

export class TouchStream {
  readonly id: number;
  readonly name: string;
  readonly settings: TouchSettings;
  readonly templates: Templates;
  readonly interests = new Interests();
  readonly journal: Journal;
  readonly meter: Meter;
  readonly #parts: TouchParts;
  readonly #tableKeys: TableKeys;
  readonly #deriver: Deriver;
  /** The fine keys of the record being derived; made once, called for every key. */
  readonly #emit = (key: bigint): void => {
    this.#work++;
    this.#touchKey(key, this.#emitSeq);
  };
  #emitSeq = 0;
  /** Keys made and records looked at, by derivation and replay. */
  #work = 0;
  #unnamedUntilMs = 0;
  #replays: Promise<void> = Promise.resolve();
  #closed = false;
  /** Last request of a client. */
  usedMs: number;

  constructor(
    parts: TouchParts,
    stream: {
      readonly id: number;
      readonly name: string;
      readonly tail: number;
      readonly settings: TouchSettings;
      readonly attributes: ReadonlyMap<string, string>;
    },
  ) {
    this.#parts = parts;
    this.id = stream.id;
    this.name = stream.name;
    this.settings = stream.settings;
    this.meter = new Meter(parts.engine.clock, stream.tail);
    this.#tableKeys = new TableKeys(parts.writer);
    this.#deriver = new Deriver({
      tail: stream.tail,
      settings: stream.settings,
      clock: parts.engine.clock,
      derive: (record, seq, nowMs) => this.#derive(record, seq, nowMs),
      work: () => this.#work,
      skip: () => {
        this.#touchAll(this.#deriver.derived - 1);
        this.#forgetJournal();
      },
      meter: {
        batchEnded: (atMs) => this.meter.batchEnded(atMs, this.#deriver.lagging, this.#holding()),
        turnEnded: (lag) => this.meter.turnEnded(lag, this.#deriver.lagging),
      },
      onFault: parts.onFault,
    });
    this.usedMs = this.#nowMs();
    this.journal = new Journal(parts.budget, stream.tail);
    parts.budget.add(this.journal, () => this.#forgetJournal());
    this.templates = new Templates(stream.id, stream.settings.templates, parts.writer, this.usedMs);
    this.templates.load(stream.attributes, this.around());
  }

  /** Where the stream stands, and how far touch has come. */
  get position(): Omit<Deriver, "push" | "close"> {
    return this.#deriver;
  }

  /** What the rules of templates need to know of this moment. */
  around(): TemplateSurroundings {
    return {
      nowMs: this.#nowMs(),
      tail: this.#deriver.tail,
      derived: this.#deriver.derived,
      isWaitedFor: (id) => this.interests.wants(id),
    };
  }

  /** Follows the feed: one durable change of this stream. */
  onChange(change: StreamChange, atMs: number): void {
    // Made durable for a state of this stream that is no more: this one must know it, too.
    if (change.attributes !== undefined) this.templates.load(change.attributes, this.around());
    if (change.run !== undefined && !this.#closed) this.#deriver.push(change.run, atMs);
  }

  /** The interval since the last call; null when nothing was counted and nobody waits. */
  take(nowMs: number): TouchReport | null {
    const activity = this.meter.take(this.#deriver.derived, this.#holding(), () => this.hotTemplates(nowMs));
    if (activity === null) return null;
    const { coarseIntervalMs, touchCoalesceWindowMs } = this.settings;
    const now = {
      coarseIntervalMs,
      touchCoalesceWindowMs,
      activeTemplates: this.templates.size,
      activeWaiters: this.interests.size,
      overflows: this.journal.overflows,
      next: this.#deriver.tail,
      derived: this.#deriver.derived,
      unsealed: this.#parts.engine.unsealed(this.id),
    };
    return { id: this.id, stream: this.name, activity, now };
  }

  /** The active templates, for a snapshot. */
  *snapshot(): Generator<TemplateSnapshot> {
    const nowMs = this.#nowMs();
    for (const { template, lastSeenMs } of this.templates.all()) {
      const fields = template.fields.map((field) => field.name);
      const lastSeenAgoMs = Math.max(0, nowMs - lastSeenMs);
      yield { templateId: template.id, entity: template.entity, fields, lastSeenAgoMs, state: "active" };
    }
  }

  /** Templates whose fine keys are recorded: because a wait names them, or one did a moment ago. */
  hotTemplates(nowMs: number): { readonly active: number; readonly grace: number } {
    let active = 0;
    let grace = 0;
    for (const { template, hotUntilMs } of this.templates.all()) {
      if (this.interests.isNamed(template.id)) active++;
      else if (hotUntilMs > nowMs) grace++;
    }
    return { active, grace };
  }

  resolve(naming: Naming): ResolvedInterest {
    return resolveInterest(naming, this.templates, this.#tableKeys);
  }

  /** Waits for the first change at or after `since` that touches `interest`. The promise never rejects. */
  wait(interest: Interest, since: number, timeoutMs: number, signal: AbortSignal): Promise<WaitAnswer> {
    const { engine, wakes } = this.#parts;
    const startMs = engine.clock.monotonicMs();
    const answer = (how: WaitEnd): WaitAnswer => {
      if (how !== "ended" && how !== "overloaded") {
        this.meter.waitEnded(how, watchedBy(interest), engine.clock.monotonicMs() - startMs);
      }
      return this.#answer(how);
    };
    this.#keepHot(interest);
    if (this.#closed) return Promise.resolve(answer("ended"));
    if (signal.aborted) return Promise.resolve(answer("aborted"));
    const isLong = this.journal.isLong;
    if (!isLong && this.#touchedSince(interest, since)) return Promise.resolve(answer("touched"));
    const covered = !isLong && this.#coveredFrom(interest) <= since;
    if (covered && timeoutMs === 0) return Promise.resolve(answer("timeout"));
    if (this.interests.size >= MAX_WAITERS_PER_STREAM || !this.#parts.parkedKeys.take(keysOf(interest))) {
      return Promise.resolve(answer("overloaded"));
    }
    return new Promise((resolve) => {
      let deadline: Deadline | null = null;
      const end = (how: WaitEnd): void => {
        if (!this.interests.remove(waiter)) return;
        deadline?.cancel();
        signal.removeEventListener("abort", abort);
        this.#parts.parkedKeys.give(keysOf(interest));
        this.#keepHot(interest);
        if (how === "timeout") this.meter.now.timeoutsFired++;
        const answered = answer(how);
        if (how !== "touched") return resolve(answered);
        this.meter.woke();
        wakes.push((queuedMs) => {
          if (queuedMs > 0) this.meter.queuedFor(queuedMs);
          resolve(answered);
        });
      };
      const abort = (): void => end("aborted");
      const waiter: ParkedWait = { interest, since, wake: () => end("touched"), end };
      const park = (leftMs: number): void => {
        // The wait may have ended while its replay came to its end.
        if (!this.interests.has(waiter)) return;
        deadline?.cancel();
        deadline = engine.deadlines.after(leftMs, () => end("timeout"));
      };
      signal.addEventListener("abort", abort);
      this.interests.add(waiter);
      this.meter.waitersChanged(this.interests.counts());
      if (covered) return park(timeoutMs);
      const endMs = engine.clock.monotonicMs() + timeoutMs;
      deadline = engine.deadlines.after(Math.max(timeoutMs, MAX_REPLAY_DELAY_MS), () => end("stale"));
      this.#queueReplay(waiter, () => park(Math.max(0, endMs - engine.clock.monotonicMs())));
    });
  }

  /** For a wait on so many keys whose cursor is of another incarnation, or past the tail. */
  staleAnswer(keys: number): WaitAnswer {
    this.meter.waitEnded("stale", keys, 0);
    return this.#answer("stale");
  }

  /** Ends every wait. Nothing is derived afterwards. */
  close(): void {
    this.#closed = true;
    for (const waiter of this.interests.all()) (waiter as ParkedWait).end("ended");
    this.#deriver.close();
    this.journal.clear();
    this.#parts.budget.delete(this.journal);
  }

  #holding(): Holding {
    const waiters = this.interests.counts();
    return { hotKeysActive: this.interests.entries, hotKeysGrace: this.journal.size, waiters };
  }

  #nowMs(): number {
    return this.#parts.engine.clock.nowMs();
  }

  #answer(end: WaitEnd): WaitAnswer {
    // After a touch the client queries: all that is durable now is in what it will read. Otherwise only what was looked at.
    const cursor = end === "touched" || end === "stale" ? this.#deriver.tail : this.#deriver.derived;
    return { end, cursor, atMs: this.#deriver.derivedMs };
  }

  /** Fine keys of what a client waits for are recorded until it had time to come back. */
  #keepHot(interest: Interest): void {
    const untilMs = this.#nowMs() + HOT_MS;
    this.usedMs = untilMs - HOT_MS;
    if (interest.unnamed) this.#unnamedUntilMs = untilMs;
    for (const id of interest.templates) {
      const active = this.templates.get(id);
      if (active !== undefined) active.hotUntilMs = untilMs;
    }
  }

  #touchedSince(interest: Interest, since: number): boolean {
    const { journal } = this;
    if (journal.resetSince(since) || (interest.everything && journal.changedSince(since))) return true;
    if (interest.unnamed && journal.coarseSince(since)) return true;
    for (const id of interest.templates) {
      const lastCoarse = this.templates.get(id)?.trace.lastCoarse ?? -1;
      if (lastCoarse >= since) return true;
    }
    for (const id of interest.wholeTemplates) {
      const lastSeen = this.templates.get(id)?.trace.lastSeen ?? -1;
      if (lastSeen >= since) return true;
    }
    return journal.touchedSince(interest.keys, interest.keyIds, since);
  }

  /** Since when the journal knows all that could touch `interest`. */
  #coveredFrom(interest: Interest): number {
    let from = this.journal.tablesFrom;
    for (const { trace } of this.#templatesOf(interest)) from = Math.max(from, trace.coveredFrom);
    return Math.min(from, this.#deriver.derived);
  }

  #templatesOf(interest: Interest): ActiveTemplate[] {
    if (interest.unnamed) return [...this.templates.all()];
    return interest.templates.flatMap((id) => this.templates.get(id) ?? []);
  }

  #derive(record: StateRecord | null, seq: number, nowMs: number): void {
    const { now } = this.meter;
    now.records++;
    this.#work++;
    if (record === null) now.unreadable++;
    if (record === null || record.kind === "control") {
      if (record === null || record.control === "reset") this.#touchAll(seq);
      return;
    }
    now.changes++;
    this.journal.touchAny(seq);
    this.interests.touchAny(seq);
    now.tableTouches++;
    this.#touchKey(this.#tableKeys.of(record.entity), seq);
    const unnamedHot = nowMs < this.#unnamedUntilMs;
    const view = new ChangeView(record);
    this.#emitSeq = seq;
    const workBefore = this.#work;
    let coarse = false;
    const templates = this.templates.ofEntity(record.entity);
    const width = view.width * templates.length;
    const tooWide = width > MAX_KEYS_PER_CHANGE;
    if (tooWide) {
      now.wideChanges++;
      now.wideKeys += width;
    }
    for (const active of templates) {
      const { template, trace } = active;
      if (nowMs >= active.hotUntilMs && !unnamedHot && !this.interests.wants(template.id)) {
        trace.coveredFrom = seq + 1;
        now.coldTemplates++;
        continue;
      }
      const isCoarse = tooWide || this.#deriver.lagging;
      const derivedAs = isCoarse ? "coarse" : this.#deriveKeys(view, active, this.#emit);
      if (derivedAs === "nothing") continue;
      trace.lastSeen = seq;
      this.interests.touchWhole(template.id, seq);
      // Who waited for this key before the template was active waits for it as for any other.
      if (this.interests.hasUnnamed) this.interests.touchKey(template.key, template.keyId, seq);
      if (derivedAs === "fine") continue;
      coarse = true;
      this.journal.touchTemplate(trace, seq);
      this.interests.touchTemplate(template.id, seq);
    }
    // Every key made is one piece of work.
    now.fineTouches += this.#work - workBefore;
    if (coarse) now.coarseChanges++;
    this.#parts.budget.enforce();
  }

  #deriveKeys(view: ChangeView, { template }: ActiveTemplate, emit: (key: bigint) => void): DerivedAs {
    return deriveKeys(view, template, this.settings.onMissingBefore === "skipBefore", this.#parts.writer, emit);
  }

  #touchKey(key: bigint, seq: number): void {
    const keyId = this.journal.touchKey(key, seq);
    this.interests.touchKey(key, keyId, seq);
  }

  #touchAll(seq: number): void {
    this.journal.touchAll(seq);
    this.interests.touchAll(seq);
  }

  #forgetJournal(): void {
    const traces = Array.from(this.templates.all(), ({ trace }) => trace);
    this.journal.forget(traces, this.#deriver.derived);
  }

  /** One replay of a stream at a time: the next wait often finds its range covered by then. */
  #queueReplay(waiter: ParkedWait, covered: () => void): void {
    this.#replays = this.#replays
      .then(() => this.#replay(waiter, covered))
      .catch((cause: unknown) => {
        if (!(cause instanceof RecordsGone)) this.#parts.onFault("replaying for a touch wait", cause);
        waiter.end("stale");
      });
  }

  async #replay(waiter: ParkedWait, covered: () => void): Promise<void> {
    const { interest, since } = waiter;
    const isParked = (): boolean => this.interests.has(waiter);
    while (isParked() && !this.journal.index()) await nextTurn();
    if (!isParked()) return;
    if (this.#touchedSince(interest, since)) return waiter.end("touched");
    const to = this.#coveredFrom(interest);
    if (to <= since) return covered();
    this.meter.now.replays++;
    const { overflows } = this.journal;
    const templates = this.#templatesOf(interest);
    const keys = new Set(interest.keys);
    const keyIds = new Set(interest.keyIds);
    const isWanted = (key: bigint): boolean => keys.has(key) || keyIds.has(keyIdOf(key));
    const range = { streamId: this.id, from: since, to };
    const end = await this.#parts.replayer.run(range, {
      work: () => this.#work,
      visit: (record, seq) => {
        if (!isParked()) return false;
        this.#work++;
        if (!this.#replayRecord(record, seq, templates, interest, isWanted)) return true;
        waiter.end("touched");
        return false;
      },
    });
    this.#parts.budget.enforce();
    if (end === "too-long" || end === "gone") waiter.end("stale");
    if (end !== "done") return;
    // What an overflow made the journal forget may have been read here: then only this wait knows its range.
    if (this.journal.overflows > overflows) return covered();
    for (const { trace } of templates)
      if (trace.coveredFrom <= to) trace.coveredFrom = Math.min(trace.coveredFrom, since);
    if (this.journal.tablesFrom <= to) this.journal.coverTables(since);
    covered();
  }

  /** Notes in the journal what an old record touched; whether that was something of `interest`. */
  #replayRecord(
    record: StateRecord | null,
    seq: number,
    templates: readonly ActiveTemplate[],
    interest: Interest,
    isWanted: (key: bigint) => boolean,
  ): boolean {
    if (record === null || record.kind === "control") {
      const everything = record === null || record.control === "reset";
      if (everything) this.journal.touchAll(seq);
      return everything;
    }
    let wanted = interest.everything;
    const touch = (key: bigint): void => {
      this.#work++;
      this.journal.touchKey(key, seq);
      wanted ||= isWanted(key);
    };
    this.journal.touchAny(seq);
    touch(this.#tableKeys.of(record.entity));
    const view = new ChangeView(record);
    const tooWide = view.width * templates.length > MAX_KEYS_PER_CHANGE;
    for (const active of templates) {
      const { template, trace } = active;
      if (template.entity !== record.entity) continue;
      const derivedAs = tooWide ? "coarse" : this.#deriveKeys(view, active, touch);
      if (derivedAs === "nothing") continue;
      trace.lastSeen = Math.max(trace.lastSeen, seq);
      wanted ||= derivedAs === "coarse" || interest.wholeTemplates.includes(template.id);
      if (derivedAs === "coarse") this.journal.touchTemplate(trace, seq);
    }
    return wanted;
  }
}

interface ParkedWait extends Waiter {
  end(how: WaitEnd): void;
}

/** Keys and key ids that an interest names. */
export function watchedBy({ keys, keyIds }: Interest): number {
  return keys.length + keyIds.length;
}

/** What a parked interest costs. */
export function keysOf(interest: Interest): number {
  return watchedBy(interest) + interest.templates.length;
}
