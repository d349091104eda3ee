/**
 * Doctor, backup and restore for the command line. Each works on directories alone; whether a server runs there is found out from
 * its lock.
 */

import { systemClock } from "../kit/clock.ts";
import { backUp, type BackupResult } from "../storage/sqlite/backup.ts";
import { inspect, type Inspection, type InspectionListener } from "../storage/sqlite/inspection.ts";
import { restore as restoreBackup } from "../storage/sqlite/restore.ts";
import { assertDataDirectory, DirectoryRefused, DirectoryUnsound, holdStill } from "../storage/sqlite/untouched.ts";

export type { BackupResult } from "../storage/sqlite/backup.ts";
export type { Finding } from "../storage/sqlite/finding.ts";
export type { Inspection, InspectionListener } from "../storage/sqlite/inspection.ts";

/** Checks a directory that no server runs on; changes nothing. */
export function doctor(directory: string, listener: InspectionListener): Inspection {
  assertDataDirectory(directory);
  const held = holdStill(directory);
  try {
    return inspect(directory, listener);
  } finally {
    held.release();
  }
}

export function backup(source: string, target: string, listener: InspectionListener): Promise<BackupResult> {
  return backUp({ source, target, clock: systemClock, listener });
}

export function restore(from: string, target: string, acceptDamage: boolean, listener: InspectionListener): Inspection {
  return restoreBackup({ backup: from, target, acceptDamage, clock: systemClock, listener });
}

/** What a failure of these means: `refused` = another command line would work, `unsound` = the data would not; null = a defect. */
export function failureOf(cause: unknown): "refused" | "unsound" | null {
  if (cause instanceof DirectoryRefused) return "refused";
  return cause instanceof DirectoryUnsound ? "unsound" : null;
}
