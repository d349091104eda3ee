/**
 * `kill -9` in the middle of webhooks and claims, again and again: every record that was acknowledged is processed for every subscription
 * that matches it, no acknowledged ack goes back, generations only grow, and no wake is lost for long.
 */

import { expect, test } from "bun:test";
import { runSeed, type SeededRandom, seededRandom } from "../support/random.ts";
import { startServer, type TestServer } from "../support/server.ts";
import { streamAt } from "../support/streams.ts";
import { clockPast, until, within } from "../support/wait.ts";
import { DeliveryLedger, Subscriber, type ToldStream } from "./delivery-ledger.ts";
import { ask, askUntilAnswered, receive, type Surroundings, work, write } from "./kill-subscribers.ts";
import { seqOf } from "./subscription-model.ts";

const KILLS = Number(process.env["SUBSCRIPTION_KILLS"] ?? 3);
const SUBSCRIPTIONS = 50;
/** Made while everything is under way. */
const LATE_SUBSCRIPTIONS = 8;
const GROUPS = 6;
const STREAMS_PER_GROUP = 10;
/** Of each group; the writers make the others. */
const MADE_BEFORE = 7;
const WAKE_STREAMS = 6;
const WRITERS = 4;
const LEASE_MS = 1_000;
const MAX_SHOWN = 20;
const QUIET_AFTER_MS = 10_000;

const streams = Array.from(
  { length: GROUPS * STREAMS_PER_GROUP },
  (_, at) => `in/g${at % GROUPS}/s${Math.floor(at / GROUPS)}`,
);

test(
  `${KILLS} kills lose no wake, no record and no ack`,
  async () => {
    const random = seededRandom(runSeed());
    console.log(`subscriptions, kill: seed ${random.seed}`);
    const ledger = new DeliveryLedger();
    const stopping = new AbortController();
    let server = await startServer({ args: ["--allow-local-webhooks"] });
    const around: Surroundings = { ledger, random, stopping: stopping.signal, isWell: false, url: server.url };
    const receiver = await receive(around);
    try {
      const known = new Set(streams.slice(0, GROUPS * MADE_BEFORE));
      const wakes = Array.from({ length: WAKE_STREAMS }, (_, at) => `wake/${at}`);
      for (const name of [...known, ...wakes]) await askUntilAnswered(around, "PUT", name);
      const all = Array.from({ length: SUBSCRIPTIONS }, (_, at) => subscriber(at, random, receiver.url));
      const late = all.splice(-LATE_SUBSCRIPTIONS);
      const working: Promise<void>[] = [];
      const begin = async (one: Subscriber): Promise<void> => {
        await make(around, one);
        if (one.wakeStream === null) return;
        // Some have two workers that race.
        for (let worker = random.below(3) === 0 ? 0 : 1; worker < 2; worker++)
          working.push(work(around, one, `${one.id}-${worker}`));
      };
      for (const one of all) await begin(one);
      const writing = Array.from({ length: WRITERS }, (_, at) =>
        write(
          around,
          `w${at}`,
          streams.filter((__, index) => index % WRITERS === at),
          known,
        ),
      );
      const beginning = (async () => {
        for (const one of late) {
          await clockPast(Date.now(), random.below(Math.max(1, KILLS) * 200));
          await begin(one);
        }
      })();
      for (let kills = 0; kills < KILLS; kills++) {
        await clockPast(Date.now(), 300 + random.below(1_500));
        server = await killAndStart(server, around);
        await compare(around, `after kill ${kills + 1}`);
      }
      await within("the last subscriptions", beginning, 10_000);
      await clockPast(Date.now(), 500);
      around.isWell = true;
      await within("the writers", Promise.all(writing), 10_000);
      await until("everything was worked off", () => isWorkedOff(around), QUIET_AFTER_MS).catch(
        async (cause: unknown) => {
          ledger.violated(`${String(cause)}: ${await behind(around)}`);
        },
      );
      await compare(around, "at the end");
      await compareWhole(around, server);
      stopping.abort();
      await within("the workers", Promise.all(working), 10_000);
      await compareWakeStreams(server, ledger, wakes);
      console.log(
        `${ledger.records} records, ${[...ledger.counts].map(([what, count]) => `${count} ${what}`).join(", ")}`,
      );
      // Many of a kind come together.
      expect([...ledger.violations].slice(0, MAX_SHOWN), `seed ${random.seed}\n${server.stderr()}`).toEqual([]);
      expect(ledger.records).toBeGreaterThan(0);
    } finally {
      stopping.abort();
      receiver.close();
      await server.kill("SIGKILL");
      await server.remove();
    }
  },
  60_000 + KILLS * 10_000,
);

