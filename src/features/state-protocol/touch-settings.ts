/**
 * The `touch` settings of a state-protocol stream: strict, completed by defaults. Names and defaults are those that clients of
 * such servers already send; docs/live-queries.md says which of them still steer something here and which only keep their place.
 */

import { z } from "zod";

const milliseconds = (standard: number, max = 86_400_000) => z.int().min(0).max(max).default(standard);
const count = (standard: number, min = 0, max = 2 ** 31 - 1) => z.int().min(min).max(max).default(standard);

const memory = z
  .strictObject({
    bucketMs: milliseconds(100),
    filterPow2: count(22, 10, 30),
    k: count(4, 1, 8),
    pendingMaxKeys: count(100_000, 1),
    keyIndexMaxKeys: count(32, 1, 1024),
    hotKeyTtlMs: milliseconds(10_000),
    hotTemplateTtlMs: milliseconds(10_000),
    hotMaxKeys: count(1_000_000, 1),
    hotMaxTemplates: count(4096, 1),
  })
  .prefault({});

const templates = z
  .strictObject({
    defaultInactivityTtlMs: milliseconds(3_600_000, 30 * 86_400_000),
    lastSeenPersistIntervalMs: milliseconds(300_000),
    gcIntervalMs: milliseconds(60_000),
    maxActiveTemplatesPerEntity: count(256, 1, 2048),
    maxActiveTemplatesPerStream: count(2048, 1, 2048),
    activationRateLimitPerMinute: count(100),
  })
  .prefault({});

const enabled = z.strictObject({
  enabled: z.literal(true),
  onMissingBefore: z.enum(["coarse", "skipBefore", "error"]).default("coarse"),
  coarseIntervalMs: milliseconds(100),
  touchCoalesceWindowMs: milliseconds(100),
  lagDegradeFineTouchesAtSourceOffsets: count(5000),
  lagRecoverFineTouchesAtSourceOffsets: count(1000),
  fineTouchBudgetPerBatch: count(2000),
  fineTokensPerSecond: count(200_000),
  fineBurstTokens: count(400_000),
  lagReservedFineTouchBudgetPerBatch: count(200),
  memory,
  templates,
});

/** Switched off, the other settings are dropped. */
const disabled = z.looseObject({ enabled: z.literal(false) }).transform(() => ({ enabled: false as const }));

export const profileSettings = z.strictObject({
  touch: z.discriminatedUnion("enabled", [enabled, disabled]).default({ enabled: false }),
});

export type ProfileSettings = z.output<typeof profileSettings>;
export type TouchSettings = z.output<typeof enabled>;
