/** What a subscription is: read from a request, completed, and compared by its normal form (PROTOCOL §6.2). Pure. */

import { z } from "zod";
import { checkStreamName } from "../../protocol/names.ts";
import { parsePattern } from "./glob.ts";
import {
  DEFAULT_LEASE_MS,
  MAX_DESCRIPTION_CHARS,
  MAX_EXPLICIT_STREAMS,
  MAX_LEASE_MS,
  MAX_PATTERN_CHARS,
  MAX_WORKER_CHARS,
  MIN_LEASE_MS,
} from "./limits.ts";

/** A name as the protocol writes it: a slash in front says nothing. */
const streamName = z
  .string()
  .transform((name) => name.replace(/^\//, ""))
  .superRefine((name, context) => {
    const valid = checkStreamName(name);
    if (!valid.ok) context.addIssue({ code: "custom", message: valid.reason });
  });

const streams = z
  .array(streamName)
  .max(MAX_EXPLICIT_STREAMS)
  .transform((names) => [...new Set(names)].sort());

const pattern = z
  .string()
  .max(MAX_PATTERN_CHARS)
  .transform((text) => text.replace(/^\//, ""))
  .superRefine((text, context) => {
    const parsed = parsePattern(text);
    if (typeof parsed === "string") context.addIssue({ code: "custom", message: parsed });
  });

const common = {
  pattern: pattern.nullish().transform((text) => text ?? null),
  streams: streams.nullish().transform((names) => names ?? []),
  lease_ttl_ms: z.int().min(MIN_LEASE_MS).max(MAX_LEASE_MS).default(DEFAULT_LEASE_MS),
  description: z
    .string()
    .max(MAX_DESCRIPTION_CHARS)
    .nullish()
    .transform((text) => text ?? null),
};

const none = z.null().optional();
export const subscriptionRequest = z
  .discriminatedUnion("type", [
    z.strictObject({
      type: z.literal("webhook"),
      webhook: z.strictObject({ url: z.string().min(1) }),
      wake_stream: none,
      ...common,
    }),
    z.strictObject({ type: z.literal("pull-wake"), webhook: none, wake_stream: streamName, ...common }),
  ])
  .refine(({ pattern: glob, streams: names }) => glob !== null || names.length > 0, "give a pattern, streams, or both")
  .refine(
    ({ wake_stream: wake, streams: names }) => typeof wake !== "string" || !names.includes(wake),
    "a wake stream cannot wake its own subscription",
  );

/** Completed, in a fixed order: the same text for the same configuration. */
export interface SubscriptionConfig {
  readonly type: "webhook" | "pull-wake";
  readonly pattern: string | null;
  readonly streams: readonly string[];
  readonly webhookUrl: string | null;
  readonly wakeStream: string | null;
  readonly leaseMs: number;
  readonly description: string | null;
}

export function normalise(request: z.output<typeof subscriptionRequest>): SubscriptionConfig {
  const { type, pattern: glob, streams: names, lease_ttl_ms: leaseMs, description } = request;
  return {
    type,
    pattern: glob,
    streams: names,
    webhookUrl: type === "webhook" ? request.webhook.url : null,
    wakeStream: type === "pull-wake" ? request.wake_stream : null,
    leaseMs,
    description,
  };
}

export function sameConfig(left: SubscriptionConfig, right: SubscriptionConfig): boolean {
  return JSON.stringify(left) === JSON.stringify(right);
}

export const streamsRequest = z.strictObject({ streams });

export const claimRequest = z.strictObject({ worker: z.string().min(1).max(MAX_WORKER_CHARS) });

const wakeFields = { wake_id: z.string().max(128), generation: z.int().min(0) };

export const ackRequest = z.strictObject({
  ...wakeFields,
  acks: z
    .array(
      z
        .strictObject({ stream: streamName.optional(), path: streamName.optional(), offset: z.string().max(256) })
        .refine(({ stream, path }) => (stream ?? path) !== undefined, "an ack names its stream")
        .transform(({ stream, path, offset }) => ({ name: stream ?? path ?? "", offset })),
    )
    .max(10_000)
    .default([]),
  done: z.boolean().default(false),
});
export type AckRequest = z.output<typeof ackRequest>;

export const releaseRequest = z.strictObject(wakeFields);

const ID = /^[A-Za-z0-9._~:@!$'()*+,;=-]{1,128}$/;

export function isSubscriptionId(text: string): boolean {
  return ID.test(text) && text !== "." && text !== "..";
}
