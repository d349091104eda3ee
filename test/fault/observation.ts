/** What fault suites read off a running server and off their own measurements: counters, descriptors, CPU time, percentiles. */

import { readFile } from "node:fs/promises";
import { call } from "../support/streams.ts";

/** A counter or gauge without labels of `/metrics`. */
export async function counted(server: { readonly url: string }, name: string): Promise<number> {
  const text = await (await call("GET", `${server.url}/metrics`)).text();
  const value = new RegExp(`^${name} (\\S+)$`, "m").exec(text)?.[1];
  if (value === undefined) throw new Error(`no ${name} in /metrics`);
  return Number(value);
}

/** The smallest value that `share` of the values do not exceed. */
export function percentile(values: readonly number[], share: number): number {
  const sorted = values.toSorted((left, right) => left - right);
  const value = sorted[Math.max(0, Math.ceil(sorted.length * share) - 1)];
  if (value === undefined) throw new Error("no values, no percentile");
  return value;
}

/** Milliseconds of CPU that all threads of the process have used, from `/proc`; good to some 10 ms. Linux only. */
export async function cpuMs(pid: number): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, "utf8");
  const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  return (Number(fields[11]) + Number(fields[12])) * CLOCK_TICK_MS;
}

/** USER_HZ is 100 on every Linux that Bun runs on. */
const CLOCK_TICK_MS = 10;

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && cause.code === "ESRCH") return false;
    throw cause;
  }
}
