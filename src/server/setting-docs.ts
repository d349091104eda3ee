/** What the docs of a setting say besides its type: kept with its schema, read by help texts and tables. */

import { z } from "zod";

export interface Doc {
  readonly about: string;
  /** The placeholder of the flag's value; a switch has none. */
  readonly placeholder?: string;
  /** Variables that mean the same, strongest first. */
  readonly aliases?: readonly string[];
  /** Never shown: not in logs, and not in what is said about a wrong value. */
  readonly secret?: true;
  /** May be given more than once, or with commas. */
  readonly isList?: true;
}

export const docs = z.registry<Doc>();
