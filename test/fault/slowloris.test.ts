/**
 * Many clients that are slow on purpose: heads and bodies that drip, answers that nobody reads. Each phase ends by a bound of the
 * server's, others are served as if nothing were, and what it costs is bounded. A slow upload that is honest passes. Heads, bodies and
 * the honest ones come at the same time: each takes as long as its bound.
 * `SLOWLORIS=2000` connections a phase and `SLOW_UPLOAD_SECONDS=180` are the long run.
 */

import { afterAll, expect, test } from "bun:test";
import { type Latencies, probe, probeMachine } from "../support/latency.ts";
import { residentBytes } from "../support/memory.ts";
import { connectRaw, type RawConnection } from "../support/raw-socket.ts";
import { sharedServer } from "../support/shared-server.ts";
import { call, newStream, type StreamUnderTest } from "../support/streams.ts";
import { until } from "../support/wait.ts";
import { counted } from "./observation.ts";

const asked = process.env["SLOWLORIS"];
/** What takes half a minute. */
const isLong = asked !== undefined;
const CONNECTIONS = Number(asked ?? 300);
/** Past the grace: the server has looked at it and let it go on. With 180 it outlasts the idle timeout of 120 s too. */
const SLOW_UPLOAD_SECONDS = Number(process.env["SLOW_UPLOAD_SECONDS"] ?? 13);
const SLOW_UPLOAD_BYTES_PER_SECOND = 2_000;
const HONEST_BYTES = SLOW_UPLOAD_SECONDS * SLOW_UPLOAD_BYTES_PER_SECOND;

const MiB = 1024 * 1024;
const DRIP_MS = 1_000;
/** Bun's own, for heads: 12 s, looked at every few seconds. */
const HEAD_LIMIT_MS = 17_000;
/** Ours, for bodies. */
const BODY_LIMIT_MS = 30_000;
/** How long others are watched beside readers that have stalled; in the long run, as long as the bodies take. */
const BESIDE_STALLED_MS = isLong ? 25_000 : 2_000;
/** On an idle machine it is 5 to 20 ms; CI machines are not. Besides, an append waits for the sync under way and its own. */
const HEALTHY_P99_MS = 250;

interface Healthy extends Latencies {
  readonly machineMaxMs: number;
}

const server = sharedServer();
const open: RawConnection[] = [];

afterAll(() => {
  for (const connection of open.splice(0)) connection.destroy();
});

/** Connects in small crowds: a listen queue is finite. */
async function connectMany(count: number): Promise<RawConnection[]> {
  const made: RawConnection[] = [];
  while (made.length < count) {
    const crowd = Array.from({ length: Math.min(50, count - made.length) }, () => connectRaw(server));
    made.push(...(await Promise.all(crowd)));
  }
  open.push(...made);
  return made;
}

/** Sends one more piece to each that is still open, once a second, until all are closed; when each was, in milliseconds. */
async function dripUntilClosed(
  connections: readonly RawConnection[],
  piece: (second: number) => string,
  limitMs: number,
): Promise<number[]> {
  const began = performance.now();
  let second = 0;
  const timer = setInterval(() => {
    second++;
    for (const connection of connections) if (!connection.isClosed()) connection.send(piece(second));
  }, DRIP_MS);
  try {
    return await Promise.all(
      connections.map((connection) =>
        connection
          .wait("the end of a slow connection", () => connection.isClosed() || undefined, limitMs)
          .then(() => performance.now() - began),
      ),
    );
  } finally {
    clearInterval(timer);
  }
}

/** Another client, which appends, reads and asks for health all the while. */
async function healthyClient(name: string) {
  const stream = await newStream(server, `slow/healthy-${name}`);
  const asks = [
    async () => (await stream.post("1")).status === 204,
    async () => (await call("GET", `${server.url}/health`)).ok,
    async () => (await call("HEAD", stream.url)).ok,
  ];
  let turn = 0;
  const ask = async (): Promise<string | null> =>
    (await asks[turn++ % asks.length]?.()) === true ? null : "not answered as it should";
  const [machine, requests] = [await probeMachine(), probe(ask, 5)];
  return {
    stop: async (): Promise<Healthy> => {
      const [latencies, { sleep, sync }] = await Promise.all([requests.stop(), machine.stop()]);
      return { ...latencies, machineMaxMs: Math.max(sleep.max, sync.max) };
    },
  };
}

