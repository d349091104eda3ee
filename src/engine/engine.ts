/**
 * The engine: every operation on streams without HTTP. Owns the append queue, the waiters, the reader and the background
 * sweep over one store. Knows no status codes and no SQL.
 */

import { present } from "../kit/assert.ts";
import type { Clock } from "../kit/clock.ts";
import { Deadlines } from "../kit/deadlines.ts";
import { Metrics } from "../kit/metrics.ts";
import type { Spans } from "../kit/spans.ts";
import type { Body } from "../protocol/append-rules.ts";
import { isJson, OCTET_STREAM } from "../protocol/content-type.ts";
import { type MemoryBudget, memoryBudget } from "../protocol/budget.ts";
import type { AppendCheck, AppendIntent, CreateIntent, Outcome, RecordIntent } from "../protocol/intents.ts";
import { splitJsonRecords } from "../protocol/json-records.ts";
import { type Commit, isExpired, lineageOf, type StreamHead, type StreamProfile } from "../protocol/stream.ts";
import { parseOffset, resolveOffset } from "../protocol/offset.ts";
import type { Retention } from "../protocol/retention.ts";
import type { Rejection } from "../protocol/verdicts.ts";
import type { ListQuery, StoreStatus, StreamStore } from "../storage/port.ts";
import { Admission } from "./admission.ts";
import { AppendQueue } from "./append-queue.ts";
import { type ForkWish, planFork } from "./fork-planner.ts";
import { registerGauges } from "./gauges.ts";
import { MemoryGuard, SHORT_OF_MEMORY, type MemoryGuardOptions } from "./memory-guard.ts";
import { type ProfileRules, Profiles } from "./profiles.ts";
import { Reader } from "./reader.ts";
import { Sweeper, type Trim } from "./sweeper.ts";
import { Waiters } from "./waiters.ts";

export interface EngineOptions {
  readonly store: StreamStore;
  readonly clock: Clock;
  /** In [0, 1): jitter of cursors. */
  readonly random: () => number;
  readonly profiles: readonly ProfileRules[];
  /** Where everything that is counted is registered. */
  readonly metrics?: Metrics;
  /** Default: that of a process without a memory limit. */
  readonly budget?: MemoryBudget;
  /** Null (default) when nobody traces. */
  readonly spans?: Spans | null;
  /** How to keep below a memory limit; null (default) = there is none. */
  readonly memory?: MemoryGuardOptions | null;
  /** Told of faults in background work that harmed no request. */
  readonly onFault: (operation: string, cause: unknown) => void;
}

/** A create as a client asks for it: the body is raw, the fork unresolved. */
export interface CreateRequest extends Omit<CreateIntent, "kind" | "body" | "fork"> {
  readonly body: Uint8Array;
  readonly fork: ForkWish | null;
}

/** An append as a client asks for it: the body is raw, `ifMatch` an offset. */
export interface AppendRequestRaw extends Omit<AppendIntent, "kind" | "body" | "ifMatch" | "check"> {
  readonly body: Uint8Array;
  readonly ifMatch: string | null;
}

/** When everything before `next` of a stream is worked off; null = it is. */
export type AckHold = (streamId: number, next: number) => Promise<void> | null;

/** Stands in front of streams of one profile: takes what clients send, and appends what it makes of it. */
export type Intake = (request: AppendRequestRaw) => Promise<Outcome>;

export class Engine {
  readonly #store: StreamStore;
  readonly #clock: Clock;
  readonly #queue: AppendQueue;
  readonly #sweeper: Sweeper;
  /** The one timer of everything that waits. */
  readonly deadlines: Deadlines;
  readonly profiles: Profiles;
  readonly reader: Reader;
  readonly waiters: Waiters;
  readonly random: () => number;
  readonly bodyBytes: Admission;
  readonly liveRequests: Admission;
  readonly metrics: Metrics;
  readonly budget: MemoryBudget;
  /** Null when there is no memory limit. */
  readonly memory: MemoryGuard | null;
  readonly #appends;
  readonly #intakes = new Map<string, Intake>();
  #beforeAck: AckHold = () => null;
  readonly #drained: (() => void)[] = [];
  #closing = false;

