/**
 * `read`: writes what a stream holds now to stdout, as fast as the reader of the pipe takes it.
 */

import type { Command } from "commander";
import { jsonValues } from "../../client/json-array-splitter.ts";
import { MAX_VALUE_BYTES } from "../../client/delivery.ts";
import { UsageError } from "../failure.ts";
import { jsonLines } from "../json-lines.ts";
import { addStartOptions, rangeOf, type StartFlags } from "../start-flags.ts";
import { writeOut } from "../stdout.ts";
import { addClientOptions, orFail, streamFor } from "../target.ts";

interface ReadFlags extends StartFlags {
  readonly ndjson?: true;
}

export function addRead(program: Command): void {
  const command = program
    .command("read <stream>")
    .description("write a stream's records to stdout, byte for byte, and end at its tail")
    .option("--ndjson", "JSON streams: one value per line instead of one array")
    .addHelpText(
      "after",
      "\nWith --json the position reached is written to stderr at the end." +
        "\n\nExample:\n  $ streams-server read shop/orders --tail 10 --ndjson | jq .total",
    );
  addClientOptions(addStartOptions(command)).action(read);
}

async function read(argument: string, flags: ReadFlags): Promise<void> {
  const answer = orFail(await streamFor(argument, flags).read(rangeOf(flags)));
  if (flags.ndjson !== true) for await (const piece of answer) await writeOut(piece);
  else if (answer.json) {
    for await (const values of jsonValues(answer, MAX_VALUE_BYTES)) await writeOut(jsonLines(values));
  } else throw new UsageError(`--ndjson is for JSON streams; this one is ${answer.contentType}`);

  const { contentType, nextOffset, upToDate, closed } = answer;
  if (flags.json === true) process.stderr.write(`${JSON.stringify({ contentType, nextOffset, upToDate, closed })}\n`);
}
