/**
 * One WebSocket that speaks `streams.v1`, from its opening to its end, and the subscriptions on it. A WebSocket cannot be
 * told to wait, so each subscription has a bounded mailbox: when its reader is too slow the subscription is given up, and
 * the reader comes back with its offset. Ids are used again only after the server's last word about them.
 */

import type { Clock } from "../kit/clock.ts";
import { abortReason } from "./retry-policy.ts";
import { readSaid, type Said } from "./socket-said.ts";
import { isStreamError, type StreamError, Unreachable } from "./stream-error.ts";

/** What of an event of a WebSocket is needed. */
export interface SocketEvent {
  readonly data?: unknown;
  readonly code?: number;
  readonly reason?: string;
}

/** What of the platform's `WebSocket` is needed. */
export interface SocketLike {
  send(text: string): void;
  close(): void;
  addEventListener(type: "message" | "error" | "close", listener: (event: SocketEvent) => void): void;
}

export type SocketConstructor = new (url: string, protocols: string[]) => SocketLike;

/** A subscription as the protocol has it, but for its id. */
export interface Wanted {
  readonly stream: string;
  readonly offset: string;
  readonly key?: string;
  readonly filter?: string;
  readonly overflow?: string;
  /** It ended with `behind`: what its reader missed since is for `overflow` to judge. */
  readonly behind?: true;
}

/**
 * `behind`: its reader was too slow; it goes on from its offset with another subscription.
 * `refused`: the server ended it; asked over HTTP it says why.
 */
export type SubscriptionEnd = "behind" | "refused";

export interface SocketSubscription {
  /** Rejects with a `StreamError` when the connection has ended, and with the signal's reason. One caller at a time. */
  next(signal: AbortSignal): Promise<Said | SubscriptionEnd>;
  /** Idempotent. */
  leave(): void;
}

export interface ConnectionParts {
  readonly WebSocket: SocketConstructor;
  /** With the credential in its query. */
  readonly url: string;
  /** For messages: without credentials. */
  readonly shownUrl: string;
  readonly clock: Clock;
  /** The server has said its first word. */
  readonly onOpen: () => void;
  /** Called once, whether it was open or not. */
  readonly onEnd: (failure: StreamError) => void;
}

const SOCKET_PROTOCOL = "streams.v1";
/** How long a server may take to say the first word. */
const CONNECT_LIMIT_MS = 15_000;
/** A server that says nothing else says so this often, unless it names another time. */
const DEFAULT_HEARTBEAT_MS = 30_000;
/** What waits for one reader: past either, and beyond the message that passes it, nothing more is kept. */
const MAX_WAITING_MESSAGES = 1_000;
const MAX_WAITING_CHARS = 4 * 1024 * 1024;
/** Ids are names of streams, cut so that a number fits behind them. */
const MAX_ID_STEM_CHARS = 1_000;

interface Entry {
  /** Null: its reader has left. */
  mailbox: Mailbox | null;
  /** `leaving`: the server's answer to `unsubscribe` is awaited. Before `on` it would not know the id yet. */
  phase: "asked" | "on" | "leaving";
}

const ABOUT_READERS = new Set(["subscribed", "records", "position", "lagged", "gap", "unsubscribed", "error"]);

export class SocketConnection {
  readonly #parts: ConnectionParts;
  readonly #socket: SocketLike;
  readonly #entries = new Map<string, Entry>();
  #heardMs: number;
  #timer: ReturnType<typeof setTimeout>;
  #failure: StreamError | null = null;

