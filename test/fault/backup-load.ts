/**
 * Load for backups: writers that number their records and know which were acknowledged, streams that are trimmed and streams that come and
 * go meanwhile. `checkPrefix` says whether a restored server holds a moment of it: of each writer a gap-free beginning, and everything
 * that was acknowledged before the backup began. Latencies of all appends are noted with their time.
 */

import { call, streamAt } from "../support/streams.ts";

const WRITERS = 8;
const STREAMS = 3;
const PADDING_BYTES = 2_000;
/** Every so many records of a writer, and every second stream that comes and goes, is large enough for a file of its own. */
const LARGE_EVERY = 20;
const LARGE_BYTES = 300_000;
const BULK_BYTES = 256 * 1024;
const PATIENCE_MS = 20;

interface Server {
  readonly url: string;
}

interface Timed {
  readonly atMs: number;
  readonly tookMs: number;
}

export interface PrefixCheck {
  readonly records: number;
  /** What is wrong first, or null. */
  readonly problem: string | null;
}

export class BackupLoad {
  readonly #server: Server;
  readonly #acked = Array.from({ length: WRITERS }, () => 0);
  readonly #latencies: Timed[] = [];
  #isOver = false;
  #running: Promise<unknown> = Promise.resolve();
  deleted = 0;

  constructor(server: Server) {
    this.#server = server;
  }

  async start(): Promise<void> {
    for (let stream = 0; stream < STREAMS; stream++) await this.#put(nameOf(stream), "application/json", {});
    await this.#put("load/trimmed", "application/octet-stream", { "stream-retention": "max-bytes=2MiB" });
    const writers = Array.from({ length: WRITERS }, (_, writer) => this.#write(writer));
    this.#running = Promise.all([...writers, this.#fill(), this.#comeAndGo()]);
  }

  async stop(): Promise<void> {
    this.#isOver = true;
    await this.#running;
  }

  /** How many records of each writer are acknowledged. */
  acked(): readonly number[] {
    return [...this.#acked];
  }

  /** Latency in milliseconds of appends that began between two times: the middle one, and the 99th of a hundred. */
  latency(fromMs: number, toMs: number): { readonly count: number; readonly p50: number; readonly p99: number } {
    const took = this.#latencies.filter(({ atMs }) => atMs >= fromMs && atMs < toMs).map(({ tookMs }) => tookMs);
    took.sort((left, right) => left - right);
    const at = (share: number): number => Number((took[Math.floor(took.length * share)] ?? 0).toFixed(1));
    return { count: took.length, p50: at(0.5), p99: at(0.99) };
  }

  async #write(writer: number): Promise<void> {
    const name = nameOf(writer % STREAMS);
    for (let n = 0; !this.#isOver;) {
      const body = JSON.stringify({
        w: writer,
        n,
        pad: String(n % 10).repeat(n % LARGE_EVERY === 0 ? LARGE_BYTES : PADDING_BYTES),
      });
      const producer = { "producer-id": `w${writer}`, "producer-epoch": "0", "producer-seq": String(n) };
      const atMs = performance.now();
      const answer = await streamAt(this.#server, name).post(body, producer);
      if (answer.status === 429) {
        await Bun.sleep(PATIENCE_MS);
        continue;
      }
      if (!answer.ok) throw new Error(`append of ${n} by ${writer}: ${answer.status} ${await answer.text()}`);
      this.#latencies.push({ atMs, tookMs: performance.now() - atMs });
      this.#acked[writer] = ++n;
    }
  }

  /** Bulk, so that the sealer and retention are at work all the time. */
  async #fill(): Promise<void> {
    const bytes = new Uint8Array(BULK_BYTES);
    while (!this.#isOver) {
      for (let at = 0; at < bytes.length; at += 65_536) crypto.getRandomValues(bytes.subarray(at, at + 65_536));
      await streamAt(this.#server, "load/trimmed", "application/octet-stream").post(bytes);
      await Bun.sleep(PATIENCE_MS);
    }
  }

  async #comeAndGo(): Promise<void> {
    for (let n = 0; !this.#isOver; n++) {
      await this.#put(`load/brief/${n}`, "application/json", {});
      await streamAt(this.#server, `load/brief/${n}`).post(
        JSON.stringify({ pad: "x".repeat(n % 2 === 0 ? 50_000 : LARGE_BYTES) }),
      );
      if (n >= 5 && (await streamAt(this.#server, `load/brief/${n - 5}`).delete()).ok) this.deleted++;
      await Bun.sleep(PATIENCE_MS);
    }
  }

  async #put(name: string, type: string, headers: Readonly<Record<string, string>>): Promise<void> {
    const made = await call("PUT", `${this.#server.url}/v1/stream/${name}`, {
      headers: { "content-type": type, ...headers },
    });
    if (!made.ok) throw new Error(`PUT ${name}: ${made.status}`);
  }
}

function nameOf(stream: number): string {
  return `load/${stream}`;
}

/** `least`: how many records of each writer must be there. */
export async function checkPrefix(restored: Server, least: readonly number[]): Promise<PrefixCheck> {
  const found = least.map(() => 0);
  let records = 0;
  for (let stream = 0; stream < STREAMS; stream++) {
    for (const record of (await streamAt(restored, nameOf(stream)).records("offset=-1")) as {
      w: number;
      n: number;
    }[]) {
      const next = found[record.w] ?? -1;
      if (record.n !== next) return { records, problem: `writer ${record.w}: ${record.n} where ${next} should be` };
      found[record.w] = next + 1;
      records++;
    }
  }
  const short = found.findIndex((count, writer) => count < (least[writer] ?? 0));
  if (short === -1) return { records, problem: null };
  return { records, problem: `writer ${short}: ${found[short]} records, and ${least[short]} were acknowledged before` };
}
