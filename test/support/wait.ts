/** Waiting with a deadline: for a condition, or for a promise. Tests never sleep to get in step with the server. */

const POLL_MS = 10;
/** Deadlines that are a contract are named where they are tested; this one only ends a wait that would not end. */
const DEFAULT_DEADLINE_MS = 40_000;

/** Asks `check` again and again until it gives something other than undefined or false; an error names `what`. */
export async function until<T>(
  what: string,
  check: () => T | undefined | false | Promise<T | undefined | false>,
  deadlineMs = DEFAULT_DEADLINE_MS,
): Promise<T> {
  const deadline = Date.now() + deadlineMs;
  for (;;) {
    const found = await check();
    if (found !== undefined && found !== false) return found;
    if (Date.now() > deadline) throw new Error(`waited ${deadlineMs} ms in vain until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, POLL_MS));
  }
}

/** The promise's value, or an error that names `what` when it takes longer. */
export async function within<T>(what: string, promise: Promise<T>, deadlineMs = DEFAULT_DEADLINE_MS): Promise<T> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what} took longer than ${deadlineMs} ms`)), deadlineMs);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Resolves once the wall clock shows a later millisecond than `sinceMs`, plus `marginMs`. */
export async function clockPast(sinceMs: number, marginMs = 0): Promise<number> {
  return until(`the clock passed ${sinceMs + marginMs}`, () => Date.now() > sinceMs + marginMs && Date.now(), 10_000);
}

/** What the promise is rejected with; a promise that resolves is an error. */
export async function rejection(promise: Promise<unknown>): Promise<Error> {
  const outcome = await promise.then(
    (value) => ({ value }),
    (cause: unknown) => ({ cause }),
  );
  if ("cause" in outcome && outcome.cause instanceof Error) return outcome.cause;
  throw new Error("expected a rejection with an Error", { cause: outcome });
}
