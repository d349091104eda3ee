/** SQLite's words for damage (pages it cannot make sense of), and reading so that it becomes ours. */

import type { Database, SQLQueryBindings } from "bun:sqlite";
import { DamagedDatabase } from "../../protocol/faults.ts";

/** A flipped bit in a length can also ask for more than SQLite ever allocates. */
const CODES = ["SQLITE_CORRUPT", "SQLITE_NOTADB", "SQLITE_FORMAT", "SQLITE_TOOBIG"];

/** What was thrown, or the `Damage` that it stands for. */
export function asDamage(cause: unknown): unknown {
  if (!(cause instanceof Error) || !("code" in cause) || typeof cause.code !== "string") return cause;
  const { code, message } = cause;
  return CODES.some((known) => code.startsWith(known)) ? new DamagedDatabase(message, { cause }) : cause;
}

/** A SELECT that throws a `DamagedDatabase` where SQLite meets damage. */
export interface Select<R, P extends SQLQueryBindings[]> {
  get(...parameters: P): R | null;
  all(...parameters: P): R[];
}

export function select<R, P extends SQLQueryBindings[]>(db: Database, sql: string): Select<R, P> {
  const query = db.query<R, P>(sql);
  return {
    get: (...parameters) => noticing(() => query.get(...(parameters as Parameters<typeof query.get>))),
    all: (...parameters) => noticing(() => query.all(...(parameters as Parameters<typeof query.all>))),
  };
}

function noticing<T>(work: () => T): T {
  try {
    return work();
  } catch (cause) {
    throw asDamage(cause);
  }
}
