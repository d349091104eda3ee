/** Recognises a full disk in what SQLite throws: the one failure of a write that is refused instead of ending the process. */

/** SQLITE_FULL, or the `-shm` file could not grow. SQLite has rolled the transaction back. */
export function isDiskFull(cause: unknown): boolean {
  if (!(cause instanceof Error) || !("code" in cause)) return false;
  return cause.code === "SQLITE_FULL" || cause.code === "SQLITE_IOERR_SHMSIZE";
}
