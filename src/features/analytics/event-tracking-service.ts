/**
 * The front of the stage: makes events of what an application tells, gives them to the batching service, and merges what was written
 * into windows. Switched off, every event is written at once, as it is. In durable mode a `track…` resolves when its event is
 * written or was given to `onDeadLetter`, in memory mode when it is queued; it rejects when there is no room for its event.
 */

import { aggregatorConfigOf, type AggregatorParts, EventAggregatorService } from "./event-aggregator-service.ts";
import {
  type BatchingHealth,
  type BatchingMetrics,
  type BatchingParts,
  EventBatchingService,
  EventDropped,
} from "./event-batching-service.ts";
import type { EventBatch, WriteBatches } from "./batch-writer.ts";
import type { AnalyticsEvent } from "./event.ts";
import type { AnalyticsConfig, AnalyticsSettings } from "./settings.ts";

export interface TrackingParts extends BatchingParts, Pick<AggregatorParts, "onClosed" | "onPattern"> {}

export interface CommandUsage {
  readonly commandName: string;
  readonly userHash?: string;
  readonly serverHash?: string;
  readonly success: boolean;
  readonly durationMs?: number;
}

export type Dimensions = Readonly<Record<string, string | number | boolean>>;

export class EventTrackingService {
  readonly #batching: EventBatchingService;
  readonly #aggregator: EventAggregatorService;

  /** @throws RangeError when a setting is wrong. */
  constructor(write: WriteBatches, config: AnalyticsConfig = {}, parts: TrackingParts = {}) {
    this.#batching = new EventBatchingService((batches) => this.#writeBatches(write, batches), config, parts);
    this.#aggregator = new EventAggregatorService(aggregatorConfigOf(this.#batching.getConfig()), {
      ...parts,
      ...(parts.seriesBudget !== undefined && { budget: parts.seriesBudget }),
    });
  }

  /** @throws TypeError when it is no event, EventDropped when too many wait to be written. */
  async track(event: AnalyticsEvent): Promise<void> {
    if (this.#batching.queueEvent(event) === "dropped") throw new EventDropped();
    if (this.#batching.getConfig().ack === "durable") await this.#batching.whenWritten();
  }

  trackCommandUsage(usage: CommandUsage): Promise<void> {
    return this.track({ type: "command", data: { ...usage } });
  }

  trackPerformance(metric: string, value: number, context?: Dimensions): Promise<void> {
    return this.track({
      type: "performance",
      data: context === undefined ? { metric, value } : { metric, value, context },
    });
  }

  trackEngagement(eventType: string, data: Readonly<Record<string, unknown>> = {}): Promise<void> {
    return this.track({ type: "engagement", data: { ...data, eventType } });
  }

  trackError(errorHash: string, data: Readonly<Record<string, unknown>> = {}): Promise<void> {
    return this.track({ type: "error", data: { ...data, errorHash } });
  }

  trackDatastore(operation: string, storeType: string, durationMs?: number): Promise<void> {
    const data = { operation, storeType };
    return this.track({ type: "datastore", data: durationMs === undefined ? data : { ...data, durationMs } });
  }

  /** Batching on or off, and settings that change; they hold at once. What was queued is written first when it is switched off. */
  async configureBatching(enabled: boolean, config: AnalyticsConfig = {}): Promise<void> {
    this.#batching.updateConfig({ ...config, enabled });
    this.#aggregator.configure(aggregatorConfigOf(this.#batching.getConfig()));
    if (!enabled) await this.flushBatchedEvents();
  }

  /** Writes what is queued and closes all windows: those that have not expired are marked as partial. */
  async flushBatchedEvents(): Promise<void> {
    await this.#batching.flush();
    this.#aggregator.closeWindows("all");
  }

  /** Flushes, then takes nothing any more. Rejects when the flush fails. */
  async shutdown(): Promise<void> {
    try {
      await this.#batching.shutdown();
      this.#aggregator.closeWindows("all");
    } finally {
      this.#aggregator.clear();
    }
  }

  getMetrics(): BatchingMetrics & ReturnType<EventAggregatorService["getStats"]> {
    return { ...this.#batching.getMetrics(), ...this.#aggregator.getStats() };
  }

  getConfig(): AnalyticsSettings {
    return this.#batching.getConfig();
  }

  health(): BatchingHealth {
    return this.#batching.health();
  }

  getAggregations(...span: Parameters<EventAggregatorService["getAggregations"]>) {
    return this.#aggregator.getAggregations(...span);
  }

  async #writeBatches(write: WriteBatches, batches: readonly EventBatch[]): Promise<void> {
    await write(batches);
    for (const { windows } of batches) for (const part of windows) this.#aggregator.merge(part);
  }
}
