/**
 * Readers that really stall, against a real server: over SSE one whose loop does not go on, over WebSocket one whose whole
 * process stands still, because a WebSocket goes on reading for a loop that does not. Far more is written than the sockets in
 * between hold; then each reads on, and gets what its `overflow` says. Every record is accounted for, as come or as skipped.
 */

import { expect, test } from "bun:test";
import { join } from "node:path";
import { connect, type FollowOptions } from "../../src/client/client.ts";
import type { ClientHealth } from "../../src/http/live/clients.ts";
import { LAG_NOTICE_MS, MAX_LAG_RECORDS } from "../../src/protocol/limits.ts";
import { seededRandom } from "../support/random.ts";
import { sharedServer } from "../support/shared-server.ts";
import { call, newStream, type StreamUnderTest } from "../support/streams.ts";
import { until, within } from "../support/wait.ts";

type Live = "sse" | "websocket";
type Overflow = NonNullable<FollowOptions["overflow"]>;

/** One delivery, as its reader saw it. */
interface Step {
  /** Numbers of the records. */
  readonly numbers: readonly number[];
  readonly notice: { readonly kind: string; readonly fromOffset: string; readonly toOffset: string } | null;
  readonly count: number;
  readonly ms: number;
  readonly nextOffset: string | null;
  /** Live connections that were begun until then. */
  readonly connections: number;
}

interface Reader {
  /** Records that it has taken, or null where nobody can ask it. */
  taken(): number | null;
  stall(): void;
  goOn(): void;
  /** All that it saw, once the stream is closed. */
  readonly steps: Promise<readonly Step[]>;
  end(): void;
}

/** A reader that is behind, as the server saw it last, and how much was written by then. */
interface Stalled {
  readonly health: ClientHealth;
  readonly written: number;
  readonly tail: string;
}

const CLIENT = join(import.meta.dir, "..", "..", "src", "client", "client.ts");
const TEST_DEADLINE_MS = 60_000;
const READ_DEADLINE_MS = 20_000;
/** Less than one step of a follower: who is behind by that alone is not yet on its way through the log. */
const SIP_BYTES = 64 * 1024;
const BATCH_BYTES = 2 * 1024 * 1024;
/** The kernel holds 6 to 8 MB of a connection; where it may hold more, more is written. */
const MAX_WRITTEN_BYTES = 160 * 1024 * 1024;
/** Sixteen times what `drop-oldest` keeps. */
const FAR_BEHIND_BYTES = 16 * 1024 * 1024;
const LARGE_RECORD_BYTES = 4_096;
/** More than 100,000 of them behind are 20 MB. */
const SMALL_RECORD_BYTES = 200;
const AFTERWARDS = 10;

const server = sharedServer({ args: ["--durability", "os"] });

/** Follows to the end. It has no names from outside itself: its text is what the other process runs. */
async function readAll(
  open: typeof connect,
  [url, name, live, overflow]: readonly [url: string, name: string, live: Live, overflow: Overflow],
  seen: Step[],
  busy: () => Promise<void>,
  signal?: AbortSignal,
): Promise<Step[]> {
  let connections = 0;
  class Counted extends WebSocket {
    constructor(...at: [url: string, protocols: string[]]) {
      super(...at);
      connections++;
    }
  }
  const client = open({
    url,
    WebSocket: Counted,
    fetch: (asked, init) => {
      if (asked.includes("live=sse")) connections++;
      return fetch(asked, init);
    },
    retry: { maxAttempts: 50, baseDelayMs: 5, maxDelayMs: 50 },
  });
  const decoder = new TextDecoder();
  const options = { live, overflow, ...(signal === undefined ? {} : { signal }) };
  for await (const { parts, notice, nextOffset } of client.stream(name).follow(options)) {
    const numbers = parts.map((part) => (JSON.parse(decoder.decode(part)) as { n: number }).n);
    const { kind, fromOffset, toOffset } = notice ?? {};
    seen.push({
      numbers,
      notice: kind === undefined ? null : { kind, fromOffset: String(fromOffset), toOffset: String(toOffset) },
      count: notice?.kind === "gap" ? notice.count : 0,
      ms: notice?.kind === "lagged" ? notice.ms : 0,
      nextOffset,
      connections,
    });
    if (numbers.length > 0) await busy();
  }
  return seen;
}

