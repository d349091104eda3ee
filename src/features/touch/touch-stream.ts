/**
 * Touch of one stream while clients use it: derives keys from the durable feed, keeps the journal, parks waits and answers them.
 * Invariants: a wait is in the index before anything it does not know of can be derived; every change at or after its cursor
 * wakes it, or was looked at and does not concern it; what cannot be told (lag, no old value, unreadable) wakes coarsely.
 */

import type { Deadline } from "../../kit/deadlines.ts";
import { nextTurn } from "../../kit/turn.ts";
import { RecordsGone } from "../../protocol/faults.ts";
import type { StreamChange } from "../../protocol/stream.ts";
import type { StateRecord, TouchSettings } from "../state-protocol/index.ts";
import { ChangeView, type DerivedAs, deriveKeys } from "./derive.ts";
import { Deriver } from "./deriver.ts";
import { type Interest, Interests, type Waiter } from "./interests.ts";
import { Journal } from "./journal.ts";
import { keyIdOf } from "./keys.ts";
import { HOT_MS, MAX_ENTITIES, MAX_KEYS_PER_CHANGE, MAX_REPLAY_DELAY_MS, MAX_WAITERS_PER_STREAM } from "./limits.ts";
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

/** What a client names; keys are opaque. */
export interface Naming {
  readonly keys: readonly bigint[];
  readonly keyIds: readonly number[];
  readonly templateIds: readonly string[];
  /** Tables instead of fine keys. */
  readonly coarse: boolean;
}

export interface ResolvedInterest {
  readonly interest: Interest;
  readonly waitKind: "fineKey" | "tableKey";
}

export interface StreamCounters {
  records: number;
  tableTouches: number;
  fineTouches: number;
  coarseChanges: number;
  touched: number;
  timeouts: number;
  stale: number;
  replays: number;
  /** Changes whose keys nobody could have asked for: not derived for that template. */
  coldTemplates: number;
}

