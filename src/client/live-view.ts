/**
 * A live view as an observable map: the rows that pass a filter, in their order, kept as the server keeps them
 * (docs/live-views.md). Owns one connection (server-sent events) at a time, comes back after every interruption to where it was,
 * and ends with the error that made the server end it.
 *
 * Invariants: what is shown between two messages is a whole state of the view. An offset is only kept for the definition that all
 * rows are of: after `update` the next connection asks for the whole set. One request at a time changes what is shown.
 * Bounds: as many rows as the view's limit (10,000 at most), one message in memory, one failure streak `giveUpAfterMs`.
 */

import { Result } from "better-result";
import type { Clock } from "../kit/clock.ts";
import { jsonFields, outline } from "./delivery.ts";
import { notAStream } from "./reading.ts";
import { abortReason, DEFAULT_GIVE_UP_AFTER_MS, isExhausted, retryDelayMs, sleep } from "./retry-policy.ts";
import { type SseEvent, SseParser } from "./sse-parser.ts";
import { isStreamError, Refused, type StreamError } from "./stream-error.ts";
import { isTransient, type Transport } from "./transport.ts";
import { type LiveRow, type RowChange, ViewRows } from "./view-changes.ts";

/** What a view shows; everything may be left out. The server checks it. */
export interface LiveViewDefinition {
  /** Rows of this type only. */
  readonly type?: string;
  /** E.g. `mag >= 4` (docs/filter.md). */
  readonly filter?: string;
  readonly viewport?: LiveViewport;
  /** Fields, comma-separated, `-` before one for descending, e.g. `-mag,place`. Default: by key. */
  readonly order?: string;
  /** 1 to 10,000; default 1,000 with a viewport, 250 without. */
  readonly limit?: number;
}

/** Two numeric fields, and a rectangle over them, its sides included. */
export interface LiveViewport {
  readonly x: string;
  readonly y: string;
  readonly minX: number;
  readonly minY: number;
  readonly maxX: number;
  readonly maxY: number;
}

export interface LiveViewOptions {
  /** How long to keep trying once contact was made and lost; default 5 minutes. Before it the retry policy decides. */
  readonly giveUpAfterMs?: number;
  /** Ends the view, as `close` does. */
  readonly signal?: AbortSignal;
}

/** Told of each message that changed something, after it was applied. Must not throw: that ends the view. */
export type ViewListener<T> = (changes: readonly RowChange<T>[]) => void;

/** One connection, until it ends. */
interface Connection {
  readonly cut: AbortController;
  /** How the server calls the view; null until it has said so. */
  id: string | null;
  /** What the server shows on it. */
  definition: LiveViewDefinition;
  /** Whether offsets told on it are places to come back to. */
  resumes: boolean;
  hasTold: boolean;
  /** From the headers of its answer to its end; 0 while there is none. */
  livedMs: number;
}

/** The server ends a connection after about a minute. One that ends before this has a reason. */
const ORDINARY_LIFE_MS = 30_000;
/** Connections that end this soon, one after another, are opened more and more slowly. */
const QUICK_END_MS = 1_000;
/** Longest message taken into memory: all rows of a server together are not more. */
const MAX_MESSAGE_CHARS = 128 * 1024 * 1024;

export class LiveView<T = unknown> {
  readonly #transport: Transport;
  readonly #clock: Clock;
  readonly #url: string;
  readonly #giveUpAfterMs: number;
  readonly #stop = new AbortController();
  /** Aborts when nobody wants the view any more. */
  readonly #signal: AbortSignal;
  readonly #rows: ViewRows<T>;
  readonly #listeners = new Set<ViewListener<T>>();
  readonly #firstSet: Promise<Result<void, StreamError>>;
  readonly #running: Promise<never>;
  #onFirstSet: (told: Result<void, StreamError>) => void = () => undefined;
  #definition: LiveViewDefinition;
  /** The newest that `update` was asked for. */
  #wanted: LiveViewDefinition;
  #updating: Promise<Result<void, StreamError>> | null = null;
  #connection: Connection | null = null;
  /** Where the rows are those of the definition; null = they may not be. */
  #offset: string | null = null;
  #hadContact = false;
  #isReady = false;
  #isOver = false;

