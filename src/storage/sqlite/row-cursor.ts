/**
 * A table read in key order, one row ahead: several of them walk side by side, so that tables of any size are compared without a map. A table
 * that cannot be read further ends there and says so: what is missing behind it proves nothing.
 */

export class RowCursor<Row> {
  readonly #rows: Iterator<Row>;
  readonly #onFailure: (cause: unknown) => void;
  #current: Row | null = null;
  #hasFailed = false;

  /** `onFailure` is told once of what reading threw, already while this runs. */
  constructor(rows: Iterable<Row>, onFailure: (cause: unknown) => void) {
    this.#rows = rows[Symbol.iterator]();
    this.#onFailure = onFailure;
    this.advance();
  }

  /** Ended before the last row. */
  get hasFailed(): boolean {
    return this.#hasFailed;
  }

  /** The row at hand; null behind the last one. */
  get current(): Row | null {
    return this.#current;
  }

  advance(): void {
    this.#current = null;
    if (this.#hasFailed) return;
    try {
      const step: IteratorResult<Row, unknown> = this.#rows.next();
      if (step.done !== true) this.#current = step.value;
    } catch (cause) {
      this.#hasFailed = true;
      this.#onFailure(cause);
    }
  }

  /** The rows from here on for which `belongs` holds; the cursor stands behind them afterwards. */
  *while(belongs: (row: Row) => boolean): Generator<Row> {
    for (let row = this.#current; row !== null && belongs(row); row = this.#current) {
      yield row;
      this.advance();
    }
  }
}
