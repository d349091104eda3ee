/**
 * `info`: what the server knows of one stream.
 */

import type { Command } from "commander";
import { addClientOptions, type ClientFlags, orFail, printResult, streamFor } from "../target.ts";

export function addInfo(program: Command): void {
  const command = program
    .command("info <stream>")
    .description("show what the server knows of a stream")
    .addHelpText("after", "\nExample:\n  $ streams-server info shop/orders");
  addClientOptions(command).action(info);
}

async function info(argument: string, flags: ClientFlags): Promise<void> {
  const details = orFail(await streamFor(argument, flags).details());
  const fields = Object.entries(details?.value ?? {});
  const width = Math.max(...fields.map(([name]) => name.length)) + 2;
  const lines = fields.map(([name, value]) => name.padEnd(width) + plain(value));
  await printResult(flags, lines.join("\n"), details?.value ?? {});
}

function plain(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}
