/**
 * Readers in every mode are paused, cut, renewed and brought back by a seeded script while records are appended, some of them until
 * the kernel's buffers are full. In the end each has a log without holes and doubles, or one that says exactly what was skipped.
 *
 * `FC_SEED` repeats a run, `LIVE_ROUNDS` makes more of them.
 */

import { describe, expect, test } from "bun:test";
import { type SeededRandom, seededRandom } from "../support/random.ts";
import { sharedServer } from "../support/shared-server.ts";
import { call } from "../support/streams.ts";
import { clockPast, until } from "../support/wait.ts";
import { MODES, type Mode, type Overflow } from "./conversation.ts";
import { DeliveryLog, positionOf } from "./delivery-log.ts";
import { LiveReader } from "./live-reader.ts";
import { roughLife, roughReaders, summary, write } from "./rough-life.ts";
import { ALL, FORMATS, type WrittenStream, writtenStream } from "./written-stream.ts";

const BASE_SEED = Number(process.env["FC_SEED"] ?? Date.now() % 1e6);
const ROUNDS = Number(process.env["LIVE_ROUNDS"] ?? 2);
const WRITE_MS = 3600;
const WRITERS = 2;
const DRAIN_DEADLINE_MS = 20_000;
const TEST_DEADLINE_MS = 60_000;

const server = sharedServer();
/** Of all rounds. */
const treated: LiveReader[] = [];

test.each(Array.from({ length: ROUNDS }, (_, round) => BASE_SEED + round))(
  "each log has every record once, in order, or says which it skipped: FC_SEED=%d",
  async (seed) => {
    const random = seededRandom(seed);
    const fork = (): SeededRandom => seededRandom(random.below(2 ** 31));
    const [json, ...others] = await Promise.all(
      FORMATS.map((format) => writtenStream(server, `live-delivery/${seed}/${format}`, format)),
    );
    if (json === undefined) expect.unreachable("a stream");
    const streams = [json, ...others] as const;
    const readers = roughReaders(server, streams, fork());
    let isOver = false;
    const over = Bun.sleep(WRITE_MS).then(() => void (isOver = true));
    await Promise.all([
      ...streams.flatMap((written) => Array.from({ length: WRITERS }, () => write(written, fork(), () => isOver))),
      ...readers.map((reader, number) => roughLife(reader, number, fork(), over, () => isOver)),
    ]);
    for (const written of streams) await expectWhole(written);
    await drained(readers);
    const sizes = streams.map(
      ({ format, records, bytes }) => `${format} ${records.length} records, ${(bytes() / 1e6).toFixed(1)} MB`,
    );
    console.log(`FC_SEED=${seed}: ${sizes.join("; ")}\n  ${summary(readers)}`);
    expect([seed, ...readers.flatMap((reader) => reader.problems())]).toEqual([seed]);
    treated.push(...readers);
  },
  TEST_DEADLINE_MS,
);

test("in every mode some were paused, and some cut inside of an answer", () => {
  // By chance none in a round of a slow machine, where a reader meets few answers.
  for (const mode of MODES) {
    const met = treated.filter((reader) => reader.mode === mode).map(({ treatment }) => treatment);
    expect([mode, met.some(({ pauses }) => pauses > 0)]).toEqual([mode, true]);
    expect([mode, met.some(({ cutsInside }) => cutsInside > 0)]).toEqual([mode, true]);
  }
});

