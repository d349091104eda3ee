/** What one subscription asks of the server around it, and what it answers. */

import type { Clock } from "../../kit/clock.ts";
import type { Deadlines } from "../../kit/deadlines.ts";
import type { Counter, LabelledCounter } from "../../kit/metrics.ts";
import type { Link } from "./links.ts";
import type { SubscriptionConfig } from "./subscription-config.ts";
import type { WakeTokens } from "./wake-tokens.ts";

/** What of a wake is durable. */
export interface WakeRecord {
  readonly id: string;
  /** Who holds it; null: nobody has claimed it, or it is a webhook's. */
  readonly holder: string | null;
  /** When it is over: the lease of its holder or of the webhook, or when an unclaimed wake is told again. */
  readonly untilMs: number;
  /** How often it was told without being claimed. */
  readonly told: number;
}

/** What of a subscription is durable, beside its cursors. */
export interface SubscriptionRecord extends SubscriptionState {
  readonly config: SubscriptionConfig;
  readonly createdMs: number;
  /** Where clients reach the server. */
  readonly base: string;
  /** Streams that are linked by name now. */
  readonly explicit: readonly string[];
}

/** What changes with each wake. */
export interface SubscriptionState {
  readonly generation: number;
  readonly wake: WakeRecord | null;
  /** While wakes cannot be told: how many, and when the next is tried; null = it is under way. */
  readonly retry: { readonly attempts: number; readonly atMs: number | null; readonly reason: string } | null;
}

export type RefusalCode =
  | "INVALID_REQUEST"
  | "WEBHOOK_URL_REJECTED"
  | "SUBSCRIPTION_ALREADY_EXISTS"
  | "SUBSCRIPTION_NOT_FOUND"
  | "TOKEN_INVALID"
  | "TOKEN_EXPIRED"
  | "FENCED"
  | "INVALID_OFFSET"
  | "ALREADY_CLAIMED"
  | "NO_PENDING_WORK"
  | "OVERLOADED";

/** Why not, with what the protocol wants to be told besides. */
export interface Refusal {
  readonly code: RefusalCode;
  readonly message: string;
  readonly more?: Readonly<Record<string, unknown>>;
}

export type Answer<T extends object> = T | { readonly refused: Refusal };

export function isRefused(answer: object): answer is { readonly refused: Refusal } {
  return "refused" in answer;
}

/** A stream as wakes, claims and readers of a subscription see it. */
export interface LinkedStream {
  readonly path: string;
  readonly link_type: "explicit" | "glob";
  readonly acked_offset: string;
  readonly tail_offset: string;
}

export interface WakeStream extends LinkedStream {
  readonly has_pending: boolean;
}

export interface Claimed {
  readonly wake_id: string;
  readonly generation: number;
  readonly token: string;
  readonly streams: readonly WakeStream[];
  readonly lease_ttl_ms: number;
}

/** A wake on its way to a webhook. */
export interface WebhookWake {
  readonly wake: WakeRecord;
  readonly generation: number;
  readonly streams: readonly WakeStream[];
}

/** Whose wake it is. */
export interface Delivered {
  readonly id: string;
  readonly subject: string;
  readonly record: SubscriptionRecord;
}

export type DeliveryOutcome =
  /** It was taken; the callback tells the rest. */
  | { readonly kind: "taken" }
  /** What it was told is worked off. */
  | { readonly kind: "done" }
  | { readonly kind: "failed"; readonly reason: string };

export interface SubscriptionCounters {
  readonly wakes: LabelledCounter;
  readonly failures: Counter;
  readonly expired: Counter;
}

export interface SubscriptionParts {
  readonly clock: Clock;
  readonly deadlines: Deadlines;
  /** In [0, 1). */
  readonly random: () => number;
  /** An id that nobody can guess. */
  readonly newId: () => string;
  readonly tokens: WakeTokens;
  /** What tokens name: no other subscription's, nor that of a former one with the same id. */
  readonly subject: string;
  readonly counters: SubscriptionCounters;
  readonly onFault: (operation: string, cause: unknown) => void;
  /** Resolves when it is durable. Throws `NotSaved`. */
  save(state: SubscriptionState, cursors: ReadonlyMap<number, number>): Promise<void>;
  /** Where clients reach the server now. */
  saveBase(base: string): Promise<void>;
  /** The same of which streams are linked by name; a cursor of null is removed. */
  saveExplicit(names: readonly string[], cursors: ReadonlyMap<number, number | null>): Promise<void>;
  /** Appends the event to the wake stream, in one commit with the state; why not, when it cannot. */
  tell(wakeStream: string, event: object, state: SubscriptionState): Promise<string | null>;
  /** Posts the webhook. */
  deliver(about: Delivered, wake: WebhookWake, signal: AbortSignal): Promise<DeliveryOutcome>;
  /** A link with its offsets; null when its stream is gone. */
  describe(link: Link, tail: number): Promise<LinkedStream | null>;
  /** The seq of an offset in a stream; null when it is none. */
  seqOf(streamId: number, offset: string): Promise<number | null>;
}
