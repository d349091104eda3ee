/**
 * The one WebSocket of a client, shared by all streams that it follows that way. Opened when the first reader comes, closed
 * when the last has left, opened again after it broke. All readers wait for the same attempt, and attempts are spaced by
 * backoff with jitter, so a crowd of readers costs a server that comes back one connection. A server follows at most 256
 * streams on a socket; whoever it refuses beyond them is told so.
 */

import type { Clock } from "../kit/clock.ts";
import { notAStream } from "./reading.ts";
import { retryDelayMs, sleep, unlessAborted } from "./retry-policy.ts";
import { SocketConnection, type SocketConstructor, type SocketSubscription, type Wanted } from "./socket-connection.ts";
import { BrokenAnswer, isStreamError, Refused, type StreamError } from "./stream-error.ts";
import type { Transport } from "./transport.ts";

export interface SharedSocketParts {
  readonly transport: Transport;
  readonly clock: Clock;
  readonly baseUrl: string;
  /** Null: this platform has none. */
  readonly WebSocket: SocketConstructor | null;
  /** A signed token (docs/auth.md), or what gets one before each connection. */
  readonly access: string | (() => string | Promise<string>) | undefined;
}

const SOCKET_PATH = "/v1/ws";
/** A connection that lived this long was a good one: what follows its end begins with the shortest delay. */
const STEADY_MS = 5_000;

export class SharedSocket {
  readonly #parts: SharedSocketParts;
  #current: Promise<SocketConnection> | null = null;
  /** Ends the current connection or attempt; names it, too. */
  #stop: AbortController | null = null;
  #openedMs: number | null = null;
  #wasEverOpen = false;
  #readers = 0;
  /** In a row, of attempts and of connections that did not live for long. */
  #failures = 0;
  #retryAfterMs: number | null = null;

  constructor(parts: SharedSocketParts) {
    this.#parts = parts;
  }

  /** @throws TypeError where there are no WebSockets. */
  platform(): SocketConstructor {
    const { WebSocket } = this.#parts;
    if (WebSocket !== null) return WebSocket;
    throw new TypeError(
      'live: "websocket" needs a WebSocket, and there is none here: pass one to connect(), or use "auto"',
    );
  }

  /** Rejects with a `StreamError` when the connection cannot be opened this time, and with the signal's reason. */
  async subscribe(wanted: Wanted, signal: AbortSignal): Promise<SocketSubscription> {
    const WebSocket = this.platform();
    this.#readers++;
    try {
      this.#current ??= this.#open(WebSocket);
      const connection = await unlessAborted(this.#current, signal);
      const subscription = connection.subscribe(wanted);
      let left = false;
      return {
        next: (until) => subscription.next(until),
        leave: () => {
          if (left) return;
          left = true;
          subscription.leave();
          this.#leave();
        },
      };
    } catch (cause) {
      this.#leave();
      throw cause;
    }
  }

  /** A reader that only comes back from its offset is here again before the timer fires. */
  #leave(): void {
    if (--this.#readers > 0) return;
    setTimeout(() => {
      if (this.#readers > 0 || this.#stop === null) return;
      const stop = this.#stop;
      if (this.#openedMs !== null) this.#failures = 0;
      this.#forget();
      stop.abort();
    }, 0);
  }

  async #open(WebSocket: SocketConstructor): Promise<SocketConnection> {
    const stop = new AbortController();
    this.#stop = stop;
    try {
      await this.#backOff(stop.signal);
      const url = await this.#url();
      stop.signal.throwIfAborted();
      return await this.#connect(WebSocket, url, stop);
    } catch (cause) {
      if (!stop.signal.aborted) this.#failures++;
      throw isStreamError(cause) ? await this.#reasonOf(cause, stop.signal) : cause;
    } finally {
      if (this.#stop === stop && this.#openedMs === null) this.#forget();
    }
  }

  #connect(WebSocket: SocketConstructor, url: string, stop: AbortController): Promise<SocketConnection> {
    const { baseUrl, clock } = this.#parts;
    return new Promise((resolve, reject) => {
      const connection: SocketConnection = new SocketConnection({
        WebSocket,
        url,
        shownUrl: baseUrl + SOCKET_PATH,
        clock,
        onOpen: () => {
          this.#openedMs = clock.monotonicMs();
          this.#wasEverOpen = true;
          resolve(connection);
        },
        onEnd: (failure) => {
          reject(failure);
          this.#ended(stop);
        },
      });
      stop.signal.addEventListener("abort", () => connection.close(), { once: true });
    });
  }

  /** An open connection is over; an attempt that failed is told apart by having no time of opening. */
  #ended(stop: AbortController): void {
    if (this.#stop !== stop || this.#openedMs === null) return;
    const isSteady = this.#parts.clock.monotonicMs() - this.#openedMs >= STEADY_MS;
    this.#failures = isSteady ? 1 : this.#failures + 1;
    this.#forget();
  }

  #forget(): void {
    this.#current = null;
    this.#stop = null;
    this.#openedMs = null;
  }

  async #backOff(signal: AbortSignal): Promise<void> {
    const { retry, random } = this.#parts.transport;
    const retryAfterMs = this.#retryAfterMs;
    this.#retryAfterMs = null;
    if (this.#failures > 0) await sleep(retryDelayMs(retry, this.#failures, retryAfterMs, random()), signal);
  }

  async #url(): Promise<string> {
    const { baseUrl, access } = this.#parts;
    const url = baseUrl.replace(/^http/, "ws") + SOCKET_PATH;
    if (access === undefined) return url;
    return `${url}?access=${encodeURIComponent(typeof access === "string" ? access : await access())}`;
  }

  /** A WebSocket does not say why it was refused; the same request over HTTP does. */
  async #reasonOf(cause: StreamError, signal: AbortSignal): Promise<StreamError> {
    const { transport, baseUrl } = this.#parts;
    const url = baseUrl + SOCKET_PATH;
    const answer = await transport.sendOnce({ method: "GET", url, repeatable: true, signal });
    if (answer.isOk()) {
      await answer.value.body?.cancel();
      return notAStream(url, "is no WebSocket");
    }
    const { error } = answer;
    if (Refused.is(error)) this.#retryAfterMs = error.retryAfterMs;
    if (!Refused.is(error) || error.status !== 426) return error;
    // The server is there and has WebSockets; it may have come back only now.
    if (this.#wasEverOpen || this.#failures < transport.retry.maxAttempts) return cause;
    return new BrokenAnswer({
      message: `the server answers at ${url}, but no WebSocket can be opened there: ${cause.message}`,
      hint: "a proxy may not let WebSockets through; where the server asks for credentials, pass socketAccess",
      url,
    });
  }
}
