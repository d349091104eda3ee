/**
 * The servers that are compared, and how each is started: as its own documentation says, on a fresh data directory and a
 * free port, with its defaults. Owns the child processes. Invariant: whatever was started is stopped, also when the
 * benchmark is interrupted.
 */

import { createServer } from "node:net";
import { join } from "node:path";
import { httpWire } from "./http-wire.ts";
import { natsWire } from "./nats-wire.ts";
import { flushDisk } from "./process-usage.ts";
import { redisWire } from "./redis-wire.ts";
import type { Wire } from "./wire.ts";

export interface Backlog {
  readonly unsealedBytes: number;
  readonly unsealedRanges: number;
  readonly walBytes: number;
}

export interface RunningServer {
  readonly url: string;
  readonly wire: Wire;
  readonly pid: number;
  readonly dataDir: string;
  /** The end of what it wrote to stderr. */
  lastWords(): Promise<string>;
  /** SIGTERM, then SIGKILL when it takes too long. */
  stop(): Promise<void>;
}

export interface BenchServer {
  readonly name: string;
  readonly version: string;
  /** When an append is answered, in a few words. */
  readonly ackMeans: string;
  /** Whether `/health` tells how far the background work is behind. */
  readonly hasBacklog: boolean;
  /** Whether it speaks the touch routes. */
  readonly hasTouch: boolean;
  /** Whether it speaks our WebSocket protocol. */
  readonly hasWebSocket: boolean;
  /** What it speaks. */
  readonly wire: Wire;
  /** The program it needs that is not on the PATH, or null. */
  readonly lacks: string | null;
  start(dataDir: string): Promise<RunningServer>;
}

const START_DEADLINE_MS = 20_000;
const STOP_DEADLINE_MS = 20_000;
/** How often a server that starts is asked: starts are measured. */
const LOOK_MS = 2;
const LAST_WORDS_CHARS = 2_000;
const ROOT = join(import.meta.dir, "..");
const HOST = "127.0.0.1";

const DURABLE_NODE_SCRIPT = `
  import { DurableStreamTestServer } from "@durable-streams/server";
  const [port, dataDir] = process.argv.slice(-2);
  await new DurableStreamTestServer({ port: Number(port), host: "${HOST}", dataDir }).start();
`;

/** The peers, and ours with further arguments of `serve` if given. */
export async function benchServers(ourArguments: readonly string[] = []): Promise<readonly BenchServer[]> {
  return [
    {
      name: "ours",
      version: await versionIn(join(ROOT, "package.json")),
      ackMeans: "fdatasync of the group's commit",
      hasBacklog: true,
      hasTouch: true,
      hasWebSocket: true,
      wire: httpWire,
      lacks: null,
      start: (dataDir) =>
        startChild(dataDir, httpWire, (port) => ({
          command: ["bin/streams-server", "serve", "--port", String(port), "--data-dir", dataDir, ...ourArguments],
        })),
    },
    prisma("prisma", {}, await versionIn(packageFile("@prisma/streams-server"))),
    prisma("prisma-tuned", PRISMA_TUNED, await versionIn(packageFile("@prisma/streams-server"))),
    {
      name: "durable-node",
      version: await versionIn(packageFile("@durable-streams/server")),
      ackMeans: "fdatasync of the stream's file and of LMDB",
      hasBacklog: false,
      hasTouch: false,
      hasWebSocket: false,
      wire: httpWire,
      lacks: null,
      start: (dataDir) =>
        startChild(dataDir, httpWire, (port) => ({
          command: [
            Bun.which("node") ?? process.execPath,
            "--input-type=module",
            "-e",
            DURABLE_NODE_SCRIPT,
            "--",
            String(port),
            dataDir,
          ],
        })),
    },
    native({
      name: "redis",
      program: "redis-server",
      ackMeans: "fdatasync of the append-only file",
      wire: redisWire,
      // Everything else as it is installed: it also rewrites that file, from 64 MB on.
      arguments: (port, dataDir) => [
        "--bind",
        HOST,
        "--port",
        String(port),
        "--dir",
        dataDir,
        "--appendonly",
        "yes",
        "--appendfsync",
        "always",
        "--save",
        "",
      ],
    }),
    native({
      name: "nats",
      program: "nats-server",
      ackMeans: "NOTHING DURABLE: written to a file that is synced every 2 minutes",
      wire: natsWire,
      arguments: (port, dataDir) => ["--addr", HOST, "--port", String(port), "--jetstream", "--store_dir", dataDir],
    }),
  ];
}

interface NativePeer {
  readonly name: string;
  readonly program: string;
  readonly ackMeans: string;
  readonly wire: Wire;
  arguments(port: number, dataDir: string): readonly string[];
}

