/**
 * `backup`: copies a data directory into a backup, while the server runs or not.
 */

import type { Command } from "commander";
import { DirectoryDamaged } from "../failure.ts";
import { path } from "../option-values.ts";
import { counted, dataDirectoryOf, megabytes, upkeep, UpkeepReport } from "../upkeep-report.ts";

interface BackupFlags {
  readonly dataDir?: string;
  readonly to: string;
  readonly json?: true;
}

const NOTES = `
The backup is one moment of the whole directory. Run it again with the same --to: only what is new is copied, and an
interrupted run goes on. Exit codes: 0 done and checked, 1 damage was found, 2 the source or the target cannot be used.

Example:
  $ streams-server backup --data-dir /var/lib/streams --to /mnt/backup/streams`;

export function addBackup(program: Command): void {
  program
    .command("backup")
    .description("copy a data directory into a backup; the server may run")
    .option("--data-dir <path>", "what to back up (env STREAMS_DATA_DIR; default ./streams-data)", path)
    .requiredOption("--to <path>", "the backup: a new or empty directory, or a backup of the same server", path)
    .option("--json", "one JSON object per finding; the last line is the summary")
    .addHelpText("after", NOTES)
    .action(makeBackup);
}

async function makeBackup(flags: BackupFlags): Promise<void> {
  const { backup, failureOf } = await import("../../server/upkeep.ts");
  const directory = dataDirectoryOf(flags.dataDir);
  const report = new UpkeepReport(flags.json === true);
  const { inspection, ...copied } = await upkeep(report, () => backup(directory, flags.to, report), failureOf);
  const { errors, warnings, streams } = inspection;
  const words = `${counted(copied.batches, "batch")} (${megabytes(copied.bytes)}) copied, ${counted(streams, "stream")}, up to commit ${copied.lastCommit}, ${counted(errors, "error")}`;
  report.summary(words, { kind: "summary", ...copied, streams, records: inspection.records, errors, warnings });
  if (errors > 0) throw new DirectoryDamaged(`the backup is whole, but damage was found: ${counted(errors, "error")}`);
}
