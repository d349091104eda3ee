/**
 * What all streams followed by one client share: the WebSocket, what was learnt about server-sent events on the way to the
 * server, and the page they are shown on.
 */

import type { Clock } from "../kit/clock.ts";
import { documentPage, type Page } from "./page-attention.ts";
import { SharedSocket } from "./shared-socket.ts";
import type { SocketConstructor } from "./socket-connection.ts";
import type { Transport } from "./transport.ts";

export interface LiveOptions {
  /** Default: the platform's own; Node before 22 has none. Null for none. */
  readonly WebSocket?: SocketConstructor | null;
  /**
   * Browsers cannot send credentials with a WebSocket: a signed token (`POST /v1/signed-urls`, docs/auth.md), or a function
   * that gets one, called before each connection.
   */
  readonly socketAccess?: string | (() => string | Promise<string>);
  /** Whose visibility pauses live connections. Default: the browser's `document`; null for none. */
  readonly page?: Page | null;
  /** How long server-sent events may bring nothing at their begin before `auto` goes another way. Default 10 s. */
  readonly firstEventLimitMs?: number;
}

export interface LiveParts {
  readonly socket: SharedSocket;
  readonly sse: SseTrust;
  readonly page: Page | null;
}

/** Opens nothing. */
export function liveParts(transport: Transport, clock: Clock, baseUrl: string, options: LiveOptions): LiveParts {
  const platform = globalThis as { readonly WebSocket?: SocketConstructor };
  const WebSocket = options.WebSocket === undefined ? (platform.WebSocket ?? null) : options.WebSocket;
  return {
    socket: new SharedSocket({ transport, clock, baseUrl, WebSocket, access: options.socketAccess }),
    sse: new SseTrust(clock, options.firstEventLimitMs ?? FIRST_EVENT_LIMIT_MS),
    page: options.page === undefined ? documentPage() : options.page,
  };
}

/** A server says at once where a reader stands: when nothing came after so long, something keeps it back. */
const FIRST_EVENT_LIMIT_MS = 10_000;
/** Answers in a row that brought no event before server-sent events are avoided, and for how long. */
const MAX_SSE_MISSES = 2;
const AVOID_SSE_MS = 5 * 60_000;

/** Whether server-sent events come through to this client: proxies that buffer answers keep them for themselves. */
export class SseTrust {
  readonly firstEventLimitMs: number;
  readonly #clock: Clock;
  #misses = 0;
  #avoidUntilMs = -Infinity;

  constructor(clock: Clock, firstEventLimitMs: number) {
    this.#clock = clock;
    this.firstEventLimitMs = firstEventLimitMs;
  }

  get isTrusted(): boolean {
    return this.#clock.monotonicMs() >= this.#avoidUntilMs;
  }

  came(): void {
    this.#misses = 0;
  }

  missed(): void {
    if (++this.#misses >= MAX_SSE_MISSES) this.avoid();
  }

  avoid(): void {
    this.#misses = 0;
    this.#avoidUntilMs = this.#clock.monotonicMs() + AVOID_SSE_MS;
  }
}
