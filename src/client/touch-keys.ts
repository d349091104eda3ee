/**
 * Touch keys by names and values (docs/live-queries.md), equal to the server's: what a query read, as texts to wait for.
 * Wrong use throws `TypeError`: a key that could not be made must not look like one that is never touched.
 */

import {
  type ArgumentEncoding,
  encodeArgument,
  formatKey,
  type Hash64,
  idWords,
  KeyWriter,
} from "../protocol/touch-keys.ts";

/** The shape of an equality query: an entity (usually a table) and one to three of its fields. */
export interface TouchTemplate {
  readonly entity: string;
  readonly fields: readonly TouchField[];
}

export interface TouchField {
  readonly name: string;
  readonly encoding: ArgumentEncoding;
}

/** Each key is 16 hex digits. `values` stand in the order of the template's fields, as rows have them; a `Date` is its JSON. */
export interface TouchKeys {
  /** Anything of the entity changed. */
  table(entity: string): string;
  /** The template's name, not a key. */
  templateId(template: TouchTemplate): string;
  /** Any change that the template sees. */
  template(template: TouchTemplate): string;
  /** A row with these values changed: `WHERE userId = ?`. */
  watch(template: TouchTemplate, values: readonly unknown[]): string;
  /** A row entered or left the set: `SELECT count(*) … WHERE userId = ?`. */
  membership(template: TouchTemplate, values: readonly unknown[]): string;
  /** That field changed of a row that stays in the set. */
  field(template: TouchTemplate, field: string, values: readonly unknown[]): string;
}

/** `hash` is what `hash64()` gives. */
export function touchKeys(hash: Hash64): TouchKeys {
  const writer = new KeyWriter(hash);
  const idOf = ({ entity, fields }: TouchTemplate): bigint =>
    writer.templateId(
      entity,
      byName(fields).map(({ name }) => name),
    );
  const wordsOf = (template: TouchTemplate): Uint32Array => idWords(idOf(template));
  return {
    table: (entity) => formatKey(writer.table(entity)),
    templateId: (template) => formatKey(idOf(template)),
    template: (template) => formatKey(writer.template(wordsOf(template))),
    watch: (template, values) => formatKey(writer.watch(wordsOf(template), argumentsOf(template, values))),
    membership: (template, values) => formatKey(writer.membership(wordsOf(template), argumentsOf(template, values))),
    field: (template, field, values) =>
      formatKey(writer.field(wordsOf(template), field, argumentsOf(template, values))),
  };
}

/** By code unit, as ids and arguments have them. */
function byName(fields: readonly TouchField[]): TouchField[] {
  return fields.toSorted((left, right) => (left.name < right.name ? -1 : 1));
}

function argumentsOf({ entity, fields }: TouchTemplate, values: readonly unknown[]): string[] {
  if (values.length !== fields.length) {
    throw new TypeError(`a key of ${entity} takes ${fields.length} values, one per field, not ${values.length}`);
  }
  return byName(fields).map((field) => {
    const value = values[fields.indexOf(field)];
    const argument = encodeArgument(value instanceof Date ? value.toJSON() : value, field.encoding);
    if (argument === null) {
      throw new TypeError(
        `no key can hold this value as ${field.encoding}, for ${entity}.${field.name}: ${String(value)}`,
      );
    }
    return argument;
  });
}
