/**
 * How a command fails: one clear line (or one JSON object) on stderr, and an exit code that says whose turn it is.
 * 0 ok, 1 the server said no, 2 the command line or its input is wrong, 3 the server cannot be reached.
 */

import { CommanderError } from "commander";
import { isStreamError, type StreamError } from "../client/stream-error.ts";

/** The person at the keyboard can fix this: a wrong flag, name or input. */
export class UsageError extends Error {
  readonly hint: string | null;

  constructor(message: string, hint: string | null = null) {
    super(message);
    this.name = "UsageError";
    this.hint = hint;
  }
}

/** What is stored is damaged: no other command line would help. */
export class DirectoryDamaged extends Error {
  override readonly name = "DirectoryDamaged";
}

/** Results could not be written: a disk that is full, for one. */
export class OutputFailed extends Error {
  override readonly name = "OutputFailed";
}

/** The server refused or could not be reached; `note` tells what had been done before. */
export class RequestFailure extends Error {
  readonly error: StreamError;
  readonly note: string | null;

  constructor(error: StreamError, note: string | null = null) {
    super(error.message, { cause: error });
    this.name = "RequestFailure";
    this.error = error;
    this.note = note;
  }
}

/** What a failure says on stderr. */
interface Complaint {
  readonly exitCode: 1 | 2 | 3;
  readonly code: string;
  readonly message: string;
  readonly hint: string | null;
  readonly status?: number;
}

/** Writes the complaint and returns the exit code. Asking for help or the version is no failure. */
export function reportFailure(cause: unknown, asJson: boolean): number {
  if (cause instanceof CommanderError && cause.exitCode === 0) return 0;
  // No command at all: the help was the answer.
  if (cause instanceof CommanderError && cause.code === "commander.help") return 2;
  const { exitCode, ...error } = complaint(cause);
  if (asJson) process.stderr.write(`${JSON.stringify({ error })}\n`);
  else process.stderr.write(`streams-server: ${error.message}${error.hint === null ? "" : ` (${error.hint})`}\n`);
  return exitCode;
}

function complaint(cause: unknown): Complaint {
  if (cause instanceof UsageError) return { exitCode: 2, code: "usage", message: cause.message, hint: cause.hint };
  if (cause instanceof CommanderError) {
    const message = cause.message.replace(/^error: /, "").replaceAll(/\s*\n\s*/g, " ");
    return { exitCode: 2, code: "usage", message, hint: "see --help" };
  }
  if (cause instanceof DirectoryDamaged) return { exitCode: 1, code: "damaged", message: cause.message, hint: null };
  if (cause instanceof OutputFailed) return { exitCode: 1, code: "output", message: cause.message, hint: null };
  if (cause instanceof RequestFailure) return refused(cause.error, cause.note);
  if (isStreamError(cause)) return refused(cause, null);
  // What is left: the server did not start, or a defect. Only a defect is worth its stack.
  const hint = cause instanceof Error && "hint" in cause && typeof cause.hint === "string" ? cause.hint : null;
  const expected = hint !== null || (cause instanceof Error && cause.name === "StartFailure");
  const message = cause instanceof Error ? (expected ? cause.message : (cause.stack ?? cause.message)) : String(cause);
  return { exitCode: 1, code: expected ? "not-started" : "internal", message, hint };
}

function refused(error: StreamError, note: string | null): Complaint {
  const hint = [error.hint, note].filter((part) => part !== null).join("; ") || null;
  const { message } = error;
  switch (error._tag) {
    case "Refused":
      return { exitCode: 1, code: error.code, message, hint, status: error.status };
    case "Unreachable":
      return { exitCode: 3, code: "unreachable", message, hint };
    case "BrokenAnswer":
      return { exitCode: 1, code: "broken-answer", message, hint };
  }
}
