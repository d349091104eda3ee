/**
 * The events of the analytics benchmark: the documented mix (a third commands, a third values of five metrics in five contexts each, and
 * datastore, errors, engagement, cache hits in equal parts), about 130 bytes each, and values alone. Everything follows from the seed.
 */

import type { AnalyticsEvent } from "../src/features/analytics/index.ts";
import { seededRandom } from "../test/support/random.ts";

const KINDS = 12;
const COMMANDS = ["help", "search", "play", "queue", "skip", "profile", "settings", "invite"];
const METRICS = ["response_time", "render_time", "memory_usage", "cache_hit_rate", "queue_wait"];
const ENDPOINTS = ["/cart", "/home", "/search", "/checkout", "/api/orders"];
const STORES = ["postgres", "redis", "sqlite"];
const OPERATIONS = ["select", "insert", "update", "delete"];
const SERVERS = 200;
const ERRORS = 20;
/** One command in so many fails: it is of high priority. */
const FAILING = 20;

export interface EventSource {
  mixed(): AnalyticsEvent;
  /** A value of one of 10 metrics, 5 contexts each. */
  performance(): AnalyticsEvent;
}

/** Fewer users mean more that is said again. */
export function eventSource(seed: number, users = 5_000): EventSource {
  const random = seededRandom(seed);
  const pick = (names: readonly string[]): string => names[random.below(names.length)] ?? "";
  const user = (): string => hashOf(random.below(users));
  const value = (): number => 1 + random.below(100_000) / 100;

  const measured = (): AnalyticsEvent => {
    const context = { endpoint: pick(ENDPOINTS), region: "eu-central-1", service: "storefront" };
    return { type: "performance", data: { metric: pick(METRICS), value: value(), context } };
  };
  const command = (): AnalyticsEvent => {
    const [userHash, serverHash] = [user(), hashOf(users + random.below(SERVERS))];
    const rest = { success: random.below(FAILING) > 0, durationMs: random.below(500) };
    return { type: "command", data: { commandName: pick(COMMANDS), userHash, serverHash, ...rest } };
  };
  const datastore = (): AnalyticsEvent => {
    const data = { operation: pick(OPERATIONS), storeType: pick(STORES), durationMs: value() / 10 };
    return { type: "datastore", data: { ...data, table: "orders", rows: random.below(50) } };
  };
  const error = (): AnalyticsEvent => {
    const errorHash = hashOf(users + SERVERS + random.below(ERRORS));
    return { type: "error", data: { errorHash, errorType: "TimeoutError", message: "no answer in 5000 ms" } };
  };
  const engagement = (): AnalyticsEvent => {
    const data = { eventType: "message_sent", userHash: user(), channel: `channel-${random.below(100)}` };
    return { type: "engagement", data: { ...data, length: random.below(400) } };
  };
  const cacheHit = (): AnalyticsEvent => {
    return {
      type: "engagement",
      data: { eventType: "cache_hit", key: `session:${user()}`, ttlMs: random.below(60_000) },
    };
  };
  return {
    mixed() {
      const kind = random.below(KINDS);
      if (kind < 4) return command();
      if (kind < 8) return measured();
      return ([datastore, error, engagement, cacheHit][kind - 8] ?? command)();
    },
    performance() {
      const context = { endpoint: pick(ENDPOINTS) };
      return { type: "performance", data: { metric: `metric_${random.below(10)}`, value: value(), context } };
    },
  };
}

export function makeEvents(count: number, make: () => AnalyticsEvent): AnalyticsEvent[] {
  return Array.from({ length: count }, make);
}

/** 16 hexadecimal digits, the same for the same number. */
function hashOf(number: number): string {
  return Bun.hash.xxHash3(String(number)).toString(16).padStart(16, "0");
}

export function median(values: readonly number[]): number {
  const sorted = values.toSorted((left, right) => left - right);
  return sorted[Math.floor((sorted.length - 1) / 2)] ?? NaN;
}
