/**
 * The answers of a subscription that are part of the game: somebody else holds the lease, there is nothing to do, or the
 * wake is over (PROTOCOL §7.2, §7.3). They are `Refused` like any other no, so whoever handles those handles these; who
 * plays along asks `LeaseConflict.is` and branches on `code`. The protocol lets them come without a message.
 */

import { Refused, type StreamError } from "./stream-error.ts";

/**
 * `FENCED`: the wake is over, nothing was changed. `ALREADY_CLAIMED`: another worker holds the lease. `NO_PENDING_WORK`:
 * everything is acked.
 */
export type LeaseConflictCode = "FENCED" | "ALREADY_CLAIMED" | "NO_PENDING_WORK";

export class LeaseConflict extends Refused {
  declare readonly code: LeaseConflictCode;
  /** The worker that holds the lease, and the generation it holds, when the server says so. */
  readonly holder: string | null;
  readonly generation: number | null;

  constructor(refused: Refused, code: LeaseConflictCode) {
    const { status, hint, url, retryAfterMs, nextOffset, closed, producerEpoch, expectedSeq, details } = refused;
    const { current_holder: told, generation } = details;
    const holder = typeof told === "string" ? told : null;
    const message = refused.code === code ? refused.message : defaultMessage(code, holder);
    super({ status, code, message, hint, url, retryAfterMs, nextOffset, closed, producerEpoch, expectedSeq, details });
    this.holder = holder;
    this.generation = typeof generation === "number" ? generation : null;
  }
}

/** A conflict over a lease as such; every other error as it is. */
export function orLeaseConflict(error: StreamError): StreamError {
  if (!Refused.is(error) || error.status !== 409) return error;
  const { code } = error.details;
  const isConflict = code === "FENCED" || code === "ALREADY_CLAIMED" || code === "NO_PENDING_WORK";
  return isConflict ? new LeaseConflict(error, code) : error;
}

function defaultMessage(code: LeaseConflictCode, holder: string | null): string {
  switch (code) {
    case "FENCED":
      return "the wake is over: its lease ran out, or it was acked or released before";
    case "ALREADY_CLAIMED":
      return `${holder ?? "another worker"} holds the lease`;
    case "NO_PENDING_WORK":
      return "no stream of the subscription has anything new";
  }
}
