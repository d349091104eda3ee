/**
 * What doctor, backup and restore print: findings and a summary on stdout, as lines or as JSON; how far they are on stderr when a person
 * looks at it. Also how they fail: exit code 1 for damage, 2 for a command line that cannot work.
 */

import { DirectoryDamaged, UsageError } from "./failure.ts";
import { writeOut } from "./stdout.ts";

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

/** Prints while the work goes on: it never gives way to the event loop. */
export class UpkeepReport implements Progress {
  readonly #json: boolean;
  readonly #showsProgress = process.stderr.isTTY;
  readonly #startMs = performance.now();
  #shownMs = Number.NEGATIVE_INFINITY;

  constructor(json: boolean) {
    this.#json = json;
  }

  readonly finding = (finding: Finding): void => {
    this.#clear();
    const { severity, check, message } = finding;
    process.stdout.write(this.#json ? `${JSON.stringify(finding)}\n` : `${severity} [${check}] ${message}\n`);
  };

  readonly progress = (step: string, done: number, total: number | null): void => {
    const nowMs = performance.now();
    if (!this.#showsProgress || nowMs - this.#shownMs < PROGRESS_MS) return;
    this.#shownMs = nowMs;
    const share = total === null || total === 0 ? "" : ` ${done} of ${total}`;
    process.stderr.write(`${CLEAR_LINE}${step}${share}`);
  };

  /** The last line: words for people, all fields for programs. */
  async summary(words: string, fields: Readonly<Record<string, unknown>>): Promise<void> {
    this.#clear();
    const seconds = Number(((performance.now() - this.#startMs) / 1000).toFixed(2));
    const line = this.#json ? JSON.stringify({ ...fields, seconds }) : `${words} in ${seconds} s`;
    await writeOut(`${line}\n`);
  }

  #clear(): void {
    if (this.#showsProgress) process.stderr.write(CLEAR_LINE);
  }
}

/** Runs the work, and turns what it throws into what the command line says. `failureOf` tells what a failure means. */
export async function upkeep<T>(
  work: () => T | Promise<T>,
  failureOf: (cause: unknown) => "refused" | "unsound" | null,
): Promise<T> {
  try {
    return await work();
  } catch (cause) {
    const kind = failureOf(cause);
    if (kind === null || !(cause instanceof Error)) throw cause;
    throw kind === "refused" ? new UsageError(cause.message) : new DirectoryDamaged(cause.message);
  }
}

/** The directory that `serve` uses when it is told nothing else. */
export function dataDirectoryOf(flag: string | undefined): string {
  return flag ?? process.env["STREAMS_DATA_DIR"] ?? "./streams-data";
}

export function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}

/** `1 error`, `2 errors`. */
export function counted(count: number, noun: string): string {
  return `${count} ${noun}${count === 1 ? "" : noun.endsWith("ch") ? "es" : "s"}`;
}
