/**
 * What a server tells of subscriptions and claims, read from its JSON (PROTOCOL §6.3, §7.2). Names become camelCase; what the
 * server says beyond what is typed here is kept. An answer that lacks what a client goes by is a `BrokenAnswer`.
 */

import { Result } from "better-result";
import { isJsonObject, type JsonObject } from "../kit/json-object.ts";
import { notAStream } from "./reading.ts";
import type { BrokenAnswer } from "./stream-error.ts";

export interface SubscriptionSummary {
  readonly id: string;
  readonly type: "webhook" | "pull-wake";
  /** Glob over stream names: `*` is one segment, `**` any number of them. */
  readonly pattern: string | null;
  readonly webhook: SubscriptionWebhook | null;
  /** Name of the stream that wake events are written to. */
  readonly wakeStream: string | null;
  readonly leaseTtlMs: number;
  readonly createdAt: string;
  /** `failed` while a delivery that failed waits for its retry. */
  readonly status: string;
  readonly description: string | null;
}

export interface Subscription extends SubscriptionSummary {
  readonly streams: readonly SubscriptionLink[];
}

export interface SubscriptionWebhook {
  readonly url: string;
  readonly signing?: { readonly alg: string; readonly kid: string; readonly jwksUrl: string };
}

/** A stream of a subscription, and how far it was processed. */
export interface SubscriptionLink {
  /** The stream's name. */
  readonly path: string;
  readonly linkType: "glob" | "explicit";
  /** What follows this offset was not processed yet: read from here. */
  readonly ackedOffset: string;
}

export interface ClaimedStream extends SubscriptionLink {
  /** Where the stream ended when it was claimed. */
  readonly tailOffset: string;
  readonly hasPending: boolean;
}

/** What fences an ack or a release: it must be of the present wake. */
export interface WakeProof {
  readonly wakeId: string;
  readonly generation: number;
  readonly token: string;
}

export interface Claim extends WakeProof {
  readonly streams: readonly ClaimedStream[];
  /** The lease ends this long after the claim or the last ack without done. */
  readonly leaseTtlMs: number;
}

export interface SubscriptionPage {
  readonly subscriptions: readonly SubscriptionSummary[];
  /** Where the next page starts; null on the last one. */
  readonly next: string | null;
}

export function readSubscription(body: JsonObject, url: string): Result<Subscription, BrokenAnswer> {
  const { streams } = body;
  const known = summary(body);
  if (known === null || !Array.isArray(streams)) return Result.err(notAStream(url, "is not a subscription"));
  return Result.ok({ ...known, streams: streams.map(camelCase) as SubscriptionLink[] });
}

export function readPage(body: JsonObject, url: string): Result<SubscriptionPage, BrokenAnswer> {
  const { subscriptions, next } = body;
  const known = Array.isArray(subscriptions) ? subscriptions.map(summary) : [null];
  const found = known.filter((entry) => entry !== null);
  if (found.length < known.length) return Result.err(notAStream(url, "is not a list of subscriptions"));
  return Result.ok({ subscriptions: found, next: typeof next === "string" ? next : null });
}

export function readClaim(body: JsonObject, url: string): Result<Claim, BrokenAnswer> {
  const { wakeId, generation, token, leaseTtlMs, streams, ...rest } = camelCase(body) as JsonObject;
  if (
    typeof wakeId !== "string" ||
    typeof generation !== "number" ||
    typeof token !== "string" ||
    typeof leaseTtlMs !== "number" ||
    !Array.isArray(streams) ||
    !streams.every(isClaimedStream)
  ) {
    return Result.err(notAStream(url, "is not a claim"));
  }
  return Result.ok({ ...rest, wakeId, generation, token, leaseTtlMs, streams });
}

function isClaimedStream(value: unknown): value is ClaimedStream {
  if (!isJsonObject(value)) return false;
  return ["path", "ackedOffset", "tailOffset"].every((name) => typeof value[name] === "string");
}

/** A server may leave out what is null. */
function summary(body: unknown): SubscriptionSummary | null {
  if (!isJsonObject(body)) return null;
  const { id, subscriptionId, type, leaseTtlMs, ...rest } = camelCase(body) as JsonObject;
  const name = id ?? subscriptionId;
  if (typeof name !== "string" || typeof type !== "string" || typeof leaseTtlMs !== "number") return null;
  const absent = { pattern: null, webhook: null, wakeStream: null, description: null };
  return { id: name, type, leaseTtlMs, ...absent, ...rest } as unknown as SubscriptionSummary;
}

function camelCase(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(camelCase);
  if (!isJsonObject(value)) return value;
  return Object.fromEntries(
    Object.entries(value).map(([name, field]) => [
      name.replaceAll(/_([a-z])/g, (_, letter: string) => letter.toUpperCase()),
      camelCase(field),
    ]),
  );
}
