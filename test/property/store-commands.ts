/**
 * Random intents for the store property tests: few names, few producers and small bodies, so that closes, duplicates, forks,
 * deletes and recreations meet each other often.
 */

import * as fc from "fast-check";
import { planFork } from "../../src/engine/fork-planner.ts";
import type { Intent } from "../../src/protocol/intents.ts";
import type { Expiry } from "../../src/protocol/expiry.ts";
import { splitJsonRecords } from "../../src/protocol/json-records.ts";
import { encodeOffset } from "../../src/protocol/offset.ts";
import type { StreamProfile } from "../../src/protocol/stream.ts";
import type { StreamStore } from "../../src/storage/port.ts";

const NAMES = ["a", "b", "c/d"] as const;
const NEVER: Expiry = { kind: "never" };

/** What a run of the property does, step by step. */
export type Command =
  | { readonly kind: "commit"; readonly intents: readonly Wish[] }
  | { readonly kind: "seal" }
  /** The store is opened again from the files as they are, as after a kill. */
  | { readonly kind: "crash" }
  | { readonly kind: "advance"; readonly ms: number };

/** An intent before it is matched to the stores (forks need a source, bodies a content type). */
export type Wish =
  | {
      readonly kind: "create";
      readonly name: string;
      readonly json: boolean;
      readonly records: readonly number[];
      readonly close: boolean;
    }
  | { readonly kind: "fork"; readonly name: string; readonly source: string; readonly at: number; readonly sub: number }
  | {
      readonly kind: "append";
      readonly name: string;
      readonly json: boolean;
      readonly records: readonly number[];
      readonly key: string | null;
      readonly producer: { readonly id: string; readonly epoch: number; readonly seq: number } | null;
      readonly streamSeq: string | null;
      readonly close: boolean;
    }
  | { readonly kind: "delete"; readonly name: string }
  | { readonly kind: "profile"; readonly name: string; readonly profile: StreamProfile | null }
  | { readonly kind: "annotate"; readonly name: string; readonly key: string; readonly value: string | null }
  | { readonly kind: "trim"; readonly name: string; readonly keep: number };

const name = fc.constantFrom(...NAMES);
const records = fc.array(fc.integer({ min: 0, max: 3_000 }), { minLength: 1, maxLength: 4 });

const wish: fc.Arbitrary<Wish> = fc.oneof(
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("create" as const),
      name,
      json: fc.boolean(),
      records: fc.oneof(fc.constant([]), records),
      close: fc.constantFrom(false, false, false, true),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ kind: fc.constant("fork" as const), name, source: name, at: fc.nat(8), sub: fc.nat(3) }),
  },
  {
    weight: 9,
    arbitrary: fc.record({
      kind: fc.constant("append" as const),
      name,
      json: fc.boolean(),
      records,
      key: fc.constantFrom(null, null, "k1", "k2"),
      producer: fc.oneof(
        { weight: 2, arbitrary: fc.constant(null) },
        { weight: 1, arbitrary: fc.record({ id: fc.constantFrom("p", "q"), epoch: fc.nat(1), seq: fc.nat(3) }) },
      ),
      streamSeq: fc.constantFrom(null, null, "1", "2", "3"),
      close: fc.constantFrom(false, false, false, false, true),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("delete" as const), name }) },
  {
    weight: 1,
    arbitrary: fc.record({
      kind: fc.constant("profile" as const),
      name,
      profile: fc.constantFrom(null, null, { kind: "checked", config: { a: [1] } }),
    }),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      kind: fc.constant("annotate" as const),
      name,
      key: fc.constantFrom("x", "y", "z"),
      value: fc.constantFrom(null, "", "1", "é".repeat(99)),
    }),
  },
  { weight: 1, arbitrary: fc.record({ kind: fc.constant("trim" as const), name, keep: fc.nat(4_000) }) },
);

export const commands: fc.Arbitrary<Command[]> = fc.array(
  fc.oneof(
    {
      weight: 8,
      arbitrary: fc.record({
        kind: fc.constant("commit" as const),
        intents: fc.array(wish, { minLength: 1, maxLength: 6 }),
      }),
    },
    { weight: 2, arbitrary: fc.constant({ kind: "seal" as const }) },
    { weight: 1, arbitrary: fc.constant({ kind: "crash" as const }) },
    {
      weight: 1,
      arbitrary: fc.record({ kind: fc.constant("advance" as const), ms: fc.integer({ min: 1, max: 2_000 }) }),
    },
  ),
  { minLength: 4, maxLength: 30 },
);

/** The intent that `wish` means against the present state of `store`. */
export async function toIntent(store: StreamStore, asked: Wish, nowMs: number): Promise<Intent> {
  switch (asked.kind) {
    case "create":
      return {
        kind: "create",
        name: asked.name,
        contentType: typeOf(asked.json),
        expiry: NEVER,
        retention: null,
        close: asked.close,
        body: asked.records.length === 0 ? null : bodyOf(asked.json, asked.records),
        key: null,
        fork: null,
      };
    case "fork": {
      const source = await store.catalog.byName(asked.source);
      const offset = source === undefined ? null : encodeOffset(source.id, Math.min(asked.at, source.next));
      const fork = { sourceName: asked.source, offset, subOffset: asked.sub };
      const plan = await planFork(store, fork, nowMs);
      return {
        kind: "create",
        name: asked.name,
        contentType: null,
        expiry: NEVER,
        retention: null,
        close: false,
        body: null,
        key: null,
        fork: { ...fork, plan },
      };
    }
    case "append": {
      const body = bodyOf(asked.json, asked.records);
      return {
        ...asked,
        kind: "append",
        contentType: typeOf(asked.json),
        body,
        ifMatch: null,
        // Some are for the log whatever the profile says, others leave streams with a profile to what stands in front of them.
        check: (profile) => (profile === null || asked.close ? body : "diverted"),
      };
    }
    case "delete":
      return asked;
    case "profile": {
      const head = await store.catalog.byName(asked.name);
      return { ...asked, id: head?.id ?? 0 };
    }
    case "annotate": {
      const head = await store.catalog.byName(asked.name);
      return { kind: "annotate", id: head?.id ?? 0, attributes: new Map([[asked.key, asked.value]]) };
    }
    case "trim": {
      const head = await store.catalog.byName(asked.name);
      if (head === undefined) return { kind: "expire", id: 0 };
      const point = await store.log.trimPoint(head.id, { beforeMs: null, maxBytes: asked.keep });
      return { kind: "trim", id: head.id, retention: head.retention, ...point };
    }
  }
}

function typeOf(json: boolean): string {
  return json ? "application/json" : "text/plain";
}

/** JSON: one record per number, a string of that length. Bytes: one record of the sum. */
function bodyOf(json: boolean, sizes: readonly number[]) {
  const texts = sizes.map((size, index) => String.fromCharCode(97 + ((size + index) % 26)).repeat(size + 1));
  const bytes = new TextEncoder().encode(json ? JSON.stringify(texts) : texts.join(""));
  if (!json) return { payload: bytes, lengths: [bytes.length] };
  const split = splitJsonRecords(bytes);
  if (!split.ok) throw new Error("the generated JSON is valid");
  return { payload: split.payload, lengths: split.lengths };
}
