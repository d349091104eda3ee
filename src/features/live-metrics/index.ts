/** LiveMetricsV2: what the server's live queries do, as records in a stream of the server's own. */

import type { Engine } from "../../engine/engine.ts";
import { LiveMetricsV2, type LiveMetricsOptions, type LiveMetricsParts } from "./live-metrics.ts";

export { LIVE_METRICS_DEFAULTS, LiveMetricsV2 } from "./live-metrics.ts";
export type { LiveMetricsOptions, LiveMetricsParts } from "./live-metrics.ts";
export type { FeatureTick, Identity } from "./records.ts";

/** Started by its owner; follows the commit feed. */
export function createLiveMetrics(
  engine: Engine,
  parts: Omit<LiveMetricsParts, "engine" | "log">,
  options: Partial<LiveMetricsOptions>,
): LiveMetricsV2 {
  const liveMetrics = new LiveMetricsV2({ ...parts, engine, log: engine }, options);
  engine.follow((commit) => liveMetrics.onCommit(commit));
  return liveMetrics;
}
