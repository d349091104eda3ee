/**
 * No flipped bit goes unnoticed. A directory with everything in it is copied, one bit of one of its files is flipped, and a server is
 * started on the copy: either it refuses and says why, or it answers a clear error for what is damaged and everything else as before,
 * or nothing differs. `BIT_FLIPS=200` flips that many; `TEST_SEED` repeats a run. Control: against a truth with one wrong answer the
 * comparison fails, and of many flips some must be noticed.
 */

import { afterAll, beforeAll, expect, test } from "bun:test";
import { cp, mkdtemp, open, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runSeed, seededRandom, type SeededRandom } from "../support/random.ts";
import { startServer } from "../support/server.ts";
import { buildWorld, compare, type Judgement, observe, type Observation, type World } from "./flip-world.ts";
import { filesOf } from "./large-world.ts";
import { walFrames } from "./wal-file.ts";

const FLIPS = Number(process.env["BIT_FLIPS"] ?? 24);
const seed = runSeed();
/** What a start that refuses has to say. */
const REASON = /damaged|--accept-loss|newer release|fatal:/;

/** Of every twenty-two flips; `large` is any file of large bodies. */
const SHARES: readonly (readonly [file: string, count: number])[] = [
  ["log.db", 13],
  ["log.db-wal", 5],
  ["derived.db", 1],
  ["highwater", 1],
  ["large", 2],
];

let place = "";
let world: World;
let truth: Observation;

beforeAll(async () => {
  place = await mkdtemp(join(tmpdir(), "streams-flips-"));
  world = await buildWorld(join(place, "original"));
  const server = await startServer({ dataDir: await copyOf(world, "undamaged") });
  truth = await observe(server, world.questions);
  await server.stop();
}, 60_000);
afterAll(() => rm(place, { recursive: true, force: true }));

test("undamaged, the same again; the comparison notices one wrong answer, and a missing one", async () => {
  expect(truth.size).toBeGreaterThan(300);
  const server = await startServer({ dataDir: await copyOf(world, "control") });
  const seen = await observe(server, world.questions);
  await server.stop();
  expect(compare(truth, seen)).toEqual({ kind: "equal", detail: "" });
  const question = "/v1/stream/bytes?offset=-1";
  const answer = truth.get(question);
  if (answer === undefined || answer === null) throw new Error("the control question was not answered");
  expect(answer.body).toBe("some bytes");
  const wrong = new Map([...truth, [question, { ...answer, body: "some bytez" }]]);
  expect(compare(wrong, seen).kind).toBe("wrong");
  expect(compare(truth, new Map([...truth, [question, { ...answer, status: 404 }]])).kind).toBe("wrong");
}, 60_000);

test(
  `${FLIPS} flipped bits: refused, told, or harmless (seed ${seed})`,
  async () => {
    const random = seededRandom(seed);
    const tally = new Map<string, number>();
    const wrong: string[] = [];
    for (let flip = 0; flip < FLIPS; flip++) {
      const dataDir = await copyOf(world, `flip-${flip}`);
      const at = await flipOne(dataDir, fileOf(flip), random);
      const outcome = await outcomeOf(dataDir, at.file);
      const kind = `${at.file} ${outcome.kind}`;
      tally.set(kind, (tally.get(kind) ?? 0) + 1);
      if (process.env["FLIP_DETAILS"] !== undefined)
        console.log(JSON.stringify(at), outcome.kind, outcome.detail.slice(0, 300));
      // Every byte of these files is in use.
      if (at.file === "large") expect({ at, kind: outcome.kind }).not.toMatchObject({ kind: "equal" });
      if (outcome.kind === "wrong") wrong.push(`${JSON.stringify(at)}: ${outcome.detail}`);
      await rm(dataDir, { recursive: true, force: true });
    }
    console.log(`bit flips: seed ${seed}`, Object.fromEntries(tally));
    expect(wrong).toEqual([]);
    // The bits were flipped where it matters.
    const noticed = [...tally].filter(([kind]) => !kind.endsWith("equal")).reduce((sum, [, count]) => sum + count, 0);
    expect(noticed).toBeGreaterThan(FLIPS / 4);
  },
  60_000 + FLIPS * 10_000,
);

async function outcomeOf(
  dataDir: string,
  file: string,
): Promise<Judgement | { kind: "refused" | "stopped"; detail: string }> {
  let server;
  try {
    server = await startServer({ dataDir });
  } catch (cause) {
    const detail = String(cause);
    return { kind: REASON.test(detail) ? "refused" : "wrong", detail };
  }
  const seen = await observe(server, world.questions);
  // Rows that were kept beside the log are made again: the second time a view is whole.
  const judgement = file === "derived.db" ? compare(truth, seen, /_view\?limit=1000$/) : compare(truth, seen);
  const code = await server.kill("SIGTERM");
  if (code === 0 || judgement.kind === "wrong") return judgement;
  const stderr = server.stderr();
  return { kind: REASON.test(stderr) ? "stopped" : "wrong", detail: stderr };
}

async function copyOf({ dataDir }: World, name: string): Promise<string> {
  const copy = join(place, name);
  await cp(dataDir, copy, { recursive: true });
  return copy;
}

function fileOf(flip: number): string {
  const total = SHARES.reduce((sum, [, count]) => sum + count, 0);
  let left = (flip * 7) % total;
  for (const [file, count] of SHARES) {
    if (left < count) return file;
    left -= count;
  }
  throw new Error("shares do not add up");
}

interface Flipped {
  readonly file: string;
  readonly byte: number;
  readonly bit: number;
}

/** Where a page says what is in it: its header and the first of its cell pointers. */
const PAGE_HEAD_BYTES = 48;
const PAGE_BYTES = 4096;

/** Flips one bit of a byte that is not zero, as what is not in use would be most of it; each third one in the head of a page. */
async function flipOne(directory: string, file: string, random: SeededRandom): Promise<Flipped> {
  const [first = file, ...others] =
    file === "large" ? filesOf(directory).map((name) => join(file, String(name))) : [file];
  const path = join(directory, [first, ...others][random.below(others.length + 1)] ?? first);
  const bytes = Buffer.from(await Bun.file(path).arrayBuffer());
  const used = file.endsWith("-wal") ? await usedBytes(path) : bytes.length;
  const inHead = file === "log.db" && random.below(3) === 0;
  const place = (): number =>
    inHead ? random.below(used / PAGE_BYTES) * PAGE_BYTES + random.below(PAGE_HEAD_BYTES) : random.below(used);
  let byte = place();
  while (bytes[byte] === 0) byte = place();
  const bit = random.below(8);
  const handle = await open(path, "r+");
  try {
    await handle.write(Buffer.of((bytes[byte] ?? 0) ^ (1 << bit)), 0, 1, byte);
  } finally {
    await handle.close();
  }
  return { file, byte, bit };
}

async function usedBytes(wal: string): Promise<number> {
  const frames = await walFrames(wal);
  return frames.start(frames.count);
}
