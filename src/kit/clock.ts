/**
 * Time as an argument. The only places that read the machine's clock are here, so tests and the
 * property model can run on a clock of their own.
 */

/** Wall time for what is stored and shown; monotonic time for deadlines. Both in milliseconds. */
export interface Clock {
  /** Milliseconds since the Unix epoch; may jump when an operator sets the clock. */
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
