/**
 * Events that are promised to be written: whatever else comes, in whichever order, with settings that change and writes that fail,
 * none of them is dropped, and what is not let in leaves nothing behind. Random; a failing run prints its seed.
 */

import { expect, test } from "bun:test";
import { array, assert as check, asyncProperty, boolean, constantFrom, integer, oneof, record } from "fast-check";
import { Admission } from "../../engine/admission.ts";
import { Deadlines } from "../../kit/deadlines.ts";
import { nextTurn } from "../../kit/turn.ts";
import type { EventBatch, WriteBatches } from "./batch-writer.ts";
import type { Priority } from "./event.ts";
import { type Admitted, BatchingStopped, EventBatchingService, EventDropped } from "./event-batching-service.ts";
import { EventTrackingService } from "./event-tracking-service.ts";
import { type PreparedEvent, prepareEvent } from "./prepared-event.ts";
import type { AnalyticsConfig } from "./settings.ts";

const BUDGET_BYTES = 12_000;
const MAX_EVENTS = 16;
const NAMES = ["a", "b"];

function world() {
  const time = { ms: Date.parse("2030-01-01T00:00:00Z") };
  const clock = { nowMs: () => time.ms, monotonicMs: () => time.ms };
  const deadlines = new Deadlines(clock);
  const settle = async (): Promise<void> => {
    for (let turn = 0; turn < 10; turn++) await nextTurn();
  };
  const pass = async (ms: number): Promise<void> => {
    time.ms += ms;
    deadlines.tick();
    await settle();
  };
  return { time, parts: { clock, deadlines }, settle, pass };
}

const config: AnalyticsConfig = { samplingRates: {}, highPriorityFlushThreshold: 10_000, maxBatchSize: 7 };

function prepared(id: number, priority: Priority, isValue: boolean, nowMs: number): PreparedEvent {
  const event = isValue
    ? { type: "performance", priority, data: { metric: "m", value: id } }
    : { type: "command", priority, data: { commandName: "c", id } };
  const json = JSON.stringify(event);
  const read = prepareEvent(event, json.length, () => json, nowMs);
  return typeof read === "string" ? expect.unreachable(read) : read;
}

/** The ids of stored events. */
function idsOf(batches: readonly EventBatch[]): number[] {
  return batches.flatMap(({ events }) =>
    events.map(({ json }) => (JSON.parse(json) as { data: { id: number } }).data.id),
  );
}

test("what was promised is written, whatever comes between", async () => {
  const service = constantFrom(...NAMES);
  const action = oneof(
    record({
      kind: constantFrom("request" as const),
      service,
      events: array(record({ priority: constantFrom<Priority[]>("high", "normal", "low"), isValue: boolean() }), {
        minLength: 1,
        maxLength: 12,
      }),
      takes: integer({ min: 0, max: 3 }),
    }),
    record({ kind: constantFrom("take" as const), takes: integer({ min: 1, max: 6 }) }),
    record({ kind: constantFrom("end" as const) }),
    record({
      kind: constantFrom("configure" as const),
      service,
      ack: constantFrom("durable" as const, "memory" as const),
      maxQueuedEvents: integer({ min: 5, max: MAX_EVENTS }),
    }),
    record({ kind: constantFrom("pass" as const), ms: constantFrom(0, 0, 500, 1_000) }),
    record({ kind: constantFrom("fail" as const) }),
  );
  await check(
    asyncProperty(array(action, { maxLength: 60, size: "max" }), async (actions) => {
      const { time, parts, pass, settle } = world();
      const queueBudget = new Admission(BUDGET_BYTES);
      let failures = 0;
      const written = new Map<string, EventBatch[]>(NAMES.map((name) => [name, []]));
      const services = new Map(
        NAMES.map((name) => {
          const write: WriteBatches = async (some) => {
            if (failures > 0 && failures-- > 0) throw new Error("later");
            written.get(name)?.push(...some);
          };
          const service = new EventBatchingService(
            write,
            { ...config, maxQueuedEvents: MAX_EVENTS },
            { ...parts, queueBudget },
          );
          return [name, service] as const;
        }),
      );
      const open: { of: string; admitted: Admitted; left: { id: number; event: PreparedEvent }[] }[] = [];
      const promised = new Map<string, number[]>(NAMES.map((name) => [name, []]));
      let id = 0;
      const takeSome = (count: number): void => {
        for (const { of, admitted, left } of open) {
          for (const { id: taken, event } of left.splice(0, count)) {
            const fate = admitted.take(event);
            if (!admitted.isPromised) continue;
            expect(fate).not.toBe("dropped");
            if (fate === "queued") promised.get(of)?.push(taken);
          }
        }
      };
      for (const step of actions) {
        if (step.kind === "request") {
          const batching = services.get(step.service);
          const left = step.events.map(({ priority, isValue }) => {
            id++;
            return { id, event: prepared(id, priority, isValue, time.ms) };
          });
          const before = [batching?.getMetrics(), queueBudget.used];
          const events = left.map(({ event }) => event);
          const admitted = batching?.admit(events, batching.getConfig().ack === "durable") ?? null;
          if (admitted === null) expect([batching?.getMetrics(), queueBudget.used]).toEqual(before);
          else open.push({ of: step.service, admitted, left });
          takeSome(step.takes);
        } else if (step.kind === "take") takeSome(step.takes);
        else if (step.kind === "end") open.shift()?.admitted.end();
        else if (step.kind === "configure")
          services.get(step.service)?.updateConfig({ ack: step.ack, maxQueuedEvents: step.maxQueuedEvents });
        else if (step.kind === "pass") await pass(step.ms);
        else failures++;
        for (const [name, batching] of services) {
          const held = open.filter(({ of, admitted }) => of === name && admitted.isPromised);
          const coming = held.reduce((sum, { left }) => sum + left.length, 0);
          expect(batching.getMetrics().queueDepth + coming).toBeLessThanOrEqual(MAX_EVENTS);
        }
      }
      takeSome(Infinity);
      for (const { admitted } of open) admitted.end();
      failures = 0;
      for (let at = 0; at < 12; at++) await pass(20_000);
      await settle();
      for (const name of NAMES) {
        const stored = new Set(idsOf(written.get(name) ?? []));
        expect(promised.get(name)?.filter((one) => !stored.has(one))).toEqual([]);
        expect(services.get(name)?.getMetrics()).toMatchObject({ queueDepth: 0, queuedBytes: 0 });
        expect(services.get(name)?.isEmpty).toBe(true);
      }
      expect(queueBudget.used).toBe(0);
    }),
    { numRuns: 200 },
  );
}, 60_000);

