/**
 * A template: an entity and one to three of its fields, the shape of an equality query. Names a set of keys. Pure values; the
 * state that a running stream keeps per template is in `touch-stream.ts`.
 */

import { z } from "zod";
import {
  type ArgumentEncoding,
  encodeArgument,
  formatKey,
  idWords,
  keyIdOf,
  type KeyWriter,
} from "../../protocol/touch-keys.ts";
import { isRow } from "../state-protocol/index.ts";

export const MAX_TEMPLATE_FIELDS = 3;
const MAX_NAME_CHARS = 256;

const name = z.string().min(1).max(MAX_NAME_CHARS);

/** One template as clients send it. */
export const templateSpec = z.strictObject({
  entity: name,
  fields: z
    .array(z.strictObject({ name, encoding: z.enum(["string", "int64", "bool", "datetime", "bytes"]) }))
    .min(1)
    .max(MAX_TEMPLATE_FIELDS),
});

export interface Template {
  /** 16 hex digits. */
  readonly id: string;
  readonly idWords: Uint32Array;
  readonly key: bigint;
  readonly keyId: number;
  readonly entity: string;
  /** Sorted by code unit; the id does not depend on encodings. */
  readonly fields: readonly { readonly name: string; readonly encoding: ArgumentEncoding }[];
}

/** The template of `spec`; null when a field is named twice. */
export function makeTemplate(spec: z.output<typeof templateSpec>, writer: KeyWriter): Template | null {
  const fields = spec.fields.toSorted((left, right) => (left.name < right.name ? -1 : left.name > right.name ? 1 : 0));
  const names = fields.map((field) => field.name);
  if (new Set(names).size < names.length) return null;
  const id = writer.templateId(spec.entity, names);
  const words = idWords(id);
  const key = writer.template(words);
  return { id: formatKey(id), idWords: words, key, keyId: keyIdOf(key), entity: spec.entity, fields };
}

export function sameEncodings(left: Template, right: Template): boolean {
  return left.fields.every((field, index) => field.encoding === right.fields[index]?.encoding);
}

/** Whether JSON may have rounded this number. */
export function isRounded(value: unknown): boolean {
  return typeof value === "number" && Number.isInteger(value) && !Number.isSafeInteger(value);
}

/** What a template makes of one side of a change: its arguments, `none` (in no equality set), or unknown. */
export type Side = readonly string[] | "none" | "unknown";

/**
 * `row` is a value or old value as the record has it. A field that is null or has a value that no key can express puts the row
 * in no set, as in SQL; one that the row lacks is unknown in an old value and null in a new one, which is the row whole.
 * A whole number that a double cannot hold is unknown: JSON has rounded it, and its key would be another's.
 */
export function sideOf(template: Template, row: unknown, side: "before" | "after"): Side {
  if (!isRow(row)) return side === "before" ? "unknown" : "none";
  const fields = row;
  const args: string[] = [];
  let none = false;
  for (const field of template.fields) {
    if (!Object.hasOwn(fields, field.name)) {
      if (side === "before") return "unknown";
      none = true;
      continue;
    }
    const value = fields[field.name];
    if (isRounded(value)) return "unknown";
    const arg = encodeArgument(value, field.encoding);
    if (arg === null) none = true;
    else args.push(arg);
  }
  return none ? "none" : args;
}
