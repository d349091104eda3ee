/** The append queue and damage: who asks about a damaged stream gets the fault, and nobody who came with it. */

import { expect, test } from "bun:test";
import { systemClock } from "../kit/clock.ts";
import { Metrics } from "../kit/metrics.ts";
import { DamagedStream } from "../protocol/faults.ts";
import type { Intent, Outcome } from "../protocol/intents.ts";
import { MemoryStore } from "../storage/memory/memory-store.ts";
import type { StreamLog } from "../storage/port.ts";
import { AppendQueue } from "./append-queue.ts";

const intentOn = (id: number): Intent => ({ kind: "expire", id });

test("of a hundred intents that come together, those about damaged streams fail, in few commits, all in order", async () => {
  const damaged = new Set([17, 60, 61]);
  const decided: number[] = [];
  let commits = 0;
  const { log: sound } = new MemoryStore(systemClock);
  const log: StreamLog = {
    ...sound,
    commit: (intents): Promise<readonly Outcome[]> => {
      const ids = intents.map((intent) => (intent.kind === "expire" ? intent.id : -1));
      if (ids.some((id) => damaged.has(id))) return Promise.reject(new DamagedStream("the head of a stream"));
      commits++;
      decided.push(...ids);
      return Promise.resolve(intents.map(() => ({ kind: "done" })));
    },
  };
  const queue = new AppendQueue(log, systemClock, new Metrics(), null);
  const ids = Array.from({ length: 100 }, (_, id) => id);
  const answers = await Promise.allSettled(ids.map((id) => queue.submit(intentOn(id))));
  const failed = ids.filter((id) => answers[id]?.status === "rejected");
  expect(failed).toEqual([...damaged]);
  expect(decided).toEqual(ids.filter((id) => !damaged.has(id)));
  expect(commits).toBeLessThan(25);
  expect(commits).toBeGreaterThan(1);
});