  /** Throws what the platform's constructor throws. */
  constructor(parts: ConnectionParts) {
    this.#parts = parts;
    this.#heardMs = parts.clock.monotonicMs();
    this.#socket = new parts.WebSocket(parts.url, [SOCKET_PROTOCOL]);
    this.#timer = setTimeout(() => this.#end(this.#broken("no word after it was opened")), CONNECT_LIMIT_MS);
    this.#socket.addEventListener("message", ({ data }) => this.#receive(data));
    this.#socket.addEventListener("error", () => this.#end(this.#broken("it failed")));
    this.#socket.addEventListener("close", ({ code, reason }) =>
      this.#end(this.#broken(`it was closed: ${code ?? ""} ${reason ?? ""}`.trimEnd())),
    );
  }

  /** @throws StreamError when the connection has ended. */
  subscribe(wanted: Wanted): SocketSubscription {
    if (this.#failure !== null) throw this.#failure;
    const id = this.#freeId(wanted.stream);
    const mailbox = new Mailbox();
    const entry: Entry = { mailbox, phase: "asked" };
    this.#entries.set(id, entry);
    this.#say({ type: "subscribe", id, ...wanted });
    return { next: (signal) => mailbox.next(signal), leave: () => this.#leave(id, entry) };
  }

  /** Idempotent. */
  close(): void {
    this.#end(this.#broken("it was closed here"));
  }

  #receive(data: unknown): void {
    if (this.#failure !== null || typeof data !== "string") return;
    this.#heardMs = this.#parts.clock.monotonicMs();
    try {
      const said = readSaid(data, this.#parts.shownUrl);
      if (said.type === "connected") this.#connected(said);
      else if (ABOUT_READERS.has(said.type)) this.#route(said);
    } catch (cause) {
      if (!isStreamError(cause)) throw cause;
      this.#end(cause);
    }
  }

  #connected({ fields: { heartbeatMs } }: Said): void {
    this.#watch(typeof heartbeatMs === "number" && heartbeatMs > 0 ? heartbeatMs : DEFAULT_HEARTBEAT_MS);
    this.#parts.onOpen();
  }

  /** Ends the connection when nothing came for two heartbeats. */
  #watch(heartbeatMs: number): void {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      const silentMs = this.#parts.clock.monotonicMs() - this.#heardMs;
      if (silentMs >= 2 * heartbeatMs) this.#end(this.#broken(`silent for ${Math.round(silentMs)} ms`));
      else this.#watch(heartbeatMs);
    }, heartbeatMs);
  }

  #route(said: Said): void {
    const { type, id, fields } = said;
    const entry = this.#entries.get(id);
    // All we ask for has an id: a refusal without one leaves a reader waiting for ever.
    if (entry === undefined && type === "error" && id === "") return this.#end(this.#broken("a request was refused"));
    if (entry === undefined) return;
    const { mailbox } = entry;
    const isAnswered = entry.phase !== "leaving" || fields["reason"] === "request";
    if (type === "error" || (type === "unsubscribed" && isAnswered)) this.#entries.delete(id);
    if (type === "subscribed" && entry.phase === "asked") {
      entry.phase = "on";
      if (mailbox === null) return this.#leave(id, entry);
    }
    if (mailbox === null) return;
    if (type === "error" || (type === "unsubscribed" && fields["reason"] !== "closed")) return mailbox.end("refused");
    if (mailbox.put(said)) return;
    mailbox.end("behind");
    this.#leave(id, entry);
  }

  #leave(id: string, entry: Entry): void {
    entry.mailbox = null;
    if (this.#entries.get(id) !== entry || entry.phase !== "on") return;
    entry.phase = "leaving";
    this.#say({ type: "unsubscribe", id });
  }

  /** The stream's name where that is free: the server encodes once for all connections that use the same id. */
  #freeId(stream: string): string {
    if (!this.#entries.has(stream)) return stream;
    const stem = stream.slice(0, MAX_ID_STEM_CHARS);
    for (let number = 2; ; number++) {
      const id = `${stem} ${number}`;
      if (!this.#entries.has(id)) return id;
    }
  }

  #say(message: object): void {
    if (this.#failure === null) this.#socket.send(JSON.stringify(message));
  }

  #end(failure: StreamError): void {
    if (this.#failure !== null) return;
    this.#failure = failure;
    clearTimeout(this.#timer);
    for (const { mailbox } of this.#entries.values()) mailbox?.end(failure);
    this.#entries.clear();
    this.#socket.close();
    this.#parts.onEnd(failure);
  }

  #broken(why: string): Unreachable {
    const { shownUrl: url } = this.#parts;
    return new Unreachable({ message: `the WebSocket to ${url} broke: ${why}`, hint: null, url, cause: null });
  }
}

/** What waits for one reader. */
class Mailbox {
  readonly #waiting: Said[] = [];
  #chars = 0;
  #over: SubscriptionEnd | StreamError | null = null;
  #wake: (() => void) | null = null;

  /** False when no more may be put. */
  put(said: Said): boolean {
    if (this.#over !== null) return true;
    this.#waiting.push(said);
    this.#chars += said.chars;
    this.#wake?.();
    // However large, one message alone is no backlog.
    if (this.#waiting.length === 1) return true;
    return this.#waiting.length < MAX_WAITING_MESSAGES && this.#chars < MAX_WAITING_CHARS;
  }

  /** What was put before is still given out. */
  end(how: SubscriptionEnd | StreamError): void {
    this.#over ??= how;
    this.#wake?.();
  }

  async next(signal: AbortSignal): Promise<Said | SubscriptionEnd> {
    for (;;) {
      const said = this.#waiting.shift();
      if (said !== undefined) {
        this.#chars -= said.chars;
        return said;
      }
      const over = this.#over;
      if (isStreamError(over)) throw over;
      if (over !== null) return over;
      await this.#more(signal);
    }
  }

  #more(signal: AbortSignal): Promise<void> {
    return new Promise((resolve, reject) => {
      if (signal.aborted) return reject(abortReason(signal));
      const onAbort = (): void => reject(abortReason(signal));
      signal.addEventListener("abort", onAbort, { once: true });
      this.#wake = () => {
        this.#wake = null;
        signal.removeEventListener("abort", onAbort);
        resolve();
      };
    });
  }
}
