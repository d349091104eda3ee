/**
 * What one part of the test run amounts to: the counts it reported, and every reason not to believe them.
 * Pure. Invariant: a part that died, reported nothing, ran nothing or left out a file counts at least one failure.
 */

export interface Counts {
  readonly passed: number;
  readonly failed: number;
  readonly skipped: number;
}

export interface Outcome {
  readonly exitCode: number | null;
  readonly signal: string | null;
  readonly timedOut: boolean;
  /** Null when the part left no report that can be read. */
  readonly counts: Counts | null;
  /** Test files in which something was thrown outside of any test: no count has that. */
  readonly filesWithErrors: readonly string[];
  /** Test files on disk that the report does not mention. */
  readonly unreported: readonly string[];
}

export interface Verdict extends Counts {
  /** Why the counts alone would have been too kind. */
  readonly problems: readonly string[];
}

export interface JunitReport {
  readonly counts: Counts;
  readonly files: ReadonlySet<string>;
  /** Those in which a test failed. */
  readonly failedFiles: readonly string[];
}

/** The counts and the files of a JUnit report by `bun test`; null when it is not one. */
export function readJunit(xml: string): JunitReport | null {
  const root = /<testsuites\b[^>]*>/.exec(xml)?.[0];
  if (root === undefined || !xml.includes("</testsuites>")) return null;
  const number = (name: string): number => Number(new RegExp(`\\b${name}="(\\d+)"`).exec(root)?.[1] ?? NaN);
  const [tests, failed, skipped] = [number("tests"), number("failures"), number("skipped")];
  const suites = [...xml.matchAll(/<testsuite\b[^>]*\bfile="([^"]*)"[^>]*>/g)];
  const files = suites.map((match) => match[1] ?? "");
  const failedFiles = suites.flatMap(([suite, file = ""]) => (/\bfailures="[1-9]/.test(suite) ? [file] : []));
  const counts = { passed: tests - failed - skipped, failed, skipped };
  return Number.isNaN(counts.passed) ? null : { counts, files: new Set(files), failedFiles: [...new Set(failedFiles)] };
}

/** The files below whose names `bun test` told of errors outside of any test. */
export function filesWithErrors(output: string): string[] {
  const found = new Set<string>();
  let file = "no file";
  for (const line of output.split("\n")) {
    if (line === "# Unhandled error between tests") found.add(file);
    else file = /^(\S+\.test\.ts):$/.exec(line)?.[1] ?? file;
  }
  return [...found];
}

/** What a run amounts to of which every file that failed ran once more, alone: what failed again has failed. */
export function afterAnotherRun(first: Counts, another: Counts): Counts {
  return {
    passed: first.passed + first.failed - another.failed,
    failed: another.failed,
    skipped: first.skipped,
  };
}

/** The counts of vitest's closing line, `Tests  1 failed | 331 passed | 6 skipped (338)`; null when it never came. */
export function readVitest(output: string): Counts | null {
  const line = [...output.matchAll(/^\s*Tests\s+(.*)\((\d+)\)\s*$/gm)].at(-1);
  if (line === undefined) return null;
  const number = (word: string): number => Number(new RegExp(`(\\d+) ${word}`).exec(line[1] ?? "")?.[1] ?? 0);
  const counts = { passed: number("passed"), failed: number("failed"), skipped: number("skipped") + number("todo") };
  return counts.passed + counts.failed + counts.skipped === Number(line[2]) ? counts : null;
}

export function judge({ exitCode, signal, timedOut, counts, filesWithErrors, unreported }: Outcome): Verdict {
  const { passed, failed, skipped } = counts ?? { passed: 0, failed: 0, skipped: 0 };
  const problems = [
    ...(timedOut ? ["it ran past its time limit and was killed"] : []),
    ...(signal !== null && !timedOut ? [`it was ended by ${signal}`] : []),
    ...(counts === null ? ["it left no readable report"] : []),
    ...(counts !== null && passed + failed === 0 ? ["it ran no tests"] : []),
    ...filesWithErrors.map((file) => `an error was thrown outside of any test: ${file}`),
    ...(exitCode !== 0 && signal === null && failed === 0 ? [`it exited with ${exitCode ?? "no code"}`] : []),
    ...unreported.map((file) => `${file} reported no test: it did not load, or holds none`),
  ];
  return { passed, failed: failed + problems.length, skipped, problems };
}

export function sum(parts: readonly Counts[]): Counts {
  return parts.reduce(
    (total, part) => ({
      passed: total.passed + part.passed,
      failed: total.failed + part.failed,
      skipped: total.skipped + part.skipped,
    }),
    { passed: 0, failed: 0, skipped: 0 },
  );
}

/** `12 passed, 0 failed` or `12 passed, 0 failed, 1 skipped`: the last line of every run. */
export function countsLine({ passed, failed, skipped }: Counts): string {
  return `${passed} passed, ${failed} failed${skipped > 0 ? `, ${skipped} skipped` : ""}`;
}
