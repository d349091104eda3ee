/** Lets everything that waits (requests, IO, timers) run first. Long loops call it so that no turn grows long. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}
