/**
 * `doctor`: checks a whole data directory while no server runs on it, and changes nothing.
 */

import type { Command } from "commander";
import { DirectoryDamaged } from "../failure.ts";
import { path } from "../option-values.ts";
import { counted, dataDirectoryOf, megabytes, upkeep, UpkeepReport } from "../upkeep-report.ts";

interface DoctorFlags {
  readonly dataDir?: string;
  readonly json?: true;
}

const NOTES = `
Errors are records or state lost or damaged (exit code 1). Warnings are repaired by the next start, or cost nothing
(exit code 0). Exit code 2: the directory is in use, is no data directory, or belongs to another release.

Example:
  $ streams-server doctor --data-dir /var/lib/streams`;

export function addDoctor(program: Command): void {
  program
    .command("doctor")
    .description("check a data directory that no server runs on; changes nothing")
    .option("--data-dir <path>", "the directory (env STREAMS_DATA_DIR; default ./streams-data)", path)
    .option("--json", "one JSON object per finding; the last line is the summary")
    .addHelpText("after", NOTES)
    .action(examine);
}

async function examine(flags: DoctorFlags): Promise<void> {
  const { doctor, failureOf } = await import("../../server/upkeep.ts");
  const directory = dataDirectoryOf(flags.dataDir);
  const report = new UpkeepReport(flags.json === true);
  const found = await upkeep(report, () => doctor(directory, report), failureOf);
  const { errors, warnings, streams, records, batches, commits, bytes } = found;
  const looked = `${counted(streams, "stream")}, ${counted(records, "record")}, ${counted(batches, "batch")}, ${counted(commits, "commit")}`;
  const words = `${counted(errors, "error")}, ${counted(warnings, "warning")}: ${looked}, ${megabytes(bytes)} checked`;
  report.summary(words, { kind: "summary", ...found });
  if (errors > 0) throw new DirectoryDamaged(`the data directory is damaged: ${counted(errors, "error")}`);
}
