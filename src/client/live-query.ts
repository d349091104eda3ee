/**
 * A live query: runs the application's query, and again whenever touch says that its result may have changed
 * (docs/live-queries.md has the loop and why it misses nothing).
 * Invariants: the cursor that is waited from was taken before the query ran; at most one run and one request at a time.
 * Bounds: one failure streak of the server lasts at most `giveUpAfterMs`; answers that bring nothing are slowed down.
 */

import type { Result } from "better-result";
import type { Clock } from "../kit/clock.ts";
import { DEFAULT_GIVE_UP_AFTER_MS, isExhausted, retryDelayMs, sleep, unlessAborted } from "./retry-policy.ts";
import { Refused, type StreamError } from "./stream-error.ts";
import type { TouchTemplate } from "./touch-keys.ts";
import { type Activation, touchRequests } from "./touch-requests.ts";
import { isTransient, type Transport } from "./transport.ts";

export interface LiveQueryOptions<T> {
  /**
   * The templates of the keys, up to 256; they are activated and kept so. Table keys have none. A key whose template is missing
   * here is waited for all the same, but then far more changes run the query.
   */
  readonly templates?: readonly TouchTemplate[];
  /** What the query reads, 1 to 1,024 keys; or a function that tells them by its result, for a join whose keys are in its rows. */
  readonly keys: readonly string[] | ((result: T) => readonly string[]);
  /** Asks the application's database, which must have a change before the stream has it. The signal aborts with the query. */
  readonly run: (signal: AbortSignal) => T | Promise<T>;
  /** What `run` or `keys` threw: true runs it again after a while, else it ends the query. */
  readonly onError?: (error: unknown) => boolean;
  /** Least time between two starts of `run`: what changes within it is read by one run. Default 0: as fast as results are taken. */
  readonly minIntervalMs?: number;
  /** How long to keep trying once contact was made and lost. Before first contact the retry policy decides. */
  readonly giveUpAfterMs?: number;
  /** Ends the query at any moment, also inside `run`. */
  readonly signal?: AbortSignal;
}

/** An answer that came this fast and was no touch is not a wait: slow down. */
const QUICK_ANSWER_MS = 250;

/**
 * The result of `run` now, and again after each touch. Waits only while the next result is asked for, and misses nothing meanwhile.
 * @throws StreamError when it cannot go on; TypeError when the server calls a template invalid; what `run` threw; the
 *   signal's reason when it aborts. Never ends otherwise.
 */
export async function* liveQuery<T>(
  transport: Transport,
  clock: Clock,
  streamUrl: string,
  options: LiveQueryOptions<T>,
): AsyncGenerator<T, void> {
  const { templates = [], minIntervalMs = 0, giveUpAfterMs = DEFAULT_GIVE_UP_AFTER_MS } = options;
  const signal = options.signal ?? new AbortController().signal;
  const touch = touchRequests(transport, streamUrl, signal);
  const pause: Pause = (failures, retryAfterMs) =>
    sleep(retryDelayMs(transport.retry, failures, retryAfterMs, transport.random()), signal);
  const insist = insistence(transport, clock, giveUpAfterMs, pause);

  if (templates.length > 0) refuseInvalid(await insist(() => touch.activate(templates)));
  let cursor = await insist(() => touch.cursor());
  let idleAnswers = 0;
  let startedMs = -Infinity;
  const mayRun = async (): Promise<void> => {
    const leftMs = startedMs + minIntervalMs - clock.monotonicMs();
    if (leftMs > 0) await sleep(leftMs, signal);
    signal.throwIfAborted();
    startedMs = clock.monotonicMs();
  };
  for (;;) {
    const { result, keys } = await query(options, signal, mayRun, pause);
    signal.throwIfAborted();
    yield result;
    for (let again = false; !again;) {
      const askedMs = clock.monotonicMs();
      const answer = await insist(() => touch.wait({ keys, cursor, templates }));
      cursor = answer.cursor;
      again = answer.touched || answer.stale;
      const waited = clock.monotonicMs() - askedMs >= QUICK_ANSWER_MS;
      idleAnswers = answer.touched || waited ? 0 : idleAnswers + 1;
      if (idleAnswers > 1) await pause(idleAnswers - 1, null);
    }
  }
}

/** Waits as long as backoff asks for, after so many failures in a row. */
type Pause = (failures: number, retryAfterMs: number | null) => Promise<void>;

/** One run that gave a result, and the keys that go with it. Each try waits for `mayRun`. */
async function query<T>(
  { run, keys, onError }: LiveQueryOptions<T>,
  signal: AbortSignal,
  mayRun: () => Promise<void>,
  pause: Pause,
): Promise<{ readonly result: T; readonly keys: readonly string[] }> {
  for (let failures = 1; ; failures++) {
    try {
      await mayRun();
      // A run that ignores the signal is not waited for.
      const result = await unlessAborted(Promise.resolve(run(signal)), signal);
      return { result, keys: typeof keys === "function" ? keys(result) : keys };
    } catch (cause) {
      signal.throwIfAborted();
      if (onError?.(cause) !== true) throw cause;
    }
    await pause(failures, null);
  }
}

type Insist = <A>(ask: () => Promise<Result<A, StreamError>>) => Promise<A>;

/** Asks again as long as waiting may help, within `giveUpAfterMs` of the first failure in a row. */
function insistence(transport: Transport, clock: Clock, giveUpAfterMs: number, pause: Pause): Insist {
  let hadContact = false;
  return async (ask) => {
    let failingSinceMs = 0;
    for (let failures = 1; ; failures++) {
      const answer = await ask();
      if (answer.isOk()) {
        hadContact = true;
        return answer.value;
      }
      const { error } = answer;
      if (failures === 1) failingSinceMs = clock.monotonicMs();
      const streak = { hadContact, failures, forMs: clock.monotonicMs() - failingSinceMs };
      if (isExhausted(transport.retry, giveUpAfterMs, streak) || !isTransient(error)) throw error;
      await pause(failures, Refused.is(error) ? error.retryAfterMs : null);
    }
  };
}

/** A template that is denied for want of room is waited for coarsely; one that is wrong is the application's mistake. */
function refuseInvalid({ denied }: Activation): void {
  const invalid = denied.filter(({ reason }) => reason === "invalid").length;
  if (invalid === 0) return;
  throw new TypeError(
    `the server calls ${invalid} of the templates invalid: each has one to three different fields, and keeps its encodings`,
  );
}
