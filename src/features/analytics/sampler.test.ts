/** Which events are kept: fixed rates, sessions, rates that follow the traffic, and that weights stay right. */

import { describe, expect, test } from "bun:test";
import { seededRandom } from "../../../test/support/random.ts";
import type { EventType } from "./event.ts";
import { type SampledEvent, Sampler } from "./sampler.ts";
import type { AnalyticsSettings } from "./settings.ts";

type Rates = Pick<AnalyticsSettings, "samplingRates" | "adaptiveSampling">;

function sampler(rates: Partial<Rates>) {
  const time = { ms: 0 };
  const random = seededRandom(7);
  const parts = {
    clock: { nowMs: () => time.ms, monotonicMs: () => time.ms },
    random: () => random.below(2 ** 30) / 2 ** 30,
    hash: (text: string) => Bun.hash.xxHash3(text),
  };
  return { time, sampler: new Sampler({ samplingRates: {}, adaptiveSampling: {}, ...rates }, parts) };
}

function event(type: EventType, name: string, more: Partial<SampledEvent> = {}): SampledEvent {
  return { type, name, priority: "normal", sampleKey: null, ...more };
}

describe("fixed rates", () => {
  test("a full name is stronger than a bare one, that than a type; without a rule everything is kept", () => {
    const { sampler: of } = sampler({ samplingRates: { "engagement.view": 0.5, view: 0.25, engagement: 0.1 } });
    expect(of.rateOf(event("engagement", "view"))).toBe(0.5);
    expect(of.rateOf(event("command", "view"))).toBe(0.25);
    expect(of.rateOf(event("engagement", "click"))).toBe(0.1);
    expect(of.rateOf(event("command", "help"))).toBe(1);
    expect(of.rateOf(event("command", "constructor"))).toBe(1);
  });

  test("who is kept stands for one over the rate: the weights add up to all", () => {
    const { sampler: of } = sampler({ samplingRates: { chat: 0.1 } });
    let [kept, weight] = [0, 0];
    for (let at = 0; at < 100_000; at++) {
      const weighs = of.weigh(event("command", "chat"));
      if (weighs > 0) kept++;
      weight += weighs;
    }
    expect(kept).toBeGreaterThan(9_500);
    expect(kept).toBeLessThan(10_500);
    expect(Math.abs(weight / 100_000 - 1)).toBeLessThan(0.05);
  });

  test("a rate of 0 leaves out all, 1 none", () => {
    const { sampler: of } = sampler({ samplingRates: { none: 0, all: 1 } });
    for (let at = 0; at < 100; at++) {
      expect(of.weigh(event("command", "none"))).toBe(0);
      expect(of.weigh(event("command", "all"))).toBe(1);
    }
  });

  test("a session is kept as a whole or not at all, and at the rate", () => {
    const { sampler: of } = sampler({ samplingRates: { chat: 0.2 } });
    let kept = 0;
    for (let session = 0; session < 10_000; session++) {
      const weights = [1, 2, 3].map(() => of.weigh(event("command", "chat", { sampleKey: `session ${session}` })));
      expect(new Set(weights).size).toBe(1);
      if (weights[0] !== 0) kept++;
    }
    expect(kept).toBeGreaterThan(1_850);
    expect(kept).toBeLessThan(2_150);
  });
});

describe("adaptive rates", () => {
  /** Sends so many a second for so long; how many of the last second's were kept. */
  function drive({ time, sampler: of }: ReturnType<typeof sampler>, name: string, perSecond: number, seconds: number) {
    let kept = 0;
    for (let second = 0; second < seconds; second++) {
      kept = 0;
      for (let at = 0; at < perSecond; at++) {
        time.ms += 1000 / perSecond;
        if (of.weigh(event("command", name)) > 0) kept++;
      }
    }
    return kept;
  }

  test("keep about so many a second, however many come, and all when they are few", () => {
    const world = sampler({ adaptiveSampling: { chat: { targetPerSecond: 100, minRate: 0.001 } } });
    for (const perSecond of [1_000, 10_000, 3_000]) {
      const kept = drive(world, "chat", perSecond, 30);
      expect(kept).toBeGreaterThan(65);
      expect(kept).toBeLessThan(140);
    }
    expect(drive(world, "chat", 50, 60)).toBe(50);
  });

  test("change by a factor of two a second at most, and stay above their least", () => {
    const world = sampler({ adaptiveSampling: { chat: { targetPerSecond: 1, minRate: 0.01 } } });
    let before = 1;
    for (let second = 0; second < 20; second++) {
      drive(world, "chat", 1_000, 1);
      const rate = world.sampler.rateOf(event("command", "chat"));
      expect(rate).toBeGreaterThanOrEqual(before / 2);
      before = rate;
    }
    expect(before).toBe(0.01);
  });

  test("estimates stay right while rates change", () => {
    const world = sampler({ adaptiveSampling: { chat: { targetPerSecond: 200, minRate: 0.001 } } });
    let [sent, weight] = [0, 0];
    for (const perSecond of [500, 5_000, 20_000, 1_000]) {
      for (let at = 0; at < perSecond * 10; at++) {
        world.time.ms += 1000 / perSecond;
        weight += world.sampler.weigh(event("command", "chat"));
        sent++;
      }
    }
    expect(Math.abs(weight / sent - 1)).toBeLessThan(0.05);
  });

  test("for every key: each has its own, but failures and purchases are always kept", () => {
    const world = sampler({ adaptiveSampling: { "*": { targetPerSecond: 10, minRate: 0.001 } } });
    expect(drive(world, "busy", 1_000, 30)).toBeLessThan(30);
    expect(drive(world, "quiet", 5, 3)).toBe(5);
    expect(drive(world, "purchase", 1_000, 5)).toBe(1_000);
    expect(world.sampler.weigh(event("command", "busy", { priority: "high" }))).toBe(1);
  });

  test("of more names than are remembered are one", () => {
    const { time, sampler: of } = sampler({ adaptiveSampling: { "*": { targetPerSecond: 10, minRate: 0.001 } } });
    let kept = 0;
    for (let at = 0; at < 60_000; at++) {
      time.ms += 1;
      if (of.weigh(event("command", `name ${at}`)) > 0 && at >= 50_000) kept++;
    }
    // Ten seconds of a thousand new names each.
    expect(kept).toBeLessThan(300);
  });
});
