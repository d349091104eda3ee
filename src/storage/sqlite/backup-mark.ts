/**
 * The mark that makes a data directory a backup: four rows of its `meta` table, changed in the same transaction as what they vouch for.
 * A server that is started on a backup leaves them, and no longer agrees with them: such a directory is never written over.
 */

import type { Database } from "bun:sqlite";

export interface BackupMark {
  /** The last commit in the backup, and its checksum. */
  readonly no: number;
  readonly crc: number;
  /** Up to which commit it was sealed: a server that only starts on it may seal more. Null in backups of older releases. */
  readonly sealedNo: number | null;
  /** When it was finished; 0 = never. */
  readonly atMs: number;
}

/** Null when the directory is no backup. */
export function readBackupMark(db: Database): BackupMark | null {
  const rows = db
    .query<{ key: string; value: number }, []>("SELECT key, value FROM meta WHERE key LIKE 'backup_%'")
    .all();
  const value = (key: string): number | undefined => rows.find((row) => row.key === key)?.value;
  const [no, crc, atMs] = [value("backup_no"), value("backup_crc"), value("backup_ms")];
  if (no === undefined || crc === undefined || atMs === undefined) return null;
  return { no, crc, sealedNo: value("backup_sealed_no") ?? null, atMs };
}

export function writeBackupMark(db: Database, { no, crc, sealedNo, atMs }: BackupMark): void {
  const put = db.query<never, [string, number]>("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)");
  put.run("backup_no", no);
  put.run("backup_crc", crc);
  if (sealedNo !== null) put.run("backup_sealed_no", sealedNo);
  put.run("backup_ms", atMs);
}

export function removeBackupMark(db: Database): void {
  db.run("DELETE FROM meta WHERE key LIKE 'backup_%'");
}
