/**
 * Subscriptions over a store in memory, on a clock of the test's own, in a process that can be killed at any point and started again.
 * Webhooks go to the test, which answers them when it likes. Commits and reads take a few turns, as they do on a disk.
 */

import { Engine } from "../../src/engine/engine.ts";
import type { DeliveryOutcome, WebhookWake } from "../../src/features/subscriptions/subscription-port.ts";
import { Subscriptions } from "../../src/features/subscriptions/subscriptions.ts";
import { WakeTokens } from "../../src/features/subscriptions/wake-tokens.ts";
import { nextTurn } from "../../src/kit/turn.ts";
import type { StreamHead } from "../../src/protocol/stream.ts";
import { MemoryStore } from "../../src/storage/memory/memory-store.ts";
import type { StreamStore } from "../../src/storage/port.ts";
import type { SeededRandom } from "../support/random.ts";

/** Turns without any work after which nothing goes on any more. */
const IDLE_TURNS = 8;
const MAX_TURNS = 20_000;
const STEP_MS = 500;
const SWEPT_AT_ONCE = 100;

/** A webhook that came to the test. */
export interface Delivery {
  readonly id: string;
  readonly type: string;
  readonly wake: WebhookWake;
  readonly token: string;
  readonly atMs: number;
  readonly signal: AbortSignal;
  isAnswered: boolean;
  answer(outcome: DeliveryOutcome): void;
}

interface Gate {
  isDead: boolean;
  /** Dies once so many more commits are durable, before the last of them is answered; null: not by itself. */
  commitsLeft: number | null;
}

export interface SubscriptionWorld {
  /** `setBackMs`: how far the wall clock was set back; the other clock does not mind. */
  readonly time: { ms: number; setBackMs: number };
  /** Commits are refused, as on a full disk. */
  isFull: boolean;
  /** Of the next process. */
  maxLinks: number;
  readonly tokens: WakeTokens;
  readonly engine: Engine;
  readonly subscriptions: Subscriptions;
  readonly faults: string[];
  /** Counts processes: what belongs to an earlier one is dead. */
  readonly life: number;
  onDelivery: (delivery: Delivery) => void;
  /** Runs what waits for nothing but turns; `busy` says whether the test itself still waits. */
  settle(busy?: () => boolean): Promise<void>;
  turns(count: number): Promise<void>;
  pass(ms: number, each?: () => void): Promise<void>;
  /** Ends the process without a word, now or after so many commits, and starts another one, which may still be linking its streams. */
  crash(afterCommits: number | null): Promise<void>;
  /** Every stream that clients see. */
  heads(): Promise<StreamHead[]>;
  /** Records of a JSON stream; none when it is not there. */
  records(name: string): Promise<unknown[]>;
  close(): void;
}

