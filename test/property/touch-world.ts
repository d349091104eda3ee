/**
 * The naive side of the touch property: a database of a few rows, queries over it, and what one change means to each. Knows
 * nothing of keys, journals or cursors: it looks at rows before and after.
 */

import * as fc from "fast-check";
import { encodeArgument, type KeyWriter } from "../../src/protocol/touch-keys.ts";
import { makeTemplate, type Template } from "../../src/features/touch/template.ts";
import type { TemplateSpec } from "../../src/features/touch/templates.ts";

export type Row = Readonly<Record<string, unknown>>;

export interface Change {
  readonly entity: string;
  readonly key: string;
  readonly operation: "insert" | "update" | "delete" | "upsert";
  readonly before: Row | undefined;
  readonly after: Row | undefined;
  /** The new row as the record has it: what is null may be left out. */
  readonly value: Row | null;
  /** What the record says of the row before: whole, some fields, or nothing. */
  readonly told: Row | undefined;
}

export interface Query {
  readonly kind: "table" | "watch" | "membership" | "field";
  readonly entity: string;
  /** Index into SPECS; unused for tables. */
  readonly spec: number;
  readonly args: readonly unknown[];
  readonly field: string;
}

export const SPECS: readonly TemplateSpec[] = [
  { entity: "a", fields: [{ name: "x", encoding: "string" }] },
  { entity: "a", fields: [{ name: "y", encoding: "int64" }] },
  {
    entity: "a",
    fields: [
      { name: "x", encoding: "string" },
      { name: "y", encoding: "int64" },
    ],
  },
  { entity: "b", fields: [{ name: "x", encoding: "string" }] },
];

export function templatesOf(writer: KeyWriter): Template[] {
  return SPECS.map((spec) => {
    const template = makeTemplate(spec, writer);
    if (template === null) throw new Error("the specs are valid");
    return template;
  });
}

const X = [null, "p", "q", "é"] as const;
const Y = [null, 1, 2] as const;
const Z = [null, "u", 7, { deep: 1 }, [1]] as const;

const EMPTY: Row = { x: null, y: null, z: null };

/** A row; a field may be absent. */
export const row: fc.Arbitrary<Row> = fc.record(
  { x: fc.constantFrom(...X), y: fc.constantFrom(...Y), z: fc.constantFrom(...Z) },
  { requiredKeys: ["z"] },
);

/** A step of a writer, before it meets the database: which row, its new state, and how much is told of the old one. */
export interface Wish {
  readonly entity: "a" | "b";
  readonly key: string;
  readonly next: Row | null;
  readonly upsert: boolean;
  readonly told: "whole" | "partly" | "nothing";
}

export const wish: fc.Arbitrary<Wish> = fc.record({
  entity: fc.constantFrom("a", "a", "b"),
  key: fc.constantFrom("1", "2", "3"),
  next: fc.option(row, { freq: 4 }),
  upsert: fc.constantFrom(false, false, false, true),
  told: fc.constantFrom("whole", "whole", "whole", "whole", "partly", "nothing"),
});

export const query: fc.Arbitrary<Query> = fc
  .record({
    kind: fc.constantFrom("table", "watch", "watch", "membership", "field"),
    spec: fc.nat(SPECS.length - 1),
    x: fc.constantFrom("p", "q", "é"),
    y: fc.constantFrom(1, 2),
    field: fc.constantFrom("y", "z"),
  })
  .map(({ kind, spec, x, y, field }): Query => {
    const { entity, fields } = SPECS[spec] ?? { entity: "a", fields: [] };
    const own = fields.some((one) => one.name === field) ? "z" : field;
    return { kind, entity, spec, args: fields.map((one) => (one.name === "x" ? x : y)), field: own };
  });

/** The database: rows by entity and key. */
export class World {
  readonly #rows = new Map<string, Row>();

  /** The change that `asked` makes of the present rows, or null when it makes none. */
  apply({ entity, key, next, upsert, told }: Wish): Change | null {
    const at = `${entity}/${key}`;
    const before = this.#rows.get(at);
    const after = next === null ? undefined : { ...EMPTY, ...next };
    if (after === undefined) this.#rows.delete(at);
    else this.#rows.set(at, after);
    if (before === undefined) {
      if (next === null) return null;
      return { entity, key, operation: upsert ? "upsert" : "insert", before, after, value: next, told: undefined };
    }
    const operation = next === null ? "delete" : upsert ? "upsert" : "update";
    return { entity, key, operation, before, after, value: next, told: tell(before, told) };
  }
}

function tell(before: Row, told: Wish["told"]): Row | undefined {
  if (told === "nothing") return undefined;
  if (told === "whole") return before;
  return Object.fromEntries(Object.entries(before).filter(([name]) => name !== "x"));
}

/** Whether a row lies in the set of a query. */
function isIn(query: Query, at: Row | undefined): boolean {
  if (at === undefined) return false;
  const spec = SPECS[query.spec];
  return (spec?.fields ?? []).every(({ name, encoding }, index) => {
    const arg = encodeArgument(query.args[index], encoding);
    return arg !== null && encodeArgument(at[name], encoding) === arg;
  });
}

/** Whether `change` can have changed what the query reads. */
export function concerns(query: Query, change: Change): boolean {
  if (query.entity !== change.entity) return false;
  const [before, after] = [isIn(query, change.before), isIn(query, change.after)];
  switch (query.kind) {
    case "table":
      return true;
    case "watch":
      return before || after;
    case "membership":
      return before !== after;
    case "field":
      return (
        before && after && JSON.stringify(change.before?.[query.field]) !== JSON.stringify(change.after?.[query.field])
      );
  }
}

/** Whether the record of `change` leaves open what it means to the query's template. */
export function isCoarse(query: Query, change: Change): boolean {
  if (query.kind === "table" || query.entity !== change.entity || change.operation === "insert") return false;
  const fields = SPECS[query.spec]?.fields ?? [];
  const names = fields.map(({ name }) => name).concat(query.kind === "field" ? [query.field] : []);
  return names.some((name) => change.told === undefined || !Object.hasOwn(change.told, name));
}

export function keyOf(query: Query, templates: readonly Template[], writer: KeyWriter): bigint {
  if (query.kind === "table") return writer.table(query.entity);
  const template = templates[query.spec];
  if (template === undefined) throw new Error("every query has its template");
  const args = template.fields.map(({ encoding }, index) => encodeArgument(query.args[index], encoding) ?? "");
  if (query.kind === "watch") return writer.watch(template.idWords, args);
  if (query.kind === "membership") return writer.membership(template.idWords, args);
  return writer.field(template.idWords, query.field, args);
}

/** The record that a writer appends for a change. */
export function recordOf({ entity, key, operation, value, told }: Change): unknown {
  return {
    type: entity,
    key,
    ...(operation === "delete" ? {} : { value }),
    ...(told === undefined ? {} : { old_value: told }),
    headers: { operation },
  };
}
