/**
 * When to try again and how long to wait: bounded exponential backoff with jitter, `Retry-After` respected. Pure except
 * for `sleep`. Randomness is an argument.
 */

/** `maxAttempts` counts the first try. Delays in milliseconds. */
export interface RetryPolicy {
  readonly maxAttempts: number;
  readonly baseDelayMs: number;
  readonly maxDelayMs: number;
}

export const DEFAULT_RETRY_POLICY: RetryPolicy = { maxAttempts: 4, baseDelayMs: 100, maxDelayMs: 5_000 };

/** How long a server that was there once is tried again, if nobody says otherwise. */
export const DEFAULT_GIVE_UP_AFTER_MS = 5 * 60_000;

/** A failure streak; `hadContact`: the server was there before it. */
export interface Streak {
  readonly hadContact: boolean;
  readonly failures: number;
  readonly forMs: number;
}

/** Whether to give up: after so many tries where there never was a server, else after so long. */
export function isExhausted(policy: RetryPolicy, giveUpAfterMs: number, streak: Streak): boolean {
  return streak.hadContact ? streak.forMs > giveUpAfterMs : streak.failures >= policy.maxAttempts;
}

/** A server may ask for patience, but not for ever. */
const MAX_RETRY_AFTER_MS = 60_000;

/**
 * The wait after the `failures`th failure in a row (1-based): doubles from the base up to the maximum, jittered to
 * between half and all of it, and never shorter than what the server asked for. `random` is in [0, 1).
 */
export function retryDelayMs(
  policy: RetryPolicy,
  failures: number,
  retryAfterMs: number | null,
  random: number,
): number {
  const doubled = Math.min(policy.maxDelayMs, policy.baseDelayMs * 2 ** Math.min(failures - 1, 30));
  const jittered = doubled * (0.5 + random / 2);
  return Math.max(jittered, Math.min(retryAfterMs ?? 0, MAX_RETRY_AFTER_MS));
}

/** Waits; rejects with the signal's reason as soon as it aborts. */
export function sleep(delayMs: number, signal: AbortSignal | null): Promise<void> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted === true) return reject(abortReason(signal));
    const onAbort = (): void => {
      clearTimeout(timer);
      if (signal !== null) reject(abortReason(signal));
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", onAbort);
      resolve();
    }, delayMs);
    signal?.addEventListener("abort", onAbort, { once: true });
  });
}

/** What an aborted operation throws: the caller's own reason. */
export function abortReason(signal: AbortSignal): Error {
  const reason: unknown = signal.reason;
  return reason instanceof Error ? reason : new DOMException("The operation was aborted", "AbortError");
}

/** What the promise gives, unless the signal aborts first: then its reason, and what the promise does is nobody's business. */
export function unlessAborted<T>(promise: Promise<T>, signal: AbortSignal): Promise<T> {
  return new Promise((resolve, reject) => {
    const onAbort = (): void => reject(abortReason(signal));
    if (signal.aborted) onAbort();
    else signal.addEventListener("abort", onAbort, { once: true });
    void promise.then(resolve, reject).finally(() => signal.removeEventListener("abort", onAbort));
  });
}
