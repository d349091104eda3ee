/**
 * How long requests take while something else goes on, one after the other on connections that are kept; and what the machine by
 * itself did meanwhile.
 */

import { fork } from "node:child_process";
import { once } from "node:events";
import { join } from "node:path";

export interface Latencies {
  readonly count: number;
  /** In milliseconds, ascending. */
  readonly sorted: readonly number[];
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
  /** Whatever was not answered as it should. */
  readonly wrong: readonly string[];
}

export interface Probe {
  /** Ends the probing; the latencies in milliseconds since the start. */
  stop(): Promise<Latencies>;
}

/** Calls `ask` again and again, `pauseMs` after each answer; `ask` says what was wrong, or null. */
export function probe(ask: () => Promise<string | null>, pauseMs: number): Probe {
  const taken: number[] = [];
  const wrong: string[] = [];
  const state = { stopped: false };
  const done = (async () => {
    while (!state.stopped) {
      const began = performance.now();
      const problem = await ask().catch(String);
      taken.push(performance.now() - began);
      if (problem !== null) wrong.push(problem);
      await new Promise((resolve) => setTimeout(resolve, pauseMs));
    }
  })();
  return {
    stop: async () => {
      state.stopped = true;
      await done;
      const sorted = taken.toSorted((left, right) => left - right);
      const at = (share: number): number => Number((sorted[Math.floor(share * (sorted.length - 1))] ?? NaN).toFixed(1));
      return { count: sorted.length, sorted, p50: at(0.5), p99: at(0.99), max: at(1), wrong };
    },
  };
}

/** What this machine did to a process that does nothing, in milliseconds: a shared one may stand still for a second. */
export interface MachineLatencies {
  /** How long a sleep of 5 ms took. */
  readonly sleep: Latencies;
  /** How long the sync of a byte took. */
  readonly sync: Latencies;
}

/** Whether a process that does nothing came up and had its bytes synced in time: only then others can be held to a time. */
export function keepsTime({ sleep, sync }: MachineLatencies): boolean {
  return sleep.p99 <= 15 && sync.p99 <= 50;
}

/** Whether a deadline can be judged by what was measured meanwhile; says so when it cannot. */
export function judgesTime(what: string, machine: MachineLatencies): boolean {
  if (keepsTime(machine)) return true;
  const { sleep, sync } = machine;
  const told = `a sleep of 5 ms took ${sleep.p99} ms (p99, at most ${sleep.max}), a sync ${sync.p99} ms (${sync.max})`;
  console.warn(`NOT JUDGED: the deadlines of ${what}, because the machine did not keep time: ${told}`);
  return false;
}

export interface MachineProbe {
  /** Ends the watch; the latencies since its start. */
  stop(): Promise<MachineLatencies>;
}

/** Watches the machine from a process of its own, which nothing that is tested here can hold up. */
export async function probeMachine(): Promise<MachineProbe> {
  const idle = fork(join(import.meta.dir, "machine-probe.ts"));
  await once(idle, "message");
  return {
    stop: async () => {
      const answer = once(idle, "message") as Promise<[MachineLatencies]>;
      idle.send("stop");
      const [latencies] = await answer;
      return latencies;
    },
  };
}
