/**
 * `keys`: makes, lists, revokes and rotates API keys on the machine of the server. They stand in a file that a running server follows.
 */

import { join } from "node:path";
import { type Command, InvalidArgumentError, Option } from "commander";
import { parseGrant } from "../../protocol/grants.ts";
import { parseDuration } from "../../protocol/retention.ts";
import type { DescribedKey, MadeKey } from "../../server/key-admin.ts";
import { path } from "../option-values.ts";
import { writeOut } from "../stdout.ts";
import { dataDirectoryOf } from "../upkeep-report.ts";

/** A hundred years. Times far beyond are no dates any more. */
const MAX_LIFE_MS = 36_500 * 86_400_000;

interface KeysFlags {
  readonly dataDir?: string;
  readonly keysFile?: string;
  readonly json?: true;
}

interface CreateFlags extends KeysFlags {
  readonly name?: string;
  readonly grant: readonly string[];
  readonly expires?: number;
}

interface RotateFlags extends KeysFlags {
  readonly expires?: number;
  readonly overlap: number;
}

export function addKeys(program: Command): void {
  const keys = program
    .command("keys")
    .description("make, list, revoke and rotate API keys, on the machine of the server");
  withFile(keys.command("create"))
    .description("make a key and print it, once; the server keeps its SHA-256")
    .requiredOption("--grant <grant>", "what it may do, e.g. read:orders/* or all; repeat it", collectGrants)
    .option("--name <text>", "what it is for")
    .addOption(new Option("--expires <duration>", "ends after this, e.g. 90d").argParser(life))
    .addHelpText(
      "after",
      "\nExample:\n  $ streams-server keys create --name shop --grant append:orders/* --grant read:orders/*",
    )
    .action(create);
  withFile(keys.command("ls")).description("list the keys, without their secrets").action(list);
  withFile(keys.command("revoke <id>")).description("end a key; takes effect within two seconds").action(revoke);
  withFile(keys.command("rotate <id>"))
    .description("make a new key with the same name and grants, and end the old one")
    .addOption(
      new Option("--expires <duration>", "the new key ends after this; needed when the old one ends").argParser(life),
    )
    .addOption(
      new Option("--overlap <duration>", "the old key goes on for this long")
        .argParser(duration)
        .default(3_600_000, "1h"),
    )
    .action(rotate);
}

function withFile(command: Command): Command {
  return command
    .option("--data-dir <path>", "data directory of the server (env STREAMS_DATA_DIR; default ./streams-data)", path)
    .option(
      "--keys-file <path>",
      "file of the keys (env STREAMS_KEYS_FILE; default keys.json in the data directory)",
      path,
    )
    .option("--json", "print results, and errors, as JSON");
}

function fileOf(flags: KeysFlags): string {
  const named = process.env["STREAMS_KEYS_FILE"]?.trim() ?? "";
  const file = flags.keysFile ?? (named === "" ? null : named);
  return file ?? join(dataDirectoryOf(flags.dataDir), "keys.json");
}

async function create(flags: CreateFlags): Promise<void> {
  const { createKey } = await import("../../server/key-admin.ts");
  await printKey(flags, createKey(fileOf(flags), flags.name ?? "", flags.grant, flags.expires ?? null));
}

async function list(flags: KeysFlags): Promise<void> {
  const { listKeys } = await import("../../server/key-admin.ts");
  for (const key of listKeys(fileOf(flags))) {
    await writeOut(flags.json === true ? `${JSON.stringify(key)}\n` : `${line(key)}\n`);
  }
}

async function revoke(id: string, flags: KeysFlags): Promise<void> {
  const { revokeKey } = await import("../../server/key-admin.ts");
  revokeKey(fileOf(flags), id);
  await writeOut(flags.json === true ? `${JSON.stringify({ id, revoked: true })}\n` : `revoked ${id}\n`);
}

async function rotate(id: string, flags: RotateFlags): Promise<void> {
  const { rotateKey } = await import("../../server/key-admin.ts");
  await printKey(flags, rotateKey(fileOf(flags), id, flags.overlap, flags.expires ?? null));
}

/** The token alone on stdout, so that it can be piped into a secret store. */
async function printKey(flags: KeysFlags, key: MadeKey): Promise<void> {
  if (flags.json === true) return writeOut(`${JSON.stringify(key)}\n`);
  process.stderr.write(`${line(key)}\n`);
  await writeOut(`${key.token}\n`);
}

function line({ id, name, grants, expiresAt }: DescribedKey): string {
  return [id, name === "" ? "-" : name, grants.join(","), expiresAt ?? "never expires"].join("\t");
}

function collectGrants(value: string, earlier: string[] | undefined): string[] {
  const grants = value.split(",").map((grant) => grant.trim());
  const wrong = grants.find((grant) => parseGrant(grant) === null);
  if (wrong !== undefined) {
    throw new InvalidArgumentError(
      `${JSON.stringify(wrong)} is no grant: read, append, manage or all, then e.g. :orders/*`,
    );
  }
  return [...(earlier ?? []), ...grants];
}

/** A key that ends at once is of no use. */
function life(text: string): number {
  const ms = duration(text);
  if (ms < 1_000) throw new InvalidArgumentError("expected at least a second");
  return ms;
}

function duration(text: string): number {
  const ms = parseDuration(text);
  if (ms === null || ms < 0) throw new InvalidArgumentError("expected a duration such as 15m, 24h or 90d");
  if (ms > MAX_LIFE_MS) throw new InvalidArgumentError("expected at most 36500d");
  return ms;
}