export class TouchStream {
  readonly id: number;
  readonly settings: TouchSettings;
  readonly templates: Templates;
  readonly interests = new Interests();
  readonly journal: Journal;
  readonly counters: StreamCounters = {
    records: 0,
    tableTouches: 0,
    fineTouches: 0,
    coarseChanges: 0,
    touched: 0,
    timeouts: 0,
    stale: 0,
    replays: 0,
    coldTemplates: 0,
  };
  readonly #parts: TouchParts;
  readonly #tableKeys = new Map<string, bigint>();
  readonly #knownTables = new Set<bigint>();
  readonly #deriver: Deriver;
  /** The fine keys of the record being derived; made once, called for every key. */
  readonly #emit = (key: bigint): void => {
    this.counters.fineTouches++;
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
      readonly tail: number;
      readonly settings: TouchSettings;
      readonly attributes: ReadonlyMap<string, string>;
    },
  ) {
    this.#parts = parts;
    this.id = stream.id;
    this.settings = stream.settings;
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
      onFault: parts.onFault,
    });
    this.usedMs = this.#nowMs();
    this.journal = new Journal(parts.budget, stream.tail);
    parts.budget.add(this.journal, () => this.#forgetJournal());
    this.templates = new Templates(stream.settings.templates, parts.writer, this.usedMs);
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

  /** From what a client names to what wakes it. What nothing explains is answered coarsely, never missed. */
  resolve({ keys, keyIds, templateIds, coarse }: Naming): ResolvedInterest {
    const fine = new Set<string>();
    const tables = new Set<bigint>();
    let everything = false;
    for (const id of templateIds) {
      const entity = this.templates.entityOf(id);
      if (entity === undefined) everything = true;
      else if (coarse || this.templates.get(id) === undefined) tables.add(this.#tableKey(entity));
      else fine.add(id);
    }
    let unnamed = false;
    const whole = new Set<string>();
    for (const key of keys) {
      const id = this.templates.idOfKey(key);
      if (id !== undefined) whole.add(id);
    }
    for (const keyId of keyIds) {
      const id = this.templates.idOfKeyId(keyId);
      if (id !== undefined) whole.add(id);
    }
    if (templateIds.length === 0) {
      for (const key of keys) {
        if (this.templates.idOfKey(key) === undefined && !this.#knownTables.has(key)) unnamed = true;
      }
      if (keyIds.length > 0) unnamed = true;
      // A key of a template that was retired looks like any other: then only every change is sure to hold its own.
      if (unnamed && (this.templates.size === 0 || this.templates.someRetired)) {
        unnamed = false;
        everything = true;
      }
    }
    for (const id of whole) fine.add(id);
    const names = { templates: [...fine], wholeTemplates: [...whole] };
    const interest = { keys: [...tables, ...keys], keyIds, ...names, unnamed, everything };
    return { interest, waitKind: coarse || everything || tables.size > 0 ? "tableKey" : "fineKey" };
  }

  /** Waits for the first change at or after `since` that touches `interest`. The promise never rejects. */
  wait(interest: Interest, since: number, timeoutMs: number, signal: AbortSignal): Promise<WaitAnswer> {
    this.#keepHot(interest);
    if (this.#closed) return Promise.resolve(this.#answer("ended"));
    if (signal.aborted) return Promise.resolve(this.#answer("aborted"));
    const isLong = this.journal.isLong;
    if (!isLong && this.#touchedSince(interest, since)) return Promise.resolve(this.#answer("touched"));
    const covered = !isLong && this.#coveredFrom(interest) <= since;
    if (covered && timeoutMs === 0) return Promise.resolve(this.#answer("timeout"));
    if (this.interests.size >= MAX_WAITERS_PER_STREAM || !this.#parts.parkedKeys.take(keysOf(interest))) {
      return Promise.resolve(this.#answer("overloaded"));
    }
    return new Promise((resolve) => {
      const { engine, wakes } = this.#parts;
      let deadline: Deadline | null = null;
      const end = (how: WaitEnd): void => {
        if (!this.interests.remove(waiter)) return;
        deadline?.cancel();
        signal.removeEventListener("abort", abort);
        this.#parts.parkedKeys.give(keysOf(interest));
        this.#keepHot(interest);
        const answer = this.#answer(how);
        if (how === "touched") wakes.push(() => resolve(answer));
        else resolve(answer);
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
      if (covered) return park(timeoutMs);
      const endMs = engine.clock.monotonicMs() + timeoutMs;
      deadline = engine.deadlines.after(Math.max(timeoutMs, MAX_REPLAY_DELAY_MS), () => end("stale"));
      this.#queueReplay(waiter, () => park(Math.max(0, endMs - engine.clock.monotonicMs())));
    });
  }

  /** For a cursor of another incarnation, or one past the tail. */
  staleAnswer(): WaitAnswer {
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

  #nowMs(): number {
    return this.#parts.engine.clock.nowMs();
  }

  #answer(end: WaitEnd): WaitAnswer {
    if (end === "touched") this.counters.touched++;
    if (end === "timeout") this.counters.timeouts++;
    if (end === "stale") this.counters.stale++;
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

  #tableKey(entity: string): bigint {
    let key = this.#tableKeys.get(entity);
    if (key !== undefined) return key;
    key = this.#parts.writer.table(entity);
    if (this.#tableKeys.size < MAX_ENTITIES) {
      this.#tableKeys.set(entity, key);
      this.#knownTables.add(key);
    }
    return key;
  }

  #derive(record: StateRecord | null, seq: number, nowMs: number): void {
    this.counters.records++;
    this.#work++;
    if (record === null || record.kind === "control") {
      if (record === null || record.control === "reset") this.#touchAll(seq);
      return;
    }
    this.journal.touchAny(seq);
    this.interests.touchAny(seq);
    this.counters.tableTouches++;
    this.#touchKey(this.#tableKey(record.entity), seq);
    const unnamedHot = nowMs < this.#unnamedUntilMs;
    const view = new ChangeView(record);
    this.#emitSeq = seq;
    let coarse = false;
    const templates = this.templates.ofEntity(record.entity);
    const tooWide = view.width * templates.length > MAX_KEYS_PER_CHANGE;
    for (const active of templates) {
      const { template, trace } = active;
      if (nowMs >= active.hotUntilMs && !unnamedHot && !this.interests.wants(template.id)) {
        trace.coveredFrom = seq + 1;
        this.counters.coldTemplates++;
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
    if (coarse) this.counters.coarseChanges++;
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
    this.counters.replays++;
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
    touch(this.#tableKey(record.entity));
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

function keysOf(interest: Interest): number {
  return interest.keys.length + interest.keyIds.length + interest.templates.length;
}
