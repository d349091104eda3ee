/**
 * A server of one's own for a measurement: a child process of the same program with the default settings, on a fresh directory and a
 * free port of the loopback interface. Owns the child and the directory. Invariant: `stop` leaves neither, unless told to keep the directory.
 */

import { rmSync } from "node:fs";
import { mkdtemp, rm, statfs } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { sleep } from "../client/retry-policy.ts";
import { isJsonObject } from "../kit/json-object.ts";
import { ownCommand } from "./bench-program.ts";
import { UsageError } from "./failure.ts";

export interface OwnServer {
  readonly url: string;
  readonly directory: string;
  /** What an ack means here, as its banner says. */
  readonly durability: string;
  readonly version: string;
  /** The directory is not on a disk: what is measured is memory. */
  readonly inMemory: boolean;
  /** How it ended, and the last it said on stderr; null while it runs. */
  lastWords(): string | null;
  stop(keepDirectory: boolean): Promise<void>;
}

const START_DEADLINE_MS = 15_000;
const STOP_DEADLINE_MS = 10_000;
const KEPT_STDERR_CHARS = 4_000;
const TMPFS = 0x01021994;

/** `parent`: where the directory is made; the system's place for temporary files otherwise. */
export async function startOwnServer(parent: string | undefined, signal: AbortSignal): Promise<OwnServer> {
  const directory = await freshDirectory(resolve(parent ?? tmpdir()));
  const child = spawnServer(directory);
  let stderr = "";
  const listening = async (): Promise<void> => {
    for await (const piece of child.stderr.pipeThrough(new TextDecoderStream())) {
      stderr = (stderr + piece).slice(-KEPT_STDERR_CHARS);
    }
  };
  const listened = listening();
  // However this process ends, but for SIGKILL.
  const abandon = (): void => {
    child.kill("SIGKILL");
    rmSync(directory, { recursive: true, force: true });
  };
  process.once("exit", abandon);
  const stop = async (keepDirectory: boolean): Promise<void> => {
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), STOP_DEADLINE_MS);
    await child.exited;
    clearTimeout(timer);
    await listened;
    process.off("exit", abandon);
    if (!keepDirectory) await rm(directory, { recursive: true, force: true });
  };
  try {
    const banner = await Promise.race([
      readBanner(child.stdout),
      sleep(START_DEADLINE_MS, signal).then(() => Promise.reject(new StartFailure("it took too long to start"))),
    ]);
    const { type } = await statfs(directory);
    return {
      ...banner,
      directory,
      inMemory: type === TMPFS,
      lastWords: () => {
        const end = child.signalCode ?? child.exitCode;
        return end === null ? null : `${end} ${stderr}`.trim();
      },
      stop,
    };
  } catch (cause) {
    await stop(false);
    signal.throwIfAborted();
    if (!(cause instanceof StartFailure)) throw cause;
    throw new StartFailure(`the server to be measured did not start: ${stderr.trim() || cause.message}`);
  }
}

/** The machine or the installation: told without a stack. */
class StartFailure extends Error {
  override readonly name = "StartFailure";
}

async function freshDirectory(parent: string): Promise<string> {
  try {
    return await mkdtemp(join(parent, "streams-bench-"));
  } catch (cause) {
    throw new UsageError(
      `cannot make a directory in ${parent}: ${cause instanceof Error ? cause.message : String(cause)}`,
    );
  }
}

function spawnServer(directory: string) {
  const { execPath, execArgv } = process;
  const args = ["serve", "--host", "127.0.0.1", "--port", "0", "--data-dir", directory];
  return Bun.spawn([...ownCommand({ execPath, execArgv, main: Bun.main }, args)], {
    // In a process group of its own: Ctrl-C is for the measurement, which then ends the server.
    detached: true,
    env: serverEnvironment(process.env),
    stdin: "ignore",
    stdout: "pipe",
    stderr: "pipe",
  });
}

/**
 * The server's settings are its defaults, whatever the environment says; what the launcher sets holds for it as well. And when
 * the measurement is killed, it ends too.
 */
export function serverEnvironment(
  env: Readonly<Record<string, string | undefined>>,
): Record<string, string | undefined> {
  const kept = Object.fromEntries(Object.entries(env).filter(([name]) => !/^(?:STREAMS_|STREAM_AUTH$)/.test(name)));
  return { UV_THREADPOOL_SIZE: "8", MIMALLOC_PURGE_DELAY: "1000", ...kept, BUN_FEATURE_FLAG_NO_ORPHANS: "1" };
}

async function readBanner(stdout: ReadableStream<Uint8Array<ArrayBuffer>>) {
  const reader = stdout.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  while (!text.includes("\n")) {
    const { done, value } = await reader.read();
    if (done) throw new StartFailure("it ended");
    text += value;
  }
  const banner: unknown = JSON.parse(text.slice(0, text.indexOf("\n")));
  if (!isJsonObject(banner) || typeof banner["url"] !== "string") throw new StartFailure("its first line names no URL");
  const { url, durability, version } = banner;
  return { url, durability: String(durability), version: String(version) };
}
