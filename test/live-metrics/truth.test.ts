/**
 * The figures are true: known numbers of appends, waits, touches and activations come out as exactly these sums over all ticks,
 * whichever appends to the metrics stream fail in between.
 */

import { expect, test } from "bun:test";
import { KeyWriter, formatKey } from "../../src/protocol/touch-keys.ts";
import { makeTemplate } from "../../src/features/touch/template.ts";
import { systemClock } from "../../src/kit/clock.ts";
import type { Outcome } from "../../src/protocol/intents.ts";
import { MemoryStore } from "../../src/storage/memory/memory-store.ts";
import { seededRandom } from "../support/random.ts";
import { until } from "../support/wait.ts";
import { observedWorld, summed, type Told } from "./observed-world.ts";

const writer = new KeyWriter((bytes) => Bun.hash.xxHash3(bytes));
const SPEC = { entity: "todo", fields: [{ name: "userId", encoding: "string" as const }] };
const template = makeTemplate(SPEC, writer) ?? expect.unreachable("a valid template");
const key = (user: string): string => formatKey(writer.watch(template.idWords, [user]));
const insert = (id: number, userId: string) => ({
  type: "todo",
  key: String(id),
  value: { id, userId },
  headers: { operation: "insert" },
});

/** What a run did to one stream. */
interface Known {
  appends: number;
  changes: number;
  resets: number;
  touched: number;
  timedOut: number;
  stale: number;
  denied: number;
}

const FAILURES: readonly (() => Outcome)[] = [
  () => ({ kind: "rejected", rejection: { kind: "overloaded", reason: "sealing is behind" } }),
  () => ({ kind: "rejected", rejection: { kind: "disk-full" } }),
  () => {
    throw new Error("the disk is on fire");
  },
];

async function run(
  seed: number,
  failing: boolean,
): Promise<{ known: Map<string, Known>; told: Told[]; failures: number }> {
  const random = seededRandom(seed);
  const pick = (limit: number): number => random.below(limit);
  let sabotage = false;
  let failures = 0;
  const world = observedWorld({
    store: new MemoryStore(systemClock),
    clock: systemClock,
    sabotage: () => {
      if (!sabotage || pick(10) < 4) return null;
      failures++;
      return FAILURES[pick(FAILURES.length)]?.() ?? null;
    },
  });
  const { json, ask, metrics, touch } = world;
  const known = new Map<string, Known>();
  for (const name of ["a", "b/c", "d"]) {
    await world.touchStream(name);
    await json("POST", `${name}/touch/templates/activate`, { templates: [SPEC] });
    known.set(name, { appends: 0, changes: 0, resets: 0, touched: 0, timedOut: 0, stale: 0, denied: 0 });
  }
  sabotage = failing;
  const used = { templateIdsUsed: [template.id] };
  for (let step = 0; step < 300; step++) {
    const [name, counted] = [...known][pick(known.size)] ?? expect.unreachable("a stream");
    const action = pick(7);
    if (action === 0) {
      const count = 1 + pick(5);
      await json(
        "POST",
        name,
        Array.from({ length: count }, (_, at) => insert(step * 10 + at, "b")),
      );
      counted.appends++;
      counted.changes += count;
    } else if (action === 1) {
      const waiting = json("POST", `${name}/touch/wait`, {
        keys: [key("a")],
        cursor: "now",
        timeoutMs: 60_000,
        ...used,
      });
      await until("it is parked", async () => Number((await json("GET", `${name}/touch/meta`))["activeWaiters"]) === 1);
      if (pick(2) === 0) await metrics.tick();
      await json("POST", name, [insert(step, "a")]);
      counted.appends++;
      counted.changes++;
      expect(await waiting).toMatchObject({ touched: true });
      counted.touched++;
    } else if (action === 2) {
      const body = { keys: [key("nobody")], cursor: "now", timeoutMs: pick(2) * 5, ...used };
      expect(await json("POST", `${name}/touch/wait`, body)).toMatchObject({ touched: false });
      counted.timedOut++;
    } else if (action === 3) {
      expect(await json("POST", `${name}/touch/wait`, { keys: [key("a")], cursor: "999:0", ...used })).toMatchObject({
        stale: true,
      });
      counted.stale++;
    } else if (action === 4) {
      const invalid = { entity: "todo", fields: [] };
      await json("POST", `${name}/touch/templates/activate`, { templates: [invalid] });
      counted.denied++;
    } else if (action === 5) {
      const reset = { headers: { control: "reset" } };
      expect((await ask("POST", name, [reset])).status).toBe(204);
      counted.appends++;
      counted.resets++;
    } else await metrics.tick();
  }
  sabotage = false;
  await metrics.tick();
  expect([...touch.take()]).toEqual([]);
  expect(metrics.getMemoryStats()).toEqual({ counterStreams: 0 });
  const told = await world.told();
  await world.engine.close();
  return { known, told, failures };
}

test.each([
  ["without faults", false],
  ["while appends to the metrics stream fail", true],
])("sums over all ticks, %s", async (_, failing) => {
  const seed = Number(process.env["FC_SEED"] ?? Date.now() % 1e6);
  const { known, told, failures } = await run(seed, failing);
  expect([seed, failures > 10]).toEqual([seed, failing]);
  for (const [stream, { appends, changes, resets, touched, timedOut, stale, denied }] of known) {
    const sums = (paths: readonly string[]): object =>
      Object.fromEntries(paths.map((path) => [path, summed(told, stream, path)]));
    const expected = {
      "processor.eventsIn": changes + resets,
      "processor.changesOut": changes,
      "processor.processedThroughDelta": changes + resets,
      "processor.scannedBatches": appends,
      "processor.scannedButEmitted0Batches": resets,
      "processor.errors": 0,
      "touch.tableTouchesEmitted": changes,
      // An insert into a hot template touches a watch key and a membership key.
      "touch.templateTouchesEmitted": 2 * changes,
      "touch.touchesEmitted": 3 * changes,
      "touch.uniqueKeysTouched": 3 * changes,
      "processor.touchesEmittedDelta": 3 * changes,
      "touch.staleResponses": stale,
      "wait.calls": touched + timedOut + stale,
      "wait.keysWatchedTotal": touched + timedOut + stale,
      "wait.touched": touched,
      "wait.timeout": timedOut,
      "wait.stale": stale,
      "wait.notifyWakeups": touched,
      "wait.notifyFlushes": touched,
      "templates.activated": 1,
      "templates.retired": 0,
      "templates.evicted": 0,
      "templates.activationDenied": denied,
    };
    expect([seed, stream, sums(Object.keys(expected))]).toEqual([seed, stream, expected]);
  }
  const events = told.filter(({ type }) => type === "live.template_activated");
  expect(events.map(({ stream }) => stream).toSorted()).toEqual(["a", "b/c", "d"]);
});
