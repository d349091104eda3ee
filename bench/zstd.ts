/**
 * Catch-up of sealed JSON as it is, as zstd that the platform unpacks (curl, where it is there, and Bun's fetch), and as zstd that the SDK
 * unpacks (in threads, and in script), in turns: logical bytes a second, and the server's CPU for them. The reader only counts what it is
 * given. `bun bench/zstd.ts [megabytes] [rounds] [link]`; a link, such as `1gbit`, makes loopback as slow, in a network of its own (Linux, root).
 */

import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { unpacked } from "../src/client/unpack.ts";
import { type Codec, loadCodec, loadScriptCodec } from "../src/client/zstd-codec.ts";
import { median, round, table } from "./figures-table.ts";
import { benchServers } from "./peers.ts";
import { cpuMs } from "./process-usage.ts";
import { seededRandom } from "../test/support/random.ts";

const megabytes = Number(process.argv[2] ?? 200);
const rounds = Number(process.argv[3] ?? 5);
const link = process.argv[4] ?? null;
if (link !== null) process.exit(await runOver(link));

/** Larger bodies would lie in files, as they came. */
const BODY_BYTES = 48 * 1024;
const WRITERS = 4;
/** Of another stream, after it: all but the newest few MB of the log are sealed. */
const FILLER_BYTES = 16 * 1024 * 1024;
/** The longest that the last bodies may take to be sealed. */
const SEAL_LIMIT_MS = 30_000;
/** What these records are packed to, once all of them are. */
const MIN_RATIO = 7;
const PATH = "/v1/stream/zstd";
const random = seededRandom(1);

/** Runs all of this again where loopback has the rate of a link. */
async function runOver(rate: string): Promise<number> {
  const slowLoopback = `ip link set lo up && tc qdisc add dev lo root tbf rate "$0" burst 4mb latency 200ms && exec "$@"`;
  const again = [process.execPath, import.meta.path, String(megabytes), String(rounds)];
  return Bun.spawn(["unshare", "-n", "sh", "-c", slowLoopback, rate, ...again], {
    stdio: ["ignore", "inherit", "inherit"],
  }).exited;
}

interface Read {
  readonly name: string;
  readonly query: string;
  readonly headers: Readonly<Record<string, string>>;
  /** Null: the platform's own business. */
  readonly codec: (() => Promise<Codec>) | null;
  /** What comes is counted as it travels. */
  readonly isCountedPacked: boolean;
  /** Arguments of curl, which reads it instead. */
  readonly curl: readonly string[] | null;
}

const hasCurl = Bun.which("curl") !== null;

const READS: readonly Read[] = [
  ...(hasCurl
    ? [read("identity, by curl", { curl: [] }), read("zstd, unpacked by curl", { curl: ["--compressed"] })]
    : []),
  read("identity", { headers: { "accept-encoding": "identity" } }),
  read("zstd, unpacked by fetch", { headers: { "accept-encoding": "zstd" } }),
  read("zstd, unpacked by the SDK in threads", { query: "&encoding=zstd", codec: loadCodec }),
  read("zstd, unpacked by the SDK in script", { query: "&encoding=zstd", codec: loadScriptCodec }),
  read("zstd, only received", { query: "&encoding=zstd", isCountedPacked: true }),
];

function read(name: string, given: Partial<Read>): Read {
  return { name, query: "", headers: {}, codec: null, isCountedPacked: false, curl: null, ...given };
}

/** The bytes that came. `isChecked`: curl counts them, else it only takes them. */
async function count(url: string, one: Read, isChecked: boolean, logical: number): Promise<number> {
  const { query, headers, codec, curl } = one;
  if (curl !== null) {
    const target = `${url}${PATH}?offset=-1`;
    const sink = isChecked ? 'curl -sf "$@" | wc -c' : 'curl -sf -o /dev/null "$@"';
    const child = Bun.spawn(["sh", "-c", sink, "curl", ...curl, target], { stdout: "pipe" });
    const text = await child.stdout.text();
    if ((await child.exited) !== 0) throw new Error("curl failed");
    return isChecked ? Number(text) : logical;
  }
  const answer = await fetch(`${url}${PATH}?offset=-1${query}`, { headers });
  if (!answer.ok || answer.body === null) throw new Error(`a read answered ${answer.status}`);
  let bytes = 0;
  for await (const piece of codec === null ? answer.body : unpacked(answer.body, await codec())) bytes += piece.length;
  return bytes;
}