/** Its loop stands still with the first record that it takes after `stall`. */
function readerHere(name: string, live: Live, overflow: Overflow): Reader {
  const seen: Step[] = [];
  const abort = new AbortController();
  let busy = Promise.resolve();
  let goOn = (): void => {};
  return {
    taken: () => seen.reduce((sum, { numbers }) => sum + numbers.length, 0),
    stall: () => {
      busy = new Promise((resolve) => {
        goOn = resolve;
      });
    },
    goOn: () => goOn(),
    steps: readAll(connect, [server.url, name, live, overflow], seen, () => busy, abort.signal),
    end: () => {
      abort.abort();
      goOn();
    },
  };
}

/** A process of its own, which the system stops and continues. */
function readerElsewhere(name: string, live: Live, overflow: Overflow): Reader {
  const asked = JSON.stringify([server.url, name, live, overflow]);
  const program = `import { connect } from ${JSON.stringify(CLIENT)};
    const steps = await (${readAll.toString()})(connect, ${asked}, [], async () => {});
    console.log(JSON.stringify(steps));`;
  const child = Bun.spawn([process.execPath, "-e", program], {
    stdout: "pipe",
    stderr: "pipe",
    timeout: TEST_DEADLINE_MS,
    killSignal: "SIGKILL",
  });
  const outcome = async (): Promise<Step[]> => {
    const [stdout, stderr, code] = await Promise.all([child.stdout.text(), child.stderr.text(), child.exited]);
    if (code !== 0) throw new Error(`the reader ended with ${code}: ${stderr}`);
    return JSON.parse(stdout) as Step[];
  };
  return {
    taken: () => null,
    stall: () => child.kill("SIGSTOP"),
    goOn: () => child.kill("SIGCONT"),
    steps: outcome(),
    end: () => child.kill("SIGKILL"),
  };
}

/** Appends records with rising numbers, whose noise no layer in between can make smaller. */
function writerOf(stream: StreamUnderTest, recordBytes: number) {
  const random = seededRandom(1);
  const noise = Buffer.from(Uint32Array.from({ length: BATCH_BYTES / 4 }, () => random.below(2 ** 32)).buffer);
  const pieces = noise.toString("base64");
  let written = 0;
  return {
    written: () => written,
    append: async (records: number): Promise<void> => {
      const texts = Array.from({ length: records }, (_, at) => {
        const from = (at * recordBytes) % (pieces.length - recordBytes);
        return `{"n":${written + at},"noise":"${pieces.slice(from, from + recordBytes)}"}`;
      });
      expect((await stream.post(`[${texts.join()}]`)).status).toBe(204);
      written += records;
    },
  };
}

type Writer = ReturnType<typeof writerOf>;

async function clientOf(name: string): Promise<ClientHealth | undefined> {
  const answer = await call("GET", `${server.url}/health/clients`);
  const { clients } = (await answer.json()) as { clients: ClientHealth[] };
  return clients.find(({ streams }) => streams.some(({ stream }) => stream === name));
}

async function present(name: string): Promise<ClientHealth> {
  return (await clientOf(name)) ?? expect.unreachable(`a client that follows ${name}`);
}

async function cutsSoFar(): Promise<number> {
  const text = await (await call("GET", `${server.url}/metrics`)).text();
  return Number(/^streams_live_cut_total (\S+)$/m.exec(text)?.[1]);
}

/** Little by little until the sockets hold no more: the server says that its reader has not taken a frame for over a second. */
async function fillSockets(stream: StreamUnderTest, writer: Writer, recordBytes: number): Promise<ClientHealth> {
  while (writer.written() * recordBytes < MAX_WRITTEN_BYTES) {
    await writer.append(Math.floor(SIP_BYTES / recordBytes));
    const behind = await present(stream.name);
    if (behind.lag.records === 0) continue;
    const settled = await until(
      "it is slow, or has gone on after all",
      async () => {
        const now = await present(stream.name);
        if (now.lag.records === 0) return now;
        return !now.healthy && now.connectedMs - behind.connectedMs > LAG_NOTICE_MS && now;
      },
      READ_DEADLINE_MS,
    );
    if (!settled.healthy) return settled;
  }
  throw new Error("whatever was written, something in between has taken it");
}

/** Then in large pieces, until the server says that its reader is far behind, or has cut it off. */
async function leaveBehind(
  stream: StreamUnderTest,
  writer: Writer,
  recordBytes: number,
  isFar: (health: ClientHealth) => boolean,
): Promise<Stalled> {
  let health = await fillSockets(stream, writer, recordBytes);
  while (!isFar(health)) {
    expect(writer.written() * recordBytes).toBeLessThan(MAX_WRITTEN_BYTES);
    await writer.append(Math.floor(BATCH_BYTES / recordBytes));
    const now = await clientOf(stream.name);
    if (now === undefined) break;
    health = now;
  }
  return { health, written: writer.written(), tail: await stream.tail() };
}

