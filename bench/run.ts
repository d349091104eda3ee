/**
 * `bun bench/run.ts`: measures the servers side by side in one run and prints the tables. The servers take turns inside every
 * round, each on a fresh data directory, so that a noisy minute falls on all of them. See README.md for what the figures mean.
 */

import { cpus, tmpdir } from "node:os";
import { parseArgs } from "node:util";
import { measure } from "./measure.ts";
import type { Form, Measurement } from "./measurement.ts";
import { benchServers, type BenchServer } from "./peers.ts";
import { reportTables } from "./report.ts";
import { workloads, type Workload } from "./workloads.ts";

const USAGE = `bun bench/run.ts [options]
  --quick              one short round, small data: shows that everything runs, its figures mean little
  --full               also 1,000,000 streams, and 10 GB stored: takes twice that of free disk
  --only A1,B1         these workloads
  --servers ours,…     these servers: ours, prisma, prisma-tuned, durable-node, redis, nats (the last two where installed)
  --rounds N           burst rounds (3)
  --burst-seconds N    length of a burst (3)
  --seconds N          length of the sustained form (60; 0 leaves it out)
  --dir DIR            where the data directories go (the system's temporary directory)
  --serve-args "…"     further arguments for our server
  --json FILE          everything measured, as JSON`;

interface Plan {
  readonly servers: readonly BenchServer[];
  readonly workloads: readonly Workload[];
  readonly rounds: number;
  readonly burstMs: number;
  readonly sustainedMs: number;
  readonly dir: string;
  readonly jsonFile: string | undefined;
}

async function planFrom(args: readonly string[]): Promise<Plan> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      quick: { type: "boolean", default: false },
      full: { type: "boolean", default: false },
      only: { type: "string" },
      servers: { type: "string" },
      rounds: { type: "string" },
      "burst-seconds": { type: "string" },
      seconds: { type: "string" },
      dir: { type: "string", default: tmpdir() },
      "serve-args": { type: "string", default: "" },
      json: { type: "string" },
      help: { type: "boolean", default: false },
    },
  });
  if (values.help) {
    console.log(USAGE);
    process.exit(0);
  }
  const isQuick = values.quick;
  return {
    servers: await serversOf(values["serve-args"].split(" ").filter(Boolean), values.servers),
    workloads: pick("workload", workloads({ isQuick, isFull: values.full }), values.only),
    rounds: positive("rounds", values.rounds ?? (isQuick ? "1" : "3"), 1),
    burstMs: positive("burst-seconds", values["burst-seconds"] ?? (isQuick ? "1" : "3"), 0.1) * 1000,
    sustainedMs: positive("seconds", values.seconds ?? (isQuick ? "0" : "60"), 0) * 1000,
    dir: values.dir,
    jsonFile: values.json,
  };
}

/** A server whose program is not here is left out, unless it was asked for. */
async function serversOf(ourArguments: readonly string[], wanted: string | undefined): Promise<BenchServer[]> {
  const picked = pick("server", await benchServers(ourArguments), wanted);
  const isHere = ({ name, lacks }: BenchServer): boolean => {
    if (lacks === null) return true;
    if (wanted !== undefined) throw new Error(`${name} needs ${lacks}, which is not on the PATH`);
    console.error(`${name} is left out: ${lacks} is not on the PATH`);
    return false;
  };
  return picked.filter(isHere);
}

function pick<T extends { readonly name: string }>(what: string, all: readonly T[], wanted: string | undefined): T[] {
  if (wanted === undefined) return [...all];
  return wanted.split(",").map((name) => {
    const found = all.find((one) => one.name === name);
    if (found === undefined) {
      throw new Error(`no ${what} is named ${name}; there are ${all.map((one) => one.name).join(", ")}`);
    }
    return found;
  });
}

function positive(name: string, text: string, least: number): number {
  const value = Number(text);
  if (!(value >= least)) throw new Error(`--${name} needs a number from ${least} on, not ${text}`);
  return value;
}

async function main(): Promise<void> {
  const plan = await planFrom(process.argv.slice(2));
  const all: Measurement[] = [];
  const take = async (workload: Workload, round: number, form: Form): Promise<void> => {
    // Another server starts each round: whoever comes first or last has no standing advantage.
    const order = plan.servers.map((_, index) => plan.servers[(index + round) % plan.servers.length]);
    for (const server of order) {
      if (server === undefined || !speaks(server, workload)) continue;
      console.error(`${workload.name} ${form}, round ${round + 1}: ${server.name}`);
      const durationMs = form === "burst" ? plan.burstMs : plan.sustainedMs;
      const result = await measure(workload, { server, form, durationMs, dir: plan.dir });
      all.push({ workload: workload.name, server: server.name, round, form, ...result });
      if (result.kind === "failed") console.error(`  failed: ${result.reason}`);
    }
  };
  for (const workload of plan.workloads) {
    for (let round = 0; round < plan.rounds; round++) await take(workload, round, "burst");
    if (LASTS.has(workload.kind) && plan.sustainedMs > 0) await take(workload, 0, "sustained");
  }
  console.log(heading(plan));
  console.log(reportTables(all, new Map(plan.workloads.map(({ name, title }) => [name, title]))));
  if (plan.jsonFile !== undefined) await Bun.write(plan.jsonFile, JSON.stringify(all, null, 1));
  if (all.some(hasFailed)) process.exitCode = 1;
}

/** What is also measured in its sustained form. */
const LASTS: ReadonlySet<Workload["kind"]> = new Set(["append", "large"]);

/** A measurement that came to no figures, or whose figures show that something was lost. */
function hasFailed(one: Measurement): boolean {
  if (one.kind === "append" || one.kind === "live-fan-out" || one.kind === "growth") return one.figures.missing > 0;
  if (one.kind === "large") return one.figures.missing !== 0;
  if (one.kind === "live-stalled") return one.figures.complete < one.figures.woken;
  return one.kind === "failed";
}

function speaks(server: BenchServer, workload: Workload): boolean {
  if (!server.wire.does(workload)) return false;
  if (workload.kind.startsWith("touch")) return server.hasTouch;
  if (workload.kind === "growth" && workload.isOursOnly) return server.name === "ours";
  return !("transport" in workload) || workload.transport !== "websocket" || server.hasWebSocket;
}

function heading(plan: Plan): string {
  const lines = [
    `Bun ${Bun.version}, ${cpus().length} cores (${cpus()[0]?.model ?? "unknown"}), client on the same machine.`,
    `${plan.rounds} rounds of ${plan.burstMs / 1000} s, sustained ${plan.sustainedMs / 1000} s; medians.`,
    ...plan.servers.map((server) => `- ${server.name} ${server.version}: an ack means ${server.ackMeans}`),
  ];
  return `${lines.join("\n")}\n`;
}

await main();
