/** The settings of the analytics stage: one schema for the profile and for the classes, completed by defaults. */

import { z } from "zod";
import { isJsonObject } from "../../kit/json-object.ts";
import { MAX_QUEUED_BYTES } from "./limits.ts";

const HOUR_MS = 3_600_000;
const MAX_RULES = 1_000;
/** With the smallest rate of a sender an event stands for a thousand million at most. */
const MIN_RATE = 0.0001;

/** Shares of events that are kept, by sampling key. */
export const DEFAULT_SAMPLING_RATES: Readonly<Record<string, number>> = {
  message_processed: 0.1,
  cache_hit: 0.05,
  "performance.response_time": 0.5,
  "performance.memory_usage": 0.1,
  "performance.cache_hit_rate": 0.05,
};

const rules = <T extends z.ZodType>(rule: T) =>
  z
    .record(z.string().min(1).max(256), rule)
    .refine((given) => Object.keys(given).length <= MAX_RULES, `at most ${MAX_RULES} keys`);

const adaptiveRule = z.strictObject({
  /** Events per second that are kept, about. */
  targetPerSecond: z.number().positive().max(1_000_000),
  minRate: z.number().min(MIN_RATE).max(1).default(0.001),
});
export type AdaptiveRule = z.output<typeof adaptiveRule>;

const fields = {
  /** `durable`: answered when the batch is durable. `memory`: answered when queued. */
  ack: z.enum(["durable", "memory"]).default("durable"),
  /** False: every event is written at once, as it is. */
  enabled: z.boolean().default(true),
  /** What becomes of events that are none: the request is refused, or they go to the dead letters. */
  onInvalid: z.enum(["reject", "dead-letter"]).default("reject"),
  compression: z.enum(["none", "zstd"]).default("none"),
  maxBatchSize: z.int().min(1).max(10_000).default(100),
  batchIntervalMs: z.int().min(1).max(60_000).default(1_000),
  highPriorityFlushThreshold: z.int().min(1).max(10_000).default(10),
  maxQueuedEvents: z.int().min(1).max(1_000_000).default(100_000),
  maxQueuedBytes: z.int().min(1).max(MAX_QUEUED_BYTES).default(MAX_QUEUED_BYTES),
  /** By sampling key: `performance.response_time`, `chat`, `error`; a full name is stronger than a bare one, that than a type. */
  samplingRates: rules(z.number().min(MIN_RATE).max(1).or(z.literal(0))).default(DEFAULT_SAMPLING_RATES),
  /** Rates that follow the traffic; `*` is for every key without a rule but errors, failures and purchases. */
  adaptiveSampling: rules(adaptiveRule).default({}),
  /** Which types become values in windows; the others are stored one by one. */
  aggregate: z
    .array(z.enum(["performance", "error", "datastore"]))
    .readonly()
    .default(["performance", "error", "datastore"]),
  aggregationWindowMs: z
    .int()
    .min(1_000)
    .max(HOUR_MS)
    .refine((ms) => HOUR_MS % ms === 0, "a whole number of windows makes an hour")
    .default(60_000),
  /** A window stays open this long after its end. */
  allowedLatenessMs: z.int().min(0).max(HOUR_MS).default(5_000),
  /** Values that come later than this are stored as events; those before it correct their window. */
  maxLatenessMs: z
    .int()
    .min(0)
    .max(24 * HOUR_MS)
    .default(HOUR_MS),
  maxValuesPerWindow: z.int().min(1).max(1_000).default(1_000),
  percentilesToCalculate: z.array(z.number().gt(0).lt(100)).min(1).max(20).readonly().default([50, 90, 95, 99]),
  enablePatternDetection: z.boolean().default(true),
  patternThreshold: z.number().min(0).max(1).default(0.8),
};

const analyticsSettings = z.strictObject(fields);
export type AnalyticsSettings = z.output<typeof analyticsSettings>;

/** As it is given: everything may be left out, and the rates may be a Map. */
export type AnalyticsConfig = Omit<z.input<typeof analyticsSettings>, "samplingRates"> & {
  readonly samplingRates?: ReadonlyMap<string, number> | Readonly<Record<string, number>> | undefined;
};

/** Presets of the founding guide. */
export const HIGH_VOLUME: AnalyticsConfig = {
  maxBatchSize: 500,
  batchIntervalMs: 5_000,
  aggregationWindowMs: 300_000,
  samplingRates: { ...DEFAULT_SAMPLING_RATES, chat: 0.01 },
};
export const LOW_LATENCY: AnalyticsConfig = {
  maxBatchSize: 50,
  batchIntervalMs: 500,
  highPriorityFlushThreshold: 5,
  aggregationWindowMs: 30_000,
};

/** @throws RangeError that names the first setting that is wrong. */
export function completeSettings(config: AnalyticsConfig): AnalyticsSettings {
  const { samplingRates, ...rest } = config;
  const rates = isMap(samplingRates) ? Object.fromEntries(samplingRates) : samplingRates;
  const parsed = parseSettings(rates === undefined ? rest : { ...rest, samplingRates: rates });
  if ("reason" in parsed) throw new RangeError(parsed.reason);
  return parsed.settings;
}

/** The schema leaves such a key out without a word. */
function oddKey(given: unknown): string | null {
  if (!isJsonObject(given)) return null;
  const fields = ["samplingRates", "adaptiveSampling"];
  const odd = fields.find((field) => isJsonObject(given[field]) && Object.hasOwn(given[field], "__proto__"));
  return odd === undefined ? null : `${odd}: a key may not be __proto__`;
}

function isMap(rates: AnalyticsConfig["samplingRates"]): rates is ReadonlyMap<string, number> {
  return rates instanceof Map;
}

export function parseSettings(given: unknown): { readonly settings: AnalyticsSettings } | { readonly reason: string } {
  const odd = oddKey(given);
  if (odd !== null) return { reason: odd };
  const parsed = analyticsSettings.safeParse(given);
  if (parsed.success) return { settings: parsed.data };
  const [issue] = parsed.error.issues;
  const where = issue === undefined || issue.path.length === 0 ? "the settings" : issue.path.join(".");
  return { reason: `${where}: ${issue?.message ?? "not valid"}` };
}
