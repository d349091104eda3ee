/**
 * A disk that takes 200 ms per sync: appends wait for it, many for each sync; reads, HEAD and long-polls of what is there do not.
 * Needs strace; says so where it cannot run.
 */

import { expect, test } from "bun:test";
import { temporaryServers } from "../support/shared-server.ts";
import { call, newStream, type StreamUnderTest } from "../support/streams.ts";
import { judgesTime, probeMachine } from "../support/latency.ts";
import { until } from "../support/wait.ts";
import { counted, percentile } from "./observation.ts";
import { attach, straceObstacle } from "./strace.ts";
import { writerGroup } from "./writers.ts";

const SYNC_MS = 200;
const LOAD_MS = 4_000;
const WRITERS = 32;
const BASELINE_MS = 1_000;
/** The goal, and what a crowded machine is allowed: whoever waits for a sync takes ten times the goal. */
const READ_GOAL_MS = 20;
const READ_LIMIT_MS = SYNC_MS * 0.75;
const PAUSE_MS = 5;

const obstacle = await straceObstacle();
if (obstacle !== null) console.log(`slow sync: not run here, ${obstacle}`);

const start = temporaryServers();

const READS: Readonly<Record<string, (stream: StreamUnderTest) => Promise<Response>>> = {
  "catch-up": (stream) => stream.get("offset=-1"),
  HEAD: (stream) => stream.head(),
  "long-poll": (stream) => stream.get("offset=-1&live=long-poll"),
};

test.if(obstacle === null)(
  `every sync takes ${SYNC_MS} ms: reads do not wait for it, appends share it`,
  async () => {
    const server = await start();
    const stream = await newStream(server, "slow/read");
    for (let n = 0; n < 200; n++) await stream.post(JSON.stringify({ n, pad: "x".repeat(500) }));
    const group = writerGroup({ writers: WRITERS, streams: 4, idempotent: true, paddingBytes: 300 });
    await group.createStreams(server);

    // What a read takes on this machine, now, when the disk is well.
    const quiet = { isOn: true };
    const baseline = Promise.all(Object.values(READS).map((read) => timed(quiet, stream, read)));
    await Bun.sleep(BASELINE_MS);
    quiet.isOn = false;
    const quietP99 = percentile((await baseline).flat(), 0.99);
    console.log(`slow sync, before it: p99 ${quietP99.toFixed(1)} ms`);

    const tracer = await attach(server, { calls: ["fsync", "fdatasync"], fault: `delay_exit=${SYNC_MS * 1_000}` });
    try {
      const end = Promise.withResolvers<void>();
      const writing = group.write(server, end.promise);
      await until("a sync was slow", async () => (await tracer.injected()).length > 0, 10_000);
      const before = { acked: group.ackedCount, syncs: await counted(server, "streams_sync_seconds_count") };
      const load = { isOn: true };
      const machine = await probeMachine();
      const latencies = Object.entries(READS).map(async ([what, read]) => ({
        what,
        ms: await timed(load, stream, read),
      }));
      const append = timed(load, stream, () => call("PUT", `${server.url}/v1/stream/slow/${crypto.randomUUID()}`));
      await Bun.sleep(LOAD_MS);
      load.isOn = false;
      const acked = group.ackedCount - before.acked;
      const syncs = (await counted(server, "streams_sync_seconds_count")) - before.syncs;
      const isJudged = judgesTime("reads beside slow syncs", await machine.stop());
      for (const { what, ms } of await Promise.all(latencies)) {
        const p99 = percentile(ms, 0.99);
        console.log(
          `slow sync, ${what}: ${ms.length} requests, p50 ${percentile(ms, 0.5).toFixed(1)} p99 ${p99.toFixed(1)} ms (goal ${READ_GOAL_MS})`,
        );
        expect(ms.length).toBeGreaterThan(100);
        if (!isJudged) continue;
        expect(percentile(ms, 0.5)).toBeLessThan(READ_GOAL_MS);
        expect(p99).toBeLessThan(READ_LIMIT_MS + 2 * quietP99);
      }
      const createMs = percentile(await append, 0.5);
      console.log(`slow sync: ${acked} appends in ${syncs} syncs; a create takes ${createMs.toFixed(0)} ms`);
      // The control: what waits for the disk does take as long as the disk.
      expect(createMs).toBeGreaterThan(SYNC_MS * 0.9);
      expect(acked).toBeGreaterThan(syncs * 4);
      end.resolve();
      await writing;
    } finally {
      await tracer.close();
    }
    const { lost, duplicated, outOfOrder } = await group.audit(server);
    expect({ lost, duplicated, outOfOrder }).toEqual({ lost: 0, duplicated: 0, outOfOrder: 0 });
    await server.stop();
  },
  60_000,
);

test.if(obstacle === null)(
  "a lone writer, whose syncs run on the event loop while the disk is quick: once it is slow, one of them holds the loop",
  async () => {
    const server = await start();
    const stream = await newStream(server, "slow/read");
    const writer = writerGroup({ writers: 1, streams: 1, idempotent: true, paddingBytes: 300 });
    await writer.createStreams(server);
    const end = Promise.withResolvers<void>();
    const writing = writer.write(server, end.promise);
    await until("the disk is known", () => writer.ackedCount > 500, 20_000);
    const tracer = await attach(server, { calls: ["fsync", "fdatasync"], fault: `delay_exit=${SYNC_MS * 1_000}` });
    try {
      const before = writer.ackedCount;
      const load = { isOn: true };
      const machine = await probeMachine();
      const took = timed(load, stream, (target) => target.head());
      await until("ten syncs were slow", () => writer.ackedCount >= before + 10, 20_000);
      load.isOn = false;
      const isLate = (ms: number): boolean => ms > SYNC_MS * 0.75;
      const late = (await took).filter(isLate).length;
      // Of its own accord, which nobody slowed down.
      const { sleep, sync } = await machine.stop();
      const stalls = [...sleep.sorted, ...sync.sorted].filter(isLate).length;
      const told = `${late} requests late, ${stalls} stalls of the machine`;
      console.log(`slow sync, a lone writer: ${writer.ackedCount - before} appends, ${told}`);
      expect(late).toBeLessThanOrEqual(2 + 2 * stalls);
    } finally {
      end.resolve();
      await tracer.close();
    }
    await writing;
    await server.stop();
  },
  60_000,
);

/** Milliseconds of one request after the other, to the last byte. */
async function timed(
  load: { readonly isOn: boolean },
  stream: StreamUnderTest,
  request: (stream: StreamUnderTest) => Promise<Response>,
): Promise<number[]> {
  const tookMs: number[] = [];
  while (load.isOn) {
    const startMs = performance.now();
    const response = await request(stream);
    await response.arrayBuffer();
    tookMs.push(performance.now() - startMs);
    expect(response.ok).toBe(true);
    await Bun.sleep(PAUSE_MS);
  }
  return tookMs;
}
