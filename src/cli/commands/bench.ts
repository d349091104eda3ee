/**
 * `bench`: what this machine does, in figures of its own: a server is started for it, or one that runs is measured, over HTTP like
 * any client. Owns the streams it makes and the server it starts: both are gone at the end, after Ctrl-C too, unless they are to be kept.
 */

import { constants } from "node:os";
import { type Command, InvalidArgumentError, Option } from "commander";
import { connect, type StreamClient, type StreamError, type StreamHandle, Unreachable } from "../../client/client.ts";
import { DEFAULT_RETRY_POLICY } from "../../client/retry-policy.ts";
import { isJsonObject } from "../../kit/json-object.ts";
import type { Target } from "../bench-connection.ts";
import { Refusals } from "../bench-load.ts";
import {
  DURABILITY_MEANS,
  type Measured,
  measuredObject,
  perSecond,
  ProgressLine,
  rowNotes,
  tableHead,
  tableRow,
} from "../bench-report.ts";
import { type OwnServer, startOwnServer } from "../bench-server.ts";
import { CpuShares, settled } from "../bench-watch.ts";
import { type Ground, WORKLOADS, type Workload } from "../bench-workloads.ts";
import { UsageError } from "../failure.ts";
import { path } from "../option-values.ts";
import { flushOut, writeOut } from "../stdout.ts";
import { addClientOptions, type ClientFlags, orFail, serverFor } from "../target.ts";

interface BenchFlags extends ClientFlags {
  readonly dir?: string;
  readonly seconds: number;
  readonly connections: number;
  readonly keep?: true;
}

const MAX_SECONDS = 3600;
const MAX_CONNECTIONS = 1000;
/** Before the measured time, at most. */
const WARM_UP_MS = 500;
/** A killed run deletes nothing: its streams end by themselves. */
const TTL_SECONDS = 3600;
const FACTS_DEADLINE_MS = 10_000;
const DELETE_DEADLINE_MS = 10_000;

export function addBench(program: Command): void {
  const command = program
    .command("bench")
    .description("measure this machine with a server of its own, or the server at --url: rates and latencies")
    .option("--dir <directory>", "where the own server keeps its data: the disk that is measured", path)
    .addOption(new Option("--seconds <n>", "how long each workload is measured").argParser(seconds).default(3))
    .addOption(new Option("--connections <n>", "for many writers, many streams").argParser(connections).default(64))
    .option("--keep", "keep the streams, or the own server's directory")
    .addHelpText(
      "after",
      "\nWithout --url or STREAM_URL it starts a server for the purpose, which writes up to 1 GB a second at most." +
        "\nOnly 2xx answers count; everything else is told beside the figures. The exit code is 0 when" +
        "\nevery workload has a figure." +
        "\nFigures of a few seconds are those of a burst: --seconds 60 tells what lasts." +
        "\n\nExample:\n  $ streams-server bench --dir /var/lib",
    );
  addClientOptions(command).action(bench);
}

async function bench(flags: BenchFlags): Promise<void> {
  if (flags.url !== undefined && flags.dir !== undefined) {
    throw new UsageError("--dir is for the server that bench starts itself: without --url");
  }
  const stop = new AbortController();
  let exitCode = 0;
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    // Once: a second Ctrl-C ends the process at once, and its server with it.
    process.once(signal, () => {
      exitCode = 128 + constants.signals[signal];
      stop.abort();
    });
  }
  try {
    await measure(flags, stop.signal);
  } catch (cause) {
    // Whatever was under way when the user had enough.
    if (!stop.signal.aborted) throw cause;
    await flushOut();
    process.exit(exitCode);
  }
}

async function measure(flags: BenchFlags, signal: AbortSignal): Promise<void> {
  const given = flags.url ?? process.env["STREAM_URL"]?.trim() ?? "";
  if (given !== "" && flags.dir === undefined) {
    const target = serverFor(flags);
    await onServer(flags, target, await factsOf(target, signal), signal);
    return;
  }
  const own = await startOwnServer(flags.dir, signal);
  try {
    await onServer(flags, { url: own.url }, own, signal);
  } catch (cause) {
    const words = own.lastWords();
    if (words !== null) process.stderr.write(`the server that was measured has ended by itself: ${words}\n`);
    throw cause;
  } finally {
    await own.stop(flags.keep === true);
    if (flags.keep === true) process.stderr.write(`kept ${own.directory}\n`);
  }
}

