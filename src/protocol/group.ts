/**
 * Decides a group of intents on an overlay of the heads and says what the commit must hold. Pure; the memory store and the
 * SQLite store both use it. Invariant: heads are not touched here; `applyChange` moves them once the commit is durable, so
 * a failed commit leaves nothing behind and readers never see what a crash could undo.
 */

import { assert, present, unreachable } from "../kit/assert.ts";
import { type AppendRefusal, decideAppend } from "./append-rules.ts";
import { isJson, mediaType, OCTET_STREAM } from "./content-type.ts";
import { conflictingField } from "./create-rules.ts";
import { Draft, type HeadSource } from "./draft.ts";
import { Damage } from "./faults.ts";
import type { AppendIntent, CreateIntent, Decided, Intent, Outcome, RecordIntent, StreamNote } from "./intents.ts";
import { type Retention, sameRetention } from "./retention.ts";
import {
  isExpired,
  isServerWritten,
  newHead,
  type StreamChange,
  type StreamConfig,
  type StreamHead,
  type StreamProfile,
  OWNER,
} from "./stream.ts";
import type { Rejection } from "./verdicts.ts";

export interface GroupDecision {
  readonly outcomes: readonly Decided[];
  /** One per stream, in order of first touch. Empty when nothing has to be made durable. */
  readonly changes: readonly StreamChange[];
  /** Heads of streams that this group creates. */
  readonly created: readonly StreamHead[];
  readonly nextId: number;
}

export interface GroupTime {
  /** Of the commit: never before that of an earlier one. */
  readonly atMs: number;
  /** What the clock says, which may have been set back: lifetimes go by it, as they do for readers. */
  readonly nowMs: number;
}

export function decideGroup(
  source: HeadSource,
  intents: readonly Intent[],
  time: GroupTime,
  nextId: number,
): GroupDecision {
  const group = new Group(source, time, nextId);
  const outcomes = intents.map((intent) => group.decide(intent));
  return { outcomes, changes: group.changes(), created: group.created, nextId: group.nextId };
}

class Group {
  readonly #source: HeadSource;
  readonly #time: GroupTime;
  readonly #drafts = new Map<number, Draft>();
  /** Names created in this group: they hide the heads of the source. */
  readonly #names = new Map<string, Draft>();
  readonly created: StreamHead[] = [];
  nextId: number;

  constructor(source: HeadSource, time: GroupTime, nextId: number) {
    this.#source = source;
    this.#time = time;
    this.nextId = nextId;
  }

  changes(): StreamChange[] {
    const changes: StreamChange[] = [];
    for (const draft of this.#drafts.values()) if (draft.dirty) changes.push(draft.change);
    return changes;
  }

  /** Every rule looks up all it needs before it changes a draft, so an intent that meets damage leaves nothing behind. */
  decide(intent: Intent): Decided {
    try {
      return this.#decide(intent);
    } catch (cause) {
      if (cause instanceof Damage) return { kind: "failed", cause };
      throw cause;
    }
  }

  #decide(intent: Intent): Outcome {
    switch (intent.kind) {
      case "append":
        return this.#append(intent);
      case "record":
        return this.#record(intent);
      case "create":
        return this.#create(intent);
      case "delete":
        return this.#delete(intent.name);
      case "retain":
        return this.#retain(intent.name, intent.retention);
      case "profile":
        return this.#profile(intent.name, intent.id, intent.profile);
      case "annotate":
        this.#annotate(intent);
        return { kind: "done" };
      case "expire":
        return this.#expire(intent.id);
      case "trim":
        return this.#trim(intent);
      case "touch":
        return this.#touch(intent.accesses);
      default:
        return unreachable(intent);
    }
  }

