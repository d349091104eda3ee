/** What the value of an option has to be, where several commands ask for the same: told before anything is sent, written or made. */

import { InvalidArgumentError } from "commander";

/** Latin-1 without control characters. */
const HEADER_TEXT = /^[\t -~\x80-\xff]*$/;
const LARGEST_COUNT = 999_999_999;

/** How many records, names or frames. */
export function recordCount(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new InvalidArgumentError(`expected a whole number up to ${LARGEST_COUNT}`);
}

/** A number that a server or a producer counts with. */
export function counter(text: string): number {
  if (/^\d{1,15}$/.test(text)) return Number(text);
  throw new InvalidArgumentError("expected a whole number of at most 15 digits");
}

/** What travels in a header. `fetch` throws for anything else, as for a mistake in the program. */
export function headerText(text: string): string {
  if (isHeaderText(text)) return text;
  throw new InvalidArgumentError("expected text that a header carries: Latin-1, no line ends");
}

export function isHeaderText(text: string): boolean {
  return HEADER_TEXT.test(text);
}

/** An empty path is a variable of a script that nobody has set, not the working directory. */
export function path(text: string): string {
  if (text.trim() !== "") return text;
  throw new InvalidArgumentError("expected a path, not nothing");
}
