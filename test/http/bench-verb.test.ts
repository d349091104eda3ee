/**
 * `bench` as a user would run it: with a server of its own, and against one that runs, whose counters must bear its figures out. However it
 * ends, nothing is left: no process, no directory, no stream. `test/http/bench-verb.test.ts` is about the verb; `bench/` is another thing.
 */

import { afterEach, expect, test } from "bun:test";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseExposition } from "../../src/cli/exposition-parser.ts";
import { bearer, keyedDirectory } from "../support/auth-world.ts";
import { makeAuthority } from "../support/certificates.ts";
import { runCommand } from "../support/command.ts";
import { LAUNCHER, type TestServer } from "../support/server.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { until, within } from "../support/wait.ts";

const start = temporaryServers();
const SHORT = ["--seconds", "0.1", "--connections", "8"];
const WORKLOADS = [
  "one writer",
  "long-poll wake",
  "SSE fan-out",
  "many writers",
  "many streams",
  "batches",
  "catch-up read",
  "large bodies",
];

const made: string[] = [];
afterEach(() => {
  for (const directory of made.splice(0)) rmSync(directory, { recursive: true, force: true });
});

function emptyDirectory(): string {
  const directory = mkdtempSync(join(tmpdir(), "streams-test-"));
  made.push(directory);
  return directory;
}

interface Line {
  readonly kind: string;
  readonly workload: string;
  readonly unit: string;
  readonly count: number;
  readonly perSecond: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly missing: number | null;
  readonly refused: Readonly<Record<string, number>>;
  readonly durability: string;
  readonly serverCpu: number | null;
}

function linesOf(stdout: string): Line[] {
  return stdout
    .trimEnd()
    .split("\n")
    .map((line) => JSON.parse(line) as Line);
}

/** Processes with this text in their command line. */
function processesOf(text: string): string[] {
  return readdirSync("/proc").filter((entry) => {
    if (!/^\d+$/.test(entry) || Number(entry) === process.pid) return false;
    try {
      return readFileSync(`/proc/${entry}/cmdline`, "latin1").includes(text);
    } catch (cause) {
      // It ended between the listing and the look.
      if (cause instanceof Error && "code" in cause && (cause.code === "ENOENT" || cause.code === "ESRCH"))
        return false;
      throw cause;
    }
  });
}

async function counter(server: TestServer, name: string): Promise<number> {
  const families = parseExposition(await (await fetch(`${server.url}/metrics`)).text());
  return (families.get(name)?.samples ?? []).reduce((sum, { value }) => sum + value, 0);
}

async function streamNames(url: string, init: RequestInit & { tls?: { ca: string } } = {}): Promise<string[]> {
  const page = (await (await fetch(`${url}/v1/streams?prefix=bench/`, init)).json()) as { streams: { name: string }[] };
  return page.streams.map(({ name }) => name);
}

test("with a server of its own: a table with every workload, and nothing is left", async () => {
  const directory = emptyDirectory();
  const { code, stdout, stderr } = await runCommand(["bench", "--dir", directory, ...SHORT], {
    // Settings of another server, which this one must not take.
    env: { STREAMS_DURABILITY: "os", STREAM_URL: "http://127.0.0.1:1", NO_COLOR: "1" },
  });
  expect([code, stderr]).toEqual([0, ""]);
  expect(stdout).toContain(directory);
  expect(stdout).toMatch(/^durability +fsync: an acknowledged append survives a power cut$/m);
  for (const workload of WORKLOADS) {
    expect(stdout).toMatch(new RegExp(`^${workload} .+ [\\d,.]+ \\w+/s +[\\d,.-]+ +[\\d,.]+ +[\\d,.]+$`, "m"));
  }
  expect(readdirSync(directory)).toEqual([]);
  expect(processesOf(directory)).toEqual([]);
}, 60_000);

