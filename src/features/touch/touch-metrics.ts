/** What touch of all streams counts, in the registry of the server. */

import type { Metrics } from "../../kit/metrics.ts";
import type { TouchActivity } from "./activity.ts";

type Count = { [K in keyof TouchActivity]: TouchActivity[K] extends number ? K : never }[keyof TouchActivity];

interface Measured {
  totals(): TouchActivity;
  holdings(): { streams: number; waiters: number; parkedKeys: number; journalEntries: number };
}

const COUNTERS: readonly (readonly [name: string, count: Count, help: string])[] = [
  ["streams_touch_records_total", "records", "Records that touch has looked at."],
  ["streams_touch_table_touches_total", "tableTouches", "Table keys touched."],
  ["streams_touch_fine_touches_total", "fineTouches", "Fine keys touched."],
  ["streams_touch_coarse_changes_total", "coarseChanges", "Changes whose fine keys could not be told."],
  ["streams_touch_waits_total", "waits", "Touch waits answered, whatever the answer."],
  ["streams_touch_waits_touched_total", "touched", "Touch waits answered by a touch."],
  ["streams_touch_waits_timed_out_total", "timeouts", "Touch waits that ended without a touch."],
  ["streams_touch_waits_stale_total", "stale", "Touch waits whose cursor was too old."],
  ["streams_touch_wakes_total", "wakes", "Parked touch waits that a change has woken."],
  ["streams_touch_replays_total", "replays", "Touch waits for which the log was read again."],
  ["streams_touch_templates_activated_total", "activated", "Templates activated."],
  ["streams_touch_templates_denied_total", "denied", "Templates that were not activated."],
];

export function registerTouchMetrics(metrics: Metrics, touch: Measured): void {
  for (const [name, count, help] of COUNTERS) metrics.counted(name, help, () => touch.totals()[count]);
  metrics.gauge("streams_touch_streams", "Streams with touch state in memory.", () => touch.holdings().streams);
  metrics.gauge("streams_touch_waiters", "Touch waits parked.", () => touch.holdings().waiters);
  metrics.gauge("streams_touch_parked_keys", "Keys of these waits.", () => touch.holdings().parkedKeys);
  metrics.gauge("streams_touch_journal_entries", "Touches remembered.", () => touch.holdings().journalEntries);
}
