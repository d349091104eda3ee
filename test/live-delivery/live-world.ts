/** An engine with its live readers in this process, on a clock of the test's own: no port, no timers, turns as the test lets pass. */

import { expect } from "bun:test";
import { Engine } from "../../src/engine/engine.ts";
import { EVERY_RECORD, type ReadPlan, type Selection } from "../../src/engine/reader.ts";
import { type ClientEdge, LiveClients } from "../../src/http/live/clients.ts";
import { type Follower, Followers, type LiveItem, type Overflow } from "../../src/http/live/follower.ts";
import { renderExposition } from "../../src/http/exposition.ts";
import { nextTurn } from "../../src/kit/turn.ts";
import { type MemoryBudget, memoryBudget } from "../../src/protocol/budget.ts";
import { SlowStore } from "../support/slow-store.ts";

const JSON_TYPE = "application/json";

export type LiveWorld = ReturnType<typeof liveWorld>;

/** `budget`: where it differs from that of a server without a memory limit. */
export function liveWorld(budget: Partial<MemoryBudget> = {}) {
  const time = { ms: 1_000_000 };
  const clock = { nowMs: () => time.ms, monotonicMs: () => time.ms };
  const faults: unknown[] = [];
  const edges: ClientEdge[] = [];
  const onFault = (operation: string, cause: unknown): void => void faults.push([operation, cause]);
  const store = new SlowStore(clock);
  const engine = new Engine({
    store,
    clock,
    onFault,
    random: () => 0,
    profiles: [],
    budget: { ...memoryBudget(null), ...budget },
  });
  const followers = new Followers(engine, onFault);
  const clients = new LiveClients(engine, (edge) => edges.push(edge));
  const encode = (value: unknown): Uint8Array => new TextEncoder().encode(JSON.stringify(value));
  return {
    engine,
    store,
    followers,
    clients,
    faults,
    edges,
    create: async (name: string, forkOf: string | null = null): Promise<void> => {
      const outcome = await engine.create({
        name,
        contentType: JSON_TYPE,
        expiry: { kind: "never" },
        retention: null,
        close: false,
        key: null,
        body: new Uint8Array(),
        fork: forkOf === null ? null : { sourceName: forkOf, offset: null, subOffset: 0 },
      });
      expect(outcome.kind).toBe("created");
    },
    append: async (name: string, records: readonly unknown[], close = false): Promise<void> => {
      const outcome = await engine.append({
        name,
        contentType: records.length === 0 ? null : JSON_TYPE,
        body: records.length === 0 ? new Uint8Array() : encode(records),
        producer: null,
        streamSeq: null,
        ifMatch: null,
        key: null,
        close,
      });
      expect(outcome.kind).toBe("appended");
    },
    plan: async (name: string, from: "start" | "now", selection: Selection = EVERY_RECORD): Promise<ReadPlan> => {
      const head = await engine.find(name, "read");
      if ("kind" in head) throw new Error(head.kind);
      const plan = await engine.reader.plan(head, { kind: "offset", token: { kind: from } }, selection);
      if ("kind" in plan) throw new Error(plan.kind);
      return plan;
    },
    follow: (plan: ReadPlan, overflow: Overflow = "resume"): Follower => {
      const follower = followers.open(plan, overflow);
      if ("kind" in follower) throw new Error(follower.kind);
      return follower;
    },
    /** Lets time pass, and what is due happen. */
    pass: async (ms: number): Promise<void> => {
      time.ms += ms;
      engine.deadlines.tick();
      await turns(4);
    },
    /** The value of a metric without labels. */
    metric: (name: string): number => {
      const line = new RegExp(`^${name} (\\S+)$`, "m").exec(renderExposition(engine.metrics));
      return Number(line?.[1] ?? expect.unreachable(`a metric ${name}`));
    },
  };
}

export async function turns(count: number): Promise<void> {
  for (let turn = 0; turn < count; turn++) await nextTurn();
}

/** The next thing a follower has to say. */
export async function next(follower: Follower): Promise<LiveItem> {
  for (;;) {
    await follower.ready();
    const item = follower.takeHeld() ?? (await follower.take());
    if (item !== null) return item;
  }
}

/** The JSON records of a step. */
export function recordsOf(item: LiveItem): unknown[] {
  if (item.kind !== "step") throw new Error(`a ${item.kind} came instead of records`);
  const text = item.parts.map((part) => new TextDecoder().decode(part)).join(",");
  return JSON.parse(`[${text}]`) as unknown[];
}
