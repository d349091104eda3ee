/**
 * What doctor, backup and restore print: findings and a summary on stdout, as lines or as JSON; how far they are on stderr when a person
 * looks at it. Also how they fail: exit code 1 for damage, 2 for a command line that cannot work. Unlike a command that only tells
 * something, the work goes on when nobody reads any more, and its exit code is that of the work.
 */

import { writeSync } from "node:fs";
import { DirectoryDamaged, OutputFailed, UsageError } from "./failure.ts";

/** One thing that is wrong, as the server's side tells it. */
interface Finding {
  readonly severity: string;
  readonly check: string;
  readonly message: string;
}

interface Progress {
  readonly finding: (finding: Finding) => void;
  readonly progress: (step: string, done: number, total: number | null) => void;
}

const PROGRESS_MS = 200;
/** Clears what a progress line left behind. */
const CLEAR_LINE = "\r\u001b[K";

/** Prints while the work goes on: it never gives way to the event loop. Everything goes out by `#print`, not by `process.stdout`, which ends the process when the reader has gone. */
export class UpkeepReport implements Progress {
  readonly #json: boolean;
  readonly #showsProgress = process.stderr.isTTY;
  readonly #startMs = performance.now();
  #shownMs = Number.NEGATIVE_INFINITY;
  #errors = 0;
  #warnings = 0;
  /** Why nothing is written any more. */
  #unheard: Error | null = null;

  constructor(json: boolean) {
    this.#json = json;
  }

  readonly finding = (finding: Finding): void => {
    this.#clear();
    const { severity, check, message } = finding;
    if (severity === "error") this.#errors++;
    else this.#warnings++;
    this.#print(this.#json ? `${JSON.stringify(finding)}\n` : `${severity} [${check}] ${message}\n`);
  };

  readonly progress = (step: string, done: number, total: number | null): void => {
    const nowMs = performance.now();
    if (!this.#showsProgress || nowMs - this.#shownMs < PROGRESS_MS) return;
    this.#shownMs = nowMs;
    const share = total === null || total === 0 ? "" : ` ${done} of ${total}`;
    process.stderr.write(`${CLEAR_LINE}${step}${share}`);
  };

  /** The last line: words for people, all fields for programs. @throws OutputFailed when they were there to read it and could not. */
  summary(words: string, fields: Readonly<Record<string, unknown>>): void {
    this.#clear();
    const seconds = Number(((performance.now() - this.#startMs) / 1000).toFixed(2));
    const line = this.#json ? JSON.stringify({ ...fields, seconds }) : `${words} in ${seconds} s`;
    this.#print(`${line}\n`);
    if (this.#unheard === null || codeOf(this.#unheard) === "EPIPE") return;
    throw new OutputFailed(`cannot write to stdout: ${this.#unheard.message}`, { cause: this.#unheard });
  }

  /** The last line of a run that came to no end; people read the reason on stderr. */
  stopped(outcome: "refused" | "unsound" | "failed", cause: unknown): void {
    this.#clear();
    if (!this.#json) return;
    const message = cause instanceof Error ? cause.message : String(cause);
    this.summary("", { kind: "summary", outcome, message, errors: this.#errors, warnings: this.#warnings });
  }

  #print(line: string): void {
    if (this.#unheard !== null) return;
    try {
      writeNow(line);
    } catch (cause) {
      this.#unheard = cause instanceof Error ? cause : new Error(String(cause));
    }
  }

  #clear(): void {
    if (this.#showsProgress) process.stderr.write(CLEAR_LINE);
  }
}

/** Runs the work, and turns what it throws into what the command line says. `failureOf` tells what a failure means. */
export async function upkeep<T>(
  report: UpkeepReport,
  work: () => T | Promise<T>,
  failureOf: (cause: unknown) => "refused" | "unsound" | null,
): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    const kind = failureOf(cause);
    report.stopped(kind ?? "failed", cause);
    if (kind === null || !(cause instanceof Error)) throw cause;
    throw kind === "refused" ? new UsageError(cause.message) : new DirectoryDamaged(cause.message);
  }
}

const PIPE_PATIENCE_MS = 5;

/**
 * The work never gives way to the event loop, so a slow reader has to hold it up here: there may be as many findings as rows.
 * Throws EPIPE when the reader has gone, as in `… | head -1`.
 */
function writeNow(line: string): void {
  let rest: Uint8Array = new TextEncoder().encode(line);
  while (rest.length > 0) {
    try {
      rest = rest.subarray(writeSync(process.stdout.fd, rest));
    } catch (cause) {
      if (codeOf(cause) !== "EAGAIN") throw cause;
      Bun.sleepSync(PIPE_PATIENCE_MS);
    }
  }
}

function codeOf(cause: unknown): unknown {
  return cause instanceof Error && "code" in cause ? cause.code : null;
}

/** The directory that `serve` uses when it is told nothing else. */
export function dataDirectoryOf(flag: string | undefined): string {
  const named = process.env["STREAMS_DATA_DIR"]?.trim() ?? "";
  return flag ?? (named === "" ? "./streams-data" : named);
}

export function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/** `1 error`, `2 errors`. */
export function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : noun.endsWith("ch") ? "es" : "s"}`;
}