  constructor({ store, clock, onFault, random, profiles, ...options }: EngineOptions) {
    const { metrics = new Metrics(), budget = memoryBudget(null), spans = null, memory = null } = options;
    this.random = random;
    this.metrics = metrics;
    this.budget = budget;
    this.bodyBytes = new Admission(budget.bodyBytes);
    this.liveRequests = new Admission(budget.liveRequests);
    this.#appends = appendCounters(metrics);
    this.#store = store;
    this.#clock = clock;
    this.#queue = new AppendQueue(store.log, clock, metrics, spans);
    this.profiles = new Profiles(profiles);
    this.deadlines = new Deadlines(clock);
    const sweeperParts = { store, queue: this.#queue, clock, deadlines: this.deadlines, metrics };
    this.#sweeper = new Sweeper(sweeperParts, onFault);
    this.waiters = new Waiters(this.deadlines);
    store.log.follow((commit) => this.waiters.onCommit(commit));
    this.memory = memory === null ? null : new MemoryGuard(memory, clock, this.deadlines, metrics);
    this.reader = new Reader(store, clock, metrics, this.memory);
    registerGauges(this);
  }

  get closing(): boolean {
    return this.#closing;
  }

  /** Requests that wait for a commit. */
  get queuedIntents(): number {
    return this.#queue.length;
  }

  get clock(): Clock {
    return this.#clock;
  }

  async create(request: CreateRequest): Promise<Outcome> {
    const { body, fork, ...rest } = request;
    // Neither the stream nor a fork's source may be taken for ended because its last read is only known here.
    if (this.#sweeper.holdsAccesses) {
      for (const name of fork === null ? [request.name] : [request.name, fork.sourceName]) {
        const head = this.#store.catalog.peek(name) ?? (await this.#store.catalog.byName(name));
        if (head !== undefined) this.#sweeper.refresh(head);
      }
    }
    if (fork === null) {
      const contentType = request.contentType ?? OCTET_STREAM;
      return this.#queue.submit({ ...rest, kind: "create", body: toBody(contentType, body), fork: null });
    }
    const plan = await planFork(this.#store, fork, this.#clock.nowMs());
    const contentType = "at" in plan ? plan.contentType : OCTET_STREAM;
    return this.#queue.submit({ ...rest, kind: "create", body: toBody(contentType, body), fork: { ...fork, plan } });
  }

  /** Makes an empty JSON stream of the server's own; nothing happens when it is there. */
  createOwn(name: string, retention: Retention | null = null): Promise<Outcome> {
    return this.create({
      name,
      contentType: "application/json",
      expiry: { kind: "never" },
      retention,
      close: false,
      body: new Uint8Array(),
      key: null,
      fork: null,
    });
  }

  async append(request: AppendRequestRaw): Promise<Outcome> {
    const ifMatch = request.ifMatch === null ? null : await this.#expectedTail(request.name, request.ifMatch);
    if (ifMatch !== null && "kind" in ifMatch) return { kind: "rejected", rejection: ifMatch };
    // In this turn, if it can be: what is asked after it must not overtake.
    const known = this.#store.catalog.peek(request.name) ?? (await this.#store.catalog.byName(request.name));
    if (known !== undefined) this.#sweeper.refresh(known);
    const profile = known?.profile ?? null;
    let intake = profile === null ? undefined : this.#intakes.get(profile.kind);
    if (intake === undefined) {
      const outcome = await this.#write(this.#checkedAppend(request, ifMatch, profile), request.body.length);
      if (outcome.kind !== "diverted") return outcome;
      // The profile came while the append waited.
      intake = present(this.#intakes.get(outcome.profileKind), "what diverts has an intake");
    }
    const taken = await intake(request);
    if (taken.kind === "rejected" || !request.close) return taken;
    // What the body held is taken; the close itself has none.
    return this.#write({ ...request, kind: "append", body: null, ifMatch }, 0);
  }

  /** Checked in this turn, by the profile that the stream has now; again when it is decided, should it have another one by then. */
  #checkedAppend(
    request: AppendRequestRaw,
    ifMatch: AppendIntent["ifMatch"],
    profile: StreamProfile | null,
  ): AppendIntent {
    const { contentType } = request;
    const raw = contentType === null ? null : toBody(contentType, request.body);
    const json = contentType !== null && isJson(contentType);
    const body = this.profiles.check(profile, raw, json);
    const check = (now: StreamProfile | null): ReturnType<AppendCheck> => {
      if (now === profile) return body;
      return now !== null && this.#intakes.has(now.kind) ? "diverted" : this.profiles.check(now, raw, json);
    };
    return { ...request, kind: "append", body, ifMatch, check };
  }

  /** Into the log; `bytes` is what the client sent of it. */
  async #write(intent: AppendIntent, bytes: number): Promise<Outcome> {
    const outcome = await this.#queue.submit(intent);
    if (outcome.kind === "diverted") return outcome;
    this.#count(outcome, bytes);
    const hold = outcome.kind === "appended" ? this.#beforeAck(outcome.streamId, outcome.next) : null;
    if (hold !== null) await hold;
    return outcome;
  }

  /** What clients send to streams of this profile goes to `intake` instead of the log. */
  divert(profileKind: string, intake: Intake): void {
    this.#intakes.set(profileKind, intake);
  }

  #count(outcome: Outcome, bytes: number): void {
    const { appended, duplicate, rejected, records } = this.#appends;
    if (outcome.kind === "appended") {
      appended.add();
      records.add(outcome.records);
      this.#appends.bytes.add(bytes);
    } else if (outcome.kind === "duplicate") duplicate.add();
    else rejected.add();
  }

