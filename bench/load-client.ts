/**
 * The load loop: a fixed number of connections, each with one request in flight, sending the next as soon as the answer is
 * here (a closed loop). Owns its connections and the latency samples. Invariants: only answers inside the measured window
 * count as figures; every 2xx is also reported to `onAck`, so that the stored records can be counted afterwards; whatever
 * is not 2xx is counted by status, never retried as if nothing had happened, and holds its connection back for a moment.
 */

import type { WireConnection } from "./wire.ts";

export interface LoadOptions {
  readonly open: (connection: number) => Promise<WireConnection>;
  readonly connections: number;
  readonly warmupMs: number;
  readonly durationMs: number;
  /** The next request of this connection; may reuse one buffer per connection. */
  readonly nextRequest: (connection: number) => Uint8Array;
  readonly onAck: (connection: number) => void;
  readonly onWindowStart?: () => void;
  readonly onWindowEnd?: () => void;
}

export interface LoadOutcome {
  readonly acks: number;
  readonly seconds: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
  /** What was not 2xx, by status; `closed` for broken connections. */
  readonly refused: Readonly<Record<string, number>>;
  readonly acksPerSecond: readonly number[];
  /** CPU of this client as a share of one core. */
  readonly clientCpu: number;
}

const BACKOFF_MS = 100;
const MAX_RECONNECTS = 1_000;
/** After the window: how long the last answers may take. */
const LAST_ANSWER_MS = 30_000;

export class LatencySamples {
  #values = new Float32Array(1 << 16);
  #count = 0;

  add(ms: number): void {
    if (this.#count === this.#values.length) {
      const grown = new Float32Array(this.#values.length * 2);
      grown.set(this.#values);
      this.#values = grown;
    }
    this.#values[this.#count++] = ms;
  }

  get count(): number {
    return this.#count;
  }

  /** Sorts once; quantiles of 0..1. */
  quantiles(...wanted: readonly number[]): number[] {
    const sorted = this.#values.subarray(0, this.#count).sort();
    return wanted.map((q) => sorted[Math.min(this.#count - 1, Math.floor(q * this.#count))] ?? Number.NaN);
  }
}

export async function runLoad(options: LoadOptions): Promise<LoadOutcome> {
  const samples = new LatencySamples();
  const refused: Record<string, number> = {};
  const acksPerSecond: number[] = [];
  let windowStart = Number.POSITIVE_INFINITY;
  let windowEnd = Number.POSITIVE_INFINITY;
  let isStopping = false;
  let reconnects = 0;

  const refuse = (reason: string): void => {
    refused[reason] = (refused[reason] ?? 0) + 1;
  };

  function runConnection(first: WireConnection, index: number): Promise<void> {
    let connection = first;
    return new Promise((resolve) => {
      let sentAt = 0;
      const send = (): void => {
        if (isStopping) {
          connection.close();
          return resolve();
        }
        const request = options.nextRequest(index);
        sentAt = performance.now();
        connection.start(request, answered);
      };
      const answered = (status: number): void => {
        const now = performance.now();
        if (status >= 200 && status < 300) {
          options.onAck(index);
          if (now >= windowStart && now < windowEnd) {
            samples.add(now - sentAt);
            const second = Math.floor((now - windowStart) / 1000);
            acksPerSecond[second] = (acksPerSecond[second] ?? 0) + 1;
          }
          return send();
        }
        refuse(status === 0 ? "closed" : String(status));
        setTimeout(status === 0 ? () => void reopen() : send, BACKOFF_MS);
      };
      const reopen = async (): Promise<void> => {
        try {
          if (isStopping || ++reconnects > MAX_RECONNECTS) return resolve();
          connection = await options.open(index);
          send();
        } catch (cause) {
          refuse(`connect: ${cause instanceof Error ? cause.message : String(cause)}`);
          setTimeout(() => void reopen(), BACKOFF_MS);
        }
      };
      send();
    });
  }

  const opened: WireConnection[] = [];
  for (let index = 0; index < options.connections; index++) opened.push(await options.open(index));
  const loops = opened.map((connection, index) => runConnection(connection, index));
  await Bun.sleep(options.warmupMs);
  options.onWindowStart?.();
  const cpuBefore = process.cpuUsage();
  windowStart = performance.now();
  await Bun.sleep(options.durationMs);
  windowEnd = performance.now();
  const cpu = process.cpuUsage(cpuBefore);
  options.onWindowEnd?.();
  isStopping = true;
  const late = Promise.withResolvers<boolean>();
  // Cleared: a timer that is left over would keep the process for half a minute after its last measurement.
  const timer = setTimeout(() => late.resolve(false), LAST_ANSWER_MS);
  const inTime = await Promise.race([Promise.all(loops).then(() => true), late.promise]);
  clearTimeout(timer);
  if (!inTime) refuse(`no answer in ${LAST_ANSWER_MS} ms`);

  const elapsedMs = windowEnd - windowStart;
  const [p50Ms = Number.NaN, p99Ms = Number.NaN, maxMs = Number.NaN] = samples.quantiles(0.5, 0.99, 1);
  return {
    acks: samples.count,
    seconds: elapsedMs / 1000,
    p50Ms,
    p99Ms,
    maxMs,
    refused,
    acksPerSecond: Array.from(acksPerSecond, (count) => count ?? 0),
    clientCpu: (cpu.user + cpu.system) / (elapsedMs * 1000),
  };
}