test("against a server that runs: its counters bear the figures out, and --keep keeps the streams", async () => {
  const server = await start({ args: ["--durability", "os"] });
  const { code, stdout, stderr } = await runCommand(["bench", "--json", "--keep", "--url", `${server.url}/`, ...SHORT]);
  expect(`${code} ${stderr}`).toMatch(/^0 kept the streams below bench\/\w+\/\n$/);
  const lines = linesOf(stdout);
  const [summary, ...others] = lines.toReversed();
  expect(summary).toMatchObject({ kind: "summary", url: server.url, durability: "os", workloads: 8, failed: false });
  const workloads = others.toReversed();
  expect(workloads.map(({ workload }) => workload)).toEqual(WORKLOADS);
  for (const line of workloads) {
    expect(line).toMatchObject({ kind: "workload", durability: "os" });
    // A slow disk may fall behind the largest loads, and then says so.
    expect(Object.keys(line.refused).filter((status) => status !== "429")).toEqual([]);
    for (const figure of [line.count, line.perSecond, line.p50Ms, line.serverCpu]) expect(figure).toBeGreaterThan(0);
    expect(line.p99Ms).toBeGreaterThanOrEqual(line.p50Ms);
    expect(line.missing ?? 0).toBe(0);
  }
  const appended = workloads.filter(({ unit }) => unit === "records").reduce((sum, { count }) => sum + count, 0);
  expect(await counter(server, "streams_appended_records_total")).toBeGreaterThanOrEqual(appended);
  // Two messages at 20/s, to each of 200.
  expect(workloads[2]?.count).toBe(400);
  // The streams of the last workload are there: nobody deleted them.
  expect((await streamNames(server.url)).length).toBe(6 + 8 + 1);
}, 60_000);

test("over TLS and with a key, as the other verbs", async () => {
  const authority = makeAuthority("bench");
  const { cert, key } = authority.issue(["127.0.0.1"]);
  const directory = emptyDirectory();
  const [certFile, keyFile, caFile] = ["cert.pem", "key.pem", "ca.pem"].map((name) => join(directory, name));
  for (const [file, text] of [
    [certFile, cert],
    [keyFile, key],
    [caFile, authority.cert],
  ]) {
    writeFileSync(file ?? "", text ?? "");
  }
  const { dataDir, tokens } = keyedDirectory({ bench: ["all"] });
  const args = ["--auth", "api-key", "--tls-cert", certFile ?? "", "--tls-key", keyFile ?? ""];
  const server = await start({ dataDir, args });
  expect(server.url).toStartWith("https://");
  const env = { NODE_EXTRA_CA_CERTS: caFile ?? "", STREAM_AUTH: tokens.bench, STREAM_URL: server.url };
  const { code, stdout, stderr } = await runCommand(["bench", "--json", ...SHORT], { env });
  expect([code, stderr]).toEqual([0, ""]);
  expect(linesOf(stdout)).toHaveLength(WORKLOADS.length + 1);
  const init = { headers: bearer(tokens.bench), tls: { ca: authority.cert } };
  expect(await streamNames(server.url, init)).toEqual([]);

  const stranger = await runCommand(["bench", "--json", ...SHORT], { env: { ...env, STREAM_AUTH: "nobody" } });
  expect([stranger.code, stranger.stdout]).toEqual([1, ""]);
  expect(JSON.parse(stranger.stderr)).toMatchObject({ error: { status: 401 } });
}, 60_000);

/** A server that has every stream and takes no record. */
function refusing(status: number, error: Readonly<Record<string, string>>) {
  return Bun.serve({
    port: 0,
    hostname: "127.0.0.1",
    fetch: ({ method }) => {
      if (method === "POST") return Response.json({ error }, { status });
      return new Response(null, { status: method === "PUT" ? 201 : 204, headers: OFFSET });
    },
  });
}

test("a server that has no room: what it says, and exit code 1", async () => {
  const server = refusing(507, { code: "storage-full", message: "the disk is full" });
  const { code, stdout, stderr } = await runCommand(["bench", "--url", server.url.href, ...SHORT]);
  await server.stop(true);
  expect([code, stderr]).toEqual([1, "streams-server: the disk is full\n"]);
  expect(stdout).toContain("durability  unknown");
  expect(stdout).not.toContain("records/s");
});

