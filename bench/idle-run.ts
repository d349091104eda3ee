/**
 * What a server costs that has nothing to do: how long it takes to start, on an empty directory and on one that holds
 * something, and what it then takes in memory and CPU while nobody asks. Each start is a process of its own.
 */

import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import type { BenchServer } from "./peers.ts";
import { cpuMs, memoryBytes } from "./process-usage.ts";
import { fill } from "./read-run.ts";
import { killHard, startTimed } from "./timed-start.ts";
import { streamPath, type IdleServerWorkload } from "./workloads.ts";

export interface IdleServerFigures {
  readonly starts: number;
  readonly emptyP50Ms: number;
  readonly emptyMaxMs: number;
  readonly keptP50Ms: number;
  readonly keptMaxMs: number;
  /** On the kept directory, `settleMs` after the start. */
  readonly rssMb: number;
  /** As a share of one core. */
  readonly idleCpu: number;
}

export async function measureIdleServer(
  server: BenchServer,
  dataDir: string,
  workload: IdleServerWorkload,
): Promise<IdleServerFigures> {
  const path = streamPath(0);
  const empty: number[] = [];
  for (let turn = 0; turn < workload.starts; turn++) {
    const directory = join(dataDir, `empty-${turn}`);
    await mkdir(directory);
    const { running, readyMs } = await startTimed(server, directory, path, 404);
    empty.push(readyMs);
    // Nobody starts on it again, and some servers take seconds to end in order.
    await killHard(running);
  }
  const directory = join(dataDir, "kept");
  await mkdir(directory);
  const filling = await server.start(directory);
  try {
    await fill(filling.url, 0, workload.megabytes);
  } finally {
    await filling.stop();
  }
  const kept: number[] = [];
  for (let turn = 0; turn < workload.starts; turn++) {
    const { running, readyMs } = await startTimed(server, directory, path, 200);
    kept.push(readyMs);
    await running.stop();
  }

  const { running } = await startTimed(server, directory, path, 200);
  try {
    await Bun.sleep(workload.settleMs);
    const rssMb = memoryBytes(running.pid).now / 1e6;
    const cpuBefore = cpuMs(running.pid);
    const idleFromMs = performance.now();
    await Bun.sleep(workload.idleMs);
    const idleCpu = (cpuMs(running.pid) - cpuBefore) / (performance.now() - idleFromMs);
    return {
      starts: workload.starts,
      emptyP50Ms: middle(empty),
      emptyMaxMs: Math.max(...empty),
      keptP50Ms: middle(kept),
      keptMaxMs: Math.max(...kept),
      rssMb,
      idleCpu,
    };
  } finally {
    await running.stop();
  }
}

function middle(values: readonly number[]): number {
  return values.toSorted((left, right) => left - right)[Math.floor(values.length / 2)] ?? Number.NaN;
}
