/**
 * The command line: `serve` runs the server, every other command is a client over HTTP. Owns the process's exit code.
 */

import { Command } from "commander";
import manifest from "../../package.json" with { type: "json" };
import { addAppend } from "./commands/append.ts";
import { addBackup } from "./commands/backup.ts";
import { addCreate } from "./commands/create.ts";
import { addDoctor } from "./commands/doctor.ts";
import { addInfo } from "./commands/info.ts";
import { addKeys } from "./commands/keys.ts";
import { addLs } from "./commands/ls.ts";
import { addRead } from "./commands/read.ts";
import { addRestore } from "./commands/restore.ts";
import { addRm } from "./commands/rm.ts";
import { addServe } from "./commands/serve.ts";
import { addSub } from "./commands/sub.ts";
import { addTail } from "./commands/tail.ts";
import { addTop } from "./commands/top.ts";
import { reportFailure } from "./failure.ts";
import { endQuietlyOnBrokenPipe, flushOut } from "./stdout.ts";

function commandLine(): Command {
  const program = new Command("streams-server")
    .description("Durable streams over plain HTTP: append, read from any offset, follow live.")
    .version(manifest.version)
    .exitOverride()
    // Errors are reported in one place, `reportFailure`; help still goes where it belongs.
    .configureOutput({ outputError: () => undefined })
    .addHelpText("after", EPILOGUE);
  program.hook("preAction", (_, command) => {
    // The server outlives the reader of its banner; every other command ends with the reader of its results.
    if (command.name() !== "serve") endQuietlyOnBrokenPipe();
  });
  for (const add of [
    addServe,
    addCreate,
    addAppend,
    addRead,
    addTail,
    addLs,
    addInfo,
    addRm,
    addSub,
    addTop,
    addKeys,
    addDoctor,
    addBackup,
    addRestore,
  ])
    add(program);
  return program;
}

const EPILOGUE = `
Example:
  $ streams-server serve &
  $ streams-server create greetings --content-type application/json
  $ streams-server append greetings '{"hello": "world"}'
  $ streams-server read greetings

A stream is given by its name (with --url or STREAM_URL for the server) or by its full URL.
STREAM_AUTH is sent as authorization. Exit codes: 0 ok, 1 the server said no, 2 usage, 3 cannot reach the server.`;

/** Runs one command line and returns its exit code. */
async function run(args: readonly string[]): Promise<number> {
  try {
    await commandLine().parseAsync(args, { from: "user" });
    return 0;
  } catch (cause) {
    return reportFailure(cause, args.includes("--json"));
  }
}

const exitCode = await run(process.argv.slice(2));
await flushOut();
process.exit(exitCode);
