/**
 * The `accesses` file: says that the last accesses of streams with a TTL, as stored, are all there were. A clean end writes it and the
 * next start removes it before its first request, so a start that does not find it follows a kill, which lost those of the last seconds.
 * Then nothing ends sooner than its TTL after that start, and starts to come go by the same: the moment is in the file.
 * 20 bytes: number of the last commit, that moment, checksum. Its own loss lengthens lives once, and shortens none.
 */

import { existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { crc32 } from "../../kit/crc32.ts";
import type { StartTerms } from "./recovery.ts";
import { isDiskFull } from "./system-errors.ts";

const BYTES = 20;
const SUMMED_BYTES = 16;

export class AccessMark {
  readonly #path: string;
  /** Every stream with a TTL counts as accessed then, if not later. */
  readonly floorMs: number;

  /** Changes nothing yet. Of a loss that is accepted nobody knows what accesses it held. */
  constructor(path: string, { highwaterNo, acceptLoss, nowMs }: StartTerms) {
    this.#path = path;
    const found = read(path);
    const isExact = found !== null && found.no === highwaterNo && !acceptLoss;
    this.floorMs = isExact ? found.floorMs : Math.floor(nowMs);
  }

  /** The directory is to be synced before the first request. */
  remove(): void {
    rmSync(this.#path, { force: true });
  }

  /** At a clean end, after commit `no`. Not when the disk is full: then the next start takes this for a kill. */
  write(no: number): void {
    const bytes = new Uint8Array(BYTES);
    const view = new DataView(bytes.buffer);
    view.setBigUint64(0, BigInt(no));
    view.setBigUint64(8, BigInt(this.floorMs));
    view.setUint32(SUMMED_BYTES, crc32(bytes.subarray(0, SUMMED_BYTES)));
    try {
      writeFileSync(this.#path, bytes, { mode: 0o600 });
    } catch (cause) {
      if (!isDiskFull(cause)) throw cause;
    }
  }
}

/** Null when there is none, or when it is torn or damaged. */
function read(path: string): { readonly no: number; readonly floorMs: number } | null {
  if (!existsSync(path)) return null;
  const bytes = new Uint8Array(readFileSync(path));
  if (bytes.length !== BYTES) return null;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (view.getUint32(SUMMED_BYTES) !== crc32(bytes.subarray(0, SUMMED_BYTES))) return null;
  return { no: Number(view.getBigUint64(0)), floorMs: Number(view.getBigUint64(8)) };
}
