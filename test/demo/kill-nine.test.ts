/**
 * `kill -9` under load, again and again: producers and followers only know how to ask again. At the end every record
 * that was acknowledged is there exactly once, in order, and no follower saw anything else.
 */

import { expect, test } from "bun:test";
import { runSeed, seededRandom } from "../support/random.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { newStream, streamAt } from "../support/streams.ts";
import { clockPast, until, within } from "../support/wait.ts";
import { follow, type Follower } from "./followers.ts";

const KILLS = 6;
const STREAMS = ["demo/left", "demo/right"] as const;
const PRODUCERS_PER_STREAM = 3;
const MAX_BATCH = 20;
const RETRY_DELAY_MS = 10;

interface NumberedRecord {
  readonly producer: string;
  readonly number: number;
}

test(`every acknowledged record survives ${KILLS} kills, exactly once, in order`, async () => {
  const random = seededRandom(runSeed());
  console.log(`kill-nine: seed ${random.seed}`);
  let server: TestServer = await startServer();
  const stopping = new AbortController();
  let acknowledged = 0;
  const sent = new Map<string, number>();

  /** Appends numbered records until told to stop; asks again until each batch is acknowledged. */
  async function produce(name: string, producer: string): Promise<void> {
    sent.set(producer, 0);
    for (let sequence = 0; !stopping.signal.aborted; sequence++) {
      const from = sent.get(producer) ?? 0;
      const batch = Array.from({ length: 1 + random.below(MAX_BATCH) }, (_, index) => ({
        producer,
        number: from + index,
      }));
      await appendUntilAcknowledged(name, producer, sequence, JSON.stringify(batch));
      sent.set(producer, from + batch.length);
      acknowledged += batch.length;
    }
  }

  async function appendUntilAcknowledged(name: string, id: string, sequence: number, body: string): Promise<void> {
    const headers = { "producer-id": id, "producer-epoch": "0", "producer-seq": String(sequence) };
    for (let attempt = 0; attempt < 2000; attempt++) {
      try {
        const { status } = await streamAt(server, name).post(body, headers);
        if (status === 200 || status === 204) return;
        if (status !== 429 && status !== 503) throw new UnexpectedStatus(status);
      } catch (cause) {
        // The server is down or died under the request: whether it was stored is not known, so ask again.
        if (cause instanceof UnexpectedStatus) throw cause;
      }
      await clockPast(Date.now(), RETRY_DELAY_MS);
    }
    throw new Error(`${id}: batch ${sequence} was never acknowledged`);
  }

  const followers: Follower[] = [];
  try {
    for (const name of STREAMS) await newStream(server, name);
    const [left, right] = STREAMS;
    followers.push(follow("sse", () => server.url, `/v1/stream/${left}`));
    followers.push(follow("long-poll", () => server.url, `/v1/stream/${right}`));
    const producing = Promise.all(
      STREAMS.flatMap((name) =>
        Array.from({ length: PRODUCERS_PER_STREAM }, (_, index) => produce(name, `${name}-${index}`)),
      ),
    );
    // A producer that fails must end the test at once, not only at its end.
    const failed = producing.then(() => new Promise<never>(() => {}));
    for (let kills = 0; kills < KILLS; kills++) {
      const goal = acknowledged + 2000 + random.below(10_000);
      await Promise.race([failed, until(`${goal} records were acknowledged`, () => acknowledged >= goal, 10_000)]);
      await server.kill("SIGKILL");
      server = await startServer({ dataDir: server.dataDir });
    }
    const goal = acknowledged + 2000;
    await Promise.race([failed, until(`${goal} records were acknowledged`, () => acknowledged >= goal, 10_000)]);
    stopping.abort();
    await within("the producers", producing, 10_000);
    for (const name of STREAMS) expect((await streamAt(server, name).close()).status).toBe(204);
    await within("the followers", Promise.all(followers.map(({ ended }) => ended)), 10_000);

    for (const [index, name] of STREAMS.entries()) {
      const stored = (await streamAt(server, name).records()) as NumberedRecord[];
      expect(numbersByProducer(stored)).toEqual(
        new Map(
          [...sent]
            .filter(([producer]) => producer.startsWith(name))
            .map(([producer, count]) => [producer, `0..${count - 1}`]),
        ),
      );
      expect(followers[index]?.seen.join()).toBe(stored.map((record) => JSON.stringify(record)).join());
      expect(followers[index]?.reconnects()).toBeGreaterThanOrEqual(KILLS);
    }
    await server.stop();
  } catch (cause) {
    throw new Error(`kill-nine: seed ${random.seed}\n${server.stderr()}`, { cause });
  } finally {
    stopping.abort();
    for (const follower of followers) follower.stop();
    await server.kill("SIGKILL");
    await server.remove();
  }
}, 60_000);

class UnexpectedStatus extends Error {
  constructor(readonly status: number) {
    super(`an append was answered with ${status}`);
  }
}

/** For each producer `0..n` when its numbers are all there, once, in order; else the first that is out of place. */
function numbersByProducer(records: readonly NumberedRecord[]): Map<string, string> {
  const next = new Map<string, number>();
  const broken = new Map<string, string>();
  for (const { producer, number } of records) {
    const expected = next.get(producer) ?? 0;
    if (number !== expected && !broken.has(producer)) broken.set(producer, `${number} where ${expected} was expected`);
    next.set(producer, expected + 1);
  }
  return new Map([...next].map(([producer, count]) => [producer, broken.get(producer) ?? `0..${count - 1}`]));
}
