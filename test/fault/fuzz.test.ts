/**
 * Hostile requests from a seed against the real server: none gets a 5xx other than those that say what is missing, each is answered or
 * hung up on in time, health answers all the while, and memory stays. A failure prints the seed and the request.
 * `FUZZ_REQUESTS=100000` and `TEST_SEED=1` to 10 are the long run.
 */

import { connect } from "node:net";
import { expect, test } from "bun:test";
import { probe } from "../support/latency.ts";
import { residentBytes } from "../support/memory.ts";
import { runSeed, seededRandom } from "../support/random.ts";
import { sharedServer } from "../support/shared-server.ts";
import { call, newStream } from "../support/streams.ts";
import { until } from "../support/wait.ts";
import { FUZZ_STREAMS, type HostileRequest, hostileRequest } from "./hostile-requests.ts";

const REQUESTS = Number(process.env["FUZZ_REQUESTS"] ?? 3_000);
const AT_ONCE = 16;
/** What is judged comes in time. */
const ANSWER_LIMIT_MS = 5_000;
/** What is broken, or may wait, may rightly never be answered: it is left alone after so long. */
const LEFT_ALONE_MS = 100;
/** Says what it lacks: not implemented, shutting down or not ready, HTTP version, disk. */
const HONEST_5XX: ReadonlySet<number> = new Set([501, 503, 505, 507]);
const MAX_GROWTH_BYTES = 64 * 1024 * 1024;
/** An idle machine answers in a few; this one runs the attack as well, and CI shares its cores. */
const HEALTH_LIMIT_MS = 1_000;

const server = sharedServer({ args: ["--long-poll-timeout", "50ms"] });

interface Fate {
  /** Null: hung up on. */
  readonly status: number | null;
  readonly head: string;
  readonly waitedMs: number;
  /** We hung up. */
  readonly leftAlone: boolean;
}

/** What is wrong with what became of a request; null when nothing is. */
function judge({ status, head, waitedMs, leftAlone }: Fate, mayHang: boolean): string | null {
  if (status !== null && status >= 500 && !HONEST_5XX.has(status)) return `answered ${status}`;
  if (status !== null && /^x: y$/im.test(head)) return "a header was injected";
  if (leftAlone && !mayHang) return `not answered within ${Math.round(waitedMs)} ms`;
  return null;
}

test("control: the judge sees a 500, an injected header and a hang", () => {
  const fine: Fate = { status: 204, head: "HTTP/1.1 204 No Content\r\n", waitedMs: 1, leftAlone: false };
  expect(judge(fine, false)).toBeNull();
  expect(judge({ ...fine, status: 503 }, false)).toBeNull();
  expect(judge({ ...fine, status: 500 }, false)).toBe("answered 500");
  expect(judge({ ...fine, status: 502 }, true)).toBe("answered 502");
  expect(judge({ ...fine, head: "HTTP/1.1 200 OK\r\nX: y\r\n" }, false)).toBe("a header was injected");
  expect(judge({ ...fine, status: null, leftAlone: true, waitedMs: 5001 }, false)).toContain("not answered");
  expect(judge({ ...fine, status: null, leftAlone: true, waitedMs: 100 }, true)).toBeNull();
});

test("control: the same seed gives the same requests, another seed others", () => {
  const first = (seed: number): string => {
    const random = seededRandom(seed);
    return Array.from({ length: 200 }, () => hostileRequest(random, "h").bytes.toString("latin1")).join("\n");
  };
  expect(first(1)).toBe(first(1));
  expect(first(1)).not.toBe(first(2));
});

/** Sends one request on a connection of its own, and looks at the head of the answer. */
function sendAlone(bytes: Buffer, limitMs: number): Promise<Fate> {
  const { hostname, port } = new URL(server.url);
  const began = performance.now();
  return new Promise((resolve) => {
    const socket = connect({ host: hostname, port: Number(port) }, () => void socket.write(bytes));
    let head = "";
    const end = (leftAlone: boolean): void => {
      clearTimeout(timer);
      socket.destroy();
      const status = /^HTTP\/1\.1 (\d{3})/.exec(head)?.[1];
      resolve({
        status: status === undefined ? null : Number(status),
        head,
        waitedMs: performance.now() - began,
        leftAlone,
      });
    };
    const timer = setTimeout(() => end(true), limitMs);
    socket.setEncoding("latin1").on("data", (text: string) => {
      head += text;
      head = head.replace(/^(?:HTTP\/1\.1 100 [^]*?\r\n\r\n)+/, "");
      if (head.includes("\r\n\r\n")) end(false);
    });
    // A reset is one way to refuse.
    socket.on("error", () => end(false)).on("close", () => end(false));
  });
}

