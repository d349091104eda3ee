/**
 * `ls`: the names of all streams, in order, page by page.
 */

import { type Command, Option } from "commander";
import { recordCount } from "../option-values.ts";
import { writeOut } from "../stdout.ts";
import { addClientOptions, type ClientFlags, clientFor } from "../target.ts";

interface ListFlags extends ClientFlags {
  readonly prefix?: string;
  readonly limit?: number;
  readonly long?: true;
}

export function addLs(program: Command): void {
  const command = program
    .command("ls")
    .description("list streams, one per line")
    .option("--prefix <text>", "only names that start with this")
    .addOption(new Option("--limit <count>", "stop after so many").argParser(recordCount))
    .option("-l, --long", "with content type, next offset and state, separated by tabs")
    .addHelpText("after", "\nWith --json each line is an object.\n\nExample:\n  $ streams-server ls --prefix shop/ -l");
  addClientOptions(command).action(list);
}

async function list(flags: ListFlags): Promise<void> {
  let left = flags.limit ?? Infinity;
  if (left === 0) return;
  for await (const stream of clientFor(flags).list(flags.prefix === undefined ? {} : { prefix: flags.prefix })) {
    const { name, contentType, nextOffset, closed } = stream;
    const columns = flags.long === true ? [name, contentType, nextOffset, closed ? "closed" : "open"] : [name];
    await writeOut(`${flags.json === true ? JSON.stringify(stream) : columns.join("\t")}\n`);
    if (--left === 0) return;
  }
}