/** A program of the machine, not a package of ours: it may be missing. */
function native({ name, program, ackMeans, wire, ...peer }: NativePeer): BenchServer {
  const path = Bun.which(program);
  return {
    name,
    version: path === null ? "" : programVersion(path),
    ackMeans,
    hasBacklog: false,
    hasTouch: false,
    hasWebSocket: false,
    wire,
    lacks: path === null ? program : null,
    start: (dataDir) =>
      startChild(dataDir, wire, (port) => ({ command: [path ?? program, ...peer.arguments(port, dataDir)] })),
  };
}

function programVersion(path: string): string {
  const { stdout } = Bun.spawnSync([path, "--version"]);
  return /\d+(?:\.\d+)+/.exec(stdout.toString())?.[0] ?? "of unknown version";
}

/** The best settings we found for it: commits each millisecond, large groups, a touch tick of 10 ms. */
const PRISMA_TUNED = {
  DS_INGEST_FLUSH_MS: "1",
  DS_INGEST_CONCURRENCY: "1024",
  DS_INGEST_MAX_BATCH_REQS: "1000",
  DS_READ_CONCURRENCY: "64",
  DS_TOUCH_CHECK_MS: "10",
};

function prisma(name: string, settings: Readonly<Record<string, string>>, version: string): BenchServer {
  return {
    name,
    version,
    ackMeans: "fsync of the SQLite transaction",
    hasBacklog: false,
    hasTouch: true,
    hasWebSocket: false,
    wire: httpWire,
    lacks: null,
    start: (dataDir) =>
      startChild(dataDir, httpWire, (port) => ({
        command: [
          process.execPath,
          join(packageFile("@prisma/streams-server"), "../bin/prisma-streams-server"),
          "--object-store",
          "local",
          "--no-auth",
        ],
        // The local object store is kept in memory unless it is told where to put its files.
        env: {
          PORT: String(port),
          DS_HOST: HOST,
          DS_ROOT: dataDir,
          DS_MOCK_R2_SPILL_DIR: join(dataDir, "objects"),
          ...settings,
        },
      })),
  };
}

function packageFile(name: string): string {
  return join(ROOT, "node_modules", name, "package.json");
}

async function versionIn(file: string): Promise<string> {
  return ((await Bun.file(file).json()) as { version: string }).version;
}

interface ChildCommand {
  readonly command: string[];
  readonly env?: Readonly<Record<string, string>>;
}

const living = new Set<Bun.Subprocess>();
process.on("exit", () => {
  for (const child of living) child.kill("SIGKILL");
});
// A signal ends a process without its `exit` handlers.
for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => process.exit(1));

async function startChild(
  dataDir: string,
  wire: Wire,
  commandFor: (port: number) => ChildCommand,
): Promise<RunningServer> {
  const port = await freePort();
  const { command, env } = commandFor(port);
  const log = join(dataDir, "..", `server-${port}.log`);
  const child = Bun.spawn(command, {
    cwd: ROOT,
    env: { ...process.env, ...env },
    stdin: "ignore",
    stdout: "ignore",
    stderr: Bun.file(log),
  });
  living.add(child);
  void child.exited.then(() => living.delete(child));
  const url = `http://${HOST}:${port}`;
  try {
    await untilAnswering(url, wire, child);
  } catch (cause) {
    child.kill("SIGKILL");
    throw new Error(`${command.join(" ")} did not start:\n${await Bun.file(log).text()}`, { cause });
  }
  const lastWords = async (): Promise<string> => (await Bun.file(log).text()).slice(-LAST_WORDS_CHARS);
  return { url, wire, pid: child.pid, dataDir, lastWords, stop: () => stopChild(child, dataDir) };
}

async function untilAnswering(url: string, wire: Wire, child: Bun.Subprocess): Promise<void> {
  const deadline = Date.now() + START_DEADLINE_MS;
  for (;;) {
    if (child.exitCode !== null) throw new Error(`it ended with ${child.exitCode}`);
    if (Date.now() > deadline) throw new Error(`no answer in ${START_DEADLINE_MS} ms`);
    if (await wire.isReady(url)) return;
    await Bun.sleep(LOOK_MS);
  }
}

async function stopChild(child: Bun.Subprocess, dataDir: string): Promise<void> {
  child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), STOP_DEADLINE_MS);
  await child.exited;
  clearTimeout(timer);
  // What the page cache still holds must not be written during the next server's turn.
  await flushDisk(dataDir);
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.on("error", reject);
    probe.listen(0, HOST, () => {
      const address = probe.address();
      const port = address !== null && typeof address === "object" ? address.port : 0;
      probe.close(() => resolve(port));
    });
  });
}
