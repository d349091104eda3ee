/**
 * Room for body bytes between arrival and answer: of the whole server, of each client where clients are told apart, and a reserve for small
 * bodies, so that a few large uploads that stall stop nobody's small appends. What is taken is given back exactly once, by who took it.
 */

import { Admission } from "../engine/admission.ts";
import { MAX_PREPAID_BODY_BYTES } from "../protocol/limits.ts";
import type { HttpProblem } from "./errors.ts";

/** Who sends a body, as far as limits go. */
export interface BodyClient {
  /** A body came, or a part of it. */
  spend(bytes: number): void;
  /** Room in its share, which is at least `least`; false when it has used that up. */
  takeBytes(bytes: number, least: number): boolean;
  giveBytes(bytes: number): void;
}

/** Kept for small bodies besides what all share: 16 MiB are 256 of the largest of them, or all appends of a second. */
const RESERVE_SHARE = 1 / 8;

export class BodyRoom {
  readonly #all: Admission;
  readonly #reserve: Admission;

  constructor(all: Admission, budgetBytes: number) {
    this.#all = all;
    this.#reserve = new Admission(Math.floor(budgetBytes * RESERVE_SHARE));
  }

  /** Room for a body that is there, or is announced; what gives it back, or why there is none. */
  takeWhole(client: BodyClient | null, bytes: number): (() => void) | HttpProblem {
    if (client?.takeBytes(bytes, 0) === false) return tooManyOfClient;
    const isSmall = bytes <= MAX_PREPAID_BODY_BYTES;
    const from = this.#all.take(bytes) ? this.#all : isSmall && this.#reserve.take(bytes) ? this.#reserve : null;
    if (from === null) {
      client?.giveBytes(bytes);
      return busy;
    }
    return () => {
      from.give(bytes);
      client?.giveBytes(bytes);
    };
  }

  /** Room for a part of a body of up to `atMost` bytes: one of those a client may always send. Null, or why there is none. */
  take(client: BodyClient | null, bytes: number, atMost: number): HttpProblem | null {
    if (client?.takeBytes(bytes, atMost) === false) return tooManyOfClient;
    if (this.#all.take(bytes)) return null;
    client?.giveBytes(bytes);
    return busy;
  }

  give(client: BodyClient | null, bytes: number): void {
    this.#all.give(bytes);
    client?.giveBytes(bytes);
  }
}

const busy: HttpProblem = {
  status: 429,
  code: "overloaded",
  message: "too many body bytes are in flight; try again",
  headers: { "Retry-After": "1" },
};

const tooManyOfClient: HttpProblem = {
  status: 429,
  code: "rate-limited",
  message: "this client has too many body bytes in flight; let some of them arrive first",
  headers: { "Retry-After": "1" },
};