async function prepare(): Promise<void> {
  for (const name of FUZZ_STREAMS) {
    const type = name === "text" ? "text/plain" : name === "bytes" ? "application/octet-stream" : "application/json";
    const headers = name === "short" ? { "stream-ttl": "2" } : undefined;
    const stream = await newStream(server, `fuzz/${name}`, type, headers === undefined ? {} : { headers });
    await stream.post(type === "application/json" ? '[{"a":1},{"a":2}]' : "some text");
    if (name === "closed") await stream.close();
    const kind = name === "touch" ? "state-protocol" : name === "events" ? "analytics" : null;
    if (kind === null) continue;
    const profile = { kind, ...(kind === "state-protocol" && { touch: { enabled: true } }) };
    // What it holds is none of the profile's: an empty stream takes it.
    await stream.delete();
    await stream.put();
    const body = JSON.stringify({ profile });
    const set = await call("POST", `${stream.url}/_profile`, { headers: { "content-type": "application/json" }, body });
    expect(set.status).toBe(200);
  }
}

test(
  `${REQUESTS} hostile requests`,
  async () => {
    const random = seededRandom(runSeed());
    const { host } = new URL(server.url);
    const statuses = new Map<number | null, number>();
    const problems: string[] = [];
    const warmUp = Math.floor(REQUESTS / 5);
    let sent = 0;
    let slowestMs = 0;
    let warmBytes = 0;
    await prepare();
    const health = probe(
      async () => ((await call("GET", `${server.url}/health`)).ok ? null : "health was refused"),
      250,
    );
    const sendMany = async (): Promise<void> => {
      while (sent < REQUESTS && problems.length < 10) {
        const index = sent++;
        if (index === warmUp) warmBytes = await residentBytes(server.pid);
        const request: HostileRequest = hostileRequest(random, host);
        const mayHang = request.isBroken || request.mayWait;
        const fate = await sendAlone(request.bytes, mayHang ? LEFT_ALONE_MS : ANSWER_LIMIT_MS);
        statuses.set(fate.status, (statuses.get(fate.status) ?? 0) + 1);
        if (!mayHang) slowestMs = Math.max(slowestMs, fate.waitedMs);
        const problem = judge(fate, mayHang);
        const text = JSON.stringify(request.bytes.toString("latin1").slice(0, 2_000));
        if (problem !== null)
          problems.push(`seed ${random.seed}, request ${index}: ${problem}: ${text}\n${fate.head.slice(0, 500)}`);
      }
    };
    const began = performance.now();
    await Promise.all(Array.from({ length: AT_ONCE }, sendMany));
    const seconds = (performance.now() - began) / 1000;
    const { max, p99, wrong } = await health.stop();
    const grownBytes = (await residentBytes(server.pid)) - warmBytes;
    const counted = [...statuses]
      .toSorted(([left], [right]) => (left ?? 0) - (right ?? 0))
      .map(([status, count]) => `${status ?? "closed"}: ${count}`);
    console.log(
      `fuzz: seed ${random.seed}, ${sent} requests in ${seconds.toFixed(1)} s, slowest ${slowestMs.toFixed(0)} ms, health p99 ${p99} max ${max} ms, ` +
        `memory ${(grownBytes / 1024 / 1024).toFixed(1)} MB since warm-up; ${counted.join(", ")}`,
    );
    expect(problems).toEqual([]);
    expect(wrong).toEqual([]);
    expect(max).toBeLessThanOrEqual(HEALTH_LIMIT_MS);
    expect(grownBytes).toBeLessThanOrEqual(MAX_GROWTH_BYTES);
    // It is not all refused at the door.
    for (const status of [200, 201, 204, 400, 404, 405, 409]) expect([...statuses.keys()]).toContain(status);
  },
  30_000 + REQUESTS * 10,
);

test("afterwards nothing is held, the process is the same, and no fault was logged", async () => {
  await until(
    "nothing is in flight",
    async () => {
      const health = (await (await call("GET", `${server.url}/health`)).json()) as Record<string, number>;
      const metrics = await (await call("GET", `${server.url}/metrics`)).text();
      // A stream with views is followed for a minute after the last one left.
      const followed = Number(/^streams_view_states (\d+)$/m.exec(metrics)?.[1]);
      const { bodyBytesInFlight, waiters = NaN, liveRequests = NaN } = health;
      return bodyBytesInFlight === 0 && waiters <= followed && liveRequests <= followed;
    },
    60_000,
  );
  expect(() => process.kill(server.pid, 0)).not.toThrow();
  // Clients may delete the stream of metrics, and make another of its name: the server then says so.
  const faults = server
    .stderr()
    .split("\n")
    .filter((line) => line !== "" && !line.includes("live.metrics"));
  expect(faults).toEqual([]);
}, 60_000);
