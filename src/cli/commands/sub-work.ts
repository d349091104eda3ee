/**
 * `sub claim`, `sub ack`, `sub release`: a worker's part by hand, for scripts and for looking at what goes on.
 */

import { type Command, Option } from "commander";
import type { StreamAck, WakeProof } from "../../client/subscriptions.ts";
import { UsageError } from "../failure.ts";
import { counter, isHeaderText } from "../option-values.ts";
import { writeOut } from "../stdout.ts";
import { collect, subscriptionFor } from "../subscription-target.ts";
import { addClientOptions, type ClientFlags, orFail, printResult, streamName } from "../target.ts";

interface ClaimFlags extends ClientFlags {
  readonly worker: string;
}

interface WakeFlags extends ClientFlags {
  readonly token: string;
  readonly wake: string;
  readonly generation: number;
}

interface AckFlags extends WakeFlags {
  readonly offset?: readonly string[];
  readonly done?: true;
}

export function addSubWork(sub: Command): void {
  const claim = sub
    .command("claim <id>")
    .description("take the lease of a subscription; prints the claim as JSON, with its token")
    .requiredOption("--worker <name>", "what others are told who holds it")
    .addHelpText("after", "\nIt ends by itself after leaseTtlMs, unless `sub ack` keeps it.");
  addClientOptions(claim).action(claimSubscription);
  const ack = addWakeOptions(sub.command("ack <id>").description("keep a claim, or end it with --done"))
    .addOption(
      new Option(
        "--offset <stream=offset>",
        "the stream is processed up to here; may be given more than once",
      ).argParser(collect),
    )
    .option("--done", "end the claim")
    .addHelpText(
      "after",
      "\nExample:\n  $ streams-server sub ack shipping --token eyJ… --wake w_1 --generation 7" +
        " --offset orders/eu=0000000000000001_0000000000000042 --done",
    );
  addClientOptions(ack).action(acknowledge);
  const release = addWakeOptions(
    sub.command("release <id>").description("give a claim back: the next worker is woken"),
  );
  addClientOptions(release).action(giveBack);
}

function addWakeOptions(command: Command): Command {
  return command
    .requiredOption("--token <token>", "token of the claim")
    .requiredOption("--wake <wakeId>", "wakeId of the claim")
    .addOption(
      new Option("--generation <number>", "generation of the claim").argParser(counter).makeOptionMandatory(true),
    );
}

async function claimSubscription(id: string, flags: ClaimFlags): Promise<void> {
  const claim = orFail(await subscriptionFor(id, flags).claim(flags.worker));
  await writeOut(`${JSON.stringify(claim)}\n`);
}

async function acknowledge(id: string, flags: AckFlags): Promise<void> {
  const done = flags.done === true;
  const acks = (flags.offset ?? []).map(streamAck);
  const { nextWake } = orFail(await subscriptionFor(id, flags).ack(wakeOf(flags), { acks, done }));
  const line = done ? `done with ${id}${nextWake ? "; there is more to do" : ""}` : `kept ${id}`;
  await printResult(flags, line, { id, done, nextWake });
}

async function giveBack(id: string, flags: WakeFlags): Promise<void> {
  orFail(await subscriptionFor(id, flags).release(wakeOf(flags)));
  await printResult(flags, `released ${id}`, { id, released: true });
}

function wakeOf({ token, wake, generation }: WakeFlags): WakeProof {
  // Not where options are parsed: complaints from there repeat the value, and this one is a secret.
  if (!isHeaderText(token)) throw new UsageError("--token: expected text that a header carries: Latin-1, no line ends");
  return { token, wakeId: wake, generation };
}

/** A name may hold an equals sign, an offset never does. */
function streamAck(text: string): StreamAck {
  const at = text.lastIndexOf("=");
  if (at < 1 || at === text.length - 1) throw new UsageError(`--offset: expected stream=offset, not ${text}`);
  return { stream: streamName(text.slice(0, at)), offset: text.slice(at + 1) };
}