test("a server that is too busy: no figure, how often it said so, and exit code 1", async () => {
  const server = refusing(429, { code: "overloaded", message: "come back later" });
  const { code, stdout, stderr } = await runCommand(["bench", "--url", server.url.href, ...SHORT]);
  await server.stop(true);
  expect([code, stderr]).toEqual([1, "streams-server: come back later\n"]);
  for (const workload of ["one writer", "long-poll wake", "many writers", "batches"]) {
    expect(stdout).toMatch(
      new RegExp(`^${workload} .* -\\n {2}not counted: 429 \\d+ times \\(come back later\\)$`, "m"),
    );
  }
  expect(stdout).not.toContain("records/s");
});

const OFFSET = { "stream-next-offset": "0", "content-type": "application/json" };

test("nobody there, and command lines that make no sense", async () => {
  const codes = await Promise.all(
    [
      ["--url", "http://127.0.0.1:1"],
      ["--url", "http://127.0.0.1:1", "--dir", "."],
      ["--dir", join(emptyDirectory(), "missing")],
      ["--seconds", "0"],
      ["--connections", "many"],
    ].map(async (args) => (await runCommand(["bench", ...args])).code),
  );
  expect(codes).toEqual([3, 2, 2, 2, 2]);
});

/** A run that has begun to measure, with the server of its own. */
async function begun(directory: string, env: Readonly<Record<string, string>> = {}) {
  const args = ["bench", "--dir", directory, "--seconds", "30", "--connections", "8"];
  const child = Bun.spawn([LAUNCHER, ...args], {
    env: { ...process.env, ...env },
    stdout: "pipe",
    stderr: "pipe",
    timeout: 30_000,
  });
  let stdout = "";
  const read = (async () => {
    for await (const piece of child.stdout.pipeThrough(new TextDecoderStream())) stdout += piece;
  })();
  await until("it measures", () => stdout.includes("p99 ms"), 15_000);
  return { child, read };
}

test.each([
  ["SIGINT", 130],
  ["SIGTERM", 143],
] as const)(
  "after %s nothing is left, and the exit code is %d",
  async (signal, expected) => {
    const directory = emptyDirectory();
    const { child, read } = await begun(directory);
    const [server] = readdirSync(directory);
    expect(server).toStartWith("streams-bench-");
    expect(processesOf(join(directory, server ?? ""))).toHaveLength(1);
    child.kill(signal);
    expect(await within("it ends", child.exited)).toBe(expected);
    expect(await child.stderr.text()).toBe("");
    await read;
    expect(readdirSync(directory)).toEqual([]);
    expect(processesOf(server ?? "")).toEqual([]);
  },
  60_000,
);

test.each([
  ["as it is launched", {}],
  // Options for Bun: the launcher then takes the sources, whatever was built.
  ["from the sources", { BUN_OPTIONS: "--smol" }],
])(
  "killed outright %s, its server ends with it",
  async (_, env) => {
    const directory = emptyDirectory();
    const { child } = await begun(directory, env);
    const [server] = readdirSync(directory);
    expect(processesOf(server ?? "")).toHaveLength(1);
    child.kill("SIGKILL");
    await child.exited;
    await until("the server is gone", () => processesOf(server ?? "").length === 0);
  },
  60_000,
);

test("Ctrl-C against a server that runs deletes the streams", async () => {
  const server = await start();
  const args = ["bench", "--url", server.url, "--seconds", "30"];
  const child = Bun.spawn([LAUNCHER, ...args], { stdout: "ignore", stderr: "pipe", timeout: 30_000 });
  await until("a stream is there", async () => (await streamNames(server.url)).length > 0, 15_000);
  child.kill("SIGINT");
  expect(await within("it ends", child.exited)).toBe(130);
  expect(await child.stderr.text()).toBe("");
  expect(await streamNames(server.url)).toEqual([]);
}, 60_000);
