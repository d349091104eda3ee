/** Recognises a full disk in what SQLite and the system throw: the one failure of a write that is refused instead of ending the process. */

const FULL: ReadonlySet<unknown> = new Set(["SQLITE_FULL", "SQLITE_IOERR_SHMSIZE", "ENOSPC", "EDQUOT"]);

/** SQLITE_FULL, the `-shm` file could not grow (SQLite has rolled the transaction back), or a file of ours could not. */
export function isDiskFull(cause: unknown): boolean {
  return FULL.has(codeOf(cause));
}

/** Whether a file that was asked for is not there. */
export function isNoFile(cause: unknown): boolean {
  return codeOf(cause) === "ENOENT";
}

function codeOf(cause: unknown): unknown {
  return cause instanceof Error && "code" in cause ? cause.code : null;
}