  #append(intent: AppendIntent): Outcome {
    const draft = this.#open(intent.name);
    if ("kind" in draft) return rejected(draft);
    const { profile } = draft;
    // Not for clients, whatever the body is: they do not close it, either.
    if (isServerWritten(profile)) return rejected({ kind: "stream-internal" });
    const body = intent.check === undefined ? intent.body : intent.check(profile);
    if (body === "diverted") return { kind: "diverted", profileKind: present(profile, "a profile diverts").kind };
    const decision = decideAppend(draft, body === intent.body ? intent : { ...intent, body });
    switch (decision.kind) {
      case "reject":
        return rejected(renderRefusal(decision.why, draft));
      case "already-closed":
        return { kind: "duplicate", ...placeOf(draft), closed: true, producer: null, records: 0 };
      case "duplicate":
        return {
          kind: "duplicate",
          ...placeOf(draft),
          closed: draft.closed,
          producer: decision.producer,
          records: 0,
        };
    }
    const { change } = draft;
    draft.dirty = true;
    const records = body !== null && "lengths" in body ? body.lengths.length : 0;
    if (body !== null && "lengths" in body) draft.pushAppend(body, intent.key);
    if (intent.producer !== null && decision.producer !== null) {
      (change.producers ??= new Map()).set(intent.producer.id, decision.producer);
      if (decision.newProducer) change.producerCount = draft.producerCount + 1;
    }
    if (intent.streamSeq !== null) change.streamSeq = intent.streamSeq;
    if (intent.close) {
      change.closed = true;
      if (intent.producer !== null) change.closedBy = intent.producer;
    }
    return { kind: "appended", ...placeOf(draft), closed: draft.closed, producer: decision.producer, records };
  }

  /** All of it or nothing. Not checked by the profile: its writer is the server. */
  #record({ name, id, body, keys, note }: RecordIntent): Outcome {
    const draft = this.#open(name);
    if ("kind" in draft) return rejected(draft);
    if (id !== null && draft.id !== id) return rejected({ kind: "not-found" });
    if (draft.closed) return rejected({ kind: "stream-closed", offset: draft.offset });
    if (!isJson(draft.contentType)) {
      return rejected({ kind: "content-type-mismatch", expected: draft.contentType });
    }
    if (note !== null && !this.#annotate(note)) return rejected({ kind: "not-found" });
    const appends = draft.push(body);
    for (const key of keys) appends.push({ count: 1, key });
    return { kind: "appended", ...placeOf(draft), closed: false, producer: null, records: keys.length };
  }

  #create(intent: CreateIntent): Outcome {
    const existing = this.#find(intent.name);
    if (existing !== undefined) {
      if (existing.deletion === "soft" || (this.#expired(existing) && existing.forks > 0))
        return rejected({ kind: "name-taken" });
      if (!this.#expired(existing)) {
        const field = conflictingField(existing, intent);
        if (field !== null) return rejected({ kind: "config-conflict", field });
        return { kind: "exists", head: existing.head, offset: existing.offset, closed: existing.closed };
      }
    }
    const planned = this.#plan(intent);
    if ("kind" in planned) return rejected(planned);
    if (intent.body !== null && "problem" in intent.body) return rejected(intent.body.problem);
    if (existing !== undefined) this.#remove(existing);
    const head = newHead(this.nextId++, planned);
    const draft = new Draft(head, this.#source);
    draft.dirty = true;
    draft.change.created = planned;
    const { owner = null } = intent;
    if (owner !== null) draft.change.attributes = new Map([[OWNER + owner, ""]]);
    if (intent.retention !== null) draft.change.retention = intent.retention;
    this.#drafts.set(head.id, draft);
    this.#names.set(intent.name, draft);
    this.created.push(head);
    const plan = intent.fork?.plan;
    if (plan !== undefined && "at" in plan) {
      const sourceDraft = present(this.#draft(plan.sourceId), "fork source vanished after planning");
      sourceDraft.change.forks = sourceDraft.forks + 1;
      sourceDraft.dirty = true;
      if (plan.prefix !== null) draft.pushAppend({ payload: plan.prefix, lengths: [plan.prefix.length] }, null);
    }
    if (intent.body !== null && intent.body.lengths.length > 0) {
      draft.pushAppend(intent.body, intent.key);
    }
    if (intent.close) draft.change.closed = true;
    return { kind: "created", head, offset: draft.offset, closed: draft.closed };
  }

  /** The config a create would fix, or why it may not. */
  #plan(intent: CreateIntent): StreamConfig | Rejection {
    const base = { name: intent.name, createdMs: this.#time.atMs };
    if (intent.fork === null) {
      return { ...base, contentType: intent.contentType ?? OCTET_STREAM, expiry: intent.expiry, fork: null, from: 0 };
    }
    const { plan, sourceName, offset, subOffset } = intent.fork;
    if ("rejection" in plan) return plan.rejection;
    const source = this.#draft(plan.sourceId);
    if (source === undefined || source.deletion === "hard") return { kind: "fork-source-missing" };
    if (source.deletion === "soft") return { kind: "fork-source-gone" };
    // Alive when it was planned, over by now: it may be the very stream that this create replaces.
    if (this.#expired(source)) return { kind: "fork-source-missing" };
    if (intent.contentType !== null && mediaType(intent.contentType) !== mediaType(plan.contentType)) {
      return { kind: "content-type-mismatch", expected: plan.contentType };
    }
    return {
      ...base,
      contentType: plan.contentType,
      expiry: intent.expiry.kind === "never" ? plan.expiry : intent.expiry,
      fork: {
        sourceId: plan.sourceId,
        sourceName,
        offset: offset ?? plan.tailOffset,
        subOffset,
        inherited: plan.inherited,
      },
      from: plan.at,
    };
  }

  #delete(name: string): Outcome {
    const draft = this.#open(name);
    if ("kind" in draft) return rejected(draft);
    this.#remove(draft);
    return { kind: "done" };
  }

  #expire(id: number): Outcome {
    const draft = this.#draft(id);
    if (draft !== undefined && draft.deletion === "none" && this.#expired(draft)) this.#remove(draft);
    return { kind: "done" };
  }

  #retain(name: string, retention: Retention): Outcome {
    const draft = this.#open(name);
    if ("kind" in draft) return rejected(draft);
    draft.change.retention = retention;
    draft.dirty = true;
    return { kind: "done" };
  }

  #profile(name: string, id: number, profile: StreamProfile | null): Outcome {
    const draft = this.#open(name);
    if ("kind" in draft) return rejected(draft);
    // The profile was chosen for another incarnation, perhaps of another content type.
    if (draft.id !== id) return rejected({ kind: "config-conflict", field: "creation" });
    draft.change.profile = profile;
    draft.dirty = true;
    return { kind: "done" };
  }

  /** False when the stream is gone. */
  #annotate({ id, attributes }: StreamNote): boolean {
    const draft = this.#draft(id);
    if (draft === undefined || draft.deletion === "hard") return false;
    const changed = (draft.change.attributes ??= new Map());
    for (const [key, value] of attributes) changed.set(key, value);
    draft.dirty = true;
    return true;
  }

  #trim({ id, retention, retainedFrom, trimmedBytes }: Extract<Intent, { kind: "trim" }>): Outcome {
    const draft = this.#draft(id);
    // Lifted or changed meanwhile: what would go now is to stay.
    if (draft !== undefined && !sameRetention(draft.retention, retention))
      return rejected({ kind: "config-conflict", field: "retention" });
    if (draft === undefined || draft.deletion === "hard" || retainedFrom <= draft.head.retainedFrom)
      return { kind: "done" };
    assert(retainedFrom <= draft.head.next, `trim of stream ${id} past its tail`);
    draft.change.retainedFrom = retainedFrom;
    draft.change.trimmedBytes = trimmedBytes;
    draft.dirty = true;
    return { kind: "done" };
  }

  #touch(accesses: readonly (readonly [id: number, atMs: number])[]): Outcome {
    for (const [id, atMs] of accesses) {
      const draft = this.#soundDraft(id);
      if (draft === undefined || draft.deletion === "hard") continue;
      draft.change.accessedMs = Math.max(draft.change.accessedMs ?? 0, atMs);
      draft.dirty = true;
    }
    return { kind: "done" };
  }

  /** Deletes: softly while forks need the records, else for good, then releases the source, up the chain. */
  #remove(draft: Draft): void {
    if (draft.forks > 0) {
      draft.change.deletion = "soft";
      draft.dirty = true;
      return;
    }
    const ending = [draft];
    let source = this.#sourceOf(draft);
    while (source !== undefined && source.forks === 1 && source.deletion === "soft") {
      ending.push(source);
      source = this.#sourceOf(source);
    }
    for (const [index, ended] of ending.entries()) {
      ended.change.deletion = "hard";
      if (index > 0) ended.change.forks = 0;
      ended.dirty = true;
    }
    if (source === undefined) return;
    source.change.forks = source.forks - 1;
    source.dirty = true;
    assert(source.forks >= 0, `stream ${source.id} has fewer than no forks`);
  }

  #sourceOf(draft: Draft): Draft | undefined {
    const { fork } = draft.config;
    return fork === null
      ? undefined
      : present(this.#draft(fork.sourceId), `source ${fork.sourceId} of a fork is missing`);
  }

  /** A stream a client may use, or the rejection it hears instead. */
  #open(name: string): Draft | Rejection {
    const draft = this.#find(name);
    if (draft === undefined) return { kind: "not-found" };
    if (draft.deletion === "soft") return { kind: "gone" };
    if (this.#expired(draft)) return draft.forks > 0 ? { kind: "gone" } : { kind: "not-found" };
    return draft;
  }

  #find(name: string): Draft | undefined {
    let draft = this.#names.get(name);
    if (draft === undefined) {
      const head = this.#source.byName(name);
      draft = head === undefined ? undefined : this.#draft(head.id, head);
    }
    return draft === undefined || draft.deletion === "hard" ? undefined : draft;
  }

  #draft(id: number, known?: StreamHead): Draft | undefined {
    const draft = this.#drafts.get(id);
    if (draft !== undefined) return draft;
    const head = known ?? this.#source.byId(id);
    if (head === undefined) return undefined;
    const fresh = new Draft(head, this.#source);
    this.#drafts.set(id, fresh);
    return fresh;
  }

  /** For work on many streams at once: a damaged one is passed over. */
  #soundDraft(id: number): Draft | undefined {
    try {
      return this.#draft(id);
    } catch (cause) {
      if (cause instanceof Damage) return undefined;
      throw cause;
    }
  }

  #expired(draft: Draft): boolean {
    return isExpired(draft.head, this.#time.nowMs);
  }
}

function placeOf({ id, next, offset }: Draft) {
  return { streamId: id, next, offset };
}

function rejected(rejection: Rejection): Outcome {
  return { kind: "rejected", rejection };
}

function renderRefusal(why: AppendRefusal, draft: Draft): Rejection {
  switch (why.kind) {
    case "stream-closed":
      return { kind: "stream-closed", offset: draft.offset };
    case "tail-moved":
      return { kind: "tail-moved", offset: draft.offset };
    case "content-type-mismatch":
      return { kind: "content-type-mismatch", expected: draft.contentType };
    default:
      return why;
  }
}
