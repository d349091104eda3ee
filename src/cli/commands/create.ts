/**
 * `create`: makes a stream, or finds the same one there already.
 */

import type { Command } from "commander";
import { parseDuration } from "../../protocol/retention.ts";
import type { CreateOptions } from "../../client/client.ts";
import { UsageError } from "../failure.ts";
import { counter, headerText } from "../option-values.ts";
import { addClientOptions, type ClientFlags, orFail, printResult, streamFor, streamName } from "../target.ts";

interface CreateFlags extends ClientFlags {
  readonly contentType?: string;
  readonly ttl?: string;
  readonly expiresAt?: string;
  readonly closed?: true;
  readonly retention?: string;
  readonly forkFrom?: string;
  readonly forkOffset?: string;
  readonly forkSubOffset?: number;
}

export function addCreate(program: Command): void {
  const command = program
    .command("create <stream>")
    .description("create a stream; the same stream being there already is fine")
    .option("-t, --content-type <type>", "what its records are, e.g. application/json (default: bytes)", headerText)
    .option("--ttl <duration>", "delete it after this long without a read or an append, e.g. 90s, 24h")
    .option("--expires-at <time>", "delete it at this time (RFC 3339)", headerText)
    .option("--retention <policy>", "drop old records, e.g. max-age=7d,max-bytes=1GiB", headerText)
    .option("--closed", "close it at once: what it is created with is all it will ever hold")
    .option("--fork-from <stream>", "start as a copy of another stream, sharing its records")
    .option("--fork-offset <offset>", "where the copy ends (default: the other stream's tail)", headerText)
    .option("--fork-sub-offset <count>", "how far into the append at that offset the copy reaches", counter)
    .addHelpText("after", "\nExample:\n  $ streams-server create shop/orders --content-type application/json");
  addClientOptions(command).action(create);
}

async function create(argument: string, flags: CreateFlags): Promise<void> {
  const stream = streamFor(argument, flags);
  const created = orFail(await stream.create(createOptions(flags)));
  const what = created.created ? "created" : "already there:";
  const line = `${what} ${stream.name} (${created.contentType}), next offset ${created.nextOffset}`;
  await printResult(flags, line, { stream: stream.name, url: stream.url, ...created });
}

function createOptions(flags: CreateFlags): CreateOptions {
  if (flags.forkFrom === undefined && (flags.forkOffset ?? flags.forkSubOffset) !== undefined) {
    throw new UsageError("--fork-offset and --fork-sub-offset need --fork-from");
  }
  return {
    ...(flags.contentType === undefined ? {} : { contentType: flags.contentType }),
    ...(flags.ttl === undefined ? {} : { ttlSeconds: wholeSeconds(flags.ttl) }),
    ...(flags.expiresAt === undefined ? {} : { expiresAt: flags.expiresAt }),
    ...(flags.retention === undefined ? {} : { retention: flags.retention }),
    ...(flags.closed === true ? { closed: true } : {}),
    ...(flags.forkFrom === undefined ? {} : { fork: forkPoint(flags.forkFrom, flags) }),
  };
}

function forkPoint(source: string, flags: CreateFlags): NonNullable<CreateOptions["fork"]> {
  return {
    source: streamName(source),
    ...(flags.forkOffset === undefined ? {} : { offset: flags.forkOffset }),
    ...(flags.forkSubOffset === undefined ? {} : { subOffset: flags.forkSubOffset }),
  };
}

function wholeSeconds(duration: string): number {
  const durationMs = parseDuration(duration);
  if (durationMs === null || durationMs % 1000 !== 0) {
    throw new UsageError(`--ttl: expected whole seconds such as 90s, 15m or 24h, not ${duration}`);
  }
  return durationMs / 1000;
}