const [ours] = await benchServers();
if (ours === undefined) throw new Error("our server is missing among the bench servers");
const dataDir = mkdtempSync(join(tmpdir(), "streams-zstd-"));
try {
  const filling = await ours.start(dataDir);
  try {
    await fill(`${filling.url}${PATH}`);
    await seal(filling.url);
  } finally {
    await filling.stop();
  }
  const running = await ours.start(dataDir);
  try {
    await measure(running.url, running.pid);
  } finally {
    await running.stop();
  }
} finally {
  rmSync(dataDir, { recursive: true, force: true });
}

/** A change of an order, as a State Protocol stream has them: names from a few, numbers and times from many. */
function change(n: number): string {
  const items = Array.from({ length: 1 + random.below(4) }, () => ({
    sku: `SKU-${random.below(5_000)}`,
    quantity: 1 + random.below(9),
    price: random.below(100_000) / 100,
  }));
  const value = {
    id: `ord_${n}`,
    customer: `cust_${random.below(20_000)}`,
    status: ["open", "paid", "packed", "sent"][random.below(4)],
    currency: "EUR",
    items,
    total: random.below(1_000_000) / 100,
    updatedAt: new Date(1_763_000_000_000 + n * 137 + random.below(100)).toISOString(),
  };
  return JSON.stringify({ type: "order", key: value.id, value, headers: { operation: "update", txid: String(n * 3) } });
}

async function fill(url: string): Promise<void> {
  const headers = { "content-type": "application/json" };
  await fetch(url, { method: "PUT", headers });
  let [left, n] = [megabytes * 1e6, 0];
  const write = async (): Promise<void> => {
    while (left > 0) {
      let body = "";
      while (body.length < BODY_BYTES) body += `${body === "" ? "[" : ","}${change(n++)}`;
      left -= body.length;
      const answer = await fetch(url, { method: "POST", headers, body: `${body}]` });
      if (!answer.ok) throw new Error(`an append of the fill answered ${answer.status}`);
    }
  };
  await Promise.all(Array.from({ length: WRITERS }, write));
}

/** Until everything travels packed. */
async function seal(url: string): Promise<void> {
  const filler = `${url}/v1/stream/filler`;
  const headers = { "content-type": "application/octet-stream" };
  await fetch(filler, { method: "PUT", headers });
  const noise = Uint8Array.from({ length: BODY_BYTES }, () => random.below(256));
  for (let sent = 0; sent < FILLER_BYTES; sent += noise.length) {
    const answer = await fetch(filler, { method: "POST", headers, body: noise });
    if (!answer.ok) throw new Error(`an append of the filler answered ${answer.status}`);
  }
  const until = performance.now() + SEAL_LIMIT_MS;
  for (;;) {
    const answer = await fetch(`${url}${PATH}?offset=-1&encoding=zstd`);
    if ((await answer.bytes()).length < (megabytes * 1e6) / MIN_RATIO) return;
    if (performance.now() > until) throw new Error("it was not sealed in time");
    await Bun.sleep(200);
  }
}

async function measure(url: string, pid: number): Promise<void> {
  const figures = new Map(
    READS.map(({ name }) => [name, { rates: [] as number[], cpu: [] as number[], travelled: 0 }]),
  );
  let logical = 0;
  for (let turn = 0; turn <= rounds; turn++) {
    for (const one of READS) {
      const cpuBefore = cpuMs(pid);
      const startMs = performance.now();
      const bytes = await count(url, one, turn === 0, logical);
      const ms = performance.now() - startMs;
      if (one.isCountedPacked) {
        const known = figures.get(one.name);
        if (known !== undefined) known.travelled = bytes;
      } else if (logical !== 0 && bytes !== logical) throw new Error(`${one.name} gave ${bytes} of ${logical} bytes`);
      else logical = bytes;
      // The first turn meets code that is not compiled yet.
      if (turn === 0) continue;
      figures.get(one.name)?.rates.push(logical / 1e3 / ms);
      figures.get(one.name)?.cpu.push((cpuMs(pid) - cpuBefore) / (logical / 1e9));
    }
  }
  const rows = READS.map(({ name, curl }) => {
    const { rates = [], cpu = [] } = figures.get(name) ?? {};
    const plain = median(figures.get(curl === null ? "identity" : "identity, by curl")?.rates ?? []);
    return [name, round(median(rates)), round(median(rates) / plain, 2), round(median(cpu))];
  });
  const travelled = figures.get("zstd, only received")?.travelled ?? NaN;
  console.log(
    `${megabytes} MB of JSON, ${rounds} rounds in turns, medians; ${round(logical / travelled, 1)} times fewer bytes travel as zstd.`,
  );
  console.log(table("catch-up | logical MB/s | ÷ identity | server CPU ms/GB", rows));
}