  /**
   * Appends the server's own records to a JSON stream, all in one commit or none, each under its key; `note` changes attributes in the
   * same commit.
   */
  record(
    name: string,
    body: RecordIntent["body"],
    keys: RecordIntent["keys"],
    { id = null, note = null }: Partial<Pick<RecordIntent, "id" | "note">> = {},
  ): Promise<Outcome> {
    return this.#queue.submit({ kind: "record", name, id, body, keys, note });
  }

  /** Sets the profile of one incarnation; a conflict when the name holds another one by then. */
  setProfile(name: string, id: number, profile: StreamProfile | null): Promise<Outcome> {
    return this.#queue.submit({ kind: "profile", name, id, profile });
  }

  /** What features keep with one incarnation of a stream; as durable as records. */
  attributes(id: number): Promise<ReadonlyMap<string, string>> {
    return this.#store.catalog.attributes(id);
  }

  /** Ids, above `after`, of streams that have an attribute under this key. */
  annotated(key: string, after: number, limit: number): Promise<readonly number[]> {
    return this.#store.catalog.annotated(key, after, limit);
  }

  /** Resolves once the change is durable; null removes an attribute. */
  annotate(id: number, attributes: ReadonlyMap<string, string | null>): Promise<Outcome> {
    return this.#queue.submit({ kind: "annotate", id, attributes });
  }

  /** Calls `listener` with every durable commit, in order, in the turn it became durable. Must not throw. */
  follow(listener: (commit: Commit) => void): void {
    this.#store.log.follow(listener);
  }

  delete(name: string): Promise<Outcome> {
    return this.#queue.submit({ kind: "delete", name });
  }

  retain(name: string, retention: Retention): Promise<Outcome> {
    return this.#queue.submit({ kind: "retain", name, retention });
  }

  /**
   * The head of a stream that clients may use. `access` slides a TTL; looking at metadata does not. Use the head in the same
   * turn: it moves with the next commit.
   */
  async find(name: string, access: "read" | "look"): Promise<StreamHead | Rejection> {
    const head = await this.#store.catalog.byName(name);
    if (head === undefined) return { kind: "not-found" };
    if (head.deletion === "soft") return { kind: "gone" };
    const nowMs = this.#clock.nowMs();
    this.#sweeper.refresh(head);
    if (isExpired(head, nowMs)) return head.forks > 0 ? { kind: "gone" } : { kind: "not-found" };
    if (access === "read") this.#sweeper.touch(head, nowMs);
    return head;
  }