function report(phase: string, { count, p50, p99, max, wrong, machineMaxMs }: Healthy, more: string): void {
  const times = `p50 ${p50}, p99 ${p99}, max ${max} ms; the machine stood still for up to ${machineMaxMs} ms`;
  console.log(`slowloris, ${phase}: ${more}; ${count} healthy requests ${times}`);
  expect(wrong).toEqual([]);
  expect(p99).toBeLessThanOrEqual(HEALTHY_P99_MS + 2 * machineMaxMs);
}

function head(stream: StreamUnderTest, method: string, lines: string): string {
  return `${method} ${stream.path} HTTP/1.1\r\nhost: ${new URL(server.url).host}\r\n${lines}`;
}

async function bodyBytesInFlight(): Promise<number> {
  const health = (await (await call("GET", `${server.url}/health`)).json()) as Record<string, unknown>;
  return Number(health["bodyBytesInFlight"]);
}

test.concurrent("heads that drip: the connections are closed, others are served", async () => {
  const stream = await newStream(server, "slow/heads");
  const healthy = await healthyClient("heads");
  const connections = await connectMany(CONNECTIONS);
  for (const connection of connections) connection.send(head(stream, "POST", ""));
  const closedMs = await dripUntilClosed(connections, (second) => `x-drip-${second}: 1\r\n`, HEAD_LIMIT_MS);
  report(
    "heads",
    await healthy.stop(),
    `${closedMs.length} closed after at most ${Math.round(Math.max(...closedMs))} ms`,
  );
  expect(await stream.records()).toEqual([]);
}, 60_000);

test.concurrent("bodies that drip: each is told 408 and closed, gives its room back, and others are served", async () => {
  const stream = await newStream(server, "slow/bodies");
  const healthy = await healthyClient("bodies");
  const connections = await connectMany(CONNECTIONS);
  // Every way to announce a body: short, long, without a length, and one of 16 KiB, whose length gives it 26 seconds.
  const lengths = [
    "content-length: 100",
    "content-length: 4000000",
    "transfer-encoding: chunked",
    "content-length: 16384",
  ];
  const ways = isLong ? 4 : 3;
  connections.forEach((connection, index) => {
    const length = lengths[index % ways] ?? "";
    const chunked = length.includes("chunked");
    connection.send(
      head(stream, "POST", `content-type: application/json\r\n${length}\r\n\r\n${chunked ? "1\r\n[\r\n" : "["}`),
    );
  });
  // In a chunked body `1` is the beginning of a chunk's size, and at the tenth more than one may have.
  const closedMs = await dripUntilClosed(connections, () => "1", BODY_LIMIT_MS);
  const told = connections.filter((connection) => /^HTTP\/1\.1 408 [^]*"body-too-slow"/.test(connection.received()));
  const most = Math.round(Math.max(...closedMs));
  report("bodies", await healthy.stop(), `${closedMs.length} closed after at most ${most} ms, ${told.length} with 408`);
  expect(told.length).toBe(CONNECTIONS);
  expect(await stream.records()).toEqual([]);
}, 90_000);

test.skipIf(!isLong)(
  "bodies that come quickly at first, and then crowd the memory, make room for others",
  async () => {
    const stream = await newStream(server, "slow/crowd", "application/octet-stream");
    // 16 of 10 MB are more than all bodies in flight may be.
    const crowd = await connectMany(16);
    const first = new Uint8Array(8_000_000);
    for (const connection of crowd) {
      connection.send(
        head(stream, "POST", "content-type: application/octet-stream\r\ncontent-length: 16000000\r\n\r\n"),
      );
      connection.send(first);
    }
    const other = await newStream(server, "slow/other", "application/octet-stream");
    const body = new Uint8Array(12_000_000);
    await until("the server is crowded", async () => (await bodyBytesInFlight()) > 100 * MiB, 20_000);
    expect((await other.post(body)).status).toBe(429);
    const began = performance.now();
    const drip = setInterval(() => {
      for (const connection of crowd) if (!connection.isClosed()) connection.send(new Uint8Array(2_000));
    }, DRIP_MS);
    try {
      await until("there is room again", async () => (await other.post(body)).status === 204, BODY_LIMIT_MS);
    } finally {
      clearInterval(drip);
    }
    const roomAfterMs = performance.now() - began;
    console.log(`slowloris, crowded: 128 MB of slow bodies made room after ${Math.round(roomAfterMs)} ms`);
  },
  90_000,
);

