/** A week of ticks, on a clock of this test's own: what is older goes in bounded steps, while appends go on. */

import { afterAll, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import type { Trim } from "../../src/engine/sweeper.ts";
import { nextTurn } from "../../src/kit/turn.ts";
import { SqliteStore } from "../../src/storage/sqlite/sqlite-store.ts";
import { until } from "../support/wait.ts";
import { METRICS, observedWorld } from "./observed-world.ts";

const DAY_MS = 86_400_000;
const STEP_MS = 10 * 60_000;
/** Runs that one step of retention may look at; each holds the records of one tick here, or a sealed batch of them. */
const MAX_PIECES = 64;
const CHANGE = { type: "todo", key: "1", value: { id: 1 }, headers: { operation: "update" }, old_value: { id: 1 } };

const sum = (trims: readonly Trim[]): number => trims.reduce((total, { records }) => total + records, 0);

const directory = mkdtempSync(join(tmpdir(), "streams-week-"));
afterAll(() => rmSync(directory, { recursive: true, force: true }));

test("a week of ticks is trimmed to seven days in bounded chunks while appends go on", async () => {
  const time = { ms: Date.parse("2030-01-01T00:00:00Z") };
  const clock = { nowMs: () => time.ms, monotonicMs: () => time.ms };
  const store = await SqliteStore.open({ directory, durability: "os", acceptLoss: false, clock });
  const { engine, metrics, json, told, touchStream } = observedWorld({ store, clock });
  const trims: Trim[] = [];
  const metricsTrims = (): Trim[] => trims.filter(({ id }) => id === metricsId);
  engine.onTrim((trim) => trims.push(trim));
  await metrics.ensureStreamResult();
  const head = await engine.find(METRICS, "look");
  const metricsId = "kind" in head ? expect.unreachable(head.kind) : head.id;
  await touchStream("app");
  /** Lets the background sweep run once. */
  const sweep = async (): Promise<void> => {
    time.ms += 1_000;
    engine.deadlines.tick();
    for (let turn = 0; turn < 4; turn++) await nextTurn();
    await json("GET", "app/touch/meta");
  };
  const oldestMs = async (): Promise<number> => Date.parse(String(((await told())[0] ?? {})["ts" as never]));

  // Nine days, with a sweep after each step, and the window sealed now and then as it is in service.
  const days = 9;
  for (let step = 0; step < (days * DAY_MS) / STEP_MS; step++) {
    time.ms += STEP_MS - 1_000;
    await json("POST", "app", [CHANGE]);
    await json("POST", "app/touch/wait", { keys: ["0123456789abcdef"], cursor: "now", timeoutMs: 0 });
    await metrics.tick();
    if (step % 200 === 199) await store.sealAll();
    await sweep();
  }
  const inService = await told();
  expect(inService.length).toBeGreaterThan((6.9 * DAY_MS) / STEP_MS);
  // Age is trimmed by sealed batches: at most one batch, here 200 steps, stays longer.
  expect(time.ms - (await oldestMs())).toBeLessThan(7 * DAY_MS + 201 * STEP_MS);
  expect(time.ms - (await oldestMs())).toBeGreaterThan(6.9 * DAY_MS);
  expect(metricsTrims().length).toBeGreaterThan(0);

  // The server was away for eight days: everything is too old at once, and goes in steps between which appends get through.
  const stepsBefore = metricsTrims().length;
  time.ms += 8 * DAY_MS;
  let appended = 0;
  while ((await told()).length > 0) {
    await sweep();
    await json("POST", "app", [CHANGE]);
    appended++;
    expect(appended).toBeLessThan(1000);
  }
  const tail = await engine.find(METRICS, "look");
  const total = "kind" in tail ? expect.unreachable(tail.kind) : tail.next;
  await until("every record was told as trimmed", () => sum(metricsTrims()) >= total);
  expect(sum(metricsTrims())).toBe(total);
  const steps = metricsTrims().slice(stepsBefore);
  expect(steps.length).toBeGreaterThan(1);
  for (const { records } of steps) expect(records).toBeLessThanOrEqual(MAX_PIECES * 200);
  expect(appended).toBeGreaterThan(1);

  // Afterwards it goes on as before.
  await json("POST", "app/touch/wait", { keys: ["0123456789abcdef"], cursor: "now", timeoutMs: 0 });
  await metrics.tick();
  expect(await told()).toMatchObject([{ type: "live.tick", stream: "app", wait: { calls: 1 } }]);
  await engine.close();
}, 60_000);
