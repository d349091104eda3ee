/**
 * What an inspection of a data directory finds. `error`: records or state are lost or damaged. `warning`: the next start repairs it, or it
 * costs nothing. Findings are handed on one by one and never collected: there may be as many as there are rows.
 */

export type Severity = "error" | "warning";

/** What was looked at; the names are documented in docs/operations.md. */
export type Check =
  | "sqlite"
  | "meta"
  | "commit"
  | "batch"
  | "sequence"
  | "head"
  | "name"
  | "fork"
  | "producer"
  | "attribute"
  | "orphan"
  | "highwater"
  | "backup"
  | "derived"
  | "leftover";

export interface Finding {
  readonly severity: Severity;
  readonly check: Check;
  /** A whole sentence: it names the stream and the records again. */
  readonly message: string;
  /** The stream concerned; its name is null when no row of it can be read. */
  readonly stream?: string | null;
  readonly streamId?: number;
  /** The records concerned: `from` up to, not including, `to`. */
  readonly from?: number;
  readonly to?: number;
}

export type Place = Pick<Finding, "stream" | "streamId" | "from" | "to">;

/** Hands findings on, and counts them. */
export class Findings {
  readonly #listener: (finding: Finding) => void;
  errors = 0;
  warnings = 0;

  constructor(listener: (finding: Finding) => void) {
    this.#listener = listener;
  }

  error(check: Check, message: string, place: Place = {}): void {
    this.errors++;
    this.#listener({ severity: "error", check, message, ...place });
  }

  warning(check: Check, message: string, place: Place = {}): void {
    this.warnings++;
    this.#listener({ severity: "warning", check, message, ...place });
  }

  /** Runs one check; what it throws is a finding too: a page that SQLite cannot read, a value of another type. */
  guard(check: Check, what: string, work: () => void): void {
    this.attempt(check, what, work, undefined);
  }

  /** The same for a check with a result: `otherwise` when it throws. */
  attempt<T>(check: Check, what: string, work: () => T, otherwise: T): T {
    try {
      return work();
    } catch (cause) {
      this.unreadable(check, what, cause);
      return otherwise;
    }
  }

  unreadable(check: Check, what: string, cause: unknown): void {
    this.error(check, `${what} cannot be read to the end (${reasonOf(cause)})`);
  }
}

export function reasonOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}

/** `record 7`, `records 7 to 9` for 7..10. */
export function recordRange(from: number, to: number): string {
  return to - from === 1 ? `record ${from}` : `records ${from} to ${to - 1}`;
}
