/**
 * Starts the real server as a child process, as a user would, and ends it. Owns the child and its data directory.
 * Uses Node's API only, so that suites which run outside `bun test` can import it. Invariants: a server that does not
 * come up or go down in time is an error that shows its stderr; no child outlives this process.
 */

import { spawn, type ChildProcess } from "node:child_process";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";

export const LAUNCHER = fileURLToPath(new URL("../../bin/streams-server", import.meta.url));

export const START_DEADLINE_MS = 30_000;
const STOP_DEADLINE_MS = 20_000;
const STDERR_KEPT_CHARS = 64 * 1024;

export interface StartOptions {
  /** Further arguments of `serve`, e.g. `["--durability", "os"]`. */
  readonly args?: readonly string[];
  /** Reuses this directory; else a fresh one is made. */
  readonly dataDir?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** The `cgroup.procs` file of a control group that the server joins before it starts. */
  readonly groupFile?: string;
}

/** Joins the group in a shell, which then becomes the command. */
const JOIN_GROUP = 'echo $$ > "$0" && exec "$@"';

export interface TestServer {
  /** Base URL without a trailing slash. */
  readonly url: string;
  readonly dataDir: string;
  readonly pid: number;
  /** The fields of the `listening` line. */
  readonly banner: Readonly<Record<string, unknown>>;
  stderr(): string;
  /** Sends the signal and waits for the exit; the exit code, or null when a signal ended the process. */
  kill(signal: NodeJS.Signals): Promise<number | null>;
  /** SIGTERM; anything but exit 0 in time is an error. A server that is gone already is fine. */
  stop(): Promise<void>;
  /** Deletes the data directory. */
  remove(): Promise<void>;
}

const running = new Set<ChildProcess>();
process.on("exit", () => {
  for (const child of running) child.kill("SIGKILL");
});

/** Starts `serve` on a free port of the loopback interface; throws with stderr when it does not listen within 10 s. */
export async function startServer(options: StartOptions = {}): Promise<TestServer> {
  const dataDir = options.dataDir ?? (await mkdtemp(join(tmpdir(), "streams-test-")));
  const command = [LAUNCHER, "serve", "--port", "0", "--data-dir", dataDir, ...(options.args ?? [])];
  const [program = LAUNCHER, ...args] =
    options.groupFile === undefined ? command : ["/bin/sh", "-c", JOIN_GROUP, options.groupFile, ...command];
  const child = spawn(program, args, {
    env: { ...process.env, ...options.env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  running.add(child);
  let stderr = "";
  child.stderr.setEncoding("utf8").on("data", (text: string) => {
    stderr = (stderr + text).slice(-STDERR_KEPT_CHARS);
  });
  const exited = new Promise<number | null>((resolve) => {
    child.on("error", (cause) => (stderr += String(cause)));
    child.on("close", (code) => {
      running.delete(child);
      resolve(code);
    });
  });
  const banner = await listeningLine(child, exited, () => stderr).catch(async (cause: unknown) => {
    if (options.dataDir === undefined) await rm(dataDir, { recursive: true, force: true });
    throw cause;
  });
  const { pid } = child;
  if (pid === undefined) throw new Error("the server has no process id");

  async function kill(signal: NodeJS.Signals): Promise<number | null> {
    child.kill(signal);
    const timer = setTimeout(() => child.kill("SIGKILL"), STOP_DEADLINE_MS);
    const code = await exited;
    clearTimeout(timer);
    return code;
  }
  async function stop(): Promise<void> {
    if (!running.has(child)) return;
    const code = await kill("SIGTERM");
    if (code !== 0) throw new Error(`the server ended with ${code ?? "a signal"} after SIGTERM:\n${stderr}`);
  }
  return {
    url: String(banner["url"]).replace(/\/$/, ""),
    dataDir,
    pid,
    banner,
    stderr: () => stderr,
    kill,
    stop,
    remove: () => rm(dataDir, { recursive: true, force: true }),
  };
}

function listeningLine(
  child: ChildProcess,
  exited: Promise<number | null>,
  stderr: () => string,
): Promise<Record<string, unknown>> {
  return new Promise((resolve, reject) => {
    let stdout = "";
    const fail = (reason: string): void => {
      clearTimeout(timer);
      child.kill("SIGKILL");
      reject(new Error(`the server did not start: ${reason}\nstdout: ${stdout}\nstderr: ${stderr()}`));
    };
    const timer = setTimeout(() => fail(`no line on stdout in ${START_DEADLINE_MS} ms`), START_DEADLINE_MS);
    void exited.then((code) => fail(`it ended with ${code ?? "a signal"}`));
    child.stdout?.setEncoding("utf8").on("data", (text: string) => {
      const isFirstLine = !stdout.includes("\n");
      if (isFirstLine) stdout += text;
      const end = stdout.indexOf("\n");
      if (!isFirstLine || end === -1) return;
      const line: unknown = parseJson(stdout.slice(0, end));
      if (!isListening(line)) return fail("the first line is not the JSON `listening` event");
      clearTimeout(timer);
      resolve(line);
    });
  });
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    return cause;
  }
}

function isListening(line: unknown): line is Record<string, unknown> {
  return typeof line === "object" && line !== null && "event" in line && line.event === "listening" && "url" in line;
}
