/** What the analytics stages of all streams have done, in the registry. */

import type { Metrics } from "../../kit/metrics.ts";
import { type BatchCounts, noCounts } from "./batch-writer.ts";

/** What one stream's stage did since it was asked last. */
export interface StageTick extends BatchCounts {
  batches: number;
  windows: number;
  patterns: number;
}

export function noTick(): StageTick {
  return { ...noCounts(), batches: 0, windows: 0, patterns: 0 };
}

export class StageCounters {
  readonly #fates;
  readonly batches;
  readonly windows;
  readonly patterns;
  readonly deadLetters;

  constructor(metrics: Metrics) {
    const fates = ["stored", "aggregated", "sampled-out", "dropped"] as const;
    this.#fates = metrics.labelled("streams_analytics_events_total", "Events by what became of them.", "fate", fates);
    this.batches = metrics.counter("streams_analytics_batches_total", "Batches written.");
    this.windows = metrics.counter("streams_analytics_windows_total", "Windows and rollups written.");
    this.patterns = metrics.counter("streams_analytics_patterns_total", "Patterns told.");
    this.deadLetters = metrics.counter("streams_analytics_dead_letters_total", "Events that could not be written.");
  }

  count(counts: Readonly<BatchCounts>, tick: StageTick): void {
    const { stored, aggregated, sampledOut, dropped } = counts;
    this.batches.add();
    tick.batches++;
    for (const name of ["received", "stored", "aggregated", "sampledOut", "dropped"] as const)
      tick[name] += counts[name];
    this.#fates.of("stored").add(stored);
    this.#fates.of("aggregated").add(aggregated);
    this.#fates.of("sampled-out").add(sampledOut);
    this.#fates.of("dropped").add(dropped);
  }
}
