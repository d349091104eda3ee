/**
 * `tail`: follows a stream live and writes each record to stdout as it comes, over restarts of the server.
 */

import type { Command } from "commander";
import type { Delivery } from "../../client/client.ts";
import { joinBytes } from "../../kit/bytes.ts";
import { isJson } from "../../protocol/content-type.ts";
import { jsonLines } from "../json-lines.ts";
import { addStartOptions, rangeOf, type StartFlags } from "../start-flags.ts";
import { writeOut } from "../stdout.ts";
import { addClientOptions, orFail, streamFor } from "../target.ts";

interface TailFlags extends StartFlags {
  readonly sse?: true;
}

export function addTail(program: Command): void {
  const command = program
    .command("tail <stream>")
    .description("follow a stream live, from now on or from where you say, until it is closed")
    .option("--sse", "receive server-sent events instead of long-polling")
    .addHelpText(
      "after",
      "\nJSON streams come as one value per line, other streams as their bytes." +
        "\n\nExample:\n  $ streams-server tail shop/orders --tail 10",
    );
  addClientOptions(addStartOptions(command)).action(tail);
}

async function tail(argument: string, flags: TailFlags): Promise<void> {
  const stream = streamFor(argument, flags);
  const { contentType } = orFail(await stream.head());
  const render = isJson(contentType) ? jsonLines : joinBytes;
  const range = rangeOf(flags);
  const start = range.offset ?? range.from ?? range.tail ?? null;
  const live = flags.sse === true ? "sse" : "long-poll";

  let last: Delivery | null = null;
  for await (const delivery of stream.follow({ live, ...(start === null ? { offset: "now" } : {}), ...range })) {
    await writeOut(render(delivery.parts));
    last = delivery;
  }
  if (flags.json !== true) return;
  process.stderr.write(`${JSON.stringify({ nextOffset: last?.nextOffset ?? null, closed: true })}\n`);
}
