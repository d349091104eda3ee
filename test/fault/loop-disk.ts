/**
 * A disk that can lose its power: an XFS image mounted through a loop device. `cutPower` is a forced shutdown of the file
 * system, which throws away whatever was not synced, as a power cut would; `remount` brings back what was. Owns the image,
 * the mount and the loop device. Invariant: `destroy` leaves none of them behind, whatever happened before.
 * Limit of the method: the image's own page cache on the host survives, so a missing device flush would not show.
 */

import { mkdtemp, rm, truncate, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";

export interface LoopDisk {
  readonly mountPoint: string;
  /** Unsynced writes are lost, every later operation fails. */
  cutPower(): Promise<void>;
  /** After the processes that used it are gone: recovers the file system and mounts it again. */
  remount(): Promise<void>;
  destroy(): Promise<void>;
}

/** Sparse: takes room only for what is written. Large, so that no rule about free space comes into play. */
const IMAGE_BYTES = 4 * 1024 ** 3;
const UNMOUNT_DEADLINE_MS = 10_000;

const TOOLS = ["mkfs.xfs", "xfs_io", "mount", "umount", "losetup"];

/** Why such a disk cannot be had here, or null when it can. */
export async function loopDiskObstacle(): Promise<string | null> {
  if (process.getuid?.() !== 0) return "needs root";
  const missing = TOOLS.filter((tool) => Bun.which(tool) === null);
  if (missing.length > 0) return `needs ${missing.join(", ")} (package xfsprogs)`;
  try {
    await (await createLoopDisk()).destroy();
    return null;
  } catch (cause) {
    return `no loop mount of XFS here: ${cause instanceof Error ? cause.message : String(cause)}`;
  }
}

export async function createLoopDisk(): Promise<LoopDisk> {
  const place = await mkdtemp(join(tmpdir(), "streams-disk-"));
  const image = join(place, "image");
  const mountPoint = join(place, "mount");
  const destroy = async (): Promise<void> => {
    await unmount(mountPoint);
    for (const device of await devicesOf(image)) await run("losetup", "-d", device);
    await rm(place, { recursive: true, force: true });
  };
  try {
    await writeFile(image, "");
    await truncate(image, IMAGE_BYTES);
    await run("mkfs.xfs", "-q", image);
    await run("mkdir", mountPoint);
    await run("mount", "-o", "loop", image, mountPoint);
  } catch (cause) {
    await destroy();
    throw cause;
  }
  return {
    mountPoint,
    destroy,
    cutPower: () => run("xfs_io", "-x", "-c", "shutdown", mountPoint),
    remount: async () => {
      await unmount(mountPoint);
      await run("mount", "-o", "loop", image, mountPoint);
    },
  };
}

/** A process that was just killed may hold the mount for a moment. */
async function unmount(mountPoint: string): Promise<void> {
  const deadline = Date.now() + UNMOUNT_DEADLINE_MS;
  for (;;) {
    if (!(await Bun.file("/proc/self/mounts").text()).includes(` ${mountPoint} `)) return;
    try {
      return await run("umount", mountPoint);
    } catch (cause) {
      if (Date.now() > deadline) throw cause;
      await Bun.sleep(50);
    }
  }
}

async function devicesOf(image: string): Promise<string[]> {
  const listed = await Bun.$`losetup -n -O NAME -j ${image}`.nothrow().text();
  return listed.split("\n").filter((line) => line !== "");
}

async function run(...command: readonly string[]): Promise<void> {
  const child = Bun.spawn([...command], { stdout: "ignore", stderr: "pipe" });
  const [stderr, code] = await Promise.all([child.stderr.text(), child.exited]);
  if (code !== 0) throw new Error(`${command.join(" ")} ended with ${code}: ${stderr.trim()}`);
}
