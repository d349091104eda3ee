/**
 * A mixed life for `SOAK_SECONDS` (20 by default; 1800 by hand): nothing is lost, and nothing grows that should not, be it memory,
 * descriptors, the WAL, or (from five minutes on) the database while streams come and go. Controls feed the growth check a leak.
 */

import { expect, test } from "bun:test";
import { readdir } from "node:fs/promises";
import { join } from "node:path";
import { counted } from "../fault/observation.ts";
import { residentBytes } from "../support/memory.ts";
import type { TestServer } from "../support/server.ts";
import { temporaryServers } from "../support/shared-server.ts";
import { KEPT_BYTES, keptBytes, liveLife } from "./soak-life.ts";
import { growthOf, highestOf, type GrowthLimit, type Sample } from "./trend.ts";

const SECONDS = Number(process.env["SOAK_SECONDS"] ?? 20);
const SAMPLE_MS = SECONDS > 120 ? 2_000 : 500;
const MiB = 1024 * 1024;
/** Sealing comes after a minute of rest or 16 MiB: from here on a run has seen all of it several times. */
const LONG_SECONDS = 300;

/** In a short run the window of unsealed records (64 MiB) only begins to fill. */
function memoryLimit(seconds: number): GrowthLimit {
  return { perMinute: MiB, noise: (seconds < LONG_SECONDS ? 96 : 24) * MiB };
}

/** Twice what the WAL is grown to at start. */
const MAX_WAL_BYTES = 48 * MiB;

const start = temporaryServers();

test(
  `${SECONDS} s of mixed life: nothing lost, nothing grows`,
  async () => {
    const server = await start();
    const life = liveLife(server);
    const series = await sampled(server, SECONDS * 1_000);
    await life.end().catch((cause: unknown) => {
      throw new Error(`the end of the soak; the server says: ${server.stderr()}`, { cause });
    });

    const { appended, recreated, followed, reconnects, shortLived } = life;
    const growth = growthOf(series.memory, memoryLimit(SECONDS));
    const descriptors = highestOf(series.descriptors);
    const database = highestOf(series.database);
    const wal = highestOf(series.wal);
    console.log(`soak: ${JSON.stringify({ seconds: SECONDS, appended, recreated, followed, reconnects, shortLived })}`);
    console.log(
      `soak: memory ${mib(growth.perMinute)} a minute (allowed ${mib(growth.allowedPerMinute)}), ` +
        `highest ${mib(highestOf(series.memory).last)}; descriptors ${descriptors.middle} then ${descriptors.last}; ` +
        `WAL ${mib(wal.last)}; database ${mib(database.middle)} then ${mib(database.last)}`,
    );
    expect(life.problems).toEqual([]);
    // It lived; how quickly is the disk's affair.
    expect(appended).toBeGreaterThan(SECONDS * 10);
    expect(recreated).toBeGreaterThan(0);
    expect(followed).toBeGreaterThan(SECONDS * 2);
    expect(reconnects).toBeGreaterThan(0);
    expect(growth.grows).toBe(false);
    expect(descriptors.last).toBeLessThanOrEqual(descriptors.middle + 8);
    expect(wal.last).toBeLessThanOrEqual(MAX_WAL_BYTES);
    expect(await keptBytes(server)).toBeLessThan(1.5 * KEPT_BYTES);
    expect(await counted(server, "streams_retention_trims_total")).toBeGreaterThan(0);
    if (SECONDS >= LONG_SECONDS) {
      // A short one sees the step of its first checkpoints and no plateau after it.
      expect(database.last).toBeLessThanOrEqual(1.25 * database.middle + 4 * MiB);
      expect(await counted(server, "streams_sealed_batches_total")).toBeGreaterThan(0);
      expect(await counted(server, "streams_expired_streams_total")).toBeGreaterThan(0);
    }

    await server.stop();
    const restarted = await start({ dataDir: server.dataDir });
    await life.auditLive(restarted);
    expect(life.problems).toEqual([]);
  },
  SECONDS * 1_000 + 120_000,
);

/** Sawtooth as a garbage collector makes it, with a leak on top. */
function memoryLike(seconds: number, leakPerMinute: number): Sample[] {
  return Array.from({ length: seconds * 2 }, (_, at) => ({
    atMs: at * 500,
    value: 100 * MiB + ((at * 7) % 20) * MiB * 0.5 + (leakPerMinute * at) / 120,
  }));
}

test.each([
  [20, 0, false],
  [20, 1_000 * MiB, true],
  [1_800, 0, false],
  [1_800, 0.5 * MiB, false],
  [1_800, 3 * MiB, true],
])("control: %d s with a leak of %d bytes a minute", (seconds, leak, grows) => {
  expect(growthOf(memoryLike(seconds, leak), memoryLimit(seconds)).grows).toBe(grows);
});

test("control: a database that never reuses a page is seen", () => {
  const { middle, last } = highestOf(memoryLike(1_800, 40 * MiB));
  expect(last).toBeGreaterThan(1.25 * middle + 4 * MiB);
});

interface Series {
  readonly memory: Sample[];
  readonly descriptors: Sample[];
  readonly wal: Sample[];
  readonly database: Sample[];
}

async function sampled(server: TestServer, forMs: number): Promise<Series> {
  const series: Series = { memory: [], descriptors: [], wal: [], database: [] };
  const startMs = performance.now();
  for (let atMs = 0; atMs < forMs; atMs = performance.now() - startMs) {
    series.memory.push({ atMs, value: await residentBytes(server.pid) });
    series.descriptors.push({ atMs, value: (await readdir(`/proc/${server.pid}/fd`)).length });
    series.wal.push({ atMs, value: Bun.file(join(server.dataDir, "log.db-wal")).size });
    series.database.push({ atMs, value: Bun.file(join(server.dataDir, "log.db")).size });
    await Bun.sleep(SAMPLE_MS);
  }
  return series;
}

function mib(bytes: number): string {
  return `${(bytes / MiB).toFixed(2)} MiB`;
}
