/**
 * Out of file descriptors: 600 connections where 128 descriptors are allowed. The server lives, writers that are connected go on,
 * and it answers again once the crowd has left. Needs prlimit; says so where it cannot run.
 * Short of the goal: Bun asks for the next connection again and again while it cannot have it, so one core is busy meanwhile.
 */

import { expect, test } from "bun:test";
import { readdir } from "node:fs/promises";
import { connect, type Socket } from "node:net";
import { exchangeRaw } from "../support/raw-socket.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { until } from "../support/wait.ts";
import { cpuMs, isAlive } from "./observation.ts";
import { writerGroup } from "./writers.ts";

const DESCRIPTORS = 128;
const CROWD = 600;
const HELD_MS = 3_000;
const BACK_LIMIT_MS = 5_000;
const CPU_GOAL = 0.3;
/** One core, and what else the process does. */
const CPU_LIMIT = 1.2;

const obstacle = Bun.which("prlimit") === null ? "needs prlimit (util-linux)" : null;
if (obstacle !== null) console.log(`descriptors: not run here, ${obstacle}`);

const start = temporaryServers();

test.if(obstacle === null)(
  `${CROWD} connections with ${DESCRIPTORS} descriptors: it lives, serves who is connected, and comes back`,
  async () => {
    const server = await start();
    const group = writerGroup({ writers: 4, streams: 2, idempotent: true, paddingBytes: 300 });
    await group.createStreams(server);
    // Each of its appends needs a file.
    const large = writerGroup({ writers: 2, streams: 1, idempotent: true, paddingBytes: 300_000, prefix: "large" });
    await large.createStreams(server);
    await Promise.all([
      group.write(
        server,
        until("writers are connected", () => group.ackedCount > 100),
      ),
      large.write(
        server,
        until("large ones are too", () => large.ackedCount > 10),
      ),
    ]);
    await Bun.$`prlimit --nofile=${DESCRIPTORS} --pid ${server.pid}`.quiet();

    const crowd = Array.from({ length: CROWD }, () => knock(server));
    await until("no descriptor is left", async () => (await openOf(server.pid)) >= DESCRIPTORS);
    // The control: whoever comes now is not served.
    expect(await health(server)).toBe(0);

    const beforeMs = await cpuMs(server.pid);
    await Bun.sleep(HELD_MS);
    const share = ((await cpuMs(server.pid)) - beforeMs) / HELD_MS;
    const before = group.ackedCount;
    const largeBefore = large.ackedCount;
    await Promise.all([group.write(server, Bun.sleep(500)), large.write(server, Bun.sleep(500))]);
    // Refused, and the control that it was.
    expect(large.ackedCount).toBe(largeBefore);
    const during = group.ackedCount - before;

    for (const socket of crowd) socket.destroy();
    const leftMs = performance.now();
    await until("it answers newcomers", async () => (await health(server)) === 200, BACK_LIMIT_MS);
    const backMs = performance.now() - leftMs;
    console.log(
      `descriptors: CPU ${(share * 100).toFixed(0)} % while full (goal ${CPU_GOAL * 100}), ${during} appends meanwhile, ` +
        `back after ${backMs.toFixed(0)} ms (limit ${BACK_LIMIT_MS})`,
    );
    expect(isAlive(server.pid)).toBe(true);
    expect(share).toBeLessThanOrEqual(CPU_LIMIT);
    expect(during).toBeGreaterThan(0);
    for (const writers of [group, large]) {
      await writers.finish(server);
      const { acked: _acked, ...audit } = await writers.audit(server);
      expect(audit).toEqual({ lost: 0, duplicated: 0, outOfOrder: 0, unackedPresent: 0, firstProblem: null });
    }
    await server.stop();
  },
  60_000,
);

/** A connection that asks once and stays. */
function knock(server: { readonly url: string }): Socket {
  const { hostname, port, host } = new URL(server.url);
  const socket = connect({ host: hostname, port: Number(port) });
  socket.on("connect", () => socket.write(`GET /health HTTP/1.1\r\nhost: ${host}\r\n\r\n`));
  // Read and forget; being turned away is what this is about.
  socket.on("data", () => undefined).on("error", () => undefined);
  return socket;
}

async function openOf(pid: number): Promise<number> {
  return (await readdir(`/proc/${pid}/fd`)).length;
}

/** Asks on a connection of its own; 0 when nobody answers. */
async function health(server: { readonly url: string }): Promise<number> {
  const request = `GET /health HTTP/1.1\r\nhost: ${new URL(server.url).host}\r\nconnection: close\r\n\r\n`;
  try {
    return (await exchangeRaw(server, request, 1_000)).status ?? 0;
  } catch (cause) {
    if (cause instanceof Error) return 0;
    throw cause;
  }
}
