/**
 * Runs every test of the repository, part after part, each in a process of its own, and adds up what they report.
 * The very last line is `N passed, N failed` (with skipped tests, if any); the exit code is 0 only when nothing failed.
 * A part that crashes, hangs, runs nothing or leaves out a file counts as failed (`support/part-report.ts`).
 *
 * Usage: `bun test/run.ts [part…]`, where a part is `tests` or `conformance`; all of them by default.
 */

import { spawn, type StdioOptions } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { keepsTime, probeMachine } from "./support/latency.ts";
import {
  afterAnotherRun,
  countsLine,
  judge,
  type JunitReport,
  filesWithErrors,
  readJunit,
  readVitest,
  sum,
  type Outcome,
  type Verdict,
} from "./support/part-report.ts";

const ROOT = join(import.meta.dir, "..");
const CONFORMANCE_CONFIG = join("test", "conformance", "vitest.config.ts");
/** Far above what a part takes, also on a machine of which two thirds are stolen: only a hang reaches it. */
const PART_LIMIT_MS = 60 * 60_000;
/**
 * Of a test that names no limit itself: only a hang reaches it. A disk that takes 100 ms to sync, as one of a shared machine may for a
 * while, makes a test of four hundred appends in turn take that long; and a test that reaches its limit takes its file's server along.
 */
const TEST_LIMIT_MS = 60_000;
/**
 * Tests that measure time fail on a machine that stands still for a second, as a shared one may. So many files get more chances, by
 * themselves, as soon as the machine keeps time or after some minutes; what they printed before stays to be read. What fails each time
 * has failed, and more files than that are no accident.
 */
const MAX_FILES_AGAIN = 20;
const MAX_RUNS = 3;
const QUIET_MS = 3_000;
const MAX_QUIET_LOOKS = 60;
/** How long the last of a part's output may take to come. */
const LAST_OUTPUT_MS = 2_000;
/** How much of a part's output is kept to be read: thirty times what it is. */
const KEPT_OUTPUT_CHARS = 16 * 1024 * 1024;

interface Ended extends Pick<Outcome, "exitCode" | "signal" | "timedOut"> {
  /** The last of what it printed and did not go straight to our output. */
  readonly output: string;
}

interface TestRun {
  readonly ended: Ended;
  readonly report: JunitReport | null;
}

const parts: Readonly<Record<string, (scratch: string) => Promise<Verdict>>> = {
  tests: async (scratch) => {
    const onDisk = [...new Bun.Glob("{src,test}/**/*.test.ts").scanSync({ cwd: ROOT })];
    let { ended, report } = await runTests(["./src", "./test"], join(scratch, "1.xml"));
    const unreported = onDisk.filter((file) => report?.files.has(file) === false);
    let counts = report?.counts ?? null;
    for (let run = 2; run <= MAX_RUNS; run++) {
      const failed = [...new Set([...(report?.failedFiles ?? []), ...filesWithErrors(ended.output)])];
      if (counts === null || failed.length === 0 || failed.length > MAX_FILES_AGAIN) break;
      console.log(`\nOnce more, alone, because a test failed there: ${failed.join(", ")}`);
      await quietMachine();
      ({ ended, report } = await runTests(failed, join(scratch, `${run}.xml`)));
      counts = counts && report && afterAnotherRun(counts, report.counts);
    }
    return judge({ ...ended, counts, filesWithErrors: filesWithErrors(ended.output), unreported });
  },
  // The public protocol suite imports vitest. It runs on Bun, so Node is not needed.
  conformance: async () => {
    const vitest = join("node_modules", "vitest", "vitest.mjs");
    const ended = await run(["--bun", vitest, "run", "--config", CONFORMANCE_CONFIG], ["ignore", "pipe", "inherit"]);
    return judge({ ...ended, counts: readVitest(ended.output), filesWithErrors: [], unreported: [] });
  },
};

/** Returns once the machine keeps time, or when that is not to be had. */
async function quietMachine(): Promise<void> {
  for (let look = 1; look <= MAX_QUIET_LOOKS; look++) {
    const machine = await probeMachine();
    await Bun.sleep(QUIET_MS);
    if (keepsTime(await machine.stop())) return console.log(`The machine keeps time, at look ${look}.`);
  }
  console.log("The machine does not keep time; it has to do.");
}

async function runTests(paths: readonly string[], reportPath: string): Promise<TestRun> {
  const reporter = ["--reporter=junit", `--reporter-outfile=${reportPath}`];
  const options = ["--no-orphans", `--timeout=${TEST_LIMIT_MS}`, ...reporter];
  const ended = await run(["test", ...options, ...paths], ["ignore", "inherit", "pipe"]);
  return { ended, report: existsSync(reportPath) ? readJunit(readFileSync(reportPath, "utf8")) : null };
}

/** Runs Bun with these arguments and waits for its end, however it comes. */
function run(args: readonly string[], stdio: StdioOptions): Promise<Ended> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, args, { cwd: ROOT, stdio, env: { ...process.env, NO_COLOR: "1" } });
    let output = "";
    let timedOut = false;
    const limit = setTimeout(() => {
      timedOut = true;
      child.kill("SIGKILL");
    }, PART_LIMIT_MS);
    for (const [from, to] of [[child.stdout, process.stdout] as const, [child.stderr, process.stderr] as const]) {
      from?.setEncoding("utf8").on("data", (text: string) => {
        to.write(text);
        output = (output + text).slice(-KEPT_OUTPUT_CHARS);
      });
    }
    child.once("error", reject);
    child.once("exit", (exitCode, signal) => {
      clearTimeout(limit);
      const end = (): void => resolve({ exitCode, signal, timedOut, output });
      child.once("close", end);
      // A grandchild that keeps the pipe open must not hold up the verdict.
      setTimeout(end, LAST_OUTPUT_MS);
    });
  });
}

async function main(names: readonly string[]): Promise<Verdict> {
  const scratch = mkdtempSync(join(tmpdir(), "streams-server-test-"));
  const verdicts: Verdict[] = [];
  const lines: string[] = [];
  try {
    for (const name of names) {
      const part = parts[name];
      if (part === undefined) throw new Error(`unknown part ${name}; there are: ${Object.keys(parts).join(", ")}`);
      const startedMs = performance.now();
      const verdict = await part(scratch);
      const seconds = ((performance.now() - startedMs) / 1000).toFixed(1);
      verdicts.push(verdict);
      lines.push(`${name}: ${countsLine(verdict)} in ${seconds} s`);
      for (const problem of verdict.problems) lines.push(`${name}: FAILED: ${problem}`);
    }
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
  console.log(`\n${lines.join("\n")}`);
  return { ...sum(verdicts), problems: [] };
}

function allParts(): string[] {
  return Object.keys(parts).filter((name) => name !== "conformance" || existsSync(join(ROOT, CONFORMANCE_CONFIG)));
}

const asked = process.argv.slice(2);
let total: Verdict;
try {
  total = await main(asked.length > 0 ? asked : allParts());
} catch (error) {
  console.error(error);
  total = { passed: 0, failed: 1, skipped: 0, problems: [] };
}
console.log(countsLine(total));
process.exit(total.failed === 0 && total.passed > 0 ? 0 : 1);
