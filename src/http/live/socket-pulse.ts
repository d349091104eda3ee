/**
 * When one WebSocket is to be heard of: a ping every half a minute, whatever else is sent, and a heartbeat message after half a
 * minute in which nothing was said. Owns the one deadline of a connection, and gives it back with `stop`.
 */

import type { Clock } from "../../kit/clock.ts";
import type { Deadline, Deadlines } from "../../kit/deadlines.ts";
import { MAX_UNANSWERED_PINGS, SOCKET_HEARTBEAT_MS } from "../../protocol/limits.ts";

/** What a pulse moves. Each of them may end the connection, which stops the pulse. */
export interface Pulsed {
  /** Before all else: it may be over. */
  look(): void;
  ping(): void;
  /** Nothing was said for so long. */
  speak(): void;
  /** Nothing was heard for so long. */
  silent(): void;
}

export class SocketPulse {
  readonly #clock: Clock;
  readonly #deadlines: Deadlines;
  readonly #pulsed: Pulsed;
  #beat: Deadline;
  #sentMs: number;
  /** When the next ping is due. */
  #pingMs: number;
  /** Pings that nothing was heard after. */
  #unanswered = 0;
  #stopped = false;

  constructor({ clock, deadlines }: { readonly clock: Clock; readonly deadlines: Deadlines }, pulsed: Pulsed) {
    this.#clock = clock;
    this.#deadlines = deadlines;
    this.#pulsed = pulsed;
    this.#sentMs = clock.monotonicMs();
    this.#pingMs = this.#sentMs + SOCKET_HEARTBEAT_MS;
    this.#beat = this.#after(SOCKET_HEARTBEAT_MS);
  }

  /** A sign of life of the other side. */
  heard(): void {
    this.#unanswered = 0;
  }

  sent(nowMs: number): void {
    this.#sentMs = nowMs;
  }

  stop(): void {
    this.#stopped = true;
    this.#beat.cancel();
  }

  #after(ms: number): Deadline {
    return this.#deadlines.after(ms, () => this.#onBeat());
  }

  #onBeat(): void {
    const nowMs = this.#clock.monotonicMs();
    this.#pulsed.look();
    if (this.#stopped) return;
    // Apart from heartbeats: pings that come close together are unanswered together.
    if (nowMs >= this.#pingMs) {
      if (this.#unanswered++ >= MAX_UNANSWERED_PINGS) this.#pulsed.silent();
      else this.#pulsed.ping();
      this.#pingMs = nowMs + SOCKET_HEARTBEAT_MS;
    }
    const quietMs = nowMs - this.#sentMs;
    const isQuiet = quietMs >= SOCKET_HEARTBEAT_MS;
    if (isQuiet && !this.#stopped) this.#pulsed.speak();
    if (this.#stopped) return;
    this.#beat = this.#after(Math.min(this.#pingMs - nowMs, SOCKET_HEARTBEAT_MS - (isQuiet ? 0 : quietMs)));
  }
}
