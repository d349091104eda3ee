/**
 * How much memory this process may use: what the operator says, else what its control group allows (v1 or v2, the tightest of
 * its ancestors), else no limit. Pure over `readFile`.
 */

import { posix } from "node:path";

/** A group without a limit says `max`, or a number near 2^63. */
const UNLIMITED_BYTES = 2 ** 50;

export interface MemoryLimit {
  /** Null = none. */
  readonly bytes: number | null;
  readonly source: "setting" | "cgroup" | "none";
}

/** `readFile` answers null for a file that is not there. */
export function memoryLimit(setting: number | null, readFile: (path: string) => string | null): MemoryLimit {
  if (setting !== null) return { bytes: setting, source: "setting" };
  const bytes = groupLimit(readFile);
  return bytes === null ? { bytes, source: "none" } : { bytes, source: "cgroup" };
}

function groupLimit(readFile: (path: string) => string | null): number | null {
  let least = Infinity;
  for (const line of (readFile("/proc/self/cgroup") ?? "").split("\n")) {
    const [hierarchy, controllers, ...rest] = line.split(":");
    if (controllers === undefined) continue;
    const isV2 = hierarchy === "0" && controllers === "";
    if (!isV2 && !controllers.split(",").includes("memory")) continue;
    const root = isV2 ? "/sys/fs/cgroup" : "/sys/fs/cgroup/memory";
    const file = isV2 ? "memory.max" : "memory.limit_in_bytes";
    for (const group of ancestors(rest.join(":"))) {
      const bytes = Number(readFile(posix.join(root, group, file))?.trim() || NaN);
      if (bytes > 0 && bytes < UNLIMITED_BYTES) least = Math.min(least, bytes);
    }
  }
  return least === Infinity ? null : least;
}

/** `/a/b`, `/a`, `/`: inside a container the path may be the host's, and then only the root is there. */
function ancestors(path: string): string[] {
  const groups = ["/"];
  for (let at = posix.normalize(path); at.startsWith("/") && at !== "/"; at = posix.dirname(at)) groups.push(at);
  return groups;
}
