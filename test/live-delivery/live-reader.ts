/**
 * A client that follows streams on one connection at a time, and comes back after each with the offsets of what it has received
 * completely. Owns its connection and its logs; counts what is done to it.
 */

import { type Conversation, conversation, type Following, type Mode } from "./conversation.ts";
import { endOf, problemsOf } from "./delivery-log.ts";
import { type RawLine, rawLine } from "./raw-line.ts";

export interface Treatment {
  connections: number;
  pauses: number;
  /** In the middle of what arrived. */
  cutsInside: number;
  cutsWhilePaused: number;
  cuts: number;
  renewals: number;
  /** Connections that the server ended. */
  ended: number;
  receivedBytes: number;
}

export class LiveReader {
  readonly mode: Mode;
  readonly followings: readonly Following[];
  readonly treatment: Treatment = {
    connections: 0,
    pauses: 0,
    cutsInside: 0,
    cutsWhilePaused: 0,
    cuts: 0,
    renewals: 0,
    ended: 0,
    receivedBytes: 0,
  };
  readonly #server: { readonly url: string };
  readonly #faults: string[] = [];
  #line: RawLine | null = null;
  #talk: Conversation | null = null;
  #paused = false;
  #cutsInside = false;

  constructor(server: { readonly url: string }, mode: Mode, followings: readonly Following[]) {
    this.#server = server;
    this.mode = mode;
    this.followings = followings;
  }

  /** Connects, unless it is connected or has met a fault. */
  connect(): void {
    if (this.#line !== null || this.#faults.length > 0) return;
    this.treatment.connections++;
    this.#paused = false;
    this.#cutsInside = false;
    const line = rawLine(this.#server, {
      opened: () => this.#careful(() => talk.open()),
      received: (bytes) => {
        this.treatment.receivedBytes += bytes.length;
        this.#careful(() => talk.received(bytes));
      },
      closed: (byServer) => {
        if (byServer) this.treatment.ended++;
        else if (this.#cutsInside) this.treatment.cutsInside++;
        this.#line = null;
        this.#talk = null;
      },
    });
    const talk = conversation(this.mode, this.followings, (bytes) => line.send(bytes));
    this.#line = line;
    this.#talk = talk;
  }

  pause(): void {
    if (this.#line === null || this.#paused) return;
    this.#paused = true;
    this.treatment.pauses++;
    this.#line.pause();
  }

  resume(): void {
    this.#paused = false;
    this.#line?.resume();
  }

  cut(): void {
    if (this.#line === null) return;
    this.#cutsInside = false;
    if (this.#paused) this.treatment.cutsWhilePaused++;
    else this.treatment.cuts++;
    this.#line.cut();
  }

  /** The regular end, which is none of the treatment. */
  leave(): void {
    this.#line?.cut();
  }

  cutAfter(bytes: number): void {
    this.#cutsInside = this.#line !== null;
    this.#line?.cutAfter(bytes);
  }

  renew(following: Following): void {
    if (this.mode !== "websocket" || this.#talk === null) return;
    this.treatment.renewals++;
    this.#talk.renew(following.id);
  }

  /** It has all that it is owed, or has met a fault and never will. */
  isDone(): boolean {
    if (this.#faults.length > 0) return true;
    return this.followings.every(
      ({ log, written, wanted }) => log.position >= endOf({ records: written.records, selects: wanted.selects }),
    );
  }

  problems(): string[] {
    // Its log ends where the fault was.
    if (this.#faults.length > 0) return this.#faults;
    return this.followings.flatMap(({ id, log, written, wanted, overflow }) =>
      problemsOf(log.deliveries, {
        records: written.records,
        selects: wanted.selects,
        mayDrop: overflow === "drop-oldest" && this.mode !== "long-poll",
      }).map((problem) => `${this.mode} ${id} ${overflow}: ${problem}`),
    );
  }

  /** A fault ends the connection, and is a problem of this reader. */
  #careful(step: () => void): void {
    if (this.#faults.length > 0) return;
    try {
      step();
    } catch (cause) {
      this.#faults.push(`${this.mode}: ${String(cause)}`);
      this.#line?.cut();
    }
  }
}
