/**
 * `serve`: runs the server. Its flags are generated from the settings of `server/config.ts`.
 */

import { readFile } from "node:fs/promises";
import { type Command, Option } from "commander";
import { resolveConfig, type Setting, SETTINGS } from "../../server/config.ts";
import { serve } from "../../server/serve.ts";
import { UsageError } from "../failure.ts";

export function addServe(program: Command): void {
  const command = program.command("serve").description("run the server until SIGTERM or SIGINT");
  for (const setting of SETTINGS) command.addOption(optionFor(setting));
  command
    .addHelpText("after", "\nPrecedence: flag, environment, config file, default. Unknown names are errors.")
    .addHelpText("after", "\nExample:\n  $ streams-server serve --data-dir /var/lib/streams --port 4437")
    .action(runServer);
}

async function runServer(_flags: unknown, command: Command): Promise<void> {
  const config = await resolveConfig({
    flags: Object.fromEntries(SETTINGS.map((setting) => [setting.name, flagValue(setting, command)])),
    env: process.env,
    readFile: (path) => readFile(path, "utf8"),
  });
  if (config.isErr()) {
    throw new UsageError(
      config.error.map(({ source, message }) => `${source}: ${message}`).join("\n"),
      "see serve --help",
    );
  }
  await serve(config.value);
}

function optionFor(setting: Setting): Option {
  const { flag, placeholder, about, defaultText, variable, aliases } = setting;
  const notes = [`env ${[variable, ...aliases].join(", ")}`, ...(defaultText === "" ? [] : [`default ${defaultText}`])];
  const option = new Option(placeholder === null ? flag : `${flag} <${placeholder}>`, `${about} (${notes.join("; ")})`);
  // A `--no-…` flag is a switch of its own here, not the negation of another.
  option.negate = false;
  // Commander knows defaults of its own only for negated switches; ours come after the environment and the file.
  return setting.isList ? option.argParser(collect) : option;
}

/** What the flag was given as, or undefined. */
function flagValue(setting: Setting, command: Command): unknown {
  const attribute =
    command.options.find((candidate) => candidate.long === setting.flag)?.attributeName() ?? setting.name;
  return command.getOptionValueSource(attribute) === "cli" ? command.getOptionValue(attribute) : undefined;
}

function collect(value: string, earlier: string[] | undefined): string[] {
  return [...(earlier ?? []), value];
}
