/** The append queue and damage: who asks about a damaged stream gets the fault, and nobody who came with it; no turn grows long. */

import { expect, test } from "bun:test";
import { systemClock } from "../kit/clock.ts";
import { Metrics } from "../kit/metrics.ts";
import { DamagedStream } from "../protocol/faults.ts";
import type { Intent } from "../protocol/intents.ts";
import { MAX_COMMIT_INTENTS } from "../protocol/limits.ts";
import { MemoryStore } from "../storage/memory/memory-store.ts";
import type { StreamLog } from "../storage/port.ts";
import { AppendQueue } from "./append-queue.ts";

const intentOn = (id: number): Intent => ({ kind: "expire", id });

function queueOver(isDamaged: (id: number) => boolean) {
  const { log: sound } = new MemoryStore(systemClock);
  const seen = { commits: 0 };
  const log: StreamLog = {
    ...sound,
    commit: async (intents) => {
      seen.commits++;
      return intents.map((intent) =>
        intent.kind === "expire" && isDamaged(intent.id)
          ? { kind: "failed", cause: new DamagedStream("the head of a stream") }
          : { kind: "done" },
      );
    },
  };
  // Time passes with every look at it, however quick the machine is.
  let ms = 0;
  const clock = { nowMs: () => ms, monotonicMs: () => ms++ };
  return { queue: new AppendQueue(log, clock, new Metrics(), null), seen };
}

test("of a hundred intents that come together, those about damaged streams fail, in one commit", async () => {
  const damaged = new Set([17, 60, 61]);
  const { queue, seen } = queueOver((id) => damaged.has(id));
  const ids = Array.from({ length: 100 }, (_, id) => id);
  const answers = await Promise.allSettled(ids.map((id) => queue.submit(intentOn(id))));
  expect(ids.filter((id) => answers[id]?.status === "rejected")).toEqual([...damaged]);
  expect(seen.commits).toBe(1);
});

test("a damaged stream under load costs no more commits, and others get their turn between them", async () => {
  const INTENTS = 10_000;
  const { queue, seen } = queueOver((id) => id % 2 === 0);
  let turns = 0;
  let isRunning = true;
  const count = (): void => {
    turns++;
    if (isRunning) setImmediate(count);
  };
  const submitted = Array.from({ length: INTENTS }, (_, id) => queue.submit(intentOn(id)));
  setImmediate(count);
  const answers = await Promise.allSettled(submitted);
  isRunning = false;
  expect(answers.filter(({ status }) => status === "rejected")).toHaveLength(INTENTS / 2);
  expect(seen.commits).toBe(Math.ceil(INTENTS / MAX_COMMIT_INTENTS));
  expect(turns).toBeGreaterThan(0);
});
