/**
 * Events over HTTP into a real server process: POSTs of 100 mixed events from 64 connections, all bodies made before. What is acknowledged
 * is held against what the stage says it received. Linux: reads /proc.
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { AnalyticsConfig, BatchingMetrics } from "../src/features/analytics/index.ts";
import { eventSource, makeEvents, median } from "./analytics-events.ts";
import { HttpConnection } from "./http-connection.ts";
import { readAll } from "./http-wire.ts";
import { runLoad } from "./load-client.ts";
import { benchServers } from "./peers.ts";
import { cpuMs, flushDisk, memoryBytes, writtenBytes } from "./process-usage.ts";
import { postRequest } from "./workloads.ts";

const CONNECTIONS = 64;
const EVENTS_PER_POST = 100;
/** Different ones: 13 MB of events. */
const BODIES = 1_000;
const WARM_UP_MS = 4_000;
const STREAM = "/v1/stream/app/events";

export interface HttpPlan {
  readonly ack: "durable" | "memory";
  readonly rounds: number;
  readonly seconds: number;
  /** Where the server writes its CPU profile; none without it. */
  readonly profileDir: string | undefined;
  /** Besides `ack` and the rates. */
  readonly settings: AnalyticsConfig;
}

export async function httpCost(plan: HttpPlan): Promise<void> {
  const rates: Readonly<Record<string, AnalyticsConfig>> = {
    "nothing sampled": { samplingRates: {} },
    "default rates": {},
  };
  const bodies = makeBodies();
  const bytes = bodies.reduce((sum, body) => sum + body.length, 0) / BODIES / EVENTS_PER_POST;
  console.log(
    `${CONNECTIONS} connections, ${EVENTS_PER_POST} events of ${bytes.toFixed(0)} bytes a POST, ack ${plan.ack}, ${plan.seconds} s`,
  );
  const rounds: Record<string, unknown>[] = [];
  const perSecond = new Map<string, number[]>();
  for (let round = 1; round <= plan.rounds; round++) {
    for (const [name, config] of Object.entries(rates)) {
      const figures = await measureOnce({ ...plan.settings, ...config, ack: plan.ack }, bodies, plan);
      rounds.push({ round, rates: name, ...figures });
      perSecond.set(name, [...(perSecond.get(name) ?? []), figures["events/s"]]);
    }
  }
  console.table(rounds);
  for (const [name, values] of perSecond) console.log(`${name}: median ${median(values)} events/s`);
}

function makeBodies(): readonly string[] {
  const source = eventSource(1);
  return Array.from({ length: BODIES }, () => JSON.stringify(makeEvents(EVENTS_PER_POST, () => source.mixed())));
}

async function measureOnce(settings: AnalyticsConfig, bodies: readonly string[], plan: HttpPlan) {
  const directory = mkdtempSync(join(tmpdir(), "streams-bench-"));
  const dataDir = join(directory, "files");
  const running = await startServer(dataDir, plan.profileDir);
  const { url, pid } = running;
  await makeStream(url, settings);
  await flushDisk(directory);
  const disk = writtenBytes(directory, pid);
  const requests = bodies.map((body) => postRequest(url, STREAM, body));
  let [turn, acked, cpu] = [0, 0, 0];
  let before = await stageMetrics(url);
  let after = before;
  const looks: Promise<unknown>[] = [];
  const load = await runLoad({
    open: () => HttpConnection.open(url),
    connections: CONNECTIONS,
    warmupMs: WARM_UP_MS,
    durationMs: plan.seconds * 1000,
    nextRequest: () => requests[turn++ % requests.length] ?? Buffer.alloc(0),
    onAck: () => acked++,
    onWindowStart: () => {
      cpu = cpuMs(pid);
      looks.push(stageMetrics(url).then((metrics) => (before = metrics)));
    },
    onWindowEnd: () => {
      cpu = cpuMs(pid) - cpu;
      looks.push(stageMetrics(url).then((metrics) => (after = metrics)));
    },
  });
  await Promise.all(looks);
  const memory = memoryBytes(pid);
  // In memory mode the last events are written after their interval.
  await Bun.sleep(2 * (settings.batchIntervalMs ?? 1_000));
  const last = await stageMetrics(url);
  await flushDisk(directory);
  const written = writtenBytes(directory, pid).bytes - disk.bytes;
  const connection = await HttpConnection.open(url);
  const log = await readAll(connection, url, STREAM);
  connection.close();
  await running.stop();
  rmSync(directory, { recursive: true, force: true });

  const events = load.acks * EVENTS_PER_POST;
  const all = acked * EVENTS_PER_POST;
  const batches = after.batchesProcessed - before.batchesProcessed;
  const fixed = (value: number, digits: number): number => Number(value.toFixed(digits));
  return {
    "events/s": Math.round(events / load.seconds),
    "p50 ms": fixed(load.p50Ms, 1),
    "p99 ms": fixed(load.p99Ms, 1),
    "CPU µs/event": fixed((cpu * 1000) / events, 2),
    "server cores": fixed(cpu / 1000 / load.seconds, 2),
    "client cores": fixed(load.clientCpu, 2),
    "batches/s": Math.round(batches / load.seconds),
    "stored/batch": fixed((after.eventsProcessed - before.eventsProcessed) / batches, 0),
    "received/batch": fixed((after.eventsReceived - before.eventsReceived) / batches, 0),
    "log B/event": fixed(log / all, 1),
    "disk B/event": fixed(written / all, 1),
    "RSS MB": fixed(memory.now / 1e6, 0),
    shed: last.droppedOverflow,
    missing: all - last.eventsProcessed - last.eventsAggregated - last.eventsDropped,
    refused: JSON.stringify(load.refused),
  };
}

async function startServer(dataDir: string, profileDir: string | undefined) {
  const [ours] = await benchServers();
  if (ours === undefined) throw new Error("our own server is not among those of the benchmarks");
  const options = process.env["BUN_OPTIONS"];
  if (profileDir !== undefined) process.env["BUN_OPTIONS"] = `--cpu-prof --cpu-prof-md --cpu-prof-dir=${profileDir}`;
  try {
    return await ours.start(dataDir);
  } finally {
    if (options === undefined) delete process.env["BUN_OPTIONS"];
    else process.env["BUN_OPTIONS"] = options;
  }
}

async function makeStream(url: string, settings: AnalyticsConfig): Promise<void> {
  const headers = { "Content-Type": "application/json" };
  const profile = JSON.stringify({ profile: { kind: "analytics", ...settings } });
  const answers = [
    await fetch(url + STREAM, { method: "PUT", headers }),
    await fetch(`${url}${STREAM}/_profile`, { method: "POST", headers, body: profile }),
  ];
  for (const answer of answers) if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
}

async function stageMetrics(url: string): Promise<BatchingMetrics> {
  const answer = await fetch(`${url}${STREAM}/_analytics`);
  return ((await answer.json()) as { readonly metrics: BatchingMetrics }).metrics;
}
