/**
 * Faults in system calls, by strace: attached to a running server, or around one from its first instruction. Owns the tracer and
 * its log. Invariants: no tracer outlives `close`; what was injected is told from the trace, so a fault that never came is seen.
 * strace counts by thread and by call: `when=N` is the Nth such call of some thread, and may come more than once.
 */

import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { LAUNCHER, type TestServer } from "../support/server.ts";

/** What strace does to which calls. */
export interface Injection {
  /** System calls, e.g. `["fsync", "fdatasync"]`: both names, since who calls which is not for tests to know. */
  readonly calls: readonly string[];
  /** As strace spells it, e.g. `error=EIO:when=3` or `delay_exit=200000`. */
  readonly fault: string;
  /** Only calls on these files, and no others are traced: answers are not seen then. Default: all. */
  readonly paths?: readonly string[];
}

export interface Tracer {
  /** The lines of calls that were tampered with. Their descriptors carry paths. */
  injected(): Promise<readonly string[]>;
  /** How often a call on this file was begun. */
  begun(call: string, file: string): Promise<number>;
  /** Answers 2xx that left after the first of them that names this file; 0 when there was none. */
  acksAfterFault(file: string): Promise<number>;
  /** Detaches, or waits for the end of what it started. */
  close(): Promise<void>;
}

export interface TracedStart extends Tracer {
  /** Base URL and process id once it listens; null when it ended before that. */
  readonly listening: { readonly url: string; readonly pid: number } | null;
  stderr(): string;
  /** SIGKILL to everything that was started. */
  kill(): Promise<void>;
}

const START_DEADLINE_MS = 30_000;
const ANSWERS = ["sendto", "write", "writev"];

/** Why strace cannot be used here, or null when it can. */
export async function straceObstacle(): Promise<string | null> {
  if (Bun.which("strace") === null) return "needs strace";
  const tried = Bun.spawn(["strace", "-f", "-o", "/dev/null", "true"], { stdout: "ignore", stderr: "pipe" });
  const [stderr, code] = await Promise.all([tried.stderr.text(), tried.exited]);
  return code === 0 ? null : `strace cannot trace: ${stderr.trim()}`;
}

/** From when the tracer has attached, the calls of the server fail as said. */
export async function attach(server: Pick<TestServer, "pid">, injection: Injection): Promise<Tracer> {
  const { log, read, remove } = await traceLog();
  const child = Bun.spawn(["strace", ...options(log, injection), "-p", `${server.pid}`], {
    stdout: "ignore",
    stderr: "ignore",
  });
  return {
    ...read,
    close: async () => {
      child.kill("SIGINT");
      await child.exited;
      await remove();
    },
  };
}

/** Starts `serve` under the tracer, and waits until it listens or has ended. */
export async function startUnderFault(dataDir: string, injection: Injection): Promise<TracedStart> {
  const { log, read, remove } = await traceLog();
  const serve = [LAUNCHER, "serve", "--port", "0", "--data-dir", dataDir];
  // A group of its own: a tracer that is killed lets its children run.
  const child = Bun.spawn(["strace", ...options(log, injection), ...serve], {
    stdout: "pipe",
    stderr: "pipe",
    detached: true,
  });
  let stderr = "";
  const reading = collect(child.stderr, (text) => (stderr += text));
  const kill = async (): Promise<void> => {
    try {
      process.kill(-child.pid, "SIGKILL");
    } catch (cause) {
      if (!(cause instanceof Error && "code" in cause && cause.code === "ESRCH")) throw cause;
    }
    await child.exited;
  };
  const first = Promise.withResolvers<string | null>();
  let stdout = "";
  void collect(child.stdout, (text) => {
    stdout += text;
    if (stdout.includes("\n")) first.resolve(stdout.slice(0, stdout.indexOf("\n")));
  }).then(() => first.resolve(null));
  const deadline = setTimeout(
    () => first.reject(new Error(`neither listening nor ended: ${stderr}`)),
    START_DEADLINE_MS,
  );
  try {
    const line = await first.promise;
    const listening = line === null ? null : (JSON.parse(line) as { url: string; pid: number });
    if (listening === null) await Promise.all([child.exited, reading]);
    return {
      ...read,
      listening: listening === null ? null : { url: listening.url.replace(/\/$/, ""), pid: listening.pid },
      stderr: () => stderr,
      kill,
      close: async () => {
        await kill();
        await remove();
      },
    };
  } catch (cause) {
    await kill();
    await remove();
    throw cause;
  } finally {
    clearTimeout(deadline);
  }
}

function options(log: string, { calls, fault, paths = [] }: Injection): string[] {
  const filters = [`trace=${[...calls, ...ANSWERS].join(",")}`, `inject=${calls.join(",")}:${fault}`];
  return [
    "-f",
    "-qq",
    "-y",
    "-o",
    log,
    ...filters.flatMap((filter) => ["-e", filter]),
    ...paths.flatMap((path) => ["-P", path]),
  ];
}

async function traceLog() {
  const place = await mkdtemp(join(tmpdir(), "streams-strace-"));
  const log = join(place, "trace");
  const lines = async (): Promise<string[]> =>
    ((await Bun.file(log).exists()) ? await Bun.file(log).text() : "").split("\n");
  const read = {
    injected: async () => (await lines()).filter(isInjected),
    // The other half of a call that was interrupted by another thread's does not name the file.
    begun: async (call: string, file: string) =>
      (await lines()).filter((line) => line.includes(` ${call}(`) && line.includes(`/${file}>`)).length,
    acksAfterFault: async (file: string) => {
      const all = await lines();
      const first = all.findIndex((line) => isInjected(line) && line.includes(`/${file}>`));
      return first === -1 ? 0 : all.slice(first + 1).filter((line) => line.includes('"HTTP/1.1 2')).length;
    },
  };
  return { log, read, remove: () => rm(place, { recursive: true, force: true }) };
}

/** `(INJECTED)` where the call failed, `(DELAYED)` where it was only slow. */
const isInjected = (line: string): boolean => /\((?:INJECTED|DELAYED)\)/.test(line);

async function collect(stream: ReadableStream<Uint8Array>, take: (text: string) => void): Promise<void> {
  const decoder = new TextDecoder();
  for await (const bytes of stream) take(decoder.decode(bytes, { stream: true }));
}
