/**
 * What a server costs, from the kernel's books: CPU and memory of a process with its children, bytes written to the disk
 * under a directory, memory of the sockets. Linux only; reads /proc, owns nothing.
 */

import { readdirSync, readFileSync, statSync } from "node:fs";

const TICKS_PER_SECOND = 100;
const SECTOR_BYTES = 512;
const PAGE_BYTES = 4096;

interface ProcessStat {
  readonly parent: number;
  /** Of the process and the children it has waited for. */
  readonly ticks: number;
}

/** The process and all its living descendants. */
function processTree(pid: number): Map<number, ProcessStat> {
  const all = new Map<number, ProcessStat>();
  for (const entry of readdirSync("/proc")) {
    if (!/^\d+$/.test(entry)) continue;
    const stat = processStat(Number(entry));
    if (stat !== null) all.set(Number(entry), stat);
  }
  const tree = new Map<number, ProcessStat>();
  const queue = [pid];
  for (let at = 0; at < queue.length; at++) {
    const next = queue[at] ?? 0;
    const stat = all.get(next);
    if (stat === undefined) continue;
    tree.set(next, stat);
    for (const [child, { parent }] of all) if (parent === next) queue.push(child);
  }
  return tree;
}

function processStat(pid: number): ProcessStat | null {
  const text = readIfThere(`/proc/${pid}/stat`);
  if (text === null) return null;
  // The command in brackets may hold spaces: the fields after it start with the state (field 3).
  const fields = text.slice(text.lastIndexOf(")") + 2).split(" ");
  const field = (number: number): number => Number(fields[number - 3]);
  return { parent: field(4), ticks: field(14) + field(15) + field(16) + field(17) };
}

/** A process may end between the listing and the read. */
function readIfThere(path: string): string | null {
  try {
    return readFileSync(path, "utf8");
  } catch (cause) {
    if (cause instanceof Error && "code" in cause && (cause.code === "ENOENT" || cause.code === "ESRCH")) return null;
    throw cause;
  }
}

/** User and system CPU time so far. */
export function cpuMs(pid: number): number {
  let ticks = 0;
  for (const stat of processTree(pid).values()) ticks += stat.ticks;
  return (ticks * 1000) / TICKS_PER_SECOND;
}

/** Resident bytes: now, and the highest so far. */
export function memoryBytes(pid: number): { readonly now: number; readonly peak: number } {
  let now = 0;
  let peak = 0;
  for (const member of processTree(pid).keys()) {
    const status = readIfThere(`/proc/${member}/status`) ?? "";
    now += Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1] ?? 0) * 1024;
    peak += Number(/^VmHWM:\s+(\d+)/m.exec(status)?.[1] ?? 0) * 1024;
  }
  return { now, peak };
}

/** What the kernel holds for all TCP sockets of the machine, in both directions. */
export function tcpBytes(): number {
  const pages = /^TCP:.* mem (\d+)/m.exec(readFileSync("/proc/net/sockstat", "utf8"))?.[1];
  return Number(pages ?? Number.NaN) * PAGE_BYTES;
}

/** How many files a process of ours may have open: Bun and Node raise their soft limit to the hard one themselves. */
export function mostOpenFiles(): number {
  const hard = /^Max open files\s+\S+\s+(\S+)/m.exec(readFileSync("/proc/self/limits", "utf8"))?.[1];
  return hard === "unlimited" ? Number.POSITIVE_INFINITY : Number(hard);
}

export interface WrittenBytes {
  readonly bytes: number;
  readonly source: "diskstats" | "io";
}

/**
 * Bytes written so far: by anybody to the device under `directory`, or, where that device has no books of its own, by the
 * process. Call `flushDisk` first, or the page cache hides what is still to be written.
 */
export function writtenBytes(directory: string, pid: number): WrittenBytes {
  const device = statSync(directory).dev;
  const major = (device >> 8) & 0xfff;
  const minor = (device & 0xff) | ((device >> 12) & 0xfff00);
  for (const line of readFileSync("/proc/diskstats", "utf8").split("\n")) {
    const fields = line.trim().split(/\s+/);
    if (Number(fields[0]) === major && Number(fields[1]) === minor) {
      return { bytes: Number(fields[9]) * SECTOR_BYTES, source: "diskstats" };
    }
  }
  let bytes = 0;
  for (const member of processTree(pid).keys()) {
    const books = readIfThere(`/proc/${member}/io`) ?? "";
    bytes += Number(/^write_bytes: (\d+)/m.exec(books)?.[1] ?? 0);
  }
  return { bytes, source: "io" };
}

/** Writes what the page cache holds for this file system. */
export async function flushDisk(directory: string): Promise<void> {
  await Bun.spawn(["sync", "-f", directory]).exited;
}
