/**
 * The answers of a subscription that are part of the game: somebody else holds the lease, there is nothing to do, or the
 * wake is over (PROTOCOL §7.2, §7.3). They are `Refused` like any other no, so whoever handles those handles these; who
 * plays along asks `LeaseConflict.is` and branches on `code`. The protocol lets them come without a message.
 */

import { Result } from "better-result";
import { errorObjectIn, Refused, type StreamError } from "./stream-error.ts";
import { type RequestPlan, Transport, type TransportOptions } from "./transport.ts";

/**
 * `FENCED`: the wake is over, nothing was changed. `ALREADY_CLAIMED`: another worker holds the lease. `NO_PENDING_WORK`:
 * everything is acked.
 */
export type LeaseConflictCode = "FENCED" | "ALREADY_CLAIMED" | "NO_PENDING_WORK";

interface Told {
  readonly code: LeaseConflictCode;
  readonly holder: string | null;
  readonly generation: number | null;
}

export class LeaseConflict extends Refused {
  declare readonly code: LeaseConflictCode;
  /** The worker that holds the lease, and the generation it holds, when the server says so. */
  readonly holder: string | null;
  readonly generation: number | null;

  constructor(refused: Refused, { code, holder, generation }: Told) {
    const { status, hint, url, retryAfterMs, nextOffset, closed, producerEpoch, expectedSeq } = refused;
    const message = refused.code === code ? refused.message : defaultMessage(code, holder);
    super({ status, code, message, hint, url, retryAfterMs, nextOffset, closed, producerEpoch, expectedSeq });
    this.holder = holder;
    this.generation = generation;
  }
}

/** Sends as `Transport.send` does; a conflict over a lease becomes a `LeaseConflict`. */
export async function sendForLease(
  options: TransportOptions,
  plan: RequestPlan,
): Promise<Result<Response, StreamError>> {
  const send = options.fetch ?? ((url, init) => fetch(url, init));
  const last: { told: Told | null } = { told: null };
  const transport = new Transport({
    ...options,
    // The transport takes an error's body; what it does not keep of it is read here.
    fetch: async (url, init) => {
      const response = await send(url, init);
      last.told = response.status === 409 ? told(await response.clone().text()) : null;
      return response;
    },
  });
  const answer = await transport.send(plan);
  if (answer.isOk() || last.told === null || !Refused.is(answer.error)) return answer;
  return Result.err(new LeaseConflict(answer.error, last.told));
}

/** The conflict that an error body tells of; null when it is another one, or no body of ours. */
function told(body: string): Told | null {
  const { code, current_holder: holder, generation } = errorObjectIn(body) ?? {};
  if (code !== "FENCED" && code !== "ALREADY_CLAIMED" && code !== "NO_PENDING_WORK") return null;
  return {
    code,
    holder: typeof holder === "string" ? holder : null,
    generation: typeof generation === "number" ? generation : null,
  };
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