describe("a reader that stops reading while several MB are appended", () => {
  const PUSHED: readonly Mode[] = ["sse", "sse-last-event-id", "websocket"];
  /** Far more than the kernel takes for a connection, which is up to 4 MB at each end. */
  const PUSHED_BYTES = 14e6;

  /** One paused reader for each mode of a pushed stream; `append` fills its socket and more. */
  async function stalled(
    what: string,
    overflow: Overflow,
    append: (written: WrittenStream, random: SeededRandom) => Promise<void>,
  ) {
    const random = seededRandom(BASE_SEED);
    const written = await writtenStream(server, `live-delivery/${BASE_SEED}/${what}`, "json");
    const readers = PUSHED.map(
      (mode) => new LiveReader(server, mode, [{ id: mode, written, wanted: ALL, overflow, log: new DeliveryLog() }]),
    );
    await written.append(random, 10, () => false);
    for (const reader of readers) reader.connect();
    await until("the readers are at the tail", () => readers.every((reader) => reader.isDone()));
    // They wait for what comes next: only then is what they miss a lag.
    await until("the readers wait", async () => (await healths(written)).every(({ lag }) => lag.records === 0));
    for (const reader of readers) reader.pause();
    while (written.bytes() < PUSHED_BYTES) await written.append(random, 40, () => true);
    await append(written, random);
    return { written, readers };
  }

  test(
    "with drop-oldest gets the newest, and is told exactly which it does not get",
    async () => {
      const { written, readers } = await stalled("gap", "drop-oldest", () => Promise.resolve());
      await unhealthy(written, readers);
      for (const reader of readers) reader.resume();
      await drained(readers);
      expect(readers.flatMap((reader) => reader.problems())).toEqual([]);
      const logs = readers.flatMap(({ followings }) => followings.map(({ log }) => log));
      expect(logs.map((log) => log.count("gap") > 0)).toEqual([true, true, true]);
      // One connection each: the gap came in the middle of it.
      expect(logs.map((log) => log.count("opened"))).toEqual([1, 1, 1]);
    },
    TEST_DEADLINE_MS,
  );

  test(
    "with resume is told what it is behind, and gets all of it",
    async () => {
      const { written, readers } = await stalled("lagged", "resume", async (target, random) => {
        await target.append(random, 100, () => false);
        // More than the second after which it is told.
        await clockPast(Date.now(), 1500);
      });
      await unhealthy(written, readers);
      for (const reader of readers) reader.resume();
      await drained(readers);
      expect(readers.flatMap((reader) => reader.problems())).toEqual([]);
      const tail = written.records.length;
      for (const { log } of readers.flatMap(({ followings }) => followings)) {
        // From where it had come to, which `problems` has looked at, to the tail of that time.
        expect(log.deliveries.findLast(({ kind }) => kind === "lagged")).toMatchObject({ to: tail });
        expect([log.count("opened"), log.count("gap")]).toEqual([1, 0]);
      }
    },
    TEST_DEADLINE_MS,
  );

  test(
    "with disconnect is cut off 100,000 records behind, comes back, and misses nothing",
    async () => {
      const { written, readers } = await stalled("cut-off", "disconnect", async (target, random) => {
        for (let at = 0; at < 3; at++) await target.append(random, 35_000, () => false);
      });
      await until("the server cut them off", async () => (await healths(written)).length === 0, 10_000);
      for (const reader of readers) reader.resume();
      await drained(readers);
      expect(readers.flatMap((reader) => reader.problems())).toEqual([]);
      expect(readers.map(({ treatment }) => treatment.ended > 0)).toEqual([true, true, true]);
    },
    TEST_DEADLINE_MS,
  );

  test(
    "and unsubscribes meanwhile is told where it had come to: from there it misses nothing",
    async () => {
      const { written, readers } = await stalled("renewed", "resume", () => Promise.resolve());
      await unhealthy(written, readers);
      // The answers to come lie behind all that the socket holds.
      for (const reader of readers) for (const following of reader.followings) reader.renew(following);
      await until("it was heard", async () => (await healths(written)).length === 2);
      for (const reader of readers) reader.resume();
      await drained(readers);
      expect(readers.flatMap((reader) => reader.problems())).toEqual([]);
      const renewed = readers.filter(({ treatment }) => treatment.renewals === 1);
      expect(renewed.map(({ mode, treatment }) => [mode, treatment.connections])).toEqual([["websocket", 1]]);
    },
    TEST_DEADLINE_MS,
  );

  async function unhealthy(written: WrittenStream, readers: readonly LiveReader[]): Promise<void> {
    await until("the server finds all of them slow", async () => {
      const clients = await healths(written);
      return clients.length === readers.length && clients.every(({ healthy, lag }) => !healthy && lag.records > 0);
    });
  }
});

/** Every position was acknowledged, and the tail is where the last answer said. */
async function expectWhole({ stream, records }: WrittenStream): Promise<void> {
  expect(records.findIndex((record) => record === undefined)).toBe(-1);
  expect(positionOf(await stream.tail())).toBe(records.length);
}

/** Reads on with all of them, whatever happened before, until each is at its end; then they are gone. */
async function drained(readers: readonly LiveReader[]): Promise<void> {
  try {
    await until(
      "every reader has come to its end",
      () => {
        for (const reader of readers) {
          reader.connect();
          reader.resume();
        }
        return readers.every((reader) => reader.isDone());
      },
      DRAIN_DEADLINE_MS,
    ).catch((cause: unknown) => {
      // Where they stand says more.
      const late = readers.filter((reader) => !reader.isDone()).flatMap((reader) => reader.problems());
      throw new Error(late.join("\n"), { cause });
    });
  } finally {
    for (const reader of readers) reader.leave();
  }
}

interface ClientHealth {
  readonly healthy: boolean;
  readonly lag: { readonly records: number; readonly ms: number };
  readonly streams: readonly { readonly stream: string }[];
}

/** The live clients of one stream, as the server sees them. */
async function healths({ stream }: WrittenStream): Promise<ClientHealth[]> {
  const response = await call("GET", `${server.url}/health/clients?limit=1000`);
  const { clients } = (await response.json()) as { clients: ClientHealth[] };
  return clients.filter(({ streams }) => streams.some((followed) => followed.stream === stream.name));
}
