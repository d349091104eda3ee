/**
 * `sub`: subscriptions from the command line: made, listed, shown, deleted, and worked on by hand (`sub-work.ts`).
 */

import { type Command, Option } from "commander";
import type { SubscriptionConfig, SubscriptionSummary } from "../../client/subscriptions.ts";
import { parseDuration } from "../../protocol/retention.ts";
import { UsageError } from "../failure.ts";
import { recordCount } from "../option-values.ts";
import { writeOut } from "../stdout.ts";
import { collect, subscriptionFor, subscriptionsFor } from "../subscription-target.ts";
import { addClientOptions, type ClientFlags, orFail, printResult, streamName } from "../target.ts";
import { addSubWork } from "./sub-work.ts";

interface CreateFlags extends ClientFlags {
  readonly webhook?: string;
  readonly wakeStream?: string;
  readonly pattern?: string;
  readonly stream?: readonly string[];
  readonly lease?: string;
  readonly description?: string;
}

interface ListFlags extends ClientFlags {
  readonly limit?: number;
  readonly long?: true;
}

export function addSub(program: Command): void {
  const sub = program
    .command("sub")
    .description("subscriptions: wake a webhook or a worker when streams have something new");
  const create = sub
    .command("create <id>")
    .description("create a subscription; the same one being there already is fine")
    .addOption(new Option("--webhook <url>", "post to this URL").conflicts("wakeStream"))
    .option("--wake-stream <stream>", "write wakes to this stream, which must exist; workers claim")
    .option("--pattern <glob>", "streams to follow: * is one segment of a name, ** any number of them")
    .addOption(new Option("--stream <name>", "a stream to follow; may be given more than once").argParser(collect))
    .option("--lease <duration>", "how long a silent worker keeps its work, 1s to 10m (default: 30s)")
    .option("--description <text>", "for people")
    .addHelpText(
      "after",
      "\nStreams that exist are followed from their present tail on." +
        "\n\nExamples:" +
        "\n  $ streams-server sub create shipping --wake-stream wakes --pattern 'orders/*'" +
        "\n  $ streams-server sub create mail --webhook https://example.com/hook --stream signups",
    );
  addClientOptions(create).action(createSubscription);
  const list = sub
    .command("ls")
    .description("list subscriptions, one per line")
    .addOption(new Option("--limit <count>", "stop after so many").argParser(recordCount))
    .option("-l, --long", "with type, state, where wakes go and pattern, separated by tabs")
    .addHelpText("after", "\nWith --json each line is an object.");
  addClientOptions(list).action(listSubscriptions);
  addClientOptions(
    sub.command("show <id>").description("show a subscription, its streams and how far they are processed"),
  ).action(show);
  addClientOptions(sub.command("rm <ids...>").description("delete subscriptions; what they follow stays")).action(
    remove,
  );
  addSubWork(sub);
}

async function createSubscription(id: string, flags: CreateFlags): Promise<void> {
  const { created, ...made } = orFail(await subscriptionFor(id, flags).create(configOf(flags)));
  const line = `${created ? "created" : "already there:"} ${made.id} (${made.type} to ${destination(made)})`;
  await printResult(flags, line, { created, ...made });
}

function configOf(flags: CreateFlags): SubscriptionConfig {
  const { webhook, wakeStream, pattern, stream = [], lease, description } = flags;
  if (pattern === undefined && stream.length === 0) throw new UsageError("give --pattern, --stream, or both");
  const common = {
    ...(pattern === undefined ? {} : { pattern }),
    ...(stream.length === 0 ? {} : { streams: stream.map(streamName) }),
    ...(lease === undefined ? {} : { leaseTtlMs: milliseconds(lease) }),
    ...(description === undefined ? {} : { description }),
  };
  if (webhook !== undefined) return { type: "webhook", webhookUrl: webhook, ...common };
  if (wakeStream !== undefined) return { type: "pull-wake", wakeStream: streamName(wakeStream), ...common };
  throw new UsageError("give --webhook <url> or --wake-stream <stream>");
}

function milliseconds(lease: string): number {
  const leaseTtlMs = parseDuration(lease);
  if (leaseTtlMs !== null) return leaseTtlMs;
  throw new UsageError(`--lease: expected a duration such as 500ms, 30s or 5m, not ${lease}`);
}

async function listSubscriptions(flags: ListFlags): Promise<void> {
  let left = flags.limit ?? Infinity;
  if (left === 0) return;
  for await (const subscription of subscriptionsFor(flags).list()) {
    const { id, type, status, pattern } = subscription;
    const columns = flags.long === true ? [id, type, status, destination(subscription), pattern ?? "-"] : [id];
    await writeOut(`${flags.json === true ? JSON.stringify(subscription) : columns.join("\t")}\n`);
    if (--left === 0) return;
  }
}

async function show(id: string, flags: ClientFlags): Promise<void> {
  const subscription = orFail(await subscriptionFor(id, flags).get());
  const { streams, webhook, ...rest } = subscription;
  const fields = Object.entries({ ...rest, webhook: webhook?.url ?? null }).filter(([, value]) => value !== null);
  const width = Math.max(...fields.map(([name]) => name.length)) + 2;
  const lines = [
    ...fields.map(([name, value]) => name.padEnd(width) + plain(value)),
    ...streams.map(({ path, linkType, ackedOffset }) => `${"stream".padEnd(width)}${path} ${linkType} ${ackedOffset}`),
  ];
  await printResult(flags, lines.join("\n"), subscription);
}

async function remove(ids: string[], flags: ClientFlags): Promise<void> {
  for (const subscription of ids.map((id) => subscriptionFor(id, flags))) {
    orFail(await subscription.delete(), ids.length === 1 ? null : `${subscription.id} was not deleted`);
    await printResult(flags, `deleted ${subscription.id}`, { id: subscription.id, deleted: true });
  }
}

function destination({ webhook, wakeStream }: SubscriptionSummary): string {
  return webhook?.url ?? wakeStream ?? "-";
}

function plain(value: unknown): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}