export async function subscriptionWorld(random: SeededRandom, maxLinks = 1_000): Promise<SubscriptionWorld> {
  const time = { ms: Date.parse("2030-01-02T03:04:05Z"), setBackMs: 0 };
  const clock = { nowMs: () => time.ms - time.setBackMs, monotonicMs: () => time.ms };
  const store = new MemoryStore(clock);
  const tokens = new WakeTokens(new Uint8Array(32).fill(7));
  const faults: string[] = [];
  let work = 0;
  let ids = 0;
  let lives = 0;

  /** The same store for one process: slower, as a disk is; once it is dead, nothing it asks for happens or is answered. */
  function mortal(gate: Gate): StreamStore {
    const { log, catalog } = store;
    const never = new Promise<never>(() => undefined);
    async function late<T>(task: () => Promise<T>): Promise<T> {
      work++;
      for (let left = random.below(3); left > 0; left--) await nextTurn();
      return gate.isDead ? never : task();
    }
    return {
      status: () => store.status(),
      close: () => store.close(),
      catalog: {
        byName: (name) => late(() => catalog.byName(name)),
        byId: (id) => late(() => catalog.byId(id)),
        peek: (name) => catalog.peek(name),
        attributes: (id) => late(() => catalog.attributes(id)),
        annotated: (key, after, limit) => catalog.annotated(key, after, limit),
        list: (query) => late(() => catalog.list(query)),
        pastDeadline: (nowMs, limit) => catalog.pastDeadline(nowMs, limit),
        withRetention: (after, limit) => catalog.withRetention(after, limit),
      },
      log: {
        commit: (intents) =>
          late(() => {
            if (world.isFull)
              return Promise.resolve(intents.map(() => ({ kind: "rejected", rejection: { kind: "storage-full" } })));
            if (gate.commitsLeft === null || gate.commitsLeft-- > 0) return log.commit(intents);
            gate.isDead = true;
            return log.commit(intents).then(() => never);
          }),
        read: (request) => log.read(request),
        readFrames: (request) => log.readFrames(request),
        appendEnd: (id, seq) => log.appendEnd(id, seq),
        seekTime: (id, atMs) => log.seekTime(id, atMs),
        unsealed: (id) => log.unsealed(id),
        largestUnsealed: (limit) => log.largestUnsealed(limit),
        trimPoint: (id, bounds) => log.trimPoint(id, bounds),
        follow: (listener) => log.follow((commit) => void (gate.isDead || listener(commit))),
      },
    };
  }

  async function begin() {
    const gate: Gate = { isDead: false, commitsLeft: null };
    const life = ++lives;
    const onFault = (operation: string, cause: unknown): void =>
      void (gate.isDead || faults.push(`${operation}: ${cause instanceof Error ? cause.message : String(cause)}`));
    const engine = new Engine({
      store: mortal(gate),
      clock,
      onFault,
      random: () => random.below(1_000_000) / 1_000_000,
      profiles: [],
    });
    const subscriptions = new Subscriptions({
      engine,
      tokens,
      newId: () => `w_${++ids}`,
      onFault,
      maxLinks: world.maxLinks,
      deliver: ({ id, subject, record }, wake, signal) =>
        new Promise((resolve) => {
          // As the real one: nothing is sent for a signal that was given.
          if (gate.isDead || signal.aborted) return resolve({ kind: "taken" });
          const { generation } = wake;
          const delivery: Delivery = {
            id,
            type: record.config.type,
            wake,
            token: tokens.mint({ subscription: subject, generation }, time.ms),
            atMs: time.ms,
            signal,
            isAnswered: false,
            answer: (outcome) => {
              delivery.isAnswered = true;
              resolve(outcome);
            },
          };
          signal.addEventListener("abort", () => resolve({ kind: "failed", reason: "aborted" }));
          world.onDelivery(delivery);
        }),
    });
    await subscriptions.load();
    return { engine, subscriptions, gate, life };
  }

  const turns = async (count: number): Promise<void> => {
    for (let turn = 0; turn < count; turn++) await nextTurn();
  };
  async function settle(busy: () => boolean = () => false): Promise<void> {
    let [seen, idle] = [work, 0];
    for (let turn = 0; idle < IDLE_TURNS || busy(); turn++) {
      if (turn > MAX_TURNS) throw new Error("what was asked is never answered");
      await nextTurn();
      idle = work === seen ? idle + 1 : 0;
      seen = work;
    }
  }

  const world: SubscriptionWorld = {
    time,
    isFull: false,
    maxLinks,
    tokens,
    faults,
    settle,
    turns,
    onDelivery: () => undefined,
    get engine() {
      return process.engine;
    },
    get subscriptions() {
      return process.subscriptions;
    },
    get life() {
      return process.life;
    },
    async pass(ms, each = () => undefined) {
      for (let left = ms; left > 0; left -= STEP_MS) {
        time.ms += Math.min(left, STEP_MS);
        process.engine.deadlines.tick();
        await settle();
        each();
      }
    },
    async crash(afterCommits) {
      const { gate, engine } = process;
      gate.commitsLeft = afterCommits;
      if (afterCommits !== null) for (let turn = 0; turn < 30 && !gate.isDead; turn++) await nextTurn();
      gate.isDead = true;
      engine.deadlines.close();
      process = await begin();
      process.subscriptions.start().catch((cause: unknown) => faults.push(`start: ${String(cause)}`));
    },
    heads: async () => {
      const heads = await store.list({ prefix: "", after: "", limit: SWEPT_AT_ONCE });
      return heads.filter(({ config }) => !config.name.startsWith("__ds/"));
    },
    async records(name) {
      const head = await store.byName(name);
      if (head === undefined || head.deletion !== "none") return [];
      const { parts } = await store.read({ id: head.id, from: 0, to: head.next, maxBytes: Infinity, key: null });
      return parts.map((part) => JSON.parse(new TextDecoder().decode(part)) as unknown);
    },
    close: () => {
      process.gate.isDead = true;
      process.subscriptions.close();
      process.engine.deadlines.close();
    },
  };
  let process = await begin();
  await process.subscriptions.start();
  return world;
}
