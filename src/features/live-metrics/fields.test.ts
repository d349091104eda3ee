/** Every declared field of a tick: in the record, of its type, and accumulating by its rule. The table is the contract; this walks it. */

import { expect, test } from "bun:test";
import { join } from "node:path";
import type { Lag } from "../../kit/event-loop-lag.ts";
import { TouchActivity } from "../touch/activity.ts";
import type { TouchReport } from "../touch/index.ts";
import { type Field, fieldsTable, type Rule, TICK_FIELDS } from "./fields.ts";
import { stampOf, tickRecord } from "./records.ts";

const IDENTITY = { instanceId: "i", region: "r" };
const STAMP = stampOf(IDENTITY, 0);
const ENVELOPE = ["type", "ts", "stream", "liveSystemVersion", "instanceId", "region"];
const WAIT_MS: readonly number[] = [3, 30, 300];
const COMMIT_LAG_MS: readonly number[] = [1, 8, 80, 800];

/** An interval in which every number differs from every other, and from those of another `seed`. */
function activity(seed: number): TouchActivity {
  const made = new TouchActivity();
  for (const [index, name] of Object.keys(made).entries()) {
    if (typeof made[name as keyof TouchActivity] === "number") {
      Object.assign(made, { [name]: seed * 1000 + index });
    }
  }
  made.mode = seed === 1 ? "coarseOnly" : "fine";
  for (const ms of WAIT_MS) made.waitMs.observe(ms * seed);
  for (const ms of COMMIT_LAG_MS) made.commitLagMs.observe(ms * seed);
  return made;
}

function report(seed: number, counted: TouchActivity): TouchReport {
  const next = 10_000 * seed;
  return {
    id: 7,
    stream: "s",
    activity: counted,
    now: {
      coarseIntervalMs: 100 * seed,
      touchCoalesceWindowMs: 101 * seed,
      activeTemplates: 5 * seed,
      activeWaiters: 6 * seed,
      overflows: 2 * seed,
      next,
      derived: next - 10 * seed,
      unsealed: seed === 1 ? null : { from: next - 100, bytes: 4321 },
    },
  };
}

const LAG: Readonly<Record<1 | 2, Lag>> = {
  1: { maxMs: 9, sumMs: 20, samples: 10 },
  2: { maxMs: 5, sumMs: 7, samples: 9 },
};

function record(seed: 1 | 2): object {
  return tickRecord(report(seed, activity(seed)), LAG[seed], STAMP);
}

/** Both intervals told as one, as after a failed append. */
function merged(): object {
  const both = activity(1);
  both.add(activity(2));
  const lag = { maxMs: 9, sumMs: 27, samples: 19 };
  return tickRecord(report(2, both), lag, STAMP);
}

function at(value: object, path: string): unknown {
  return path.split(".").reduce<unknown>((found, name) => (found as Record<string, unknown>)[name], value);
}

function paths(value: object, prefix = ""): string[] {
  return Object.entries(value).flatMap(([name, inner]) =>
    typeof inner === "object" && inner !== null ? paths(inner as object, `${prefix}${name}.`) : [prefix + name],
  );
}

test("the record holds the declared fields and the envelope, nothing else", () => {
  const declared = TICK_FIELDS.map(({ path }) => path);
  expect(new Set(declared).size).toBe(declared.length);
  expect(paths(record(2)).toSorted()).toEqual([...ENVELOPE, ...declared].toSorted());
  expect(record(2)).toMatchObject({ type: "live.tick", liveSystemVersion: "v2", stream: "s", ...IDENTITY });
});

function isKind({ kind }: Field, value: unknown): boolean {
  if (kind === "text") return typeof value === "string" && value !== "";
  if (kind === "nullable" && value === null) return true;
  return typeof value === "number" && Number.isFinite(value) && (kind === "number" || Number.isInteger(value));
}

test.each(TICK_FIELDS)("$path is $kind in every interval", (field) => {
  const quiet = tickRecord(report(1, new TouchActivity()), { maxMs: 0, sumMs: 0, samples: 0 }, STAMP);
  for (const made of [record(1), record(2), merged(), quiet]) expect(isKind(field, at(made, field.path))).toBe(true);
});

const MEANS: Readonly<Record<string, number>> = {
  "wait.avgKeysPerCall": (() => {
    const both = activity(1);
    both.add(activity(2));
    return both.keysWatched / both.waits;
  })(),
  "wait.avgLatencyMs": (333 + 666) / 6,
  "processor.commitLagMsAvg": (889 + 1778) / 8,
  "process.eventLoopLagMsAvg": 27 / 19,
};
const QUANTILES: Readonly<Record<string, number>> = {
  // 3 30 300 and 6 60 600: the sixth of six is in the bucket up to 1000.
  "wait.p95LatencyMs": 1000,
  // 1 2 8 16 80 160 800 1600: the fourth, the eighth, the eighth.
  "processor.commitLagMsP50": 20,
  "processor.commitLagMsP95": 2000,
  "processor.commitLagMsP99": 2000,
};

type Judge = (path: string, first: number, second: number, both: unknown) => void;
const quantile: Judge = (path, _first, _second, both) => expect(both).toBe(QUANTILES[path]);
const JUDGES: Readonly<Record<Rule, Judge>> = {
  sum: (_path, first, second, both) => expect(both).toBeCloseTo(first + second, 2),
  max: (_path, first, second, both) => expect(both).toBe(Math.max(first, second)),
  last: (_path, _first, second, both) => expect(both).toEqual(second),
  mean: (path, _first, _second, both) => expect(both).toBeCloseTo(MEANS[path] ?? NaN, 2),
  p50: quantile,
  p95: quantile,
  p99: quantile,
  none: (_path, first, second, both) => expect([first, second, both]).toEqual([0, 0, 0]),
};

test.each(TICK_FIELDS)("$path accumulates by its rule, $rule", ({ path, rule }) => {
  const [first, second] = [at(record(1), path), at(record(2), path)];
  // A rule shows only on values that differ; a mode and an epoch are texts.
  if (rule !== "none" && typeof first === "number" && rule !== "p50") expect(first).not.toBe(second as number);
  JUDGES[rule](path, first as number, second as number, at(merged(), path));
});

test("what counts is zero in an interval in which nothing happened", () => {
  const quiet = tickRecord(report(1, new TouchActivity()), { maxMs: 0, sumMs: 0, samples: 0 }, STAMP);
  for (const { path, rule } of TICK_FIELDS) if (rule !== "last") expect([path, at(quiet, path)]).toEqual([path, 0]);
  expect(at(quiet, "touch.mode")).toBe("idle");
});

test("the table in the docs is this one", async () => {
  const docs = await Bun.file(join(import.meta.dir, "../../../docs/live-metrics.md")).text();
  expect(docs).toContain(fieldsTable());
});
