/**
 * What the server's own metrics cost. `bun bench/live-metrics.ts tick`: CPU time of the main thread and commits of a tick over 1,000
 * touch streams that all counted something. `bun bench/live-metrics.ts append <dir>`: CPU per append of this checkout against
 * another one (of the commit before the metrics), in 10 interleaved pairs. Linux: reads /proc.
 */

import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { systemClock } from "../src/kit/clock.ts";
import { SqliteStore } from "../src/storage/sqlite/sqlite-store.ts";
import { observedWorld } from "../test/live-metrics/observed-world.ts";
import { createStreams } from "./append-run.ts";
import { HttpConnection } from "./http-connection.ts";
import { runLoad } from "./load-client.ts";
import { cpuMs } from "./process-usage.ts";
import { RequestWriter } from "./workloads.ts";

const STREAMS = 1_000;
const TICKS = 100;
/** The first ticks meet code that is not compiled yet. */
const WARM_UP = 20;
const PAIRS = 10;
const LOAD_MS = 8_000;
const CONNECTIONS = 64;
const CHANGE = { type: "todo", key: "1", value: { id: 1, userId: "a" }, headers: { operation: "insert" } };

/** CPU time of this process's main thread, ms. */
function mainThreadMs(): number {
  return Number(readFileSync(`/proc/self/task/${process.pid}/schedstat`, "utf8").split(" ")[0]) / 1e6;
}

async function tickCost(): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "streams-bench-"));
  const store = await SqliteStore.open({ directory, durability: "fsync", acceptLoss: false, clock: systemClock });
  const world = observedWorld({ store, clock: systemClock });
  const names = Array.from({ length: STREAMS }, (_, at) => `app/stream-${at}`);
  for (const name of names) await world.touchStream(name);
  const template = { entity: "todo", fields: [{ name: "userId", encoding: "string" }] };
  for (const name of names) await world.json("POST", `${name}/touch/templates/activate`, { templates: [template] });
  await world.metrics.tick();
  const cpu: number[] = [];
  const wall: number[] = [];
  let commits = 0;
  for (let turn = 0; turn < TICKS; turn++) {
    for (const name of names) {
      await world.json("POST", name, [CHANGE]);
      await world.json("POST", `${name}/touch/wait`, { keys: ["0123456789abcdef"], cursor: "now", timeoutMs: 0 });
    }
    const before = { cpu: mainThreadMs(), wall: performance.now(), commit: store.status().durableCommit };
    await world.metrics.tick();
    cpu.push(mainThreadMs() - before.cpu);
    wall.push(performance.now() - before.wall);
    commits += store.status().durableCommit - before.commit;
  }
  console.log({
    streams: STREAMS,
    ticks: TICKS,
    commitsPerTick: commits / TICKS,
    cpuMs: spread(cpu.slice(WARM_UP)),
    wallMs: spread(wall.slice(WARM_UP)),
  });
  await world.engine.close();
  rmSync(directory, { recursive: true, force: true });
}

function spread(values: readonly number[]) {
  const sorted = values.toSorted((left, right) => left - right);
  const at = (share: number): number => Number((sorted[Math.floor(share * (sorted.length - 1))] ?? 0).toFixed(3));
  return { min: at(0), median: at(0.5), max: at(1) };
}

/** CPU microseconds per append of one checkout, 64 connections to one stream. */
async function cpuPerAppend(root: string): Promise<number> {
  const directory = mkdtempSync(join(tmpdir(), "streams-bench-"));
  const command = [join(root, "bin", "streams-server"), "serve", "--port", "0", "--data-dir", directory];
  const child = Bun.spawn(command, { stdout: "pipe", stderr: "inherit" });
  const reader = child.stdout.getReader();
  const { value } = await reader.read();
  const { url } = JSON.parse(new TextDecoder().decode(value)) as { url: string };
  await createStreams(url, 1);
  const writer = new RequestWriter(url, CONNECTIONS, 1);
  let [before, used] = [0, 0];
  const { acks } = await runLoad({
    open: () => HttpConnection.open(url),
    connections: CONNECTIONS,
    warmupMs: 1_500,
    durationMs: LOAD_MS,
    nextRequest: (connection) => writer.next(connection, 0),
    onAck: () => undefined,
    onWindowStart: () => (before = cpuMs(child.pid)),
    onWindowEnd: () => (used = cpuMs(child.pid) - before),
  });
  child.kill();
  await child.exited;
  rmSync(directory, { recursive: true, force: true });
  return (used * 1000) / acks;
}

async function appendCost(base: string): Promise<void> {
  const ratios: number[] = [];
  const here = join(import.meta.dir, "..");
  for (let pair = 0; pair < PAIRS; pair++) {
    // In turns, so that neither always comes first.
    const order = pair % 2 === 0 ? [base, here] : [here, base];
    const cost = new Map<string, number>();
    for (const root of order) cost.set(root, await cpuPerAppend(root));
    const [without = 0, having = 0] = [cost.get(base), cost.get(here)];
    ratios.push(having / without);
    console.log({
      pair,
      withoutUs: without.toFixed(2),
      withUs: having.toFixed(2),
      ratio: (having / without).toFixed(3),
    });
  }
  console.log({ ratio: spread(ratios) });
}

const [what = "tick", base = ""] = process.argv.slice(2);
if (what === "tick") await tickCost();
else if (what === "append" && base !== "") await appendCost(base);
else throw new Error("usage: bun bench/live-metrics.ts tick | append <checkout without the metrics>");