/** Numbers of the first record from an offset on. */
async function firstFrom(name: string, offset: string): Promise<number | undefined> {
  const read = (await connect({ url: server.url }).stream(name).json<{ n: number }>().read({ offset })).unwrap();
  for await (const { n } of read) return n;
  return undefined;
}

/** Walks the steps: each record comes at its place, or a gap there says that it does not. What is wrong, or null. */
function wrongIn(steps: readonly Step[], written: number): string | null {
  let place = 0;
  let offset: string | null = null;
  for (const [at, { numbers, notice, count, nextOffset }] of steps.entries()) {
    for (const number of numbers)
      if (number !== place++) return `step ${at}: ${number} came where ${place - 1} was due`;
    if (notice !== null && notice.fromOffset !== offset)
      return `step ${at}: ${notice.kind} does not begin at ${offset}`;
    if (notice?.kind === "gap" && !(count > 0)) return `step ${at}: a gap of ${count}`;
    place += count;
    offset = nextOffset;
  }
  return place === written ? null : `${place} of ${written} came or were skipped`;
}

const noticesIn = (steps: readonly Step[]): Step[] => steps.filter(({ notice }) => notice !== null);
const receivedIn = (steps: readonly Step[]): number => steps.reduce((sum, { numbers }) => sum + numbers.length, 0);

/** Has a reader stall, far more written, and the reader read on to the end; what it saw. */
async function stallAndGoOn(live: Live, overflow: Overflow, whileStalled: (stalled: Stalled) => Promise<void>) {
  const recordBytes = overflow === "disconnect" ? SMALL_RECORD_BYTES : LARGE_RECORD_BYTES;
  const isFar = ({ lag }: ClientHealth): boolean =>
    overflow === "disconnect" ? lag.records > MAX_LAG_RECORDS : lag.bytes > FAR_BEHIND_BYTES;
  const stream = await newStream(server, `overflow/${live}/${overflow}`);
  const writer = writerOf(stream, recordBytes);
  const reader = (live === "sse" ? readerHere : readerElsewhere)(stream.name, live, overflow);
  // Its owner, however the test ends: a reader that had to be ended says so, which is no news.
  const ended = Promise.allSettled([reader.steps]);
  try {
    await until("it is live", () => clientOf(stream.name), READ_DEADLINE_MS);
    expect(await clientOf(stream.name)).toMatchObject({ kind: live, healthy: true, streams: [{ overflow }] });
    await writer.append(1);
    await until("it was sent the first record", async () => (await present(stream.name)).lag.records === 0);
    await until("it has taken it", () => reader.taken() !== 0);
    reader.stall();
    const stalled = await leaveBehind(stream, writer, recordBytes, isFar);
    expect(stalled.health.streams[0]?.dropped).toBe(0);
    await whileStalled(stalled);
    reader.goOn();
    const caughtUp = async (): Promise<ClientHealth | false> => {
      const health = await clientOf(stream.name);
      return health?.healthy === true && health.lag.records === 0 && health;
    };
    const after = await until("it has caught up", caughtUp, READ_DEADLINE_MS);
    await writer.append(AFTERWARDS);
    expect((await stream.close()).status).toBe(204);
    const steps = await within("the end", reader.steps, READ_DEADLINE_MS);
    return { stream, stalled, after, steps, written: writer.written() };
  } finally {
    reader.end();
    await ended;
  }
}

/** The server has it on its list all the same. */
async function staysThere({ health, written }: Stalled): Promise<void> {
  expect([health.healthy, health.lag.bytes > FAR_BEHIND_BYTES]).toEqual([false, true]);
  expect(health.stalledMs).toBeGreaterThanOrEqual(LAG_NOTICE_MS);
  expect(health.lag.records).toBeLessThan(written);
}

test.each(["sse", "websocket"] as const)(
  "%s, resume: a reader that stalled is told for how long, and gets every record once",
  async (live) => {
    const { stalled, after, steps, written } = await stallAndGoOn(live, "resume", staysThere);
    expect(wrongIn(steps, written)).toBeNull();
    expect(receivedIn(steps)).toBe(written);
    const [lagged, ...others] = noticesIn(steps);
    expect([lagged?.notice?.kind, lagged?.notice?.toOffset, others]).toEqual(["lagged", stalled.tail, []]);
    expect(lagged?.ms).toBeGreaterThanOrEqual(LAG_NOTICE_MS);
    expect([after.clientId, steps.at(-1)?.connections]).toEqual([stalled.health.clientId, 1]);
  },
  TEST_DEADLINE_MS,
);

