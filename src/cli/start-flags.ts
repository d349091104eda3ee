/**
 * Where reading starts, as flags of `read` and `tail`: an offset, a time, or the last so many records.
 */

import { type Command, Option } from "commander";
import { recordCount } from "./option-values.ts";
import type { ClientFlags } from "./target.ts";

export interface StartFlags extends ClientFlags {
  readonly offset?: string;
  readonly from?: string;
  readonly tail?: number;
  readonly key?: string;
  readonly filter?: string;
}

export function addStartOptions(command: Command): Command {
  return command
    .addOption(
      new Option("--offset <offset>", "start here: an offset the server gave, -1 for the start").conflicts([
        "from",
        "tail",
      ]),
    )
    .addOption(
      new Option("--from <time>", "start with what was appended since, e.g. -15m, 2030-01-01T00:00:00Z").conflicts(
        "tail",
      ),
    )
    .addOption(new Option("--tail <count>", "start with the last so many records").argParser(recordCount))
    .option("--key <key>", "only records appended with this key")
    .option("--filter <expression>", "only JSON records that match, e.g. 'status = \"open\" and total > 10'");
}

/** The flags as a range for the client. */
export function rangeOf({ offset, from, tail, key, filter }: StartFlags): Omit<StartFlags, keyof ClientFlags> {
  return {
    ...(offset === undefined ? {} : { offset }),
    ...(from === undefined ? {} : { from }),
    ...(tail === undefined ? {} : { tail }),
    ...(key === undefined ? {} : { key }),
    ...(filter === undefined ? {} : { filter }),
  };
}
