/** Figures of the process, under the names that Prometheus clients use for them. */

import { readdirSync } from "node:fs";
import type { Metrics } from "../kit/metrics.ts";

export function registerProcessMetrics(metrics: Metrics): void {
  const startSeconds = Date.now() / 1000 - process.uptime();
  metrics.gauge("process_start_time_seconds", "Start of the process, seconds since 1970.", () => startSeconds);
  metrics.counted("process_cpu_seconds_total", "User and system CPU time.", () => {
    const { user, system } = process.cpuUsage();
    return (user + system) / 1e6;
  });
  metrics.gauge("process_resident_memory_bytes", "Resident memory.", () => process.memoryUsage.rss());
  metrics.gauge("process_open_fds", "Open file descriptors; only where /proc tells.", countDescriptors);
  const memory = (name: string, help: string, part: "heapTotal" | "heapUsed" | "external" | "arrayBuffers"): void =>
    metrics.gauge(name, help, () => process.memoryUsage()[part]);
  memory("streams_js_heap_bytes", "JavaScript heap in use.", "heapUsed");
  memory("streams_js_heap_size_bytes", "JavaScript heap, garbage and free blocks included.", "heapTotal");
  memory("streams_js_external_bytes", "Memory outside the heap that it keeps alive, buffers included.", "external");
  memory("streams_js_buffer_bytes", "Buffers alone.", "arrayBuffers");
}

function countDescriptors(): number {
  try {
    return readdirSync("/proc/self/fd").length;
  } catch {
    // No /proc here: the gauge is left out.
    return NaN;
  }
}