test.each(["sse", "websocket"] as const)(
  "%s, drop-oldest: the gap is exactly what does not come",
  async (live) => {
    const name = `overflow/${live}/drop-oldest`;
    const { stalled, after, steps, written } = await stallAndGoOn(live, "drop-oldest", staysThere);
    expect(wrongIn(steps, written)).toBeNull();
    const [gap, ...others] = noticesIn(steps);
    expect([gap?.notice?.kind, others]).toEqual(["gap", []]);
    const { count = 0, notice } = gap ?? {};
    expect(receivedIn(steps) + count).toBe(written);
    // Most of what lay in the log is skipped, and the server counts the same.
    expect(count).toBeGreaterThan(FAR_BEHIND_BYTES / LARGE_RECORD_BYTES / 2);
    expect(after.streams[0]?.dropped).toBe(count);
    // Its offsets are where the skipped records begin and end, asked of the stream itself.
    const before = steps.slice(
      0,
      steps.findIndex((step) => step === gap),
    );
    const firstSkipped = receivedIn(before);
    expect(await firstFrom(name, notice?.fromOffset ?? "")).toBe(firstSkipped);
    expect(await firstFrom(name, notice?.toOffset ?? "")).toBe(firstSkipped + count);
    expect([after.clientId, steps.at(-1)?.connections]).toEqual([stalled.health.clientId, 1]);
  },
  TEST_DEADLINE_MS,
);

test.each(["sse", "websocket"] as const)(
  "%s, disconnect: a reader that is too far behind is cut off with what came first, and comes back with its offset",
  async (live) => {
    const name = `overflow/${live}/disconnect`;
    const cutsBefore = await cutsSoFar();
    const { stalled, after, steps, written } = await stallAndGoOn(live, "disconnect", async ({ health }) => {
      // A look at slow clients may have come just before the last one of ours.
      expect(health.lag.records).toBeGreaterThan(MAX_LAG_RECORDS / 2);
      await until("it is cut off", async () => (await clientOf(name)) === undefined, READ_DEADLINE_MS);
      expect(await cutsSoFar()).toBe(cutsBefore + 1);
    });
    expect(wrongIn(steps, written)).toBeNull();
    expect([receivedIn(steps), noticesIn(steps)]).toEqual([written, []]);
    const first = steps.filter(({ connections }) => connections < 2);
    const second = steps.slice(first.length);
    // What came before the cut is the beginning, and by far not all that was written by then.
    expect(receivedIn(first)).toBeGreaterThan(0);
    expect(receivedIn(first)).toBeLessThanOrEqual(stalled.written - stalled.health.lag.records);
    expect(second.flatMap(({ numbers }) => numbers)[0]).toBe(receivedIn(first));
    expect(steps.at(-1)?.connections).toBe(2);
    expect(after.clientId).not.toBe(stalled.health.clientId);
  },
  TEST_DEADLINE_MS,
);

test.each(["sse", "websocket"] as const)(
  "%s, drop-oldest: a loop that stood still gets the newest, and a gap for the rest",
  async (live) => {
    const stream = await newStream(server, `stood-still/${live}`);
    const following = connect({ url: server.url }).stream(stream.name).follow({ live, overflow: "drop-oldest" });
    let [came, skipped] = [0, 0];
    let goOn = (): void => undefined;
    let busy = Promise.resolve();
    const reading = (async () => {
      for await (const { parts, notice } of following) {
        came += parts.length;
        if (notice?.kind === "gap") skipped += notice.count;
        if (parts.length > 0) await busy;
      }
    })();
    await until("it is live", async () =>
      (await (await fetch(`${server.url}/health/clients`)).text()).includes(`"stream":"${stream.name}"`),
    );
    busy = new Promise((resolve) => (goOn = resolve));
    const padding = "x".repeat(100_000);
    const written = 400;
    for (let at = 0; at < written; at++) expect((await stream.post(JSON.stringify({ at, padding }))).status).toBe(204);
    goOn();
    await stream.close();
    await within("the end", reading, READ_DEADLINE_MS);
    expect(came + skipped).toBe(written);
    expect(skipped).toBeGreaterThan(0);
  },
  TEST_DEADLINE_MS,
);
