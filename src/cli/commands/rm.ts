/**
 * `rm`: deletes streams and all their records.
 */

import type { Command } from "commander";
import { addClientOptions, type ClientFlags, orFail, printResult, streamFor } from "../target.ts";

export function addRm(program: Command): void {
  const command = program
    .command("rm <streams...>")
    .description("delete streams and all their records")
    .addHelpText("after", "\nExample:\n  $ streams-server rm shop/orders");
  addClientOptions(command).action(remove);
}

async function remove(names: string[], flags: ClientFlags): Promise<void> {
  for (const stream of names.map((name) => streamFor(name, flags))) {
    orFail(await stream.delete(), names.length === 1 ? null : `${stream.name} was not deleted`);
    await printResult(flags, `deleted ${stream.name}`, { stream: stream.name, deleted: true });
  }
}
