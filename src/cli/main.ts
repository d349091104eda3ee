/**
 * The command line: `serve` runs the server, every other command is a client over HTTP. Owns the process's exit code.
 */

import { Command } from "commander";
import manifest from "../../package.json" with { type: "json" };
import { reportFailure } from "./failure.ts";
import { endQuietlyOnBrokenPipe, flushOut, outliveReader } from "./stdout.ts";

/** In the order of the help. A command loads what it needs and nothing else: the server alone is 300 modules. */
const COMMANDS: Readonly<Record<string, () => Promise<AddCommand>>> = {
  serve: async () => (await import("./commands/serve.ts")).addServe,
  create: async () => (await import("./commands/create.ts")).addCreate,
  append: async () => (await import("./commands/append.ts")).addAppend,
  read: async () => (await import("./commands/read.ts")).addRead,
  tail: async () => (await import("./commands/tail.ts")).addTail,
  ls: async () => (await import("./commands/ls.ts")).addLs,
  info: async () => (await import("./commands/info.ts")).addInfo,
  rm: async () => (await import("./commands/rm.ts")).addRm,
  sub: async () => (await import("./commands/sub.ts")).addSub,
  top: async () => (await import("./commands/top.ts")).addTop,
  bench: async () => (await import("./commands/bench.ts")).addBench,
  keys: async () => (await import("./commands/keys.ts")).addKeys,
  doctor: async () => (await import("./commands/doctor.ts")).addDoctor,
  backup: async () => (await import("./commands/backup.ts")).addBackup,
  restore: async () => (await import("./commands/restore.ts")).addRestore,
};

type AddCommand = (program: Command) => void;

/** The command that is named; all of them for help, and for a name that nobody knows. */
function definitions(named: string): Promise<readonly AddCommand[]> {
  const one = Object.hasOwn(COMMANDS, named) ? COMMANDS[named] : undefined;
  return Promise.all((one === undefined ? Object.values(COMMANDS) : [one]).map((load) => load()));
}

async function commandLine(named: string): Promise<Command> {
  const program = new Command("streams-server")
    .description("Durable streams over plain HTTP: append, read from any offset, follow live.")
    .version(manifest.version)
    .exitOverride()
    // Errors are reported in one place, `reportFailure`; help still goes where it belongs.
    .configureOutput({ outputError: () => undefined })
    .addHelpText("after", EPILOGUE);
  endQuietlyOnBrokenPipe();
  program.hook("preAction", (_, command) => {
    // The server outlives the reader of its banner; everything else, help too, ends with the reader of its results.
    if (command.name() === "serve") outliveReader();
  });
  for (const add of await definitions(named)) add(program);
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
    const program = await commandLine(args[0] ?? "");
    await program.parseAsync(args, { from: "user" });
    return 0;
  } catch (cause) {
    return reportFailure(cause, args.includes("--json"));
  }
}

const exitCode = await run(process.argv.slice(2));
await flushOut();
process.exit(exitCode);
