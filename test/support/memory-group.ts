/** A control group with a memory limit (v1 or v2), for tests that want a real one. Needs root and the memory controller. */

import { mkdirSync, rmdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export interface MemoryGroup {
  readonly procsFile: string;
  /** Only once no process is in it. */
  remove(): void;
}

const KINDS = [
  { root: "/sys/fs/cgroup/memory", limit: "memory.limit_in_bytes" },
  { root: "/sys/fs/cgroup", limit: "memory.max" },
] as const;

/** Null where no such group can be made. */
export function memoryGroup(bytes: number): MemoryGroup | null {
  for (const kind of KINDS) {
    const group = makeGroup(kind, bytes);
    if (group !== null) return group;
  }
  return null;
}

function makeGroup({ root, limit }: (typeof KINDS)[number], bytes: number): MemoryGroup | null {
  const path = join(root, `streams-test-${process.pid}`);
  try {
    mkdirSync(path);
    writeFileSync(join(path, limit), String(bytes));
    return { procsFile: join(path, "cgroup.procs"), remove: () => rmdirSync(path) };
  } catch {
    // Not this kind of groups, or not allowed here.
    return null;
  }
}
