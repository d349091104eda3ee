/**
 * What requests and background work ask of a store (intents) and what they hear once it is durable (outcomes). Values only.
 */

import type { AppendRequest, Body } from "./append-rules.ts";
import type { Expiry } from "./expiry.ts";
import type { Damage } from "./faults.ts";
import type { SplitRecords } from "./json-records.ts";
import type { LineageSegment } from "./offset.ts";
import type { Retention } from "./retention.ts";
import type { ProducerState, StreamHead, StreamProfile } from "./stream.ts";
import type { Rejection } from "./verdicts.ts";

/** A fork as resolved against the source's durable records, which never change. */
export interface ForkPlan {
  readonly sourceId: number;
  readonly inherited: readonly LineageSegment[];
  readonly at: number;
  /** The first bytes of a byte-stream record that the sub-offset cuts: they become the fork's first own record. */
  readonly prefix: Uint8Array | null;
  readonly contentType: string;
  readonly expiry: Expiry;
  readonly tailOffset: string;
}

export interface ForkRequest {
  readonly sourceName: string;
  /** As sent; null = the source's tail. */
  readonly offset: string | null;
  readonly subOffset: number;
  readonly plan: ForkPlan | { readonly rejection: Rejection };
}

export interface CreateIntent {
  readonly kind: "create";
  readonly name: string;
  readonly contentType: string | null;
  readonly expiry: Expiry;
  readonly retention: Retention | null;
  readonly close: boolean;
  readonly body: Body | null;
  readonly key: string | null;
  readonly fork: ForkRequest | null;
  /** The client that it counts against; default: nobody. */
  readonly owner?: string | null;
}

/** What the rules of a profile make of an append's body; `diverted` when something else than the log takes it. */
export type AppendCheck = (profile: StreamProfile | null) => Body | null | "diverted";

export interface AppendIntent extends AppendRequest {
  readonly kind: "append";
  readonly name: string;
  readonly key: string | null;
  /** Asked when the append is decided, about the profile that the stream has then. Default: the body as it is. */
  readonly check?: AppendCheck;
}

/** Records that the server writes itself into one JSON stream in one step: an append of its own for each, under its key. */
export interface RecordIntent {
  readonly kind: "record";
  readonly name: string;
  /** Only into this incarnation; null = whichever has the name. */
  readonly id: number | null;
  readonly body: SplitRecords;
  /** One per record. */
  readonly keys: readonly string[];
  /** Attributes that change with it, of this stream or another one; null = none. Nothing happens when that stream is gone. */
  readonly note: StreamNote | null;
}

/** What features keep with one incarnation of a stream, changed; null removes an attribute. */
export interface StreamNote {
  readonly id: number;
  readonly attributes: ReadonlyMap<string, string | null>;
}

export type Intent =
  | CreateIntent
  | AppendIntent
  | RecordIntent
  | { readonly kind: "delete"; readonly name: string }
  | { readonly kind: "retain"; readonly name: string; readonly retention: Retention }
  /** For the incarnation `id` only. */
  | {
      readonly kind: "profile";
      readonly name: string;
      readonly id: number;
      readonly profile: StreamProfile | null;
    }
  /** Features: changes what they keep with one incarnation of a stream. Nothing happens when it is gone. */
  | ({ readonly kind: "annotate" } & StreamNote)
  /** Background: ends a stream whose lifetime is over, if it still is. */
  | { readonly kind: "expire"; readonly id: number }
  /** Background: moves the retained start forward, if the stream still has the policy that this was worked out for. */
  | {
      readonly kind: "trim";
      readonly id: number;
      readonly retention: Retention;
      readonly retainedFrom: number;
      readonly trimmedBytes: number;
    }
  /** Background: makes last accesses durable for sliding TTLs. */
  | { readonly kind: "touch"; readonly accesses: readonly (readonly [id: number, atMs: number])[] };

export type Outcome =
  | { readonly kind: "created"; readonly head: StreamHead; readonly offset: string; readonly closed: boolean }
  | { readonly kind: "exists"; readonly head: StreamHead; readonly offset: string; readonly closed: boolean }
  | {
      readonly kind: "appended" | "duplicate";
      readonly streamId: number;
      /** The tail after it. */
      readonly next: number;
      readonly offset: string;
      readonly closed: boolean;
      readonly producer: ProducerState | null;
      readonly records: number;
    }
  /** Taken by what stands in front of the stream; durable soon, if the process lives. */
  | { readonly kind: "queued"; readonly records: number }
  /** Nothing happened: appends to streams of this profile are for what stands in front of them. */
  | { readonly kind: "diverted"; readonly profileKind: string }
  | { readonly kind: "done" }
  | { readonly kind: "rejected"; readonly rejection: Rejection };

/** What a store makes of an intent: an outcome, or the damage that it met. Then nothing of it happened, and the others go on. */
export type Decided = Outcome | { readonly kind: "failed"; readonly cause: Damage };

/** What a head adds to a commit besides its texts, about. */
const HEAD_BYTES = 200;

/**
 * Bytes that an intent would add to what is stored; what queues and commits are bounded by, and what a full disk refuses.
 * Nothing for intents that free room or that the server itself needs.
 */
export function intentBytes(intent: Intent): number {
  switch (intent.kind) {
    case "append":
      return bodyBytes(intent.body);
    case "record":
      return intent.body.payload.length + (intent.note === null ? 0 : attributeBytes(intent.note));
    case "create": {
      const plan = intent.fork?.plan;
      const prefix = plan !== undefined && "at" in plan ? plan.prefix : null;
      return HEAD_BYTES + intent.name.length + bodyBytes(intent.body) + (prefix?.length ?? 0);
    }
    case "profile":
      return JSON.stringify(intent.profile).length;
    case "annotate":
      return attributeBytes(intent);
    default:
      return 0;
  }
}

function attributeBytes({ attributes }: StreamNote): number {
  let bytes = 0;
  for (const [key, value] of attributes) bytes += key.length + (value?.length ?? 0);
  return bytes;
}

function bodyBytes(body: Body | null): number {
  return body === null || "problem" in body ? 0 : body.payload.length;
}
