/**
 * The power goes while 16 writers append, `POWER_CUT_ROUNDS` times (4 by default): nothing that was acknowledged may be gone, nothing may be there twice or out of
 * order. The control runs the same server over a disk that lies about syncs, and must lose records: else this test could
 * not fail. Needs root, loop mounts and xfsprogs; says so where it cannot run.
 */

import { afterEach, expect, test } from "bun:test";
import { rm } from "node:fs/promises";
import { join } from "node:path";
import { startServer, type TestServer } from "../support/server.ts";
import { until } from "../support/wait.ts";
import { createLoopDisk, loopDiskObstacle, type LoopDisk } from "./loop-disk.ts";
import { counted } from "./observation.ts";
import { writerGroup, type Audit, type WriterGroup } from "./writers.ts";

const obstacle = await loopDiskObstacle();
if (obstacle !== null) console.log(`power cut: not run here, ${obstacle}`);

/** After the cut: time for the server to see the error and end itself, while the writers go on. */
const AFTER_CUT_MS = 300;
const CONTROL_TRIES = 5;
const WRITERS = 16;
const STREAMS = 4;

interface Round {
  readonly what: string;
  readonly loadMs: number;
  readonly paddingBytes: number;
  readonly isFresh: boolean;
  /** The cut comes while commits are being turned into batches. */
  readonly whileSealing: boolean;
}

const ROUNDS: readonly Round[] = [
  { what: "a fresh directory", loadMs: 150, paddingBytes: 200, isFresh: true, whileSealing: false },
  { what: "the same directory again", loadMs: 1_000, paddingBytes: 200, isFresh: false, whileSealing: false },
  { what: "sealing going on", loadMs: 500, paddingBytes: 4_000, isFresh: false, whileSealing: true },
  { what: "a second fresh directory, sealing", loadMs: 500, paddingBytes: 8_000, isFresh: true, whileSealing: true },
  { what: "files of large bodies", loadMs: 500, paddingBytes: 300_000, isFresh: true, whileSealing: true },
];

const disks: LoopDisk[] = [];
const servers: TestServer[] = [];
/** A round costs some five seconds; the disk's image grows with all that is written before it is made anew. */
const COUNT = Number(process.env["POWER_CUT_ROUNDS"] ?? ROUNDS.length);
afterEach(async () => {
  for (const server of servers.splice(0)) await server.kill("SIGKILL");
  for (const disk of disks.splice(0)) await disk.destroy();
});

test.if(obstacle === null)(
  "a power cut loses nothing that was acknowledged",
  async () => {
    const disk = await createLoopDisk();
    disks.push(disk);
    let dataDir = "";
    let written = new Map<string, WriterGroup>();
    let total = 0;
    for (let index = 0; index < COUNT; index++) {
      const round = ROUNDS[index % ROUNDS.length] ?? expect.unreachable("a round");
      if (round.isFresh) {
        if (dataDir !== "") await rm(dataDir, { recursive: true });
        dataDir = join(disk.mountPoint, `data-${index}`);
        written = new Map();
      }
      const group = writerGroup({
        ...round,
        writers: WRITERS,
        streams: STREAMS,
        idempotent: true,
        prefix: `r${index}`,
      });
      written.set(round.what, group);
      const server = await start(dataDir);
      await group.createStreams(server);
      await writeThroughCut(server, disk, group, round);

      const restarted = await start(dataDir);
      for (const [what, earlier] of written) expectSound(await earlier.audit(restarted), what);
      await group.finish(restarted);
      const { acked, ...audit } = await group.audit(restarted);
      expect({ ...audit, unackedPresent: 0 }).toEqual(SOUND);
      total += acked;
      await restarted.stop();
    }
    console.log(`power cut: ${COUNT} rounds, ${total} acknowledged, 0 lost, 0 twice, 0 out of order`);
  },
  30_000 + COUNT * 15_000,
);

test.if(obstacle === null)(
  "control: over a disk that lies about syncs the same cut does lose records",
  async () => {
    const lie = await lyingSyncs();
    let lost = 0;
    let tries = 0;
    while (lost === 0 && tries < CONTROL_TRIES) {
      tries++;
      const disk = await createLoopDisk();
      disks.push(disk);
      const dataDir = join(disk.mountPoint, "data");
      const group = writerGroup({ writers: WRITERS, streams: STREAMS, idempotent: true, paddingBytes: 1_000 });
      const server = await start(dataDir, lie.args, lie.env);
      await group.createStreams(server);
      await writeThroughCut(server, disk, group, { loadMs: 700, whileSealing: false });
      lost = await lostAfterRestart(dataDir, group);
      console.log(`power cut, control (${lie.what}): ${lost} of ${group.ackedCount} acknowledged are lost`);
    }
    expect(lost).toBeGreaterThan(0);
  },
  60_000,
);

const SOUND = { lost: 0, duplicated: 0, outOfOrder: 0, unackedPresent: 0, firstProblem: null };

function expectSound(audit: Audit, what: string): void {
  const { acked, unackedPresent, ...problems } = audit;
  expect({ what, ...problems }).toEqual({ what, lost: 0, duplicated: 0, outOfOrder: 0, firstProblem: null });
  expect(acked).toBeGreaterThan(0);
  // One record in flight per writer may have made it.
  expect(unackedPresent).toBeLessThanOrEqual(WRITERS);
}

async function start(
  dataDir: string,
  args: readonly string[] = [],
  env: Readonly<Record<string, string>> = {},
): Promise<TestServer> {
  const server = await startServer({ dataDir, args, env });
  servers.push(server);
  return server;
}

/** Writes for a while, cuts the power under the load, and mounts again. */
async function writeThroughCut(
  server: TestServer,
  disk: LoopDisk,
  group: WriterGroup,
  { loadMs, whileSealing }: Pick<Round, "loadMs" | "whileSealing">,
): Promise<void> {
  const cut = (async () => {
    await until("the first acks came", () => group.ackedCount > WRITERS);
    await Bun.sleep(loadMs);
    const isSealing = async (): Promise<boolean> => (await counted(server, "streams_sealed_batches_total")) > 0;
    if (whileSealing) await until("the sealer is at work", isSealing, 20_000);
    await disk.cutPower();
    await Bun.sleep(AFTER_CUT_MS);
    await server.kill("SIGKILL");
  })();
  await group.write(server, cut);
  await cut;
  await disk.remount();
}

interface Lie {
  readonly what: string;
  readonly args: readonly string[];
  readonly env: Readonly<Record<string, string>>;
}

/** libeatmydata makes every sync a lie; without it, the mode that does not sync stands in. */
async function lyingSyncs(): Promise<Lie> {
  for (const directory of ["/usr/lib", "/usr/lib64", "/usr/local/lib"]) {
    for (const file of new Bun.Glob("{.,*}/libeatmydata.so").scanSync({ cwd: directory, absolute: true })) {
      return { what: "libeatmydata", args: [], env: { LD_PRELOAD: file } };
    }
  }
  return { what: "--durability os", args: ["--durability", "os"], env: {} };
}

/** A store that cannot even be opened any more has lost everything. */
async function lostAfterRestart(dataDir: string, group: WriterGroup): Promise<number> {
  let server: TestServer;
  try {
    server = await start(dataDir, ["--accept-loss"]);
  } catch (cause) {
    console.log(`power cut, control: ${cause instanceof Error ? cause.message.slice(0, 400) : String(cause)}`);
    return group.ackedCount;
  }
  const { lost } = await group.audit(server);
  return lost;
}
