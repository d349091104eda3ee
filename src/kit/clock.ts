/**
 * Time as an argument. The only places that read the machine's clock are here, so tests and the
 * property model can run on a clock of their own. `steadyClock` is wall time for a server: an operator, a bad time source or a
 * suspended machine may move the wall clock by a day, and that must not end every stream with a lifetime at once.
 */

/** Wall time for what is stored and shown; monotonic time for deadlines. Both in milliseconds. */
export interface Clock {
  /** Milliseconds since the Unix epoch; may step, forwards or backwards, when the machine's clock was set. */
  nowMs(): number;
  /** Milliseconds that never go backwards; only differences mean something. */
  monotonicMs(): number;
}

/** The machine's randomness, in [0, 1); an argument wherever it decides something. */
export const systemRandom = (): number => Math.random();

export const systemClock: Clock = {
  nowMs: () => Date.now(),
  monotonicMs: () => performance.now(),
};

/** A smaller difference between two looks is a correction, as time services make them: followed at once. */
export const JUMP_TOLERANCE_MS = 60_000;
/** A larger one is believed once the new time has held for so long, by the monotonic clock. */
export const JUMP_HOLD_MS = 10 * 60_000;

export interface SteadyClockParts {
  readonly wall: () => number;
  readonly monotonic: () => number;
  /** Told once of each jump, when it is seen: how far the wall clock moved, negative for back. Must not throw. */
  readonly onJump: (byMs: number) => void;
}

/**
 * Follows the wall clock while that goes as fast as the monotonic one. After a jump it goes on from the time before, by the
 * monotonic clock, until the wall clock is back where it was or has kept to its new time for `JUMP_HOLD_MS`; then `nowMs`
 * steps there, also backwards. A machine that was suspended looks like a jump forwards. Costs two clock reads a call.
 * What it cannot see: a jump while the process was not running.
 */
export function steadyClock({ wall, monotonic, onJump }: SteadyClockParts): Clock {
  /** Wall minus monotonic time, as believed and, while the wall clock says otherwise, as it says. */
  let believedMs = wall() - monotonic();
  let claim: { offsetMs: number; readonly sinceMs: number } | null = null;

  function nowMs(): number {
    const wallMs = wall();
    const atMs = monotonic();
    const offsetMs = wallMs - atMs;
    if (isNear(offsetMs, believedMs) || isSettled(offsetMs, atMs)) {
      believedMs = offsetMs;
      claim = null;
      return wallMs;
    }
    return Math.floor(atMs + believedMs);
  }

  /** Notes what the wall clock claims, and says whether it has done so for long enough. */
  function isSettled(offsetMs: number, atMs: number): boolean {
    if (claim === null || !isNear(offsetMs, claim.offsetMs)) {
      onJump(Math.round(offsetMs - (claim?.offsetMs ?? believedMs)));
      claim = { offsetMs, sinceMs: atMs };
    }
    claim.offsetMs = offsetMs;
    return atMs - claim.sinceMs >= JUMP_HOLD_MS;
  }

  return { nowMs, monotonicMs: monotonic };
}

function isNear(leftMs: number, rightMs: number): boolean {
  return Math.abs(leftMs - rightMs) <= JUMP_TOLERANCE_MS;
}
