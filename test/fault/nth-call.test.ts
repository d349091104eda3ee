/**
 * The Nth system call fails, for many N (`FAULT_POSITIONS`, 6 by default): syncs and writes, with EIO and ENOSPC, under load, while a
 * directory is made, and while one is recovered after a kill. The server ends with a reason or, with a full disk, goes on;
 * whichever it does, the next start without a fault has everything that was acknowledged, once and in order.
 * A position whose call never came says nothing and is not counted. Needs strace; says so where it cannot run.
 */

import { expect, test } from "bun:test";
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { temporaryServers } from "../support/shared-server.ts";
import { until } from "../support/wait.ts";
import { isAlive } from "./observation.ts";
import { attach, startUnderFault, straceObstacle, type Injection, type Tracer } from "./strace.ts";
import { writerGroup, type WriterGroup } from "./writers.ts";

const POSITIONS = Number(process.env["FAULT_POSITIONS"] ?? 6);
const LOAD_MS = 1_200;
const START_LOAD_MS = 300;
/** A server that means to end has ended by then. */
const END_LIMIT_MS = 1_000;
const FATAL_FILES = /(?:log\.db|log\.db-wal|highwater)>/;
/** A full disk is met by their syncs as well, before anything refers to them, and is survived. */
const LARGE_FILES = /\/large(?:\/\d+)?>/;
/** The last lie in files of their own. */
const PADDINGS = [300, 20_000, 300_000];
const REASON = /^(?:streams-server|fatal): .+/m;

const SYNCS = ["fsync", "fdatasync"];
const WRITES = ["pwrite64", "ftruncate"];

type Errno = "EIO" | "ENOSPC";
interface Kind {
  readonly what: "load" | "first start" | "recovery";
  readonly calls: readonly string[];
  readonly error: Errno;
  /** About the last call there is. */
  readonly last: number;
}

/** The order is that of the rounds: a short run takes the first position of each. */
const KINDS: readonly Kind[] = [
  { what: "load", calls: SYNCS, error: "EIO", last: 50 },
  { what: "load", calls: WRITES, error: "EIO", last: 600 },
  { what: "load", calls: WRITES, error: "ENOSPC", last: 600 },
  { what: "recovery", calls: SYNCS, error: "EIO", last: 8 },
  { what: "first start", calls: WRITES, error: "EIO", last: 6_000 },
  { what: "recovery", calls: WRITES, error: "EIO", last: 12 },
  { what: "load", calls: SYNCS, error: "ENOSPC", last: 50 },
  { what: "first start", calls: SYNCS, error: "EIO", last: 10 },
  { what: "recovery", calls: WRITES, error: "ENOSPC", last: 12 },
  { what: "first start", calls: WRITES, error: "ENOSPC", last: 6_000 },
];

interface Position extends Kind {
  readonly nth: number;
  readonly writers: number;
  readonly paddingBytes: number;
}

type Outcome = "ended" | "did not start" | "went on" | "the call never came";

const obstacle = await straceObstacle();
if (obstacle !== null) console.log(`nth call: not run here, ${obstacle}`);

const start = temporaryServers();

test.if(obstacle === null)(
  `the Nth call fails, ${POSITIONS} positions: nothing acknowledged is lost`,
  async () => {
    const place = await mkdtemp(join(tmpdir(), "streams-nth-"));
    const tally = new Map<string, number>();
    try {
      const template = await killedDirectory(join(place, "template"));
      for (const [at, position] of [...positions(POSITIONS)].entries()) {
        const dataDir = join(place, `data-${at}`);
        if (position.what === "recovery") await Bun.$`cp -r ${template.dataDir} ${dataDir}`.quiet();
        const earlier = position.what === "recovery" ? template.group : null;
        const outcome = await (position.what === "load" ? underLoad : atStart)(position, dataDir, earlier);
        const line = `${position.what}, ${position.calls.join("+")} ${position.error}: ${outcome}`;
        tally.set(line, (tally.get(line) ?? 0) + 1);
        await rm(dataDir, { recursive: true, force: true });
      }
    } finally {
      await rm(place, { recursive: true, force: true });
    }
    const missed = [...tally].filter(([line]) => line.endsWith(NEVER_CAME)).reduce((sum, [, count]) => sum + count, 0);
    for (const line of [...tally.keys()].toSorted()) console.log(`nth call: ${tally.get(line)} × ${line}`);
    console.log(`nth call: ${POSITIONS - missed} of ${POSITIONS} positions injected, 0 lost, 0 twice, 0 out of order`);
    expect(missed).toBeLessThan(POSITIONS / 2);
    // Both ways out were taken: a fault that nobody noticed would only ever "go on".
    expect([...tally.keys()].some((line) => line.endsWith("ended") || line.endsWith("did not start"))).toBe(true);
  },
  60_000 + POSITIONS * 10_000,
);

const NEVER_CAME: Outcome = "the call never came";

function* positions(count: number): Generator<Position> {
  const rounds = Math.ceil(count / KINDS.length);
  for (let at = 0; at < count; at++) {
    const kind = KINDS[at % KINDS.length] ?? expect.unreachable("a kind");
    const round = Math.floor(at / KINDS.length);
    // The first calls one by one, later ones ever sparser.
    const nth = Math.max(round + 1, Math.round(kind.last ** (round / Math.max(1, rounds - 1))));
    const writers = round % 2 === 0 ? 1 : 8;
    yield { ...kind, nth, writers, paddingBytes: PADDINGS[(at + round) % PADDINGS.length] ?? 300 };
  }
}

