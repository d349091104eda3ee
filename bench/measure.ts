/**
 * One measurement: one workload on one server, on a data directory of its own. Owns that directory, and the server of the
 * workloads that need one running. The table says who measures what.
 */

import { mkdir, mkdtemp, rm } from "node:fs/promises";
import { join } from "node:path";
import { measureAppends } from "./append-run.ts";
import { measureGrowth } from "./growth-run.ts";
import { measureIdleServer } from "./idle-run.ts";
import { measureLarge } from "./large-run.ts";
import { measureFanOut, measureIdle, measureStalled } from "./live-run.ts";
import type { Failure, FiguresOf, Form, Kind, Result } from "./measurement.ts";
import type { BenchServer, RunningServer } from "./peers.ts";
import { measureRandomReads } from "./random-read-run.ts";
import { measureReads } from "./read-run.ts";
import { measureTouchMemory, measureTouchRate, measureTouchWakes } from "./touch-run.ts";
import { measureWakes } from "./wake-run.ts";
import type { Workload } from "./workloads.ts";

export interface Conditions {
  readonly server: BenchServer;
  readonly form: Form;
  readonly durationMs: number;
  /** Where data directories are made. */
  readonly dir: string;
}

type WorkloadOf<K extends Kind> = Extract<Workload, { readonly kind: K }>;

interface Task<K extends Kind> extends Conditions {
  readonly workload: WorkloadOf<K>;
  /** Empty. */
  readonly dataDir: string;
}

type Measurer<K extends Kind> = (task: Task<K>) => Promise<FiguresOf[K]>;

const measurers: { readonly [K in Kind]: Measurer<K> } = {
  append: onRunning((running, { server, workload, durationMs }) =>
    measureAppends(server, running, workload, durationMs),
  ),
  large: onRunning((running, { workload, durationMs }) => measureLarge(running, workload, durationMs)),
  read: ({ server, dataDir, workload }) => measureReads(server, dataDir, workload),
  "random-read": onRunning((running, { workload }) => measureRandomReads(running, workload)),
  wake: onRunning((running, { durationMs }) => measureWakes(running, durationMs)),
  "touch-wake": onRunning((running, { workload, durationMs }) =>
    measureTouchWakes(running, workload.waiters, durationMs),
  ),
  "touch-rate": onRunning((running, { workload, durationMs }) =>
    measureTouchRate(running, workload.waiters, durationMs),
  ),
  "touch-memory": ({ server, dataDir, workload }) => {
    let turn = 0;
    return measureTouchMemory(() => server.start(join(dataDir, String(turn++))), workload.waiters);
  },
  "live-fan-out": onRunning((running, { workload, durationMs }) => measureFanOut(running, workload, durationMs)),
  "live-stalled": onRunning((running, { workload, durationMs }) => measureStalled(running, workload, durationMs)),
  "live-idle": onRunning((running, { workload }) => measureIdle(running, workload)),
  "idle-server": ({ server, dataDir, workload }) => measureIdleServer(server, dataDir, workload),
  growth: ({ server, dataDir, workload }) => measureGrowth(server, dataDir, workload),
};

function onRunning<K extends Kind>(
  measureRunning: (running: RunningServer, task: Task<K>) => Promise<FiguresOf[K]>,
): Measurer<K> {
  return async (task) => {
    const running = await task.server.start(task.dataDir);
    try {
      return await measureRunning(running, task);
    } catch (cause) {
      throw new Error(`${reasonOf(cause)}; the server's last words: ${await running.lastWords()}`, { cause });
    } finally {
      await running.stop();
    }
  };
}

/** Never rejects: what went wrong is a result too. */
export async function measure(workload: Workload, conditions: Conditions): Promise<Result | Failure> {
  const place = await mkdtemp(join(conditions.dir, "streams-bench-"));
  const dataDir = join(place, "store");
  await mkdir(dataDir);
  try {
    return await measureKind(workload.kind, { ...conditions, workload, dataDir });
  } catch (cause) {
    return { kind: "failed", reason: reasonOf(cause) };
  } finally {
    await rm(place, { recursive: true, force: true });
  }
}

async function measureKind<K extends Kind>(kind: K, task: Conditions & { workload: Workload; dataDir: string }) {
  // The compiler does not see that the workload is of the kind it names.
  const figures = await measurers[kind](task as Task<K>);
  return { kind, figures } as Result;
}

function reasonOf(cause: unknown): string {
  return cause instanceof Error ? cause.message : String(cause);
}
