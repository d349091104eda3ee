/**
 * The engine: every operation on streams without HTTP. Owns the append queue, the waiters, the reader and the background
 * sweep over one store. Knows no status codes and no SQL.
 */

import type { Clock } from "../kit/clock.ts";
import { Deadlines } from "../kit/deadlines.ts";
import type { Body } from "../protocol/append-rules.ts";
import { isJson, OCTET_STREAM } from "../protocol/content-type.ts";
import type { AppendIntent, CreateIntent, Outcome } from "../protocol/intents.ts";
import { splitJsonRecords } from "../protocol/json-records.ts";
import { MAX_BYTES_IN_FLIGHT, MAX_LIVE_REQUESTS } from "../protocol/limits.ts";
import { isExpired, lineageOf, type StreamHead } from "../protocol/stream.ts";
import { parseOffset, resolveOffset } from "../protocol/offset.ts";
import type { Retention } from "../protocol/retention.ts";
import type { Rejection } from "../protocol/verdicts.ts";
import type { ListQuery, StoreStatus, StreamStore } from "../storage/port.ts";
import { Admission } from "./admission.ts";
import { AppendQueue } from "./append-queue.ts";
import { type ForkWish, planFork } from "./fork-planner.ts";
import { Reader } from "./reader.ts";
import { Sweeper } from "./sweeper.ts";
import { Waiters } from "./waiters.ts";

export interface EngineOptions {
  readonly store: StreamStore;
  readonly clock: Clock;
  /** In [0, 1): jitter of cursors. */
  readonly random: () => number;
  /** Told of faults in background work that harmed no request. */
  readonly onFault: (operation: string, cause: unknown) => void;
}

/** A create as a client asks for it: the body is raw, the fork unresolved. */
export interface CreateRequest extends Omit<CreateIntent, "kind" | "body" | "fork"> {
  readonly body: Uint8Array;
  readonly fork: ForkWish | null;
}

/** An append as a client asks for it: the body is raw, `ifMatch` an offset. */
export interface AppendRequestRaw extends Omit<AppendIntent, "kind" | "body" | "ifMatch"> {
  readonly body: Uint8Array;
  readonly ifMatch: string | null;
}

export class Engine {
  readonly #store: StreamStore;
  readonly #clock: Clock;
  readonly #queue: AppendQueue;
  readonly #deadlines: Deadlines;
  readonly #sweeper: Sweeper;
  readonly reader: Reader;
  readonly waiters: Waiters;
  readonly random: () => number;
  readonly bodyBytes = new Admission(MAX_BYTES_IN_FLIGHT);
  readonly liveRequests = new Admission(MAX_LIVE_REQUESTS);
  #closing = false;

  constructor({ store, clock, onFault, random }: EngineOptions) {
    this.random = random;
    this.#store = store;
    this.#clock = clock;
    this.#queue = new AppendQueue(store.log);
    this.#deadlines = new Deadlines(clock);
    this.#sweeper = new Sweeper({ store, queue: this.#queue, clock, deadlines: this.#deadlines }, onFault);
    this.reader = new Reader(store);
    this.waiters = new Waiters(this.#deadlines);
    store.log.follow((commit) => this.waiters.onCommit(commit));
  }

  get closing(): boolean {
    return this.#closing;
  }

  get clock(): Clock {
    return this.#clock;
  }

  async create(request: CreateRequest): Promise<Outcome> {
    const { body, fork, ...rest } = request;
    if (fork === null) {
      const contentType = request.contentType ?? OCTET_STREAM;
      return this.#queue.submit({ ...rest, kind: "create", body: toBody(contentType, body), fork: null });
    }
    const plan = await planFork(this.#store, fork, this.#clock.nowMs());
    const contentType = "at" in plan ? plan.contentType : OCTET_STREAM;
    return this.#queue.submit({ ...rest, kind: "create", body: toBody(contentType, body), fork: { ...fork, plan } });
  }

  append(request: AppendRequestRaw): Promise<Outcome> {
    const body = request.contentType === null ? null : toBody(request.contentType, request.body);
    if (request.ifMatch === null) return this.#queue.submit({ ...request, ifMatch: null, kind: "append", body });
    return this.#appendIfMatch({ ...request, kind: "append", body, ifMatch: null }, request.ifMatch);
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

  list(query: ListQuery): Promise<readonly StreamHead[]> {
    return this.#store.catalog.list(query);
  }

  status(): StoreStatus {
    return this.#store.status();
  }

  /** From here on live requests end with what they need to resume; appends still work. */
  beginDrain(): void {
    this.#closing = true;
    this.waiters.close();
  }

  /** Finishes what was submitted, then closes the store. */
  async close(): Promise<void> {
    this.beginDrain();
    await this.#sweeper.stop();
    await this.#queue.close();
    this.#deadlines.close();
    await this.#store.close();
  }

  /** An offset names a seq only for one incarnation: anything else can never match the tail. */
  async #appendIfMatch(intent: AppendIntent, offset: string): Promise<Outcome> {
    const head = await this.find(intent.name, "look");
    if ("kind" in head) return { kind: "rejected", rejection: head };
    const token = parseOffset(offset.replace(/^"(.*)"$/, "$1"));
    if (token === null || token.kind !== "at") {
      return {
        kind: "rejected",
        rejection: { kind: "offset-invalid", reason: "If-Match takes one offset of this stream" },
      };
    }
    const position = resolveOffset(lineageOf(head), token);
    return this.#queue.submit({
      ...intent,
      ifMatch: { streamId: head.id, seq: position.kind === "seq" ? position.seq : -1 },
    });
  }
}

function toBody(contentType: string, bytes: Uint8Array): Body | null {
  if (bytes.length === 0) return null;
  if (!isJson(contentType)) return { payload: bytes, lengths: [bytes.length] };
  const split = splitJsonRecords(bytes);
  return split.ok ? { payload: split.payload, lengths: split.lengths } : { problem: split.problem };
}
