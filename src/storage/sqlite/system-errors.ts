/** Recognises, in what SQLite and the system throw, what is refused or tried again instead of ending the process. */

const FULL: ReadonlySet<unknown> = new Set(["SQLITE_FULL", "SQLITE_IOERR_SHMSIZE", "ENOSPC", "EDQUOT"]);

/** SQLITE_FULL, the `-shm` file could not grow (SQLite has rolled the transaction back), or a file of ours could not. */
export function isDiskFull(cause: unknown): boolean {
  return FULL.has(codeOf(cause));
}

/** Whether the process, or the machine, has no file descriptor left: nothing was touched. */
export function isOutOfDescriptors(cause: unknown): boolean {
  const code = codeOf(cause);
  return code === "EMFILE" || code === "ENFILE";
}

/** Whether a file that was asked for is not there. */
export function isNoFile(cause: unknown): boolean {
  return codeOf(cause) === "ENOENT";
}

/** Whether the disk cannot read what it has. */
export function isUnreadable(cause: unknown): boolean {
  return codeOf(cause) === "EIO";
}

function codeOf(cause: unknown): unknown {
  return cause instanceof Error && "code" in cause ? cause.code : null;
}
