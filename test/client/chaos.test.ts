/**
 * Chaos between the SDK and a real server: connections drop, answers break off anywhere, requests arrive twice, late or never,
 * gateways answer 5xx for what was done. The producer stores each value exactly once and in order, the reader gets each once
 * and in order, and nothing stays open. Controls without a producer, and without the reader's bookkeeping, must fail.
 * `CHAOS_RUNS=1000` asks for more runs; a failing one says how to repeat it.
 */

import { expect, test } from "bun:test";
import { connect, type Delivery, type StreamClient, type StreamProducer } from "../../src/client/client.ts";
import { type ChaosProxy, FAULTS, startChaosProxy } from "../support/chaos-proxy.ts";
import { runSeed, type SeededRandom, seededRandom } from "../support/random.ts";
import { sharedServer } from "../support/shared-server.ts";
import { newStream } from "../support/streams.ts";
import { until, within } from "../support/wait.ts";

const RUNS = Number(process.env["CHAOS_RUNS"] ?? 60);
const LIVES_RUNS = Math.ceil(RUNS / 4);
const AT_ONCE = 4;
const RUN_DEADLINE_MS = 30_000;
const CONTROL_RUNS = 8;
/** So many runs meet every fault: the rarest, a WebSocket that is cut, happens in every other of the runs with a socket. */
const RUNS_FOR_ALL_FAULTS = 60;
/** Many quick attempts: a run has to survive bad luck before it first reaches the server. */
const RETRY = { maxAttempts: 100, baseDelayMs: 1, maxDelayMs: 10 };
const LIVE = ["long-poll", "sse", "auto", "websocket"] as const;

const server = sharedServer({ args: ["--long-poll-timeout", "1s"] });
const baseSeed = runSeed();

function numbers(count: number): number[] {
  return Array.from({ length: count }, (_, index) => index);
}

/** One record; most are small, some are cut by every answer that breaks off. */
interface Value {
  readonly life: number;
  readonly number: number;
  readonly text: string;
}

function valueOf(life: number, number: number): Value {
  return { life, number, text: '\\"],[{ä€𝄞\r\n\n'.repeat((number * 7) % 5 === 0 ? number * 3 : 1) };
}

function valuesOf(life: number, count: number): Value[] {
  return numbers(count).map((number) => valueOf(life, number));
}

/** The values of a stream, until it is closed. */
async function collect(deliveries: AsyncIterable<Delivery>): Promise<Value[]> {
  const values: Value[] = [];
  const decoder = new TextDecoder();
  for await (const { parts } of deliveries) {
    values.push(...parts.map((part) => JSON.parse(decoder.decode(part)) as Value));
  }
  return values;
}

/** Appends so many values without waiting for each, at an uneven pace. */
async function appendUnevenly(
  producer: StreamProducer,
  values: readonly Value[],
  random: SeededRandom,
): Promise<Awaited<ReturnType<StreamProducer["append"]>>[]> {
  const acks: ReturnType<StreamProducer["append"]>[] = [];
  while (acks.length < values.length) {
    const group = values.slice(acks.length, acks.length + 1 + random.below(8));
    for (const value of group) acks.push(producer.append(value));
    // Alone at times, else while the request before is under way.
    if (random.below(2) === 0) await acks.at(-1);
    else await new Promise((resolve) => setTimeout(resolve, random.below(4)));
  }
  return Promise.all(acks);
}

function through(proxy: ChaosProxy, random: SeededRandom): StreamClient {
  const zstd = random.below(2) === 0 ? "sdk" : "native";
  return connect({ url: proxy.url, retry: RETRY, zstd, random: () => random.below(1000) / 1000 });
}

/** One stream, one producer and its readers behind one proxy. */
async function survive(seed: number, proxy: ChaosProxy, random: SeededRandom): Promise<void> {
  const direct = await newStream(server, `chaos/run-${seed}`);
  const stream = through(proxy, random).stream(direct.name);
  const values = valuesOf(0, 20 + random.below(60));
  const live = LIVE[seed % LIVE.length] ?? "auto";
  const following = collect(stream.follow({ live }));
  const producer = stream.producer(random.below(2) === 0 ? {} : { id: `producer-${seed}` });
  const acks = await appendUnevenly(producer, values, random);
  (await producer.close({ closeStream: true })).unwrap();
  for (const acked of acks) acked.unwrap();
  expect(await direct.records()).toEqual(values);
  expect(await following).toEqual(values);
  expect(await collect(stream.follow({ live }))).toEqual(values);
  await until("everything is over", () => proxy.open() === 0);
  expect(proxy.errors).toEqual([]);
}