function injectionOf({ calls, error, nth }: Position): Injection {
  return { calls, fault: `error=${error}:when=${nth}` };
}

/** A directory as `kill -9` under load leaves it, and what was acknowledged in it. */
async function killedDirectory(dataDir: string): Promise<{ dataDir: string; group: WriterGroup }> {
  const group = writerGroup({ writers: 8, streams: 3, idempotent: true, paddingBytes: 8_000, prefix: "template" });
  const server = await start({ dataDir });
  await group.createStreams(server);
  const killed = until("enough is there to recover", () => group.ackedCount > 1_500, 30_000).then(() =>
    server.kill("SIGKILL"),
  );
  await group.write(server, killed);
  await killed;
  return { dataDir, group };
}

async function underLoad(position: Position, dataDir: string): Promise<Outcome> {
  const server = await start({ dataDir });
  const group = writerGroup({ ...position, streams: 2, idempotent: true });
  await group.createStreams(server);
  const tracer = await attach(server, injectionOf(position));
  try {
    await group.write(server, faultOrTimeout(tracer));
    const { injected, ended } = await settled(tracer, server.pid);
    if (ended) expect(server.stderr()).toMatch(REASON);
    await expectHonest(position, tracer, ended, group);
    await tracer.close();
    // Only a full disk is survived, and then appends go on.
    if (!ended) await group.finish(server);
    await server.kill("SIGKILL");
    await expectWhole(position, dataDir, group);
    return injected.length === 0 ? NEVER_CAME : ended ? "ended" : "went on";
  } finally {
    await tracer.close();
  }
}

async function atStart(position: Position, dataDir: string, earlier: WriterGroup | null): Promise<Outcome> {
  const traced = await startUnderFault(dataDir, injectionOf(position));
  const group = writerGroup({ ...position, streams: 2, idempotent: true, prefix: "later" });
  const { listening } = traced;
  try {
    if (listening !== null) {
      const created = await group.createStreams(listening).then(
        () => true,
        // It ended meanwhile: nothing was acknowledged.
        () => false,
      );
      if (created) await group.write(listening, Bun.sleep(START_LOAD_MS));
    }
    const { injected, ended } = await settled(traced, listening?.pid ?? null);
    if (ended) expect(traced.stderr()).toMatch(REASON);
    await expectHonest(position, traced, ended, group);
    await traced.close();
    await expectWhole(position, dataDir, group, earlier);
    if (injected.length === 0) return NEVER_CAME;
    return listening === null ? "did not start" : ended ? "ended" : "went on";
  } finally {
    await traced.close();
  }
}

/** What was injected, and whether the server ended; null = it never listened. */
async function settled(tracer: Tracer, pid: number | null): Promise<{ injected: readonly string[]; ended: boolean }> {
  const injected = await tracer.injected();
  const hasEnded = (): boolean => pid === null || !isAlive(pid);
  const endMs = performance.now() + (injected.length === 0 ? 0 : END_LIMIT_MS);
  while (!hasEnded() && performance.now() < endMs) await Bun.sleep(20);
  return { injected, ended: hasEnded() };
}

async function faultOrTimeout(tracer: Tracer): Promise<void> {
  const endMs = performance.now() + LOAD_MS;
  while (performance.now() < endMs && (await tracer.injected()).length === 0) await Bun.sleep(20);
}

/** A failed call on the log ends the server, unless the disk is full; and nothing that failed is acknowledged. */
async function expectHonest(position: Position, tracer: Tracer, ended: boolean, group: WriterGroup): Promise<void> {
  const injected = await tracer.injected();
  const onLog = injected.filter((line) => FATAL_FILES.test(line));
  const onLarge = injected.filter((line) => LARGE_FILES.test(line));
  const failed = position.error === "EIO" ? [...onLog, ...onLarge] : position.calls === SYNCS ? onLog : [];
  const fatal = failed.length > 0;
  expect({ position, injected, ended }).toEqual({ position, injected, ended: fatal || ended });
  expect([...group.refusals.keys()].filter((status) => status !== 507)).toEqual([]);
  // With one writer no earlier ack can still be on its way when its own commit fails.
  if (fatal) {
    const acks = await tracer.acksAfterFault("log.db-wal");
    const allowed = position.writers === 1 ? 0 : position.writers;
    expect({ position, injected, acks: Math.max(acks, allowed) }).toEqual({ position, injected, acks: allowed });
  }
}

/** Starts without a fault: everything acknowledged is there, and what was not answered can be sent again. */
async function expectWhole(
  position: Position,
  dataDir: string,
  group: WriterGroup,
  earlier: WriterGroup | null = null,
): Promise<void> {
  const server = await start({ dataDir });
  for (const each of earlier === null ? [group] : [earlier, group]) {
    const { acked: _acked, unackedPresent, ...problems } = await each.audit(server);
    expect({ position, ...problems }).toEqual({ position, ...SOUND });
    expect(unackedPresent).toBeLessThanOrEqual(8);
  }
  await group.createStreams(server);
  await group.finish(server);
  const { acked, ...audit } = await group.audit(server);
  expect({ position, ...audit }).toEqual({ position, ...SOUND, unackedPresent: 0 });
  expect(acked).toBeGreaterThan(0);
  await server.kill("SIGKILL");
}

const SOUND = { lost: 0, duplicated: 0, outOfOrder: 0, firstProblem: null };
