/**
 * What the measured server tells about itself in its `/metrics`: whether it still works on what it was sent before, and how busy it was.
 * A caller that may not see them, or another kind of server, measures without.
 */

import { sleep } from "../client/retry-policy.ts";
import type { StreamClient } from "../client/client.ts";
import { SEAL_AT_BYTES } from "../protocol/limits.ts";
import type { Measured } from "./bench-report.ts";
import { ExpositionError, parseExposition } from "./exposition-parser.ts";

const SETTLE_LIMIT_MS = 10_000;
const LOOK_MS = 50;

/** The value of a metric without labels. */
type Figures = (name: string) => number | null;

async function figuresOf(client: StreamClient, signal: AbortSignal): Promise<Figures> {
  const text = await client.metricsText(signal);
  if (text.isErr()) return () => null;
  try {
    const families = parseExposition(text.value);
    return (name) => families.get(name)?.samples[0]?.value ?? null;
  } catch (cause) {
    if (!(cause instanceof ExpositionError)) throw cause;
    return () => null;
  }
}

/** Waits until the server has sealed what it sealed because of former workloads; a while at most. */
export async function settled(client: StreamClient, signal: AbortSignal): Promise<void> {
  const lastMs = performance.now() + SETTLE_LIMIT_MS;
  while (performance.now() < lastMs) {
    const figures = await figuresOf(client, signal);
    if ((figures("streams_window_bytes") ?? 0) <= SEAL_AT_BYTES) return;
    await sleep(LOOK_MS, signal);
  }
}

/** What client and server worked between two moments, as shares of a core. */
export class CpuShares {
  readonly #startMs = performance.now();
  readonly #ownStart = process.cpuUsage();
  readonly #client: StreamClient;
  readonly #signal: AbortSignal;
  readonly #serverStart: number | null;

  private constructor(client: StreamClient, signal: AbortSignal, serverStart: number | null) {
    this.#client = client;
    this.#signal = signal;
    this.#serverStart = serverStart;
  }

  static async start(client: StreamClient, signal: AbortSignal): Promise<CpuShares> {
    const figures = await figuresOf(client, signal);
    return new CpuShares(client, signal, figures("process_cpu_seconds_total"));
  }

  async end(): Promise<Pick<Measured, "clientCpu" | "serverCpu">> {
    const { user, system } = process.cpuUsage(this.#ownStart);
    const seconds = (performance.now() - this.#startMs) / 1000;
    const server = (await figuresOf(this.#client, this.#signal))("process_cpu_seconds_total");
    const serverCpu = server === null || this.#serverStart === null ? null : (server - this.#serverStart) / seconds;
    return { clientCpu: (user + system) / 1e6 / seconds, serverCpu };
  }
}
