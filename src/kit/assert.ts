/**
 * Assertions for defects: states that only a bug of ours can produce.
 * Never used for bad input (that is a verdict) nor for a failing disk (that is a fault).
 */

/** A broken invariant of ours. Reaching one is always a bug in this project. */
export class Defect extends Error {
  override readonly name = "Defect";
}

/** Throws a `Defect` unless `condition` holds. */
export function assert(condition: boolean, message: string): asserts condition {
  if (!condition) throw new Defect(message);
}

/** The value, or a `Defect` when it is undefined. For look-ups that an invariant promises. */
export function present<T>(value: T | undefined | null, message: string): T {
  if (value === undefined || value === null) throw new Defect(message);
  return value;
}

/** Ends an exhaustive switch: does not compile when a case is missing. */
export function unreachable(value: never): never {
  throw new Defect(`unreachable case: ${JSON.stringify(value)}`);
}