  /** Begins at once. `url` is the stream's. */
  constructor(
    transport: Transport,
    clock: Clock,
    url: string,
    definition: LiveViewDefinition,
    options: LiveViewOptions,
  ) {
    const { signal, giveUpAfterMs = DEFAULT_GIVE_UP_AFTER_MS } = options;
    this.#transport = transport;
    this.#clock = clock;
    this.#url = `${url}/_view`;
    this.#definition = definition;
    this.#wanted = definition;
    this.#giveUpAfterMs = giveUpAfterMs;
    this.#signal = signal === undefined ? this.#stop.signal : AbortSignal.any([signal, this.#stop.signal]);
    this.#rows = new ViewRows(definition.order);
    this.#firstSet = new Promise((resolve) => (this.#onFirstSet = resolve));
    this.#running = this.#run();
    this.#running.catch(() => {
      /* `done` and `ready` tell. */
    });
  }

  get size(): number {
    return this.#rows.size;
  }

  /** The rows as they are now, in the view's order: the same array until something changes. */
  rows(): readonly LiveRow<T>[] {
    return this.#rows.inOrder();
  }

  [Symbol.iterator](): Iterator<LiveRow<T>> {
    return this.rows()[Symbol.iterator]();
  }

  /** `type` defaults to the view's. A view of all types looks for the first row with that key, one by one. */
  get(key: string, type = this.#definition.type): LiveRow<T> | undefined {
    return type === undefined ? this.rows().find((row) => row.key === key) : this.#rows.get(type, key);
  }

  /** From now on, until the function that it gives is called. */
  subscribe(listener: ViewListener<T>): () => void {
    // Each subscription is one of its own, also of the same function.
    const told: ViewListener<T> = (changes) => listener(changes);
    if (!this.#isOver) this.#listeners.add(told);
    return () => void this.#listeners.delete(told);
  }

  /** Ok with the first full set; else the error that came first. Rejects when the view was closed or aborted before. */
  async ready(): Promise<Result<void, StreamError>> {
    const told = await Promise.race([this.#firstSet, this.done()]);
    if (!this.#isReady && told.isOk()) throw abortReason(this.#stop.signal);
    return told;
  }

  /** Resolves when the view has ended: ok after `close`, else with the error that ended it. Rejects when its signal aborted. */
  async done(): Promise<Result<void, StreamError>> {
    try {
      return await this.#running;
    } catch (cause) {
      if (isStreamError(cause)) return Result.err(cause);
      if (!this.#stop.signal.aborted) throw cause;
      return Result.ok();
    }
  }

  /**
   * Shows something else from now on, e.g. another viewport. Ok when the server has taken it: what it changes comes as a message
   * soon after. While one change is under way only the newest one waits. An error leaves what was shown before.
   * While there is no connection the next one begins with it, and a definition that is none ends the view.
   * A view that has ended gives the error that ended it. Rejects when it was closed or aborted, which nobody has to wait for.
   */
  update(definition: LiveViewDefinition): Promise<Result<void, StreamError>> {
    this.#wanted = definition;
    this.#updating ??= this.#update();
    return this.#updating;
  }

  /** Ends the view; its rows stay as they are. Resolves when its connection is gone. Idempotent. */
  async close(): Promise<void> {
    this.#stop.abort();
    await this.#running.catch(() => {
      /* `done` tells. */
    });
  }

  async #run(): Promise<never> {
    try {
      return await this.#keepOpen();
    } finally {
      this.#isOver = true;
      this.#listeners.clear();
    }
  }

  async #keepOpen(): Promise<never> {
    let failures = 0;
    let failingSinceMs = 0;
    let quickEnds = 0;
    for (;;) {
      const startedMs = this.#clock.monotonicMs();
      const { connection, isWhole } = this.#begin();
      try {
        await this.#listen(connection);
        const lastedMs = this.#clock.monotonicMs() - startedMs;
        // An end without a word: server-sent events cannot say why, another answer can.
        if (!connection.hasTold && (isWhole || lastedMs < ORDINARY_LIFE_MS)) await this.#ask();
        failures = 0;
        quickEnds = lastedMs < QUICK_END_MS ? quickEnds + 1 : 0;
        if (quickEnds > 1) await this.#pause(quickEnds - 1, null);
      } catch (cause) {
        this.#signal.throwIfAborted();
        if (connection.cut.signal.aborted) continue;
        if (!isStreamError(cause) || !isTransient(cause)) throw cause;
        const nowMs = this.#clock.monotonicMs();
        // Nothing need be told to who comes back to where it was; a whole set is owed.
        if (connection.hasTold || (!isWhole && connection.livedMs >= QUICK_END_MS)) failures = 0;
        if (failures++ === 0) failingSinceMs = nowMs;
        const streak = { hadContact: this.#hadContact, failures, forMs: nowMs - failingSinceMs };
        if (isExhausted(this.#transport.retry, this.#giveUpAfterMs, streak)) throw cause;
        await this.#pause(failures, Refused.is(cause) ? cause.retryAfterMs : null);
      }
    }
  }

  #begin(): { connection: Connection; isWhole: boolean } {
    const cut = new AbortController();
    const connection = { cut, id: null, definition: this.#definition, resumes: true, hasTold: false, livedMs: 0 };
    return { connection, isWhole: this.#offset === null };
  }

  /** One connection, to its end. */
  async #listen(connection: Connection): Promise<void> {
    const signal = AbortSignal.any([this.#signal, connection.cut.signal]);
    this.#connection = connection;
    let beganMs = Infinity;
    try {
      const query = queryOf(connection.definition);
      query.set("live", "sse");
      if (this.#offset !== null) query.set("offset", this.#offset);
      const response = await this.#get(query, signal);
      beganMs = this.#clock.monotonicMs();
      const parser = new SseParser(MAX_MESSAGE_CHARS);
      for await (const piece of this.#transport.events(response, signal)) {
        for (const event of outline(() => parser.push(piece), this.#url)) {
          // Of what came at once nothing more is shown.
          signal.throwIfAborted();
          await this.#hear(connection, event);
        }
      }
    } finally {
      this.#connection = null;
      connection.livedMs = Math.max(0, this.#clock.monotonicMs() - beganMs);
    }
  }

  async #hear(connection: Connection, { type, data }: SseEvent): Promise<void> {
    if (type === "view") await this.#greeted(connection, this.#field(data, "viewId"));
    if (type === "data") {
      connection.hasTold = true;
      this.#apply(data);
    }
    // Before the first message the server tells where the stream is, which is not where these rows are.
    if (type === "control" && connection.hasTold && connection.resumes) {
      this.#offset = this.#field(data, "streamNextOffset");
    }
  }

  /** From here on the view can be changed in place; what was wanted meanwhile is told now. */
  async #greeted(connection: Connection, id: string): Promise<void> {
    while (connection.definition !== this.#definition) {
      const definition = this.#definition;
      const changed = await this.#change(connection, id, definition);
      if (changed.isErr()) throw changed.error;
      connection.definition = definition;
    }
    connection.id = id;
  }

  /** What the view shows now, as one answer, or why it shows nothing. */
  async #ask(): Promise<void> {
    const definition = this.#definition;
    const response = await this.#get(queryOf(definition), this.#signal);
    const decoder = new TextDecoder();
    let text = "";
    for await (const piece of this.#transport.pieces(response, this.#signal)) {
      text += decoder.decode(piece, { stream: true });
      if (text.length > MAX_MESSAGE_CHARS) throw notAStream(this.#url, "is too long for a view");
    }
    this.#signal.throwIfAborted();
    this.#apply(text);
    if (definition === this.#definition) this.#offset = response.headers.get("stream-next-offset");
  }

  async #update(): Promise<Result<void, StreamError>> {
    try {
      for (;;) {
        const definition = this.#wanted;
        const shown = await this.#show(definition);
        if (definition === this.#wanted) return shown;
      }
    } catch (cause) {
      if (this.#signal.aborted) {
        this.#updating?.catch(() => {
          /* Who waits is told. */
        });
      }
      throw cause;
    } finally {
      this.#updating = null;
    }
  }

  async #show(definition: LiveViewDefinition): Promise<Result<void, StreamError>> {
    for (;;) {
      this.#signal.throwIfAborted();
      if (this.#isOver) return this.done();
      const connection = this.#connection;
      const id = connection?.id ?? null;
      if (connection === null || id === null) break;
      const changed = await this.#change(connection, id, definition);
      if (changed.isErr()) return changed;
      connection.definition = definition;
      // Else another one was opened meanwhile, with what was shown before.
      if (this.#connection === connection) break;
    }
    this.#signal.throwIfAborted();
    this.#definition = definition;
    this.#offset = null;
    this.#rows.reorder(definition.order);
    this.#tell([]);
    return Result.ok();
  }

  /** Changes the view of a connection in place; one that the server does not know any more, or may have changed, is cut. */
  async #change(connection: Connection, id: string, view: LiveViewDefinition): Promise<Result<void, StreamError>> {
    // Whatever comes of it, messages may be of either view from now on.
    connection.resumes = false;
    this.#offset = null;
    const answer = await this.#transport.send({
      method: "POST",
      url: `${this.#url}?${new URLSearchParams({ id }).toString()}`,
      headers: { "content-type": "application/json" },
      body: JSON.stringify(view),
      repeatable: true,
      signal: this.#signal,
    });
    if (answer.isOk()) return Result.ok();
    const isUnknown = Refused.is(answer.error) && answer.error.code === "view-unknown";
    if (isUnknown || isTransient(answer.error)) connection.cut.abort();
    return isUnknown ? Result.ok() : Result.err(answer.error);
  }

  async #get(query: URLSearchParams, signal: AbortSignal): Promise<Response> {
    const url = `${this.#url}?${query.toString()}`;
    const events = query.get("live") === "sse";
    const answer = await this.#transport.sendOnce({ method: "GET", url, repeatable: true, events, signal });
    if (answer.isErr()) throw answer.error;
    this.#hadContact = true;
    return answer.value;
  }

  #apply(text: string): void {
    const changes = this.#rows.apply(jsonFields(text, "a message", this.#url));
    if (changes === null) throw notAStream(this.#url, "has records that are none of a view");
    if (!this.#isReady) {
      this.#isReady = true;
      this.#onFirstSet(Result.ok());
    }
    if (changes.length > 0) this.#tell(changes);
  }

  #tell(changes: readonly RowChange<T>[]): void {
    // Who comes while they are told hears the next message. Who has left meanwhile hears nothing, and nobody does after a close.
    const current = [...this.#listeners];
    for (const listener of current) {
      if (this.#listeners.has(listener) && !this.#signal.aborted) listener(changes);
    }
  }

  #field(text: string, name: string): string {
    const field = jsonFields(text, "an event", this.#url)[name];
    if (typeof field !== "string") throw notAStream(this.#url, `has an event without ${name}`);
    return field;
  }

  async #pause(failures: number, retryAfterMs: number | null): Promise<void> {
    const delayMs = retryDelayMs(this.#transport.retry, failures, retryAfterMs, this.#transport.random());
    await sleep(delayMs, this.#signal);
  }
}

function queryOf({ type, filter, viewport, order, limit }: LiveViewDefinition): URLSearchParams {
  const query = new URLSearchParams();
  if (type !== undefined) query.set("type", type);
  if (filter !== undefined) query.set("filter", filter);
  if (order !== undefined) query.set("order", order);
  if (limit !== undefined) query.set("limit", String(limit));
  if (viewport !== undefined) {
    const { x, y, minX, minY, maxX, maxY } = viewport;
    query.set("viewport", [x, y, minX, minY, maxX, maxY].join(","));
  }
  return query;
}