/** A producer, and its next life with the same id, which begins while the first goes on. */
async function succeed(seed: number, proxy: ChaosProxy, random: SeededRandom): Promise<{ readonly fenced: boolean }> {
  const direct = await newStream(server, `chaos/lives-${seed}`);
  const [former, next] = [0, 1].map(() => through(proxy, random).stream(direct.name).producer({ id: "p" }));
  if (former === undefined || next === undefined) throw new Error("there are two");
  // Of two that begin at the same moment either may win.
  (await former.append(valueOf(0, 0))).unwrap();
  const formerAcks = appendUnevenly(former, valuesOf(0, 60).slice(1), random);
  await new Promise((resolve) => setTimeout(resolve, random.below(60)));
  (await appendUnevenly(next, valuesOf(1, 30), random)).map((acked) => acked.unwrap());
  (await next.close()).unwrap();
  const acked = 1 + (await formerAcks).filter((ack) => ack.isOk()).length;
  const stored = (await direct.records()) as Value[];
  const ofFormer = stored.filter(({ life }) => life === 0).length;
  // Once the next life has stored anything, nothing comes from the one before.
  expect(stored).toEqual([...valuesOf(0, ofFormer), ...valuesOf(1, 30)]);
  expect(acked).toBeLessThanOrEqual(ofFormer);
  await until("everything is over", () => proxy.open() === 0);
  expect(proxy.errors).toEqual([]);
  return { fenced: acked < 60 };
}

/** Adds up what happened in each run; the first failure ends them all. */
async function runAll(
  seeds: number[],
  run: (seed: number, proxy: ChaosProxy, random: SeededRandom) => Promise<void>,
): Promise<Record<string, number>> {
  const injected: Record<string, number> = {};
  const worker = async (): Promise<void> => {
    for (let seed = seeds.shift(); seed !== undefined; seed = seeds.shift()) {
      const proxy = await startChaosProxy(server, seed);
      try {
        await within(`run ${seed}`, run(seed, proxy, seededRandom(seed + 1)), RUN_DEADLINE_MS);
      } catch (cause) {
        seeds.length = 0;
        throw new Error(`repeat it with TEST_SEED=${seed} CHAOS_RUNS=1: ${String(cause)}`, { cause });
      } finally {
        proxy.close();
      }
      for (const fault of FAULTS) injected[fault] = (injected[fault] ?? 0) + proxy.injected[fault];
    }
  };
  const workers = await Promise.allSettled(Array.from({ length: AT_ONCE }, worker));
  for (const ended of workers) if (ended.status === "rejected") throw ended.reason;
  return injected;
}

function seedsFrom(first: number, count: number): number[] {
  return numbers(count).map((index) => first + index);
}

test(
  `${RUNS} runs: the producer stores exactly once and in order, readers miss nothing and get nothing twice`,
  async () => {
    const injected = await runAll(seedsFrom(baseSeed, RUNS), survive);
    console.log(`chaos: ${RUNS} runs from seed ${baseSeed}: ${JSON.stringify(injected)}`);
    const absent = FAULTS.filter((fault) => (injected[fault] ?? 0) === 0);
    expect(RUNS < RUNS_FOR_ALL_FAULTS ? [] : absent).toEqual([]);
  },
  RUN_DEADLINE_MS + RUNS * 2_000,
);

test(
  `${LIVES_RUNS} runs: a producer that comes back fences its former life, whose acknowledged values are all there`,
  async () => {
    let fenced = 0;
    await runAll(seedsFrom(baseSeed, LIVES_RUNS), async (seed, proxy, random) => {
      if ((await succeed(seed, proxy, random)).fenced) fenced++;
    });
    expect(RUNS < RUNS_FOR_ALL_FAULTS || fenced > 0).toBe(true);
  },
  RUN_DEADLINE_MS + LIVES_RUNS * 2_000,
);

test("control: appends that are simply repeated store some values more than once", async () => {
  let wrong = 0;
  await runAll(seedsFrom(baseSeed, CONTROL_RUNS), async (seed, proxy) => {
    const direct = await newStream(server, `chaos/naive-append-${seed}`);
    const values = numbers(20);
    for (const value of values) {
      await insist(async () => {
        const answer = await fetch(proxy.url + direct.path, {
          method: "POST",
          headers: { "content-type": "application/json" },
          body: String(value),
        });
        return answer.ok;
      });
    }
    if (!Bun.deepEquals(await direct.records(), values)) wrong++;
  });
  expect(wrong).toBeGreaterThan(0);
}, 60_000);

test("control: a reader that keeps what it got of a broken answer, and asks again, gets some of it twice", async () => {
  let wrong = 0;
  await runAll(seedsFrom(baseSeed, CONTROL_RUNS), async (seed, proxy) => {
    const direct = await newStream(server, `chaos/naive-read-${seed}`, "text/plain");
    const text = numbers(2000).join(" ");
    await direct.post(text);
    for (let round = 0; round < 5; round++) {
      let got = "";
      await insist(async () => {
        const answer = await fetch(proxy.url + direct.path);
        const decoder = new TextDecoder();
        if (answer.ok) for await (const piece of answer.body ?? []) got += decoder.decode(piece);
        return answer.ok;
      });
      if (got !== text) wrong++;
    }
  });
  expect(wrong).toBeGreaterThan(0);
}, 60_000);

/** Again and again until it says that it went well. */
async function insist(attempt: () => Promise<boolean>): Promise<void> {
  for (let failures = 0; failures < 100; failures++) {
    const went = await attempt().catch(() => false); // A broken connection is one more failure.
    if (went) return;
  }
  throw new Error("it never went well");
}
