/**
 * From what a client names to what wakes its wait. Keys are opaque; what no active template explains is answered coarsely, never
 * missed.
 */

import type { KeyWriter } from "../../protocol/touch-keys.ts";
import type { Interest } from "./interests.ts";
import { MAX_ENTITIES } from "./limits.ts";
import type { Templates } from "./templates.ts";

/** What a client names. */
export interface Naming {
  readonly keys: readonly bigint[];
  readonly keyIds: readonly number[];
  readonly templateIds: readonly string[];
  /** Tables instead of fine keys. */
  readonly coarse: boolean;
}

export interface ResolvedInterest {
  readonly interest: Interest;
  readonly waitKind: "fineKey" | "tableKey";
}

/** Table keys by entity, kept computed. */
export class TableKeys {
  readonly #writer: KeyWriter;
  readonly #byEntity = new Map<string, bigint>();
  readonly #known = new Set<bigint>();

  constructor(writer: KeyWriter) {
    this.#writer = writer;
  }

  of(entity: string): bigint {
    let key = this.#byEntity.get(entity);
    if (key !== undefined) return key;
    key = this.#writer.table(entity);
    if (this.#byEntity.size < MAX_ENTITIES) {
      this.#byEntity.set(entity, key);
      this.#known.add(key);
    }
    return key;
  }

  has(key: bigint): boolean {
    return this.#known.has(key);
  }
}

export function resolveInterest(naming: Naming, templates: Templates, tableKeys: TableKeys): ResolvedInterest {
  const { keys, keyIds, templateIds, coarse } = naming;
  const fine = new Set<string>();
  const tables = new Set<bigint>();
  let everything = false;
  for (const id of templateIds) {
    const entity = templates.entityOf(id);
    if (entity === undefined) everything = true;
    else if (coarse || templates.get(id) === undefined) tables.add(tableKeys.of(entity));
    else fine.add(id);
  }
  let unnamed = false;
  const whole = new Set<string>();
  for (const key of keys) {
    const id = templates.idOfKey(key);
    if (id !== undefined) whole.add(id);
  }
  for (const keyId of keyIds) {
    const id = templates.idOfKeyId(keyId);
    if (id !== undefined) whole.add(id);
  }
  if (templateIds.length === 0) {
    for (const key of keys) {
      if (templates.idOfKey(key) === undefined && !tableKeys.has(key)) unnamed = true;
    }
    if (keyIds.length > 0) unnamed = true;
    // A key of a template that was retired looks like any other: then only every change is sure to hold its own.
    if (unnamed && (templates.size === 0 || templates.someRetired)) {
      unnamed = false;
      everything = true;
    }
  }
  for (const id of whole) fine.add(id);
  const names = { templates: [...fine], wholeTemplates: [...whole] };
  const interest = { keys: [...tables, ...keys], keyIds, ...names, unnamed, everything };
  return { interest, waitKind: coarse || everything || tables.size > 0 ? "tableKey" : "fineKey" };
}