interface ServerFacts extends Pick<OwnServer, "durability" | "version"> {
  readonly directory: string | null;
  readonly inMemory: boolean;
}

/**
 * What a server says of itself to those who may ask.
 * @throws Unreachable
 */
async function factsOf({ url, auth }: Target, signal: AbortSignal): Promise<ServerFacts> {
  const retry = { ...DEFAULT_RETRY_POLICY, maxAttempts: 1 };
  const client = connect({ url, retry, silenceLimitMs: FACTS_DEADLINE_MS, ...(auth !== undefined && { auth }) });
  const details = await client.serverDetails(signal);
  if (details.isErr() && Unreachable.is(details.error)) throw details.error;
  // Who may not ask may still measure; and what is no such server is found out when the first stream is made.
  const { config, server } = details.isOk() ? details.value : {};
  const unknown = { durability: "unknown", version: "unknown", directory: null, inMemory: false };
  if (!isJsonObject(config) || !isJsonObject(server)) return unknown;
  const durability = typeof config["dataDir"] === "string" ? String(config["durability"]) : "none";
  return { ...unknown, durability, version: String(server["version"]) };
}

/** Runs all workloads against one server and shows what came of them. */
async function onServer(flags: BenchFlags, server: Target, facts: ServerFacts, signal: AbortSignal): Promise<void> {
  const target = { ...server, url: server.url.replace(/\/+$/, "") };
  const isJson = flags.json === true;
  const print = (text: string): Promise<void> => writeOut(isJson ? "" : `${text}\n`);
  // Those of an own server go with its directory.
  const fate = flags.keep === true ? "kept" : facts.directory === null ? "deleted" : "left";
  const streams = new BenchStreams(connect(target), fate, signal);
  const progress = new ProgressLine();
  let failure: StreamError | null = null;
  const startMs = performance.now();
  try {
    await print(intro(target, facts));
    await print(tableHead());
    for (const [index, workload] of WORKLOADS.entries()) {
      const refusals = new Refusals();
      const measured = await runWorkload(workload, index, { flags, target, streams, progress, refusals, signal });
      progress.end();
      if (measured.count === 0) failure ??= refusals.errors[0] ?? silent(workload.name, target.url);
      const said = refusals.errors.map(({ message }) => message);
      await print([tableRow(measured), ...rowNotes(measured, said)].join("\n"));
      if (isJson) await writeOut(`${JSON.stringify(measuredObject(measured, facts.durability))}\n`);
    }
  } finally {
    progress.end();
    await streams.remove();
  }
  const summary = {
    kind: "summary",
    url: target.url,
    version: facts.version,
    directory: facts.directory,
    inMemory: facts.inMemory,
    durability: facts.durability,
    durabilityMeans: DURABILITY_MEANS[facts.durability] ?? DURABILITY_MEANS["unknown"],
    workloads: WORKLOADS.length,
    failed: failure !== null,
    seconds: Math.round((performance.now() - startMs) / 100) / 10,
  };
  if (isJson) await writeOut(`${JSON.stringify(summary)}\n`);
  if (failure !== null) throw failure;
}

function silent(workload: string, url: string): Unreachable {
  return new Unreachable({ message: `${workload}: no answer in time`, hint: null, url, cause: null });
}

function intro({ url }: Target, { durability, version, directory, inMemory }: ServerFacts): string {
  const where = directory === null ? "" : `, started for this on ${directory}`;
  return [
    `server      ${url}, version ${version}${where}`,
    `durability  ${durability}: ${DURABILITY_MEANS[durability] ?? DURABILITY_MEANS["unknown"]}`,
    ...(inMemory ? ["            but that directory is in memory: say with --dir which disk to measure"] : []),
    "",
  ].join("\n");
}

interface Surroundings {
  readonly flags: BenchFlags;
  readonly target: Target;
  readonly streams: BenchStreams;
  readonly progress: ProgressLine;
  readonly refusals: Refusals;
  readonly signal: AbortSignal;
}