/** Half of them webhooks, half pull-wake; globs, streams by name, and both. */
function subscriber(at: number, random: SeededRandom, hooks: string): Subscriber {
  const id = `sub-${at}`;
  const patterns = [`in/g${random.below(GROUPS)}/*`, `in/*/s${random.below(STREAMS_PER_GROUP)}`, "in/**"];
  const pattern = patterns[random.below(12) === 0 ? 2 : random.below(2)] ?? "";
  const named = Array.from({ length: 1 + random.below(6) }, () => streams[random.below(streams.length)] ?? "");
  const kind = random.below(3);
  const names = kind === 0 ? [] : [...new Set(named)];
  const config = {
    lease_ttl_ms: LEASE_MS,
    ...(kind < 2 && { pattern }),
    ...(names.length > 0 && { streams: names }),
    ...(at % 2 === 0
      ? { type: "webhook", webhook: { url: `${hooks}/${id}` } }
      : { type: "pull-wake", wake_stream: `wake/${random.below(WAKE_STREAMS)}` }),
  };
  return new Subscriber(id, config, names);
}

async function make(around: Surroundings, subscriber: Subscriber): Promise<void> {
  const { ledger } = around;
  ledger.subscribers.set(subscriber.id, subscriber);
  const { status, json } = await askUntilAnswered(
    around,
    "PUT",
    `__ds/subscriptions/${subscriber.id}`,
    subscriber.config,
  );
  if (status !== 201 && status !== 200) throw new Error(`PUT ${subscriber.id}: ${status} ${JSON.stringify(json)}`);
  ledger.noteMade(subscriber, (json as { streams: ToldStream[] }).streams);
}

/** On the same directory and port: callbacks go where they went before. */
async function killAndStart(server: TestServer, around: Surroundings): Promise<TestServer> {
  await server.kill("SIGKILL");
  const args = ["--allow-local-webhooks", "--port", new URL(server.url).port];
  const next = await startServer({ args, dataDir: server.dataDir });
  around.url = next.url;
  return next;
}

async function compare(around: Surroundings, when: string): Promise<void> {
  const { ledger } = around;
  const compareOne = async (subscriber: Subscriber): Promise<void> => {
    if (subscriber.madeMs === Infinity) return;
    const [floors, { generation: least }] = [subscriber.floors(), subscriber];
    const { status, json } = await askUntilAnswered(around, "GET", `__ds/subscriptions/${subscriber.id}`);
    if (status !== 200) return ledger.violated(`${subscriber.id}, ${when}: ${status}`);
    const { streams: shown, generation } = json as { streams: ToldStream[]; generation: number };
    ledger.noteShown(subscriber, shown, floors, when);
    if (generation < least) ledger.violated(`${subscriber.id}, ${when}: generation ${generation} after ${least}`);
  };
  await Promise.all([...ledger.subscribers.values()].map(compareOne));
}

async function listed(around: Surroundings) {
  const answer = await ask("GET", `${around.url}/v1/stream/__ds/subscriptions?limit=${SUBSCRIPTIONS}`);
  const { subscriptions = [] } = (answer?.json ?? {}) as { subscriptions?: { id: string; lag_records: number }[] };
  return subscriptions;
}

async function isWorkedOff(around: Surroundings): Promise<boolean> {
  const all = await listed(around);
  return all.length === SUBSCRIPTIONS && all.every(({ lag_records }) => lag_records === 0);
}

async function behind(around: Surroundings): Promise<string> {
  return JSON.stringify((await listed(around)).filter(({ lag_records }) => lag_records > 0));
}

/** Every stream is linked and worked off to its end, and every record was processed. */
async function compareWhole(around: Surroundings, server: TestServer): Promise<void> {
  const { ledger } = around;
  const stored = new Map<string, string[]>();
  for (const stream of streams) {
    const head = await streamAt(server, stream).head();
    if (head.status !== 200) continue;
    const records = (await streamAt(server, stream).records()) as { id: string }[];
    if (records.length !== seqOf(head.headers.get("stream-next-offset") ?? ""))
      throw new Error(`${stream} is not whole`);
    stored.set(
      stream,
      records.map(({ id }) => id),
    );
  }
  ledger.settle(stored);
  for (const subscriber of ledger.subscribers.values()) {
    const { json } = await askUntilAnswered(around, "GET", `__ds/subscriptions/${subscriber.id}`);
    const shown = new Map(
      (json as { streams: ToldStream[] }).streams.map((one) => [one.path, seqOf(one.acked_offset)]),
    );
    for (const [stream, ids] of stored)
      if (subscriber.matches(stream) && shown.get(stream) !== ids.length)
        ledger.violated(
          `${subscriber.id}: ${stream} ends at ${ids.length} and is acked to ${shown.get(stream) ?? "nothing"}`,
        );
  }
}

async function compareWakeStreams(server: TestServer, ledger: DeliveryLedger, wakes: readonly string[]): Promise<void> {
  const last = new Map<string, number>();
  for (const name of wakes) {
    const events = (await streamAt(server, name).records()) as { subscription_id: string; generation: number }[];
    for (const { subscription_id: id, generation } of events) {
      if (generation <= (last.get(id) ?? 0)) ledger.violated(`${id} is told ${generation} after ${last.get(id) ?? 0}`);
      last.set(id, generation);
    }
  }
}