test("a request of mixed priorities fits when its low events do, and then its normal and its high ones", () => {
  const { time, parts } = world();
  const batching = new EventBatchingService(async () => undefined, { ...config, maxQueuedEvents: 10 }, parts);
  const requestOf = (priorities: readonly Priority[]): PreparedEvent[] =>
    priorities.map((priority, id) => prepared(id, priority, false, time.ms));
  const fits = (...priorities: readonly Priority[]): boolean => {
    const admitted = batching.admit(requestOf(priorities), true);
    admitted?.end();
    return admitted !== null;
  };
  const eight = Array.from({ length: 8 }, () => "low" as const);
  expect([fits(...eight), fits("low", ...eight)]).toEqual([true, false]);
  expect([fits("high", "normal", ...eight), fits("normal", "normal", ...eight)]).toEqual([true, false]);
  // Room that is held counts as if it were filled.
  const held = batching.admit(requestOf(eight), true);
  expect([fits("low"), fits("normal"), fits("high", "high"), fits("high", "high", "high")]).toEqual([
    false,
    true,
    true,
    false,
  ]);
  expect(batching.isEmpty).toBe(false);
  held?.end();
  expect([fits("low"), batching.isEmpty]).toEqual([true, true]);
});

test("an event in process that finds no room in durable mode is refused, and sheds none", async () => {
  const { parts, pass } = world();
  const batches: EventBatch[] = [];
  const tracking = new EventTrackingService(
    async (some) => void batches.push(...some),
    { ...config, maxBatchSize: 100, maxQueuedEvents: 10 },
    parts,
  );
  const track = (priority: Priority) =>
    Array.from({ length: 10 }, () => tracking.track({ type: "command", priority, data: { commandName: "c" } }));
  const calls = Promise.allSettled([...track("low"), ...track("high")]);
  await pass(1_000);
  const told = (await calls).map((call) => (call.status === "fulfilled" ? "written" : (call.reason as unknown)));
  const written = told.filter((one) => one === "written");
  expect(written).toHaveLength(10);
  expect(told.filter((one) => one instanceof EventDropped)).toHaveLength(10);
  expect(batches.flatMap(({ events }) => events)).toHaveLength(10);
  expect(tracking.getMetrics()).toMatchObject({ eventsReceived: 20, eventsProcessed: 10, droppedOverflow: 10 });
});

test("who asks after the end whether it is written is told when it is not", async () => {
  const { time, parts, settle } = world();
  const batches: EventBatch[] = [];
  const batching = new EventBatchingService(
    async (some) => void batches.push(...some),
    { ...config, ack: "memory", maxBatchSize: 2 },
    parts,
  );
  for (let id = 0; id < 3; id++) batching.take(prepared(id, "normal", false, time.ms));
  await settle();
  expect(idsOf(batches)).toEqual([0, 1]);
  batching.stop("enough");
  const told = await Promise.allSettled([batching.whenWritten(), batching.flush()]);
  expect(told.map((call) => call.status === "rejected" && (call.reason as unknown) instanceof BatchingStopped)).toEqual(
    [true, true],
  );
});
