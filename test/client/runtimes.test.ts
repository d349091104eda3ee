/**
 * One suite of the client, one bundle of it, three runtimes: Bun, Node and a page in a real browser, which is of another origin than
 * the server. Each runs all of it against a real server of its own. Node and the browser are left out where there are none.
 */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { basename, join } from "node:path";
import { chromiumOrSkip, sharedBrowser } from "../support/browser.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { until } from "../support/wait.ts";
import { controls, suite, type SuiteReport } from "./suite/run.ts";
import { LONG_POLL_TIMEOUT_MS } from "./suite/suite-test.ts";

const OLDEST_NODE = 20;
/** A suite takes a few seconds; the machine may have other things to do. */
const SUITE_DEADLINE_MS = 120_000;
const TEST_DEADLINE_MS = SUITE_DEADLINE_MS + 20_000;
const SERVER_ARGS = ["--long-poll-timeout", `${LONG_POLL_TIMEOUT_MS}ms`];
/** Bun and Node must come to their end by themselves: what a client left open would keep them. */
const RUNNER = `import { runSuite } from "./run.js";
const { bun, node } = process.versions;
const report = await runSuite(process.argv[2]);
console.log(JSON.stringify({ runtime: bun === undefined ? "node " + node : "bun " + bun, report }));`;
const PAGE = `<!doctype html><meta charset=utf-8><title>The client's suite</title><script type=module>
  import { runSuite } from "./run.js";
  const server = new URLSearchParams(location.search).get("server");
  runSuite(server).then((report) => (window.report = report), (cause) => (window.crash = String(cause)));
</script>`;

interface Answer {
  readonly runtime: string;
  readonly report: SuiteReport;
}

const temporary = temporaryServers();
const node = nodeOrSkip();
const chromium = chromiumOrSkip("the client's suite in a real browser");
const browser = sharedBrowser(chromium);
/** File name to text: the entry `run.js` and what it loads. */
const bundle = new Map<string, string>();
let folder = "";

beforeAll(async () => {
  const entry = join(import.meta.dir, "suite", "run.ts");
  const built = await Bun.build({ entrypoints: [entry], target: "browser", format: "esm", splitting: true });
  for (const output of built.outputs) bundle.set(basename(output.path), await output.text());
  folder = await mkdtemp(join(tmpdir(), "streams-suite-"));
  const files = [...bundle, ["package.json", '{"type":"module"}'], ["runner.js", RUNNER]] as const;
  for (const [name, text] of files) await writeFile(join(folder, name), text);
});
afterAll(() => rm(folder, { recursive: true, force: true }));

/** The program, if it is new enough; else null, after a line on stderr that says what is skipped. */
function nodeOrSkip(): string | null {
  const program = Bun.which("node");
  const version = program === null ? "none" : Bun.spawnSync([program, "--version"]).stdout.toString().trim();
  if (Number(/^v(\d+)\./.exec(version)?.[1]) >= OLDEST_NODE) return program;
  console.error(`SKIPPED, no Node ${OLDEST_NODE} or newer on the PATH (${version}): the client's suite in Node`);
  return null;
}

async function inProcess(program: string): Promise<Answer> {
  const server = await temporary({ args: SERVER_ARGS });
  const child = Bun.spawn([program, join(folder, "runner.js"), server.url], {
    stdout: "pipe",
    stderr: "pipe",
    timeout: SUITE_DEADLINE_MS,
    killSignal: "SIGKILL",
  });
  const [stdout, stderr, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
  expect({ code, stderr }).toEqual({ code: 0, stderr: "" });
  return JSON.parse(stdout) as Answer;
}

async function inBrowser(): Promise<Answer> {
  const site = Bun.serve({
    hostname: "127.0.0.1",
    port: 0,
    fetch: ({ url }) => {
      const text = bundle.get(basename(new URL(url).pathname));
      const type = text === undefined ? "text/html" : "text/javascript";
      return new Response(text ?? PAGE, { headers: { "content-type": type } });
    },
  });
  try {
    const server = await temporary({ args: [...SERVER_ARGS, "--cors-origin", site.url.origin] });
    const page = await browser.visit(`${site.url.origin}/?${new URLSearchParams({ server: server.url }).toString()}`);
    const ended = async () => (await page.run<string | null>("window.crash ?? (window.report && 'report')")) ?? false;
    expect(await until("the suite has run", ended, SUITE_DEADLINE_MS)).toBe("report");
    expect(page.uncaught()).toEqual([]);
    const report = await page.run<SuiteReport>("window.report");
    return { runtime: await page.run<string>("navigator.userAgent"), report };
  } finally {
    await site.stop(true);
  }
}

/** Every test of the suite ran and passed; every control ran and failed. */
function expectAllPassed({ report }: Answer): void {
  expect(report.tests.flatMap(({ name, error }) => (error === null ? [] : [`${name}: ${error}`]))).toEqual([]);
  expect(report.tests.map(({ name }) => name)).toEqual(suite.map(({ name }) => name));
  const passedControls = report.controls.filter(({ error }) => error === null);
  expect([report.controls.length, passedControls]).toEqual([controls.length, []]);
}

test("the suite has tests, each with a name of its own", () => {
  expect(suite.length).toBeGreaterThan(80);
  expect(new Set(suite.map(({ name }) => name)).size).toBe(suite.length);
});

test(
  "the suite passes in Bun",
  async () => {
    const answer = await inProcess(process.execPath);
    expectAllPassed(answer);
    expect(answer.runtime).toStartWith("bun ");
  },
  TEST_DEADLINE_MS,
);

test.skipIf(node === null)(
  "the suite passes in Node",
  async () => {
    const answer = await inProcess(node ?? "node");
    expectAllPassed(answer);
    expect(answer.runtime).toStartWith("node ");
  },
  TEST_DEADLINE_MS,
);

test.skipIf(chromium === null)(
  "the suite passes in Chromium, on a page of another origin",
  async () => {
    const answer = await inBrowser();
    expectAllPassed(answer);
    expect(answer.runtime).toContain("Chrome/");
  },
  TEST_DEADLINE_MS,
);
