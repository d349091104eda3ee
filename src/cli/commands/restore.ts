/**
 * `restore`: makes a new data directory out of a backup.
 */

import type { Command } from "commander";
import { path } from "../option-values.ts";
import { counted, megabytes, upkeep, UpkeepReport } from "../upkeep-report.ts";

interface RestoreFlags {
  readonly from: string;
  readonly to: string;
  readonly acceptDamage?: true;
  readonly json?: true;
}

const NOTES = `
The backup is checked first. An interrupted restore leaves nothing but <path>.restoring, and starts over.
Exit codes: 0 restored, 1 the backup is damaged, 2 the backup or the target cannot be used.

Example:
  $ streams-server restore --from /mnt/backup/streams --to /var/lib/streams
  $ streams-server serve --data-dir /var/lib/streams`;

export function addRestore(program: Command): void {
  program
    .command("restore")
    .description("make a data directory out of a backup")
    .requiredOption("--from <path>", "the backup", path)
    .requiredOption("--to <path>", "the data directory: must not exist, or be empty", path)
    .option("--accept-damage", "restore what is left of a damaged backup")
    .option("--json", "one JSON object per finding; the last line is the summary")
    .addHelpText("after", NOTES)
    .action(restoreDirectory);
}

async function restoreDirectory({ from, to, acceptDamage, json }: RestoreFlags): Promise<void> {
  const { failureOf, restore } = await import("../../server/upkeep.ts");
  const report = new UpkeepReport(json === true);
  const restored = await upkeep(report, () => restore(from, to, acceptDamage === true, report), failureOf);
  const { streams, records, bytes, lastCommit } = restored;
  const words = `${counted(streams, "stream")}, ${counted(records, "record")}, ${megabytes(bytes)}, up to commit ${lastCommit}: restored`;
  report.summary(words, { kind: "summary", ...restored });
}
