/**
 * A table read in key order, one row ahead: several of them walk side by side, so that tables of any size are compared without a map.
 */

export class RowCursor<Row> {
  readonly #rows: Iterator<Row>;
  #current: Row | null;

  constructor(rows: Iterable<Row>) {
    this.#rows = rows[Symbol.iterator]();
    this.#current = null;
    this.advance();
  }

  /** The row at hand; null behind the last one. */
  get current(): Row | null {
    return this.#current;
  }

  advance(): void {
    const step: IteratorResult<Row, unknown> = this.#rows.next();
    this.#current = step.done === true ? null : step.value;
  }

  /** The rows from here on for which `belongs` holds; the cursor stands behind them afterwards. */
  *while(belongs: (row: Row) => boolean): Generator<Row> {
    for (let row = this.#current; row !== null && belongs(row); row = this.#current) {
      yield row;
      this.advance();
    }
  }
}