async function runWorkload(workload: Workload, index: number, surroundings: Surroundings): Promise<Measured> {
  const { flags, target, streams, progress, refusals, signal } = surroundings;
  const { name, unit } = workload;
  const measureMs = flags.seconds * 1000;
  const warmUpMs = Math.min(WARM_UP_MS, measureMs / 4);
  let counted = 0;
  let firstMs = NaN;
  let startMs = NaN;
  progress.show(() => {
    const nowMs = performance.now();
    const share = Number.isNaN(startMs) ? null : (nowMs - startMs) / (warmUpMs + measureMs);
    const rate = perSecond((counted * 1000) / (nowMs - firstMs), unit);
    return { number: index + 1, of: WORKLOADS.length, workload: name, share, rate };
  });
  const count = (units: number): void => {
    if (counted === 0) firstMs = performance.now();
    counted += units;
  };
  const newStream: Ground["newStream"] = (contentType) => streams.create(contentType);
  const ground = { target, connections: flags.connections, warmUpMs, measureMs, refusals, signal, count, newStream };
  const run = await workload.prepare(ground);
  await settled(streams.client, signal);
  const cpu = await CpuShares.start(streams.client, signal);
  startMs = performance.now();
  const outcome = await run();
  const about = workload.about(flags.connections);
  return { ...outcome, workload: name, about, unit, refused: refusals.counts, ...(await cpu.end()) };
}

/** What becomes of the streams of a run. */
type StreamFate = "deleted" | "kept" | "left";

/** The streams of one run, named for it. */
class BenchStreams {
  readonly client: StreamClient;
  readonly #fate: StreamFate;
  readonly #signal: AbortSignal;
  readonly #prefix = `bench/${crypto.randomUUID().slice(0, 8)}`;
  readonly #made: StreamHandle[] = [];
  #asked = 0;

  constructor(client: StreamClient, fate: StreamFate, signal: AbortSignal) {
    this.client = client;
    this.#fate = fate;
    this.#signal = signal;
  }

  async create(contentType: string): Promise<{ readonly stream: StreamHandle; readonly offset: string }> {
    const stream = this.client.stream(`${this.#prefix}/${this.#asked++}`);
    const lifetime = this.#fate === "kept" ? {} : { ttlSeconds: TTL_SECONDS };
    const { nextOffset } = orFail(await stream.create({ contentType, ...lifetime, signal: this.#signal }));
    this.#made.push(stream);
    return { stream, offset: nextOffset };
  }

  /** Never fails: what is left ends by itself. */
  async remove(): Promise<void> {
    if (this.#fate === "kept" && this.#made.length > 0)
      process.stderr.write(`kept the streams below ${this.#prefix}/\n`);
    if (this.#fate !== "deleted") return;
    const deadline = AbortSignal.timeout(DELETE_DEADLINE_MS);
    const left = await Promise.all(
      this.#made.map((stream) => stream.delete(deadline).then(isLeft, (cause: unknown) => String(cause))),
    );
    const [reason, ...others] = left.filter((one) => one !== null);
    if (reason === undefined) return;
    const streams = others.length === 0 ? "a stream" : `${1 + others.length} streams`;
    process.stderr.write(`${streams} below ${this.#prefix}/ could not be deleted, and will expire: ${reason}\n`);
  }
}

/** Why a stream is still there; null when it is gone, or never was. */
function isLeft(deleted: Awaited<ReturnType<StreamHandle["delete"]>>): string | null {
  if (deleted.isOk()) return null;
  const { error } = deleted;
  return error._tag === "Refused" && [401, 403, 404, 410].includes(error.status) ? null : error.message;
}

function seconds(text: string): number {
  const value = /^\d{1,4}(?:\.\d{1,3})?$/.test(text) ? Number(text) : 0;
  if (value >= 0.1 && value <= MAX_SECONDS) return value;
  throw new InvalidArgumentError(`expected seconds from 0.1 to ${MAX_SECONDS}`);
}

function connections(text: string): number {
  const value = /^\d{1,4}$/.test(text) ? Number(text) : 0;
  if (value >= 1 && value <= MAX_CONNECTIONS) return value;
  throw new InvalidArgumentError(`expected a number from 1 to ${MAX_CONNECTIONS}`);
}
