/** What the engine and its store hold at this moment, as gauges of the registry. Read when somebody looks. */

import type { Metrics } from "../kit/metrics.ts";
import type { StoreStatus } from "../storage/port.ts";
import type { Admission } from "./admission.ts";

interface Measured {
  readonly metrics: Metrics;
  readonly bodyBytes: Admission;
  readonly liveRequests: Admission;
  readonly waiters: { readonly size: number };
  readonly deadlines: { readonly size: number };
  status(): StoreStatus;
}

export function registerGauges(engine: Measured): void {
  const { metrics } = engine;
  metrics.gauge("streams_request_body_bytes", "Body bytes between arrival and answer.", () => engine.bodyBytes.used);
  metrics.gauge(
    "streams_live_requests",
    "Long-polls, SSE connections, WebSockets, their subscriptions, and touch waits open.",
    () => engine.liveRequests.used,
  );
  metrics.gauge(
    "streams_waiters",
    "Waits for a stream to change; live readers at one tail share one.",
    () => engine.waiters.size,
  );
  metrics.gauge("streams_deadlines", "Deadlines in the one timer heap.", () => engine.deadlines.size);
  const ofStore = (name: string, help: string, read: (status: StoreStatus) => number): void =>
    metrics.gauge(name, help, () => read(engine.status()));
  ofStore("streams_window_bytes", "Unsealed commits in memory.", ({ unsealedBytes }) => unsealedBytes);
  ofStore("streams_window_ranges", "Ranges of streams in the window.", ({ unsealedRanges }) => unsealedRanges);
  ofStore("streams_wal_bytes", "Size of the write-ahead log, reused from its start.", ({ walBytes }) => walBytes);
  ofStore("streams_heads", "Heads of streams in memory.", ({ streamsInMemory }) => streamsInMemory);
  ofStore("streams_stored_bytes", "What commits and batches take up, sealed or not.", ({ storedBytes }) => storedBytes);
  ofStore("streams_free_disk_bytes", "Free space for the data directory.", ({ freeDiskBytes }) => freeDiskBytes ?? NaN);
  ofStore("streams_accepting", "1 while appends are taken, 0 while the store refuses them.", ({ refusal }) =>
    Number(refusal === null),
  );
}
