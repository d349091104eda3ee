/** Memory of another process, from the kernel's own books. Linux only. */

import { readFile } from "node:fs/promises";

/** Resident bytes of the process now (`VmRSS`). */
export async function residentBytes(pid: number): Promise<number> {
  const status = await readFile(`/proc/${pid}/status`, "utf8");
  const kibibytes = /^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1];
  if (kibibytes === undefined) throw new Error(`no VmRSS in /proc/${pid}/status`);
  return Number(kibibytes) * 1024;
}