  /** The head of one incarnation, or undefined once it is gone. */
  async byId(id: number): Promise<StreamHead | undefined> {
    const head = await this.#store.catalog.byId(id);
    return head === undefined || head.deletion !== "none" ? undefined : head;
  }

  /** The head in memory, whatever its state; undefined when it is not there. */
  peek(name: string): StreamHead | undefined {
    return this.#store.catalog.peek(name);
  }

  list(query: ListQuery): Promise<readonly StreamHead[]> {
    return this.#store.catalog.list(query);
  }

  status(): StoreStatus {
    return this.#store.status();
  }

  /** Why work would be refused now, all reasons; empty = ready. */
  refusals(): readonly Rejection[] {
    const store = this.#store.status().refusal;
    return [
      ...(this.#closing ? [{ kind: "closing" } as const] : []),
      ...(store === null ? [] : [store]),
      ...(this.memory?.shedding === true ? [SHORT_OF_MEMORY] : []),
    ];
  }

  /** The streams with the most unsealed bytes. */
  largestUnsealed(limit: number): Promise<readonly { readonly id: number; readonly bytes: number }[]> {
    return this.#store.log.largestUnsealed(limit);
  }

  /** What of a stream is not sealed yet: its first seq and its payload bytes; null when all is. */
  unsealed(id: number): { readonly from: number; readonly bytes: number } | null {
    return this.#store.log.unsealed(id);
  }

  /** Calls `listener` after each trim of a stream by retention. Must not throw. */
  onTrim(listener: (trim: Trim) => void): void {
    this.#sweeper.onTrim(listener);
  }

  /** Holds the acks of streams with a profile until what follows them has caught up: its pace becomes the writers' pace. */
  holdAcks(hold: AckHold): void {
    this.#beforeAck = hold;
  }

  /** Calls `listener` once, when live requests have to end. Must not throw. */
  onDrain(listener: () => void): void {
    this.#drained.push(listener);
  }

  /** From here on live requests end with what they need to resume; appends still work. */
  beginDrain(): void {
    this.#closing = true;
    this.waiters.close();
    for (const listener of this.#drained.splice(0)) listener();
  }

  /** Finishes what was submitted, then closes the store. */
  async close(): Promise<void> {
    this.beginDrain();
    await this.#sweeper.stop();
    await this.#queue.close();
    this.deadlines.close();
    await this.#store.close(!this.#sweeper.holdsAccesses);
  }

  /** An offset names a seq only for one incarnation: anything else can never match the tail. */
  async #expectedTail(name: string, offset: string): Promise<NonNullable<AppendIntent["ifMatch"]> | Rejection> {
    const head = await this.find(name, "look");
    if ("kind" in head) return head;
    const token = parseOffset(offset.replace(/^"(.*)"$/, "$1"));
    if (token === null || token.kind !== "at") {
      return { kind: "offset-invalid", reason: "If-Match takes one offset of this stream" };
    }
    const position = resolveOffset(lineageOf(head), token);
    return { streamId: head.id, seq: position.kind === "seq" ? position.seq : -1 };
  }
}

function appendCounters(metrics: Metrics) {
  const kinds = ["appended", "duplicate", "rejected"] as const;
  const outcomes = metrics.labelled("streams_appends_total", "Appends by what became of them.", "outcome", kinds);
  return {
    appended: outcomes.of("appended"),
    duplicate: outcomes.of("duplicate"),
    rejected: outcomes.of("rejected"),
    records: metrics.counter("streams_appended_records_total", "Records appended by clients."),
    bytes: metrics.counter("streams_appended_bytes_total", "Body bytes of successful appends."),
  };
}

function toBody(contentType: string, bytes: Uint8Array): Body | null {
  if (bytes.length === 0) return null;
  if (!isJson(contentType)) return { payload: bytes, lengths: [bytes.length] };
  const split = splitJsonRecords(bytes);
  return split.ok ? { payload: split.payload, lengths: split.lengths } : { problem: split.problem };
}