test.concurrent(
  "an honest upload at 2 kB/s is taken whole, however long it takes",
  async () => {
    const stream = await newStream(server, "slow/honest", "text/plain");
    const upload = async (framing: "length" | "chunked"): Promise<void> => {
      const connection = await connectRaw(server);
      open.push(connection);
      const announced = framing === "length" ? `content-length: ${HONEST_BYTES}` : "transfer-encoding: chunked";
      connection.send(head(stream, "POST", `content-type: text/plain\r\n${announced}\r\n\r\n`));
      const piece = "x".repeat(SLOW_UPLOAD_BYTES_PER_SECOND / 10);
      for (let sent = 0; sent < HONEST_BYTES && !connection.isClosed(); sent += piece.length) {
        // The pace is what is tested: there is nothing to wait for.
        await Bun.sleep(100);
        connection.send(framing === "length" ? piece : `${piece.length.toString(16)}\r\n${piece}\r\n`);
      }
      if (framing === "chunked") connection.send("0\r\n\r\n");
      await connection.receive(/^HTTP\/1\.1 204/);
      // The connection goes on as any other.
      connection.send(head(stream, "HEAD", "\r\n"));
      await connection.receive(/HTTP\/1\.1 200/);
    };
    await Promise.all([upload("length"), upload("chunked")]);
    expect((await stream.text()).length).toBe(2 * HONEST_BYTES);
  },
  60_000 + SLOW_UPLOAD_SECONDS * 1_200,
);

test("answers that nobody reads: bounded memory for each, and others are served", async () => {
  const stream = await newStream(server, "slow/read", "text/plain");
  for (let part = 0; part < 128; part++) await stream.post("x".repeat(64 * 1024));
  for (const [kind, query] of [
    ["GET", ""],
    ["SSE", "?offset=-1&live=sse"],
  ] as const) {
    const before = await residentBytes(server.pid);
    // From the first reader on: while they come they are not stalled yet, and ask for gigabytes.
    const whole = await healthyClient(`whole-${kind}`);
    const readers = await connectMany(Math.ceil(CONNECTIONS / 2));
    for (const reader of readers) {
      reader.pause();
      reader.send(`GET ${stream.path}${query} HTTP/1.1\r\nhost: ${new URL(server.url).host}\r\n\r\n`);
    }
    // Until the kernel's buffers are full and nothing more is read for them. That it takes some megabytes for each is the kernel's affair.
    let last = -1;
    await until(
      "the readers are stalled",
      async () => {
        const now = await counted(server, "streams_read_bytes_total");
        const stalled = now === last;
        last = now;
        await Bun.sleep(500);
        return stalled;
      },
      60_000,
    );
    const resident = await residentBytes(server.pid);
    const healthy = await healthyClient(`beside-${kind}`);
    await Bun.sleep(BESIDE_STALLED_MS);
    const beside = await healthy.stop();
    const { count, p99, max } = await whole.stop();
    const perReader = (resident - before) / readers.length;
    const cost = `${readers.length} stalled cost ${Math.round(perReader / 1024)} KiB each`;
    report(`${kind} of 8 MB`, beside, `${cost}; with their arrival ${count} requests, p99 ${p99}, max ${max} ms`);
    // Eight megabytes each would be the whole answer.
    expect(perReader).toBeLessThanOrEqual(2 * MiB);
    for (const reader of readers) reader.destroy();
  }
}, 180_000);

test("after all of that the server is the same, and logged no fault", async () => {
  expect(await bodyBytesInFlight()).toBe(0);
  expect(server.stderr()).not.toContain("failed");
});
