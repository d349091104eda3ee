/** Analytics: a stage in front of a stream that samples, aggregates and batches events, and tells patterns. Also the classes by themselves. */

import type { ProfileRules } from "../../engine/profiles.ts";
import { checkStreamName } from "../../protocol/names.ts";
import { LEVELS } from "./analytics-stream.ts";
import { Analytics, ANALYTICS, type AnalyticsParts } from "./analytics.ts";
import { analyticsRoutes } from "./routes.ts";
import { parseSettings } from "./settings.ts";

export { type AggregationResult } from "./aggregation-result.ts";
export { decodeBatch } from "./batch-record.ts";
export { type BatchCounts, type EventBatch, UnwritableBatch, type WriteBatches } from "./batch-writer.ts";
export type { AnalyticsEvent, EventType, Priority } from "./event.ts";
export { type AggregatorConfig, EventAggregatorService } from "./event-aggregator-service.ts";
export {
  type BatchingMetrics,
  type BatchingParts,
  BatchingStopped,
  EventBatchingService,
  EventDropped,
  type EventFate,
} from "./event-batching-service.ts";
export { type CommandUsage, EventTrackingService, type TrackingParts } from "./event-tracking-service.ts";
export type { Pattern, SeenPattern } from "./pattern-watch.ts";
export {
  type AnalyticsConfig,
  type AnalyticsSettings,
  DEFAULT_SAMPLING_RATES,
  HIGH_VOLUME,
  LOW_LATENCY,
} from "./settings.ts";

/** What clients send to such a stream goes to its stage; its own records are batches. */
export const analyticsProfile: ProfileRules = {
  kind: ANALYTICS,
  jsonOnly: true,
  parse(settings, streamName) {
    if (!LEVELS.every(({ suffix }) => checkStreamName(`${streamName}/${suffix}`).ok))
      return { reason: "profile: the name of the stream is too long for those of its windows and rollups" };
    const parsed = parseSettings(settings);
    return "reason" in parsed ? { reason: `profile.${parsed.reason}` } : { config: parsed.settings };
  },
  check: (_config, records) => records,
};

export function createAnalytics(parts: AnalyticsParts) {
  const analytics = new Analytics(parts);
  return { analytics, routes: analyticsRoutes(analytics) };
}
