/**
 * Which events are kept, and for how many each of them stands. A rate is fixed, or follows the traffic of its key towards a target:
 * once a second it moves to what the smoothed rate asks for, by a factor of two at most. An event with a sample key is
 * kept or left out with all others of that key.
 */

import type { Clock } from "../../kit/clock.ts";
import type { EventType, Priority } from "./event.ts";
import { MAX_RULES_PER_TYPE } from "./limits.ts";
import type { AdaptiveRule, AnalyticsSettings } from "./settings.ts";

export interface SamplerParts {
  readonly clock: Clock;
  /** In [0, 1). */
  readonly random: () => number;
  /** 64 bits of a text, evenly spread. */
  readonly hash: (text: string) => bigint;
}

export interface SampledEvent {
  readonly type: EventType;
  readonly name: string;
  readonly priority: Priority;
  readonly sampleKey: string | null;
}

const ADJUST_MS = 1_000;
const MAX_STEP = 2;
/** Weight of the last second in the smoothed rate. */
const SMOOTHING = 0.3;
const HASH_STEPS = 2 ** 32;
const EVERY_KEY = "*";
/** No event has an empty name. */
const REST = "";
/** Never sampled by the rule for every key. */
const PINNED = "purchase";

interface Rule {
  rate: number;
  readonly adaptive: AdaptiveRate | null;
}

class AdaptiveRate {
  readonly #rule: AdaptiveRule;
  #sinceMs: number;
  #seen = 0;
  #perSecond: number | null = null;

  constructor(rule: AdaptiveRule, nowMs: number) {
    this.#rule = rule;
    this.#sinceMs = nowMs;
  }

  /** Counts one event; the rate that holds from now on. */
  next(rate: number, nowMs: number): number {
    this.#seen++;
    const elapsedMs = nowMs - this.#sinceMs;
    if (elapsedMs < ADJUST_MS) return rate;
    const perSecond = (this.#seen * 1000) / elapsedMs;
    this.#perSecond = this.#perSecond === null ? perSecond : SMOOTHING * perSecond + (1 - SMOOTHING) * this.#perSecond;
    this.#seen = 0;
    this.#sinceMs = nowMs;
    const { targetPerSecond, minRate } = this.#rule;
    const wanted = Math.min(1, Math.max(minRate, targetPerSecond / this.#perSecond));
    return Math.min(rate * MAX_STEP, Math.max(rate / MAX_STEP, wanted));
  }
}

export class Sampler {
  readonly #parts: SamplerParts;
  #settings: Pick<AnalyticsSettings, "samplingRates" | "adaptiveSampling">;
  /** Rules by type and name, as they are met; failures may have another one than the rest of their name. */
  readonly #rules = new Map<EventType, Map<string, Rule>>();
  readonly #rulesOfFailures = new Map<EventType, Map<string, Rule>>();

  constructor(settings: Pick<AnalyticsSettings, "samplingRates" | "adaptiveSampling">, parts: SamplerParts) {
    this.#settings = settings;
    this.#parts = parts;
  }

  /** Rates hold from the next event on; adaptive ones begin anew. */
  configure(settings: Pick<AnalyticsSettings, "samplingRates" | "adaptiveSampling">): void {
    this.#settings = settings;
    this.#rules.clear();
    this.#rulesOfFailures.clear();
  }

  /** For how many events this one stands, or 0 when it is left out. */
  weigh(event: SampledEvent): number {
    const rule = this.#ruleOf(event);
    if (rule.adaptive !== null) rule.rate = rule.adaptive.next(rule.rate, this.#parts.clock.monotonicMs());
    const { rate } = rule;
    if (rate >= 1) return 1;
    const draw = event.sampleKey === null ? this.#parts.random() : this.#place(event.sampleKey);
    return draw < rate ? 1 / rate : 0;
  }

  /** The present rate of a key. */
  rateOf(event: SampledEvent): number {
    return this.#ruleOf(event).rate;
  }

  /** Where a key lies in [0, 1). */
  #place(key: string): number {
    return Number(BigInt.asUintN(32, this.#parts.hash(key))) / HASH_STEPS;
  }

  #ruleOf(event: SampledEvent): Rule {
    const byType = event.priority === "high" ? this.#rulesOfFailures : this.#rules;
    let rules = byType.get(event.type);
    if (rules === undefined) byType.set(event.type, (rules = new Map<string, Rule>()));
    const known = rules.get(event.name);
    if (known !== undefined) return known;
    const rule = this.#makeRule(event);
    if (rules.size < MAX_RULES_PER_TYPE) rules.set(event.name, rule);
    else if (rule.adaptive !== null) return this.#rest(rules, rule);
    return rule;
  }

  /** The one adaptive rule of all names that are too many to have their own. */
  #rest(rules: Map<string, Rule>, rule: Rule): Rule {
    const shared = rules.get(REST) ?? rule;
    rules.set(REST, shared);
    return shared;
  }

  #makeRule({ type, name, priority }: SampledEvent): Rule {
    const { samplingRates, adaptiveSampling } = this.#settings;
    for (const key of [`${type}.${name}`, name, type]) {
      const adaptive = own(adaptiveSampling, key);
      if (adaptive !== undefined) return this.#adaptive(adaptive);
      const rate = own(samplingRates, key);
      if (rate !== undefined) return { rate, adaptive: null };
    }
    const everyKey = own(adaptiveSampling, EVERY_KEY);
    if (everyKey === undefined || priority === "high" || name === PINNED) return { rate: 1, adaptive: null };
    return this.#adaptive(everyKey);
  }

  #adaptive(rule: AdaptiveRule): Rule {
    return { rate: 1, adaptive: new AdaptiveRate(rule, this.#parts.clock.monotonicMs()) };
  }
}

function own<T>(record: Readonly<Record<string, T>>, key: string): T | undefined {
  return Object.hasOwn(record, key) ? record[key] : undefined;
}
